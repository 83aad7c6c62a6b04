"""What the report shows of a trained model, computed another way."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nmer_fast import ops, train
from nmer_fast.config import NoiseConfig, model_config
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.evaluation import EVALUATION_DRAW
from nmer_fast.engine.inputs import make_scheduler
from nmer_fast.models import SYSTEMS, make_system, system_class
from nmer_fast.reporting.representations import (
    CLEAN,
    DIMENSIONS,
    NOISY,
    RESTORED,
    RESTORED_CLEAN,
    Representations,
    RunLoader,
    has_joint,
    has_posterior,
    noised_utterance,
    project,
    represent,
)  # fmt: skip
from nmer_fast.tables import AVERAGE

NOISE = NoiseConfig(snr_db=-5.0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = ("data.size=50", "training.teacher_epochs=1", "training.batch_size=7")
    train.run(train.Options(epochs=1, seed=3, settings=settings, out=folder), quiet=True)
    return RunLoader()(folder)


@pytest.fixture(scope="module")
def seen(loaded):
    return represent(loaded, NOISE)


def noisy_batch(loaded, condition):
    """The whole test split under a condition, in one batch, noised in one call."""
    rows = loaded.data.splits["test"]
    batch = Batches(loaded.data, torch.device("cpu"), len(rows)).collate(rows)
    scheduler = make_scheduler(loaded.standardiser.variances, NOISE, 3)
    noised = scheduler(
        batch.features, lengths=batch.lengths, sample_ids=rows, draw=EVALUATION_DRAW, condition=condition
    )
    batch.features = noised.features
    return batch


@torch.no_grad()
def test_kl_of_each_latent_dimension(loaded, seen):
    """By torch's own divergence, from features noised condition by condition."""
    model, found = loaded.model, {}
    for condition in ("a", "v", "l", "av", "al", "vl", "none", "all"):
        batch = noisy_batch(loaded, condition)
        encoded = model.encode(batch.features, batch.lengths)
        state = model.attend(torch.cat([encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)], dim=1))
        posterior = Normal(model.to_mu(state), (model.to_logvar(state) / 2).exp())
        found[condition] = kl_divergence(posterior, Normal(0.0, 1.0)).mean(0)
    incomplete = torch.stack([found[name] for name in ("a", "v", "l", "av", "al", "vl")]).mean(0)
    torch.testing.assert_close(seen.kl["none"], found["none"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen.kl["all"], found["all"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen.kl[AVERAGE], incomplete, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(seen.kl["all"], seen.kl["none"], rtol=1e-3)


@torch.no_grad()
def test_what_is_reconstructed_is_what_is_classified(loaded, seen):
    for restored, condition in ((seen.restored, "none"), (seen.restored_clean, "all")):
        logits = loaded.model(noisy_batch(loaded, condition)).logits
        torch.testing.assert_close(loaded.model.classifier(restored), logits, rtol=1e-4, atol=1e-5)
    encoded = loaded.model.encode(noisy_batch(loaded, "all").features, noisy_batch(loaded, "all").lengths)
    torch.testing.assert_close(seen.clean, encoded[:, :, 0].flatten(1), rtol=1e-4, atol=1e-5)
    assert (seen.noisy - seen.clean).norm() > 0.1 * seen.clean.norm()
    assert torch.equal(seen.labels, loaded.data.labels[loaded.data.splits["test"]])


def test_the_projections_plane_and_distances():
    """Points on a plane in 50 dimensions keep their distances; noise of a known size is measured."""
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(50, 2, dtype=torch.float64)).Q
    on_plane = torch.randn(100, 2, dtype=torch.float64)
    clean = (on_plane @ plane.T) + 3
    noisy = clean + 0.5 * clean.var(0, correction=0).sum().sqrt() * plane[:, 0]
    found = project(Representations({}, clean, noisy, clean, clean, torch.zeros(100, dtype=torch.int64)))
    assert found is not None
    assert set(found.points) == {CLEAN, NOISY, RESTORED, RESTORED_CLEAN}
    assert found.explained == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(found.points[CLEAN][:, None] - found.points[CLEAN], axis=2),
        (on_plane[:, None] - on_plane).norm(dim=2),
        atol=1e-9,
    )
    assert found.moved == {NOISY: pytest.approx(0.25, rel=1e-5), RESTORED: 0}
    two = Representations({}, clean[:2], noisy[:2], None, None, torch.zeros(2, dtype=torch.int64))
    assert project(two) is None
    many = torch.randn(1000, 4)
    thin = project(Representations({}, many, many, None, None, torch.arange(1000)))
    assert thin is not None
    assert set(thin.points) == {CLEAN, NOISY}
    assert len(thin.labels) == len(thin.points[CLEAN]) == 200
    assert list(thin.labels[:3]) == [0, 5, 10]


def test_an_utterances_pictures_are_the_contracts_noise(loaded):
    """The sample alone, unpadded, by the op itself."""
    found = noised_utterance(loaded, [NOISE, NoiseConfig(snr_db=-30.0)])
    (row,) = [i for i, name in enumerate(loaded.data.sample_names) if name == found.name]
    assert row in loaded.data.splits["test"].tolist()
    assert found.class_name == loaded.data.class_names[int(loaded.data.labels[row])]
    for stream, (name, ragged) in enumerate(loaded.data.modalities.items()):
        x = ragged.take(torch.tensor([row])).values
        assert found.lengths[name] == len(x)
        order = x.mean(0).argsort(descending=True)[:: -(-x.shape[1] // DIMENSIONS)]
        clean, *noisy = found.images[name]
        np.testing.assert_allclose(clean, x[:, order].T, atol=1e-6)
        assert clean.shape[0] <= DIMENSIONS
        assert (np.diff(clean.mean(1)) <= 1e-6).all()
        for snr, image in zip((-5.0, -30.0), noisy, strict=True):
            s = 10 ** (snr / 10)
            alpha_bar = s / (loaded.standardiser.variances[name] + s)
            y = ops.add_noise(
                x[None], alpha_bar, seed=3, draw=EVALUATION_DRAW, stream=stream, sample_ids=torch.tensor([row])
            )[0]
            np.testing.assert_allclose(image, y[:, order].T, atol=1e-5)


def test_which_systems_have_what():
    assert [name for name in SYSTEMS if has_posterior(system_class(name))] == ["nmer", "nmer_no_inv"]
    assert [name for name in SYSTEMS if not has_joint(system_class(name))] == ["late_fusion"]


@pytest.mark.parametrize("system", ["nmer_no_vae", "nmer_no_sampling", "men", "mctn", "mmin", "if_mmin", "unimodal"])
def test_every_system_can_be_looked_at(system, loaded):
    """Untrained; what imagines or decodes reconstructs, of the width that it read."""
    own = {"modality": "a"} if system == "unimodal" else {}
    config = model_config({**asdict(loaded.config.model), "system": system, **own})
    model = make_system(loaded.data.dims, len(loaded.data.class_names), config).eval()
    found = represent(replace(loaded, model=model), NOISE)
    assert found.clean.shape == found.noisy.shape == (len(found.labels), 384)
    restores = system in ("nmer_no_sampling", "mmin", "if_mmin")
    assert (found.restored is not None) == (found.restored_clean is not None) == restores
    if restores:
        assert found.restored.shape == found.clean.shape
    assert found.kl == {}

"""What a trained model makes of the test split: its latent, its joint representations; and what it is given to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ..config import Config, NoiseConfig
from ..data import FeatureSet, Standardiser
from ..engine.batches import Batches, add_noise
from ..engine.evaluation import DRAW
from ..engine.run import load_run, make_scheduler, prepare
from ..models import NMER, Separable, System
from ..models.if_mmin import IFMMIN
from ..models.late_fusion import LateFusion
from ..models.mmin import MMIN
from ..models.nmer import kl_per_latent
from ..models.nmer_no_sampling import NMERNoSampling
from ..models.nmer_no_vae import NMERNoVAE

SHOWN = 240  # samples in a projection, of each of its panels
DIMENSIONS, STEPS = 64, 48  # in a picture of features, at most
CLEAN, NOISY = "clean", "noisy"
RESTORED_CLEAN, RESTORED = "reconstructed, from clean", "reconstructed, from noisy"


@dataclass(frozen=True)
class Loaded:
    """A run's model and the data that it was trained on.

    Attributes:
        model: in eval mode.
        standardiser: of the features.
        config: of the run.
        data: standardised.
    """

    model: System
    standardiser: Standardiser
    config: Config
    data: FeatureSet


@dataclass(frozen=True)
class Seen:
    """What a model makes of the test split under one noise.

    Attributes:
        kl: mean KL of each latent dimension in nats, [latent], by what is clean: "all", "incomplete" (the mean over
            the conditions that training draws from) and "none"; empty without a VAE.
        clean: float32 [N, width], joint representations of clean data.
        noisy: the same of data that is noisy in every modality.
        restored: what the model reconstructs out of those; None where it reconstructs nothing.
        restored_clean: what it reconstructs out of clean data, to compare with.
        labels: int64 [N].
    """

    kl: dict[str, Tensor]
    clean: Tensor
    noisy: Tensor
    restored: Tensor | None
    restored_clean: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class Projection:
    """The joint representations on the plane of their two first principal components.

    Attributes:
        points: by name, CLEAN, NOISY and perhaps RESTORED and RESTORED_CLEAN: float64 [n, 2].
        labels: int64 [n].
        explained: share of the variance that the plane has.
        moved: of NOISY, and perhaps RESTORED: mean squared distance to the same without noise, over the variance of
            those without; 1 is what the mean of all of them would have.
    """

    points: dict[str, np.ndarray]
    labels: np.ndarray
    explained: float
    moved: dict[str, float]


class Loader:
    """Loads runs; data that several of them share is read once."""

    def __init__(self) -> None:
        self.sets: dict[tuple[Any, str], FeatureSet] = {}

    def __call__(self, folder: Path) -> Loaded:
        """A run with its data.

        Raises:
            UserError: checkpoint or data are missing, damaged, or not what they were.
        """
        model, standardiser, config, state = load_run(folder, torch.device("cpu"))
        key = (config.data, state["fingerprint"])
        if key not in self.sets:
            self.sets[key] = prepare(config.data, standardiser, state, own=True)
        return Loaded(model, standardiser, config, self.sets[key])


@singledispatch
def joint(model: System, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    """From what a system's `encode` gave to its joint representation, [B, width], and what it reconstructs of it.

    For a system that is not known here the former is all that it encodes.
    """
    return encoded.flatten(1), None


@joint.register
def _(model: NMER, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    """h', and the decoder's output, whose target was a teacher's h of complete data."""
    specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    z = model.to_mu(model.attend(torch.cat([specific, invariant], dim=1)))
    return specific, model.decoder(torch.cat([z, invariant], dim=1))


@joint.register
def _(model: NMERNoVAE, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    return encoded[:, :, 0].flatten(1), None


@joint.register
def _(model: MMIN, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    return encoded.flatten(1), model.forward_cascade(encoded.flatten(1))[0]


@joint.register
def _(model: IFMMIN, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    return specific, model.cascade(specific, invariant)[0]


def has_joint(system: type[System]) -> bool:
    """Whether its modalities come together in one representation that can be looked at."""
    return issubclass(system, Separable) and not issubclass(system, LateFusion)


def has_posterior(system: type[System]) -> bool:
    """Whether it has a VAE."""
    return issubclass(system, NMER) and not issubclass(system, NMERNoSampling)


@torch.no_grad()
def look(loaded: Loaded, noise: NoiseConfig) -> Seen:
    """Run a model that has a joint representation over the test split, with the noise that evaluation gives."""
    model, seed, data = loaded.model, loaded.config.training.seed, loaded.data
    batches = Batches(data, torch.device("cpu"), loaded.config.training.batch_size, padding=noise.padding)
    scheduler = make_scheduler(loaded.standardiser.variances, noise, seed)
    rows, rng = data.splits["test"], torch.tensor([seed, DRAW])
    assert isinstance(model, Separable)
    parts: dict[str, list[Tensor]] = {}
    for batch in batches.in_order(rows):
        clean = model.encode(batch.features, batch.lengths)
        noisy = model.encode(add_noise(scheduler, batch, rng, "none").features, batch.lengths)
        found: dict[str, Tensor | None] = {}
        found["clean"], found["restored_clean"] = joint(model, clean)
        found["noisy"], found["restored"] = joint(model, noisy)
        if has_posterior(type(model)):
            found |= _kl(model, clean, noisy, scheduler.noisy_of_condition, scheduler.conditions.incomplete)
        for name, value in found.items():
            if value is not None:
                parts.setdefault(name, []).append(value)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    kl = {name.removeprefix("kl."): values.mean(0) for name, values in whole.items() if name.startswith("kl.")}
    restored = whole.get("restored"), whole.get("restored_clean")
    return Seen(kl, whole["clean"], whole["noisy"], *restored, data.labels[rows])


def _kl(model: System, clean: Tensor, noisy: Tensor, is_noisy: Tensor, incomplete: int) -> dict[str, Tensor]:
    """A batch's KL of each latent dimension, once for each sample, so that batches of any size are joined rightly."""
    assert isinstance(model, NMER)
    by_condition = []
    for row in is_noisy:
        encoded = torch.where(row.view(-1, 1, 1), noisy, clean)
        state = model.attend(torch.cat([encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)], dim=1))
        by_condition.append(kl_per_latent(model.to_mu(state), model.to_logvar(state)).expand(len(encoded), -1))
    return {
        "kl.all": by_condition[-1],
        "kl.incomplete": torch.stack(by_condition[:incomplete]).mean(0),
        "kl.none": by_condition[-2],
    }


def project(seen: Seen) -> Projection | None:
    """A plane for all of them, fitted to all; None of too few samples."""
    if len(seen.labels) < 3:
        return None
    named = {CLEAN: seen.clean, NOISY: seen.noisy}
    if seen.restored is not None and seen.restored_clean is not None:
        named |= {RESTORED_CLEAN: seen.restored_clean, RESTORED: seen.restored}
    arrays = {name: value.double().numpy() for name, value in named.items()}
    pca = PCA(2, svd_solver="covariance_eigh").fit(np.concatenate(list(arrays.values())))
    every = -(-len(seen.labels) // SHOWN)
    moved = {}
    for noisy, clean in ((NOISY, CLEAN), (RESTORED, RESTORED_CLEAN)):
        if noisy in arrays and (spread := arrays[clean].var(0).sum()) > 0:
            moved[noisy] = float(((arrays[noisy] - arrays[clean]) ** 2).sum(1).mean() / spread)
    points = {name: pca.transform(value[::every]) for name, value in arrays.items()}
    return Projection(points, seen.labels[::every].numpy(), float(pca.explained_variance_ratio_.sum()), moved)


@dataclass(frozen=True)
class Utterance:
    """One utterance's features, clean and under noise.

    Attributes:
        name: of the sample.
        class_name: its true class.
        lengths: steps by modality.
        images: by modality, and by noise (the first is clean): float32 [dimensions, steps], parts of them where they
            are large; the dimensions in the order of the clean features' means over time.
    """

    name: str
    class_name: str
    lengths: dict[str, int]
    images: dict[str, list[np.ndarray]]


@torch.no_grad()
def picture(loaded: Loaded, noises: Sequence[NoiseConfig]) -> Utterance:
    """The test utterance of median length, among those that have every modality, with evaluation's own noise."""
    data, seed = loaded.data, loaded.config.training.seed
    rows = data.splits["test"]
    lengths = torch.stack([ragged.lengths[rows] for ragged in data.modalities.values()])
    there = (lengths > 0).all(0)
    among = there.nonzero()[:, 0] if there.any() else torch.arange(len(rows))
    chosen = among[lengths[:, among].sum(0).argsort(stable=True)[len(among) // 2]]
    row, lengths = int(rows[chosen]), lengths[:, chosen]
    batch = Batches(data, torch.device("cpu"), 1).of(torch.tensor([row]))
    versions: list[Mapping[str, Tensor]] = [batch.features]
    for noise in noises:
        scheduler = make_scheduler(loaded.standardiser.variances, noise, seed)
        versions.append(add_noise(scheduler, batch, torch.tensor([seed, DRAW]), "none").features)
    images = {}
    for (name, x), length in zip(batch.features.items(), lengths.tolist(), strict=True):
        order = x[0, :length].mean(0).argsort(descending=True)
        order = order[:: -(-len(order) // DIMENSIONS)]
        images[name] = [v[name][0, : min(length, STEPS)][:, order].T.numpy() for v in versions]
    steps = dict(zip(data.modalities, lengths.tolist(), strict=True))
    return Utterance(data.sample_names[row], data.class_names[int(data.labels[row])], steps, images)

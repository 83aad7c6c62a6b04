"""A trained model's latent and joint representations of the test split, and the features that it reads."""

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
from ..engine.evaluation import EVALUATION_DRAW
from ..engine.inputs import make_scheduler
from ..engine.trained_model import load_model
from ..models import NMER, Separable, System
from ..models.if_mmin import IFMMIN
from ..models.late_fusion import LateFusion
from ..models.mmin import MMIN
from ..models.nmer import kl_per_latent
from ..models.nmer_no_sampling import NMERNoSampling
from ..models.nmer_no_vae import NMERNoVAE
from ..tables import AVERAGE

SHOWN = 240  # at most so many samples in each panel of a projection
DIMENSIONS, STEPS = 64, 48  # at most so many in a picture of features
CLEAN, NOISY = "clean", "noisy"
RESTORED_CLEAN, RESTORED = "reconstructed, from clean", "reconstructed, from noisy"


@dataclass(frozen=True)
class LoadedRun:
    """A run's model and the data that it was trained on.

    Attributes:
        model: the model, in eval mode.
        standardiser: the standardiser of the features.
        config: the configuration of the run.
        data: the data, standardised.
    """

    model: System
    standardiser: Standardiser
    config: Config
    data: FeatureSet


@dataclass(frozen=True)
class Representations:
    """A model's representations of the test split, clean and under one noise.

    Attributes:
        kl: the mean KL of each latent dimension in nats, [latent], under the conditions "all" and "none", and AVERAGE
            over the incomplete conditions; empty without a VAE.
        clean: joint representations of clean data, float32 [N, width].
        noisy: joint representations of data that is noisy in every modality, float32 [N, width].
        restored: the model's reconstructions from noisy data, float32 [N, width]; None where it reconstructs nothing.
        restored_clean: the reconstructions from clean data, which `restored` is compared with.
        labels: true classes, int64 [N].
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
        points: coordinates by name (CLEAN, NOISY and, if the model reconstructs, RESTORED and RESTORED_CLEAN),
            float64 [n, 2].
        labels: true classes, int64 [n].
        explained: the share of the variance that lies in the plane.
        moved: the mean squared distance that noise moves a representation, over the variance of the clean ones, for
            NOISY and, if the model reconstructs, RESTORED. At 1 the samples cannot be told apart any more.
    """

    points: dict[str, np.ndarray]
    labels: np.ndarray
    explained: float
    moved: dict[str, float]


class RunLoader:
    """Loads runs; data that several runs share is read once."""

    def __init__(self) -> None:
        self.sets: dict[tuple[Any, str], FeatureSet] = {}

    def __call__(self, folder: Path) -> LoadedRun:
        """Load a run with its data.

        Raises:
            UserError: the checkpoint or the data is missing, damaged or has changed.
        """
        trained = load_model(folder, torch.device("cpu"))
        key = (trained.config.data, trained.state["fingerprint"])
        if key not in self.sets:
            self.sets[key] = trained.data(trained.config.data, own=True)
        return LoadedRun(trained.model, trained.standardiser, trained.config, self.sets[key])


@singledispatch
def joint_representation(model: System, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    """The joint representation, [B, width], and the reconstruction of a system, from the result of its `encode`.

    A system that is not registered below has all that it encodes as its representation, and no reconstruction.
    """
    return encoded.flatten(1), None


@joint_representation.register
def _(model: NMER, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    """H' and the decoder's output, whose target in training is the teacher's h of complete data."""
    specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    z = model.to_mu(model.attend(torch.cat([specific, invariant], dim=1)))
    return specific, model.decoder(torch.cat([z, invariant], dim=1))


@joint_representation.register
def _(model: NMERNoVAE, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    return encoded[:, :, 0].flatten(1), None


@joint_representation.register
def _(model: MMIN, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    return encoded.flatten(1), model.forward_cascade(encoded.flatten(1))[0]


@joint_representation.register
def _(model: IFMMIN, encoded: Tensor) -> tuple[Tensor, Tensor | None]:
    specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    return specific, model.cascade(specific, invariant)[0]


def has_joint(system: type[System]) -> bool:
    """Whether the system joins the modalities in one representation that can be pictured."""
    return issubclass(system, Separable) and not issubclass(system, LateFusion)


def has_posterior(system: type[System]) -> bool:
    """Whether the system has a VAE."""
    return issubclass(system, NMER) and not issubclass(system, NMERNoSampling)


@torch.no_grad()
def represent(loaded: LoadedRun, noise: NoiseConfig) -> Representations:
    """The representations of a model that has a joint representation, under the noise that evaluation draws."""
    model, seed, data = loaded.model, loaded.config.training.seed, loaded.data
    batches = Batches(data, torch.device("cpu"), loaded.config.training.batch_size, padding=noise.padding)
    scheduler = make_scheduler(loaded.standardiser.variances, noise, seed)
    rows, rng = data.splits["test"], torch.tensor([seed, EVALUATION_DRAW])
    assert isinstance(model, Separable)
    parts: dict[str, list[Tensor]] = {}
    for batch in batches.sequential(rows):
        clean = model.encode(batch.features, batch.lengths)
        noisy = model.encode(add_noise(scheduler, batch, rng, "none").features, batch.lengths)
        found: dict[str, Tensor | None] = {}
        found["clean"], found["restored_clean"] = joint_representation(model, clean)
        found["noisy"], found["restored"] = joint_representation(model, noisy)
        if has_posterior(type(model)):
            found |= _kl(model, clean, noisy, scheduler.noisy_of_condition, scheduler.conditions.incomplete)
        for name, value in found.items():
            if value is not None:
                parts.setdefault(name, []).append(value)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    kl = {name.removeprefix("kl."): values.mean(0) for name, values in whole.items() if name.startswith("kl.")}
    restored = whole.get("restored"), whole.get("restored_clean")
    return Representations(kl, whole["clean"], whole["noisy"], *restored, data.labels[rows])


def _kl(model: System, clean: Tensor, noisy: Tensor, is_noisy: Tensor, incomplete: int) -> dict[str, Tensor]:
    """A batch's KL of each latent dimension, repeated for each sample, so that batches of any size average rightly."""
    assert isinstance(model, NMER)
    by_condition = []
    for row in is_noisy:
        encoded = torch.where(row.view(-1, 1, 1), noisy, clean)
        state = model.attend(torch.cat([encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)], dim=1))
        by_condition.append(kl_per_latent(model.to_mu(state), model.to_logvar(state)).expand(len(encoded), -1))
    return {
        "kl.all": by_condition[-1],
        f"kl.{AVERAGE}": torch.stack(by_condition[:incomplete]).mean(0),
        "kl.none": by_condition[-2],
    }


def project(seen: Representations) -> Projection | None:
    """The projection onto the plane that is fitted to all representations; None for fewer than three samples."""
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
        name: the sample's name.
        class_name: the sample's true class.
        lengths: the number of steps by modality.
        images: features by modality and noise (the first is clean), float32 [dimensions, steps]. The dimensions are in
            the order of the clean features' means over time; of large features a part is kept.
    """

    name: str
    class_name: str
    lengths: dict[str, int]
    images: dict[str, list[np.ndarray]]


@torch.no_grad()
def noised_utterance(loaded: LoadedRun, noises: Sequence[NoiseConfig]) -> Utterance:
    """The test utterance of median length among those with every modality, under the noise that evaluation draws."""
    data, seed = loaded.data, loaded.config.training.seed
    rows = data.splits["test"]
    lengths = torch.stack([ragged.lengths[rows] for ragged in data.modalities.values()])
    there = (lengths > 0).all(0)
    among = there.nonzero()[:, 0] if there.any() else torch.arange(len(rows))
    chosen = among[lengths[:, among].sum(0).argsort(stable=True)[len(among) // 2]]
    row, lengths = int(rows[chosen]), lengths[:, chosen]
    batch = Batches(data, torch.device("cpu"), 1).collate(torch.tensor([row]))
    versions: list[Mapping[str, Tensor]] = [batch.features]
    for noise in noises:
        scheduler = make_scheduler(loaded.standardiser.variances, noise, seed)
        versions.append(add_noise(scheduler, batch, torch.tensor([seed, EVALUATION_DRAW]), "none").features)
    images = {}
    for (name, x), length in zip(batch.features.items(), lengths.tolist(), strict=True):
        order = x[0, :length].mean(0).argsort(descending=True)
        order = order[:: -(-len(order) // DIMENSIONS)]
        images[name] = [v[name][0, : min(length, STEPS)][:, order].T.numpy() for v in versions]
    steps = dict(zip(data.modalities, lengths.tolist(), strict=True))
    return Utterance(data.sample_names[row], data.class_names[int(data.labels[row])], steps, images)

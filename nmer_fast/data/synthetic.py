"""The default data: a synthetic corpus that resembles IEMOCAP and is the same on every machine.

It has four classes in IEMOCAP's proportions and sequences of 2 to 8 steps with 130 (a), 342 (v) and 1024 (l) features.
Each utterance has one emotion factor that all modalities share, and another one for each modality. Frames carry both
along directions of unequal energy, so that stronger noise hides more of them, on top of a background that carries no
information about the class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import UserError
from .featureset import FeatureSet, Ragged

CLASSES = {"happy": 1636, "angry": 1103, "sad": 1084, "neutral": 1708}
DIMS = {"a": 130, "v": 342, "l": 1024}
DEFAULT_SIZE = 850
STEPS = {"a": 1.0, "v": 0.9, "l": 0.8}  # shares of the utterance's length
FACTOR = 8  # dimensions of an emotion factor
NUISANCE = 16  # directions of the background
SEED = 0x4E4D4552

# Distances of the classes' means from their centre, in standard deviations within a class.
SHARED_DISTANCE = 0.9
OWN_DISTANCE = {"a": 1.5, "v": 1.15, "l": 1.4}
DECAY = 0.6  # the energy of each direction of a factor, relative to the one before
RESIDUAL = 0.03  # energy of isotropic noise; the factors have 1 and the background has 1


def synthetic(size: int = DEFAULT_SIZE, difficulty: float = 1.0) -> FeatureSet:
    """Make the corpus.

    Args:
        size: the number of utterances, at least 40; IEMOCAP has 5531, and the default trains in minutes.
        difficulty: the divisor of the distances between the classes: 2 is hard, 0.5 easy.

    Returns:
        the set, with 60 % of the utterances in train and 40 % in test, in random order.

    Raises:
        UserError: one line that names the argument.
    """
    if size < 40:
        raise UserError(f"size: expected at least 40 utterances, got {size}")
    if not difficulty > 0:
        raise UserError(f"difficulty: expected a number above 0, got {difficulty}")
    labels = _labels(size)
    duration = (5 * (0.4 * _normal(size, 1, draw=1)[:, 0]).exp()).clamp(2, 8)
    shared = _factor(labels, SHARED_DISTANCE / difficulty, draw=2)
    modalities = {}
    for m, (name, dim) in enumerate(DIMS.items()):
        own = _factor(labels, OWN_DISTANCE[name] / difficulty, draw=10 + m)
        lengths = (duration * STEPS[name]).round().long().clamp(min=2)
        modalities[name] = _frames(torch.cat([shared, own], dim=1), lengths, dim, draw=20 + m)
    order = torch.arange(size)  # labels are already mixed
    train = round(0.6 * size)
    return FeatureSet(
        name="synthetic",
        modalities=modalities,
        labels=labels,
        class_names=list(CLASSES),
        splits={"train": order[:train], "test": order[train:]},
        sample_names=[f"utterance{i:05d}" for i in range(size)],
        groups=order // 10,
        positions=order,
    )


def _normal(rows: int, columns: int, draw: int) -> Tensor:
    return ops.noise((rows, columns), seed=SEED, draw=draw)


def _labels(size: int) -> Tensor:
    """Labels in IEMOCAP's proportions, to within one utterance, in a fixed random order."""
    shares = torch.tensor(list(CLASSES.values()), dtype=torch.float64).cumsum(0) / sum(CLASSES.values())
    quantiles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.searchsorted(shares, quantiles)[_normal(size, 1, draw=0)[:, 0].argsort()]


def _factor(labels: Tensor, distance: float, draw: int) -> Tensor:
    """The factor of each utterance, [N, 8]: its class's corner of a randomly turned simplex, plus unit spread."""
    corners = torch.eye(len(CLASSES), dtype=torch.float32) - 1 / len(CLASSES)
    directions, _ = torch.linalg.qr(_normal(FACTOR, FACTOR, draw=100 + draw))
    means = distance * corners @ directions[: len(CLASSES)]
    return means[labels] + _normal(len(labels), FACTOR, draw=draw)


def _frames(factors: Tensor, lengths: Tensor, dim: int, draw: int) -> Ragged:
    """Make sequences in which every step carries the factors along orthonormal directions of decaying energy.

    The background has directions of its own, and half of it is constant in an utterance. Isotropic noise is added.
    """
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    loading, _ = torch.linalg.qr(_normal(dim, factors.shape[1] + NUISANCE, draw=100 + draw))
    energy = DECAY ** torch.arange(FACTOR).float().repeat(factors.shape[1] // FACTOR)
    signal = factors * (energy / energy.sum()).sqrt()
    nuisance = _normal(len(lengths), NUISANCE, draw=200 + draw)[owner] + _normal(len(owner), NUISANCE, draw=300 + draw)
    frames = torch.cat([signal[owner], nuisance / (2 * NUISANCE) ** 0.5], dim=1) @ loading.t()
    return Ragged.from_lengths(frames + (RESIDUAL / dim) ** 0.5 * _normal(len(owner), dim, draw=draw), lengths)

"""The embedded default: a made-up corpus in IEMOCAP's likeness, the same on every machine.

Four classes in IEMOCAP's proportions; a 130-d, v 342-d, l 1024-d sequences of 2 to 8 steps. Each utterance has one
emotion factor that all modalities share and one of each modality's own; frames carry both, in directions of unequal
energy, so that stronger noise buries more of them, on top of a background that says nothing.
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
STEPS = {"a": 1.0, "v": 0.9, "l": 0.8}  # of the utterance's length
FACTOR = 8  # dimensions of each factor
NUISANCE = 16  # directions that vary and say nothing
SEED = 0x4E4D4552

# Of the classes' means from their centre, in units of the spread within a class.
SHARED_DISTANCE = 0.9
OWN_DISTANCE = {"a": 1.5, "v": 1.15, "l": 1.4}
DECAY = 0.6  # of energy from each direction of a factor to the next
RESIDUAL = 0.03  # isotropic energy beside 1 for the factors and 1 for the nuisance


def synthetic(size: int = DEFAULT_SIZE, difficulty: float = 1.0) -> FeatureSet:
    """Make the corpus.

    Args:
        size: utterances; IEMOCAP has 5531, the default trains in minutes.
        difficulty: divides the distances between the classes: 2 is hard, 0.5 easy.

    Returns:
        splits of 60 % train and 40 % test, classes mixed.
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
    """Labels in IEMOCAP's proportions, to within one, in a fixed random order."""
    shares = torch.tensor(list(CLASSES.values()), dtype=torch.float64).cumsum(0) / sum(CLASSES.values())
    quantiles = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.searchsorted(shares, quantiles)[_normal(size, 1, draw=0)[:, 0].argsort()]


def _factor(labels: Tensor, distance: float, draw: int) -> Tensor:
    """Class means on a simplex at this distance from the centre, in random directions, plus unit spread: [N, 8]."""
    corners = torch.eye(len(CLASSES)) - 1 / len(CLASSES)
    directions, _ = torch.linalg.qr(_normal(FACTOR, FACTOR, draw=100 + draw))
    means = distance * corners @ directions[: len(CLASSES)]
    return means[labels] + _normal(len(labels), FACTOR, draw=draw)


def _frames(factors: Tensor, lengths: Tensor, dim: int, draw: int) -> Ragged:
    """Sequences whose every step carries the factors, along orthonormal directions of decaying energy.

    Nuisance, half of it constant in the utterance, lies along directions of its own; a residual along all.
    """
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    loading, _ = torch.linalg.qr(_normal(dim, factors.shape[1] + NUISANCE, draw=100 + draw))
    energy = DECAY ** torch.arange(FACTOR).float().repeat(factors.shape[1] // FACTOR)
    signal = factors * (energy / energy.sum()).sqrt()
    nuisance = _normal(len(lengths), NUISANCE, draw=200 + draw)[owner] + _normal(len(owner), NUISANCE, draw=300 + draw)
    frames = torch.cat([signal[owner], nuisance / (2 * NUISANCE) ** 0.5], dim=1) @ loading.t()
    return Ragged.from_lengths(frames + (RESIDUAL / dim) ** 0.5 * _normal(len(owner), dim, draw=draw), lengths)

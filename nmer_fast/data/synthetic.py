"""The embedded default: a made-up corpus in IEMOCAP's likeness, the same on every machine.

Four classes in IEMOCAP's proportions; a 130-d, v 342-d, l 1024-d sequences of unequal lengths. Each utterance has one
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
STEPS = {"a": 1.0, "v": 0.8, "l": 0.5}  # of the utterance's length
FACTOR = 8  # dimensions of each factor
SEED = 0x4E4D4552


def synthetic(size: int = 1383, difficulty: float = 1.0) -> FeatureSet:
    """Make the corpus.

    Args:
        size: utterances; IEMOCAP has 5531, the default a quarter of that.
        difficulty: divides the distances between the classes: 2 is hard, 0.5 easy.

    Returns:
        splits of 60 % train, 10 % val and 30 % test, classes mixed.
    """
    if size < 40:
        raise UserError(f"size: expected at least 40 utterances, got {size}")
    if not difficulty > 0:
        raise UserError(f"difficulty: expected a number above 0, got {difficulty}")
    labels = _labels(size)
    duration = (12 * (0.4 * _normal(size, 1, draw=1)[:, 0]).exp()).clamp(4, 32)
    shared = _factor(labels, SHARED_DISTANCE / difficulty, draw=2)
    modalities = {}
    for m, (name, dim) in enumerate(DIMS.items()):
        own = _factor(labels, OWN_DISTANCE[name] / difficulty, draw=10 + m)
        lengths = (duration * STEPS[name]).round().long().clamp(min=3)
        modalities[name] = _frames(name, torch.cat([shared, own], dim=1), lengths, dim, draw=20 + m)
    order = torch.arange(size)  # labels are already mixed
    bounds = [0, round(0.6 * size), round(0.7 * size), size]
    return FeatureSet(
        name="synthetic",
        modalities=modalities,
        labels=labels,
        class_names=list(CLASSES),
        splits={split: order[bounds[i] : bounds[i + 1]] for i, split in enumerate(("train", "val", "test"))},
        sample_names=[f"utterance{i:05d}" for i in range(size)],
        groups=order // 10,
        positions=order,
    )


SHARED_DISTANCE = 1.2
OWN_DISTANCE = {"a": 2.4, "v": 1.4, "l": 2.2}
ENERGY = {"a": 8.0, "v": 8.0, "l": 8.0}
DECAY = 0.7


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


def _frames(name: str, factors: Tensor, lengths: Tensor, dim: int, draw: int) -> Ragged:
    """Sequences whose every step carries the factors, along orthonormal directions of decaying energy."""
    width = factors.shape[1]
    loading, _ = torch.linalg.qr(_normal(dim, width, draw=100 + draw))
    energy = ENERGY[name] * DECAY ** torch.arange(width).float()
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    signal = (factors * energy.sqrt())[owner] @ loading.t()
    return Ragged.from_lengths(signal + _normal(len(owner), dim, draw=draw), lengths)

"""Standardisation with the train split's mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UserError
from .featureset import FeatureSet, Ragged, Scale

CHUNK = 2**18  # values measured at a time, which fit a cache in float64; the last bits of the results depend on it


@dataclass(frozen=True)
class Moments:
    """Statistics of each column over some steps.

    Attributes:
        mean: the mean, float64 [D].
        spread: the standard deviation, float64 [D].
        largest: the largest absolute value, float64 [D].
    """

    mean: Tensor
    spread: Tensor
    largest: Tensor

    @property
    def constant(self) -> Tensor:
        """The columns that do not vary, bool [D]; a spread of at most a millionth of the largest value is rounding."""
        return ~(self.spread > 1e-6 * self.largest)

    def scale(self) -> Scale:
        """The standardisation by this mean and standard deviation; a constant column has std 1."""
        return Scale(self.mean.float(), torch.where(self.constant, 1.0, self.spread).float())


@dataclass(frozen=True)
class Standardiser:
    """Standardises features: (x - mean) / std, clipped to -10 to 10; a constant column has std 1.

    Attributes:
        mean: the mean over the valid steps of the train split, float32 [D], by modality.
        std: the standard deviation over the same steps, float32 [D], by modality.
        variances: the variance of all standardised train values, by modality; SNRs are measured against it.
    """

    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    variances: dict[str, float]

    @classmethod
    def fit(cls, data: FeatureSet) -> Standardiser:
        """Measure the train split, and no other, a few megabytes at a time.

        Raises:
            UserError: one line, if the train split is empty, or a modality has no steps or does not vary in it.
        """
        if len(data.splits.get("train", ())) == 0:
            raise UserError(f"{data.name}: split: expected samples of 'train', got none")
        mean, std, variances = {}, {}, {}
        for name, ragged in data.modalities.items():
            steps = ragged.steps_of(data.splits["train"])
            if len(steps) == 0:
                raise UserError(f"{data.name}: modality {name}: expected steps in the train split, got none")
            scale = measure(ragged, steps).scale()
            mean[name], std[name] = scale.mean, scale.std
            variances[name] = scaled_variance(ragged, steps, scale)
            if not variances[name] > 0:
                raise UserError(f"{data.name}: modality {name}: expected features that vary, got variance 0 in train")
        return cls(mean, std, variances)

    def __call__(self, data: FeatureSet) -> FeatureSet:
        """The same set, standardised whenever values are read, so that no value is copied.

        Raises:
            UserError: one line, if the modalities or their dimensions are others.
        """
        if data.dims != {name: len(mean) for name, mean in self.mean.items()}:
            wanted = {name: len(mean) for name, mean in self.mean.items()}
            raise UserError(f"{data.name}: expected modalities with dimensions {wanted}, got {data.dims}")
        scaled = {
            name: ragged.scaled(Scale(self.mean[name], self.std[name])) for name, ragged in data.modalities.items()
        }
        return replace(data, modalities=scaled)


def chunks(ragged: Ragged, steps: Tensor) -> tuple[Tensor, ...]:
    """The steps in parts of a few megabytes of values each."""
    return steps.split(max(1, CHUNK // ragged.dim))


def measure(ragged: Ragged, steps: Tensor) -> Moments:
    """Measure one or more steps in one pass; parts are merged by the formula of Chan, Golub and LeVeque."""
    mean, squares, largest = (torch.zeros(ragged.dim, dtype=torch.float64) for _ in range(3))
    before = 0
    for part in chunks(ragged, steps):
        values, n = ragged.at(part).double(), len(part)
        part_mean = values.mean(0)
        difference = part_mean - mean
        squares += (values - part_mean).square().sum(0) + difference.square() * (before * n / (before + n))
        mean += difference * (n / (before + n))
        largest = torch.maximum(largest, values.abs().amax(0))
        before += n
    return Moments(mean, (squares / before).sqrt(), largest)


def scaled_variance(ragged: Ragged, steps: Tensor, scale: Scale) -> float:
    """The variance of all standardised values of these steps; their mean is near 0, so sums of squares are accurate."""
    total, squares = 0.0, 0.0
    for part in chunks(ragged, steps):
        values = scale(ragged.at(part)).double()
        total += values.sum().item()
        squares += values.square().sum().item()
    count = len(steps) * ragged.dim
    return squares / count - (total / count) ** 2

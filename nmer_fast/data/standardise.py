"""Standardisation with the train split's mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UserError
from .featureset import FeatureSet, Ragged, Scale

CHUNK = (
    2**18
)  # values looked at together: in float64 they stay in a cache; what is measured depends on it in the last bits


@dataclass(frozen=True)
class Moments:
    """Of each column of some steps.

    Attributes:
        mean: float64 [D].
        spread: the standard deviation, float64 [D].
        largest: absolute value, float64 [D].
    """

    mean: Tensor
    spread: Tensor
    largest: Tensor

    @property
    def constant(self) -> Tensor:
        """Columns that do not vary, bool [D]: what is left of one after rounding is no signal."""
        return ~(self.spread > 1e-6 * self.largest)

    def scale(self) -> Scale:
        """Standardisation by them; a constant column has std 1."""
        return Scale(self.mean.float(), torch.where(self.constant, 1.0, self.spread).float())


@dataclass(frozen=True)
class Standardiser:
    """(x - mean) / std, clipped to +-10; a constant column has std 1.

    Attributes:
        mean: by modality, float32 [D], over the train split's valid steps.
        std: by modality, float32 [D].
        variances: by modality, the variance of all standardised train values, which SNRs are measured against.
    """

    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    variances: dict[str, float]

    @classmethod
    def fit(cls, data: FeatureSet) -> Standardiser:
        """Measure the train split, and it alone, some megabytes at a time."""
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
        """The same set, standardised as it is read: no value is copied."""
        if data.dims != {name: len(mean) for name, mean in self.mean.items()}:
            wanted = {name: len(mean) for name, mean in self.mean.items()}
            raise UserError(f"{data.name}: expected modalities with dimensions {wanted}, got {data.dims}")
        scaled = {
            name: ragged.scaled(Scale(self.mean[name], self.std[name])) for name, ragged in data.modalities.items()
        }
        return replace(data, modalities=scaled)


def chunks(ragged: Ragged, steps: Tensor) -> tuple[Tensor, ...]:
    """The steps in parts, each of some megabytes of values."""
    return steps.split(max(1, CHUNK // ragged.dim))


def measure(ragged: Ragged, steps: Tensor) -> Moments:
    """Moments of one or more steps; means and squares of parts are joined as Chan, Golub and LeVeque do."""
    mean, squares, largest = (torch.zeros(ragged.dim, dtype=torch.float64) for _ in range(3))
    before = 0
    for part in chunks(ragged, steps):
        values, n = ragged.at(part).double(), len(part)
        of_part = values.mean(0)
        difference = of_part - mean
        squares += (values - of_part).square().sum(0) + difference.square() * (before * n / (before + n))
        mean += difference * (n / (before + n))
        largest = torch.maximum(largest, values.abs().amax(0))
        before += n
    return Moments(mean, (squares / before).sqrt(), largest)


def scaled_variance(ragged: Ragged, steps: Tensor, scale: Scale) -> float:
    """Of all standardised values of these steps, which are near 0, so that squares lose nothing."""
    total, squares = 0.0, 0.0
    for part in chunks(ragged, steps):
        values = scale(ragged.at(part)).double()
        total += values.sum().item()
        squares += values.square().sum().item()
    count = len(steps) * ragged.dim
    return squares / count - (total / count) ** 2

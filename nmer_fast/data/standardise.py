"""Standardisation with the train split's mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UserError
from ..noise import variance
from .featureset import FeatureSet, Ragged

CLIP = 10.0  # standard deviations; real audio features have outliers past 20


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
        """Measure the train split, and it alone."""
        if len(data.splits.get("train", ())) == 0:
            raise UserError(f"{data.name}: split: expected samples of 'train', got none")
        mean, std, variances = {}, {}, {}
        for name, ragged in data.modalities.items():
            values = ragged.values[ragged.steps_of(data.splits["train"])].double()
            if len(values) == 0:
                raise UserError(f"{data.name}: modality {name}: expected steps in the train split, got none")
            mean[name] = values.mean(0).float()
            spread = values.std(0, correction=0)
            # What is left of a constant column after rounding is no signal.
            std[name] = torch.where(spread > 1e-6 * values.abs().amax(0), spread, 1.0).float()
            variances[name] = variance(_scale(values.float(), mean[name], std[name]))
            if not variances[name] > 0:
                raise UserError(f"{data.name}: modality {name}: expected features that vary, got variance 0 in train")
        return cls(mean, std, variances)

    def __call__(self, data: FeatureSet) -> FeatureSet:
        """The same set, standardised."""
        if data.dims != {name: len(mean) for name, mean in self.mean.items()}:
            wanted = {name: len(mean) for name, mean in self.mean.items()}
            raise UserError(f"{data.name}: expected modalities with dimensions {wanted}, got {data.dims}")
        scaled = {
            name: Ragged(_scale(ragged.values, self.mean[name], self.std[name]), ragged.offsets)
            for name, ragged in data.modalities.items()
        }
        return replace(data, modalities=scaled)


def _scale(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((values - mean) / std).clamp_(-CLIP, CLIP)

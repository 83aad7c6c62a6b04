"""Made-up feature sets of the lengths and dimensions that the benches need."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nmer_fast.data import FeatureSet, Ragged

DIMS = {"a": 130, "v": 342, "l": 1024}  # IEMOCAP's
CLASSES = 4


def features(
    dims: Mapping[str, int],
    lengths: Mapping[str, Tensor],
    train: int,
    values: Callable[[int, int], Tensor] = torch.randn,
) -> FeatureSet:
    """Features of these lengths by modality; the first rows are the train split, the others test.

    `values` makes the features [steps, dim] of a modality; they are normal by default.
    """
    modalities = {
        name: Ragged.from_lengths(values(int(lengths[name].sum()), dim), lengths[name]) for name, dim in dims.items()
    }
    order = torch.arange(len(next(iter(lengths.values()))))
    return FeatureSet(
        name="made up",
        modalities=modalities,
        labels=torch.randint(CLASSES, (len(order),), generator=torch.Generator().manual_seed(0)),
        class_names=[str(i) for i in range(CLASSES)],
        splits={"train": order[:train], "test": order[train:]},
        sample_names=[f"utterance{i:06d}" for i in range(len(order))],
        groups=order,
        positions=order,
    )


def normal(generator: torch.Generator) -> Callable[[int, int], Tensor]:
    """Normal features from a generator."""
    return lambda steps, dim: torch.randn(steps, dim, generator=generator)


def iemocap(train: int, test: int) -> FeatureSet:
    """IEMOCAP's shapes: a of 10 to 300 steps, log-normal with median 40; v of 50 steps and l of 22."""
    generator, n = torch.Generator().manual_seed(0), train + test
    spread = (0.6 * torch.randn(n, generator=generator)).exp()
    a = (40 * spread).round().clamp(10, 300).long()
    lengths = {"a": a, "v": torch.full((n,), 50), "l": torch.full((n,), 22)}
    return features(DIMS, lengths, train, normal(generator))


def small(utterances: int, modalities: int) -> FeatureSet:
    """So many utterances, one of them test, and modalities of 4 to 8 steps, 32-d; one modality in three is a text."""
    generator = torch.Generator().manual_seed(0)
    names = [("l", "text", "lexical")[i // 3] if i % 3 == 2 else f"m{i}" for i in range(modalities)]
    lengths = torch.randint(4, 9, (utterances,), generator=generator)
    dims = dict.fromkeys(names, 32)
    return features(dims, dict.fromkeys(names, lengths), utterances - 1, normal(generator))

"""Batches: gathered from the ragged features, padded to their own longest sample, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..data import FeatureSet
from ..models import Batch, Targets
from ..noise import Noised, NoiseScheduler
from ..profiling import span
from .distributed import Ranks


class Batches:
    """Makes batches of a (standardised) feature set.

    Args:
        data: the set; a sample's id, which its noise depends on, is its row.
        device: where batches go.
        size: samples in a batch, at most.
        padding: count a batch's padding as valid steps of every present sample, so that it is noised and read, as in
            the paper's released code; a sample's result then depends on the batch's longest.
        ranks: which rows of a training batch are this process's.
    """

    def __init__(
        self, data: FeatureSet, device: torch.device, size: int, *, padding: bool = False, ranks: Ranks | None = None
    ) -> None:
        self.data, self.device, self.size, self.padding = data, device, size, padding
        self.ranks = ranks or Ranks()

    def of(self, rows: Tensor, *, rng: Tensor | None = None, targets: Targets | None = None) -> Batch:
        """These rows; `targets` are of all rows of the set, in order."""
        padded = {name: ragged.padded(rows) for name, ragged in self.data.modalities.items()}
        real = None
        if self.padding:
            real = {name: lengths.to(self.device) for name, (_, lengths) in padded.items()}
            padded = {name: (x, (lengths > 0) * x.shape[1]) for name, (x, lengths) in padded.items()}
        chosen = rows.to(self.device)
        return Batch(
            features={name: x.to(self.device) for name, (x, _) in padded.items()},
            lengths={name: lengths.to(self.device) for name, (_, lengths) in padded.items()},
            labels=self.data.labels[rows].to(self.device),
            sample_ids=chosen,
            targets=None if targets is None else Targets(targets.joint[chosen], targets.invariant[chosen]),
            rng=rng,
            real_lengths=real,
        )

    def in_order(self, rows: Tensor) -> Iterator[Batch]:
        """All rows, as they stand."""
        for part in self.split(rows):
            yield self.of(part)

    def shuffled(
        self, rows: Tensor, seed: int, epoch: int, targets: Targets | None = None, *, first: int = 0
    ) -> Iterator[Batch]:
        """All rows in an order that seed and epoch decide; the noise of (seed, epoch) comes with them.

        `first` skips that many batches.
        """
        generator = torch.Generator().manual_seed((seed << 20 ^ epoch) % 2**63)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        rng = torch.tensor([seed, epoch], device=self.device)
        for part in self.split(rows)[first:]:
            with span("data", len(part)):
                batch = replace(self.of(self.ranks.own(part), rng=rng, targets=targets), whole=len(part))
            yield batch

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The fewest batches of at most `size`, all alike: no small rest that would weigh more, or recompile."""
        return rows.tensor_split(self.count(rows))

    def count(self, rows: Tensor) -> int:
        """How many batches these rows make."""
        return -(-len(rows) // self.size)


def add_noise(scheduler: NoiseScheduler, batch: Batch, rng: Tensor | None, condition: str | None = None) -> Noised:
    """The batch under noise, with statistics, which are over real steps also where padding is noised too."""
    options = {"sample_ids": batch.sample_ids, "rng": rng, "condition": condition}
    if batch.real_lengths is None:
        return scheduler(batch.features, lengths=batch.lengths, return_stats=True, **options)
    noised = scheduler(batch.features, lengths=batch.lengths, **options)
    real = scheduler(batch.features, lengths=batch.real_lengths, return_stats=True, **options)
    return noised._replace(stats=real.stats)

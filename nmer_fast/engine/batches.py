"""Batches: gathered from the ragged features, padded to their own longest sample, on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from .. import ops
from ..data import FeatureSet, Ragged
from ..data.featureset import padded_steps
from ..models import Batch, Targets
from ..noise import Noised, NoiseScheduler
from ..profiling import span
from .distributed import Ranks
from .memory import free_bytes

RESIDENT = 0.5  # of a device's free memory, at most, for the features; the rest is for training


class Batches:
    """Makes batches of a (standardised) feature set.

    On another device than the CPU the features move there once, if they fit, and are gathered there. Else the CPU
    gathers, and a thread makes the next batch while one is used. Neither has yet run on a GPU.

    Args:
        data: the set; a sample's id, which its noise depends on, is its row.
        device: where batches go.
        size: samples in a batch, at most.
        padding: count a batch's padding as valid steps of every present sample, so that it is noised and read, as in
            the paper's released code; a sample's result then depends on the batch's longest.
        buckets: batches of like length, out of pools of so many batches; 1: any samples together.
        ranks: which rows of a training batch are this process's.

    Attributes:
        resident: whether features are gathered where batches go.
        cost: int64 [N], the values that a row takes in a batch of its own.
    """

    def __init__(
        self,
        data: FeatureSet,
        device: torch.device,
        size: int,
        *,
        padding: bool = False,
        buckets: int = 1,
        ranks: Ranks | None = None,
    ) -> None:
        self.data, self.device, self.size, self.padding, self.buckets = data, device, size, padding, buckets
        self.ranks = ranks or Ranks()
        self.lengths = {
            name: ragged.lengths for name, ragged in data.modalities.items()
        }  # on the host: they make shapes
        self.cost = torch.zeros(len(data), dtype=torch.int64)
        for name, ragged in data.modalities.items():
            self.cost += ragged.dim * (-(-self.lengths[name] // 8) * 8)
        wanted = sum(ragged.stored.nbytes for ragged in data.modalities.values())
        self.resident = device.type == "cpu" or wanted <= RESIDENT * free_bytes(device)
        where = device if self.resident else torch.device("cpu")
        self.features = {name: _moved(ragged, where) for name, ragged in data.modalities.items()}

    def of(
        self,
        rows: Tensor,
        *,
        rng: Tensor | None = None,
        targets: Targets | None = None,
        whole: Tensor | None = None,
    ) -> Batch:
        """These rows; `targets` are of all rows of the set, in order.

        `whole` are the rows of the batch of which these are one process's.
        """
        chosen, real = self._put(rows), None
        lengths = {name: every[rows] for name, every in self.lengths.items()}
        of_all = lengths if whole is None else {name: every[whole] for name, every in self.lengths.items()}
        features = {
            name: ragged.gathered(
                chosen if self.resident else rows, padded_steps((of_all if self.padding else lengths)[name])
            )
            for name, ragged in self.features.items()
        }
        if self.padding:
            real = {name: self._put(n) for name, n in lengths.items()}
            lengths, of_all = (
                {name: (n > 0) * features[name].shape[1] for name, n in each.items()} for each in (lengths, of_all)
            )
        return Batch(
            features={name: x if self.resident else self._put(x) for name, x in features.items()},
            lengths={name: self._put(n) for name, n in lengths.items()},
            labels=self._put(self.data.labels[rows]),
            sample_ids=chosen,
            targets=None if targets is None else Targets(targets.joint[chosen], targets.invariant[chosen]),
            rng=rng,
            real_lengths=real,
            whole_lengths=None if whole is None else {name: self._put(n) for name, n in of_all.items()},
        )

    def _put(self, t: Tensor) -> Tensor:
        """On the device; a GPU takes it out of pinned memory, so that the host does not wait for its present work."""
        return t.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else t.to(self.device)

    def in_order(self, rows: Tensor) -> Iterator[Batch]:
        """All rows, as they stand."""
        return self._made([(part, None) for part in self.split(rows)])

    def shuffled(
        self, rows: Tensor, seed: int, epoch: int, targets: Targets | None = None, *, first: int = 0
    ) -> Iterator[Batch]:
        """All rows in an order that seed and epoch decide; the noise of (seed, epoch) comes with them.

        `first` skips that many batches.
        """
        parts = [
            (self.ranks.own(part), None if self.ranks.size == 1 else part)
            for part in self.order(rows, seed, epoch)[first:]
        ]
        return self._made(parts, self._put(torch.tensor([seed, epoch])), targets)

    def _made(
        self, parts: Sequence[tuple[Tensor, Tensor | None]], rng: Tensor | None = None, targets: Targets | None = None
    ) -> Iterator[Batch]:
        """A batch of each part's rows; of the rows of all processes, where there are several."""

        def make() -> Iterator[Batch]:
            for part, whole in parts:
                with span("data", len(part)):
                    batch = self.of(part, rng=rng, targets=targets, whole=whole)
                yield batch

        return make() if self.resident else ahead(make())

    def order(self, rows: Tensor, seed: int, epoch: int) -> list[Tensor]:
        """Each batch's rows, every row once: what seed and epoch decide of an epoch, for one process or for several.

        With buckets, pools of so many shuffled batches are sorted by cost and cut again, and the batches shuffled.
        """
        # A generator takes 32 bits: the contract's, which all of seed and epoch decide.
        counter = torch.tensor([[epoch, 0, 0, 0]])
        generator = torch.Generator().manual_seed(int(ops.philox(seed, counter)[0, 0]))
        parts = list(self.split(rows[torch.randperm(len(rows), generator=generator)]))
        if self.buckets == 1:
            return parts
        sorted_parts: list[Tensor] = []
        for i in range(0, len(parts), self.buckets):
            pool = parts[i : i + self.buckets]
            sorted_parts += self.by_length(torch.cat(pool)).split([len(part) for part in pool])
        return [sorted_parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]

    def by_length(self, rows: Tensor) -> Tensor:
        """The rows, the cheapest first; equals stay in order."""
        return rows[self.cost[rows].argsort(stable=True)]

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The fewest batches of at most `size`, all alike: no small rest that would weigh more, or recompile."""
        return rows.tensor_split(self.count(rows))

    def count(self, rows: Tensor) -> int:
        """How many batches these rows make."""
        return -(-len(rows) // self.size)


def _moved(ragged: Ragged, device: torch.device) -> Ragged:
    scale = ragged.scale and replace(ragged.scale, mean=ragged.scale.mean.to(device), std=ragged.scale.std.to(device))
    return replace(ragged, stored=ragged.stored.to(device), offsets=ragged.offsets.to(device), scale=scale)


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each made by a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def add_noise(scheduler: NoiseScheduler, batch: Batch, rng: Tensor | None, condition: str | None = None) -> Noised:
    """The batch under noise, with statistics, which are over real steps also where padding is noised too."""
    options = {"sample_ids": batch.sample_ids, "rng": rng, "condition": condition}
    if batch.real_lengths is None:
        return scheduler(batch.features, lengths=batch.lengths, return_stats=True, **options)
    noised = scheduler(batch.features, lengths=batch.lengths, **options)
    real = scheduler(batch.features, lengths=batch.real_lengths, return_stats=True, **options)
    return noised._replace(stats=real.stats)

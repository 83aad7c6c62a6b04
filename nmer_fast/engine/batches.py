"""Collating: batches are gathered from the ragged features, padded to the batch's longest sample, on the device."""

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

MAX_FEATURE_SHARE = 0.5  # the largest share of a device's free memory that features may take; training needs the rest


class Batches:
    """The data loader: it collates the samples of a (standardised) feature set into batches.

    On a GPU, all features are copied to the device once, if they fit, and batches are gathered there. Otherwise the CPU
    gathers batches, and a thread prefetches the next batch while the present one is used. Neither way has run on a GPU
    yet.

    Args:
        data: the feature set; a sample's id, which its noise depends on, is its row in the set.
        device: the device of the batches.
        size: the maximum number of samples in a batch.
        padding: whether a batch's padding counts as valid steps of every present sample, so that it gets noise and is
            read by the encoders, as in the paper's released code. A sample's result then depends on the longest sample
            of its batch.
        buckets: the number of batches in a bucketing pool, which is sorted by length; 1 turns bucketing off.
        ranks: the processes that share each training batch; by default this process alone.

    Attributes:
        on_device: whether the features are stored on the device of the batches and gathered there.
        cost: the number of values, padding included, that each row takes in a batch of its own, int64 [N].
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
        }  # on the host, since shapes depend on them
        self.cost = torch.zeros(len(data), dtype=torch.int64)
        for name, ragged in data.modalities.items():
            self.cost += ragged.dim * (-(-self.lengths[name] // 8) * 8)
        wanted = sum(ragged.stored.nbytes for ragged in data.modalities.values())
        self.on_device = device.type == "cpu" or wanted <= MAX_FEATURE_SHARE * free_bytes(device)
        where = device if self.on_device else torch.device("cpu")
        self.features = {name: _moved(ragged, where) for name, ragged in data.modalities.items()}

    def collate(
        self,
        rows: Tensor,
        *,
        rng: Tensor | None = None,
        targets: Targets | None = None,
        global_rows: Tensor | None = None,
    ) -> Batch:
        """Collate some rows of the set into a batch.

        Args:
            rows: the rows, int64 [B].
            rng: the seed and draw of the training noise, int64 [2].
            targets: the teacher's targets of all rows of the set, in the set's order.
            global_rows: all ranks' rows of the batch, if `rows` are only this rank's share of it.
        """
        chosen, real = self._put(rows), None
        lengths = {name: every[rows] for name, every in self.lengths.items()}
        of_all = lengths if global_rows is None else {name: every[global_rows] for name, every in self.lengths.items()}
        features = {
            name: ragged.gathered(
                chosen if self.on_device else rows, padded_steps((of_all if self.padding else lengths)[name])
            )
            for name, ragged in self.features.items()
        }
        if self.padding:
            real = {name: self._put(n) for name, n in lengths.items()}
            lengths, of_all = (
                {name: (n > 0) * features[name].shape[1] for name, n in each.items()} for each in (lengths, of_all)
            )
        return Batch(
            features={name: x if self.on_device else self._put(x) for name, x in features.items()},
            lengths={name: self._put(n) for name, n in lengths.items()},
            labels=self._put(self.data.labels[rows]),
            sample_ids=chosen,
            targets=None if targets is None else Targets(targets.joint[chosen], targets.invariant[chosen]),
            rng=rng,
            real_lengths=real,
            all_ranks_lengths=None if global_rows is None else {name: self._put(n) for name, n in of_all.items()},
        )

    def _put(self, t: Tensor) -> Tensor:
        """Copy a tensor to the device; copies to a GPU use pinned memory, so that the host does not wait for it."""
        return t.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else t.to(self.device)

    def sequential(self, rows: Tensor) -> Iterator[Batch]:
        """Yield batches of all rows, in the order given."""
        return self._made([(part, None) for part in self.split(rows)])

    def shuffled(
        self, rows: Tensor, seed: int, epoch: int, targets: Targets | None = None, *, first: int = 0
    ) -> Iterator[Batch]:
        """Yield one training epoch: batches of all rows in an order that depends on seed and epoch alone.

        Args:
            rows: the rows of the train split, int64 [N].
            seed: the run's seed.
            epoch: the epoch, from 0; `(seed, epoch)` is also the seed and draw of the batches' noise.
            targets: the teacher's targets of all rows of the set.
            first: the number of batches to skip.
        """
        parts = [
            (self.ranks.local_rows(part), None if self.ranks.size == 1 else part)
            for part in self.order(rows, seed, epoch)[first:]
        ]
        return self._made(parts, self._put(torch.tensor([seed, epoch])), targets)

    def _made(
        self, parts: Sequence[tuple[Tensor, Tensor | None]], rng: Tensor | None = None, targets: Targets | None = None
    ) -> Iterator[Batch]:
        """Yield a batch for each pair of this rank's rows and all ranks' rows (None if this is the only rank)."""

        def make() -> Iterator[Batch]:
            for part, global_rows in parts:
                with span("data", len(part)):
                    batch = self.collate(part, rng=rng, targets=targets, global_rows=global_rows)
                yield batch

        return make() if self.on_device else prefetch(make())

    def order(self, rows: Tensor, seed: int, epoch: int) -> list[Tensor]:
        """Return the rows of each batch of an epoch; every row occurs once. All ranks get the same order.

        The order depends on seed and epoch. With bucketing, the rows of every pool of `buckets` batches are sorted by
        cost and split into batches again, and the order of all batches is shuffled.
        """
        # torch's generator is seeded with 32 bits of Philox, which depend on every bit of seed and epoch.
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
        """Return the rows sorted by increasing cost; the sort is stable."""
        return rows[self.cost[rows].argsort(stable=True)]

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split rows into as few batches as `size` allows, whose sizes differ by at most 1.

        A small last batch would give its samples a larger weight and would make torch.compile recompile.
        """
        return rows.tensor_split(self.count(rows))

    def count(self, rows: Tensor) -> int:
        """Return the number of batches that `split` makes."""
        return -(-len(rows) // self.size)


def _moved(ragged: Ragged, device: torch.device) -> Ragged:
    scale = ragged.scale and replace(ragged.scale, mean=ragged.scale.mean.to(device), std=ragged.scale.std.to(device))
    return replace(ragged, stored=ragged.stored.to(device), offsets=ragged.offsets.to(device), scale=scale)


def prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Prefetch: yield the same batches, each of which a thread makes while the previous one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def add_noise(scheduler: NoiseScheduler, batch: Batch, rng: Tensor | None, condition: str | None = None) -> Noised:
    """Add noise to a batch; the noise statistics cover the real steps alone, even if padding gets noise too."""
    options = {"sample_ids": batch.sample_ids, "rng": rng, "condition": condition}
    if batch.real_lengths is None:
        return scheduler(batch.features, lengths=batch.lengths, return_stats=True, **options)
    noised = scheduler(batch.features, lengths=batch.lengths, **options)
    real = scheduler(batch.features, lengths=batch.real_lengths, return_stats=True, **options)
    return noised._replace(stats=real.stats)

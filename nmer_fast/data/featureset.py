"""Feature sets in memory: ragged sequences of several modalities, with labels, splits and groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import UserError

SPLITS = ("train", "val", "test")
CLIP = 10.0  # standard deviations; real audio features have outliers past 20


_tolerant = ContextVar("tolerant", default=False)


@contextmanager
def tolerant() -> Iterator[None]:
    """Inside this context, allow sets with NaN, infinity or repeated sample names, which may be inspected only."""
    token = _tolerant.set(True)
    try:
        yield
    finally:
        _tolerant.reset(token)


def is_tolerant() -> bool:
    """Whether the caller runs inside `tolerant`."""
    return _tolerant.get()


@dataclass(frozen=True)
class Scale:
    """A standardisation: (x - mean) / std, clipped to -10 to 10.

    Attributes:
        mean: the mean of each column, float32 [D].
        std: the standard deviation of each column, float32 [D].
    """

    mean: Tensor
    std: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Standardise values [..., D]."""
        return ((values - self.mean) / self.std).clamp_(-CLIP, CLIP)


@dataclass(frozen=True)
class Ragged:
    """N sequences of D-dimensional steps, stored end to end without padding.

    Attributes:
        stored: the steps of all sequences, float32 [sum of lengths, D]; they may be memory-mapped from a file.
        offsets: the bounds of the sequences, int64 [N + 1]; sequence i is values[offsets[i] : offsets[i + 1]].
        scale: the standardisation applied whenever values are read; None: they are read as they are stored.
        digest: the SHA-256 of `stored`, if it comes from a packed store, whose values were checked when it was written.
    """

    stored: Tensor
    offsets: Tensor
    scale: Scale | None = None
    digest: str | None = None

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """Make sequences of these lengths, int [N], from values [sum of lengths, D] that stand end to end."""
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.long().cumsum(0)]))

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor) -> Ragged:
        """Make sequences of these lengths, int [N], from values [N, T, D] that are padded on the right."""
        valid = torch.arange(padded.shape[1]) < lengths[:, None]
        return cls.from_lengths(padded[valid], lengths)

    @property
    def values(self) -> Tensor:
        """The steps of all sequences, float32 [sum of lengths, D]; with a scale, a standardised copy of all of them."""
        return self.stored if self.scale is None else self.scale(self.stored)

    @property
    def lengths(self) -> Tensor:
        """The number of steps of each sequence, int64 [N]."""
        return self.offsets.diff()

    @property
    def dim(self) -> int:
        """The number of features D of a step."""
        return self.stored.shape[1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def steps_of(self, rows: Tensor) -> Tensor:
        """The indices, into values, of all steps of these sequences, in order."""
        lengths = self.lengths[rows]
        starts = (self.offsets[:-1][rows] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        return starts + torch.arange(int(lengths.sum()))

    def at(self, steps: Tensor) -> Tensor:
        """A copy of the values of these steps, [steps, D], standardised if there is a scale."""
        values = self.stored[steps]
        return values if self.scale is None else self.scale(values)

    def take(self, rows: Tensor) -> Ragged:
        """A copy of these sequences."""
        return Ragged.from_lengths(self.at(self.steps_of(rows)), self.lengths[rows])

    def scaled(self, scale: Scale) -> Ragged:
        """The same sequences, standardised whenever they are read; no value is copied unless there was a scale."""
        return replace(self if self.scale is None else Ragged(self.values, self.offsets), scale=scale)

    def padded(self, rows: Tensor, multiple: int = 8) -> tuple[Tensor, Tensor]:
        """Collate these sequences: values [B, T, D] with zeros beyond the lengths, and the lengths, int64 [B].

        T is the largest length, at least 1, rounded up to the multiple: 128-bit access on a GPU needs a multiple of 8.
        """
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return self.gathered(rows, padded_steps(lengths, multiple)), lengths

    def gathered(self, rows: Tensor, steps: int) -> Tensor:
        """The first steps of these sequences, [B, steps, D], with zeros beyond their lengths."""
        if self.scale is None:
            return ops.gather_padded(self.stored, self.offsets, rows, steps)
        mean, std = self.scale.mean, self.scale.std
        return ops.gather_padded(self.stored, self.offsets, rows, steps, mean=mean, std=std, clip=CLIP)


def padded_steps(lengths: Tensor, multiple: int = 8) -> int:
    """The largest length, at least 1, rounded up to the multiple."""
    longest = max(int(lengths.max()) if len(lengths) else 0, 1)
    return -(-longest // multiple) * multiple


def sha256(t: Tensor) -> str:
    """The SHA-256 of a tensor's bytes, in hexadecimal."""
    return hashlib.sha256(t.contiguous().numpy().data.cast("B") if t.numel() else b"").hexdigest()


@dataclass(frozen=True)
class FeatureSet:
    """A data set: N samples of M modalities.

    Attributes:
        name: the set's name in messages.
        modalities: the N sequences of each modality, by name, in the order of the noise contract's streams.
        labels: the class of each sample, int64 [N], from 0 to classes - 1.
        class_names: the name of each class.
        splits: the rows of "train", "test" and optionally "val", int64, by split.
        sample_names: N unique names.
        groups: the dialogue or video of each sample, int64 [N]; -1: none.
        positions: the order of samples inside their group, int64 [N].

    Raises:
        UserError: one line, if the parts do not fit each other, a value is not finite, or there is no test sample.
    """

    name: str
    modalities: dict[str, Ragged]
    labels: Tensor
    class_names: list[str]
    splits: dict[str, Tensor]
    sample_names: list[str]
    groups: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        n = len(self.labels)
        for name, ragged in self.modalities.items():
            if len(ragged) != n:
                raise UserError(
                    f"{self.name}: modality {name}: expected {n} samples, one for each label, got {len(ragged)}"
                )
            # Values with a digest were checked when they were stored; checking them here would read every page.
            if ragged.digest is not None or is_tolerant():
                continue
            bad = ~torch.isfinite(ragged.stored)
            if bad.any():
                step = int(bad.any(1).nonzero()[0])
                row = int(torch.searchsorted(ragged.offsets, step, right=True)) - 1
                raise UserError(
                    f"{self.name}: modality {name}: sample {self.sample_names[row]} holds "
                    f"{ragged.stored[step][bad[step]][0].item()}; expected finite numbers"
                )
        if n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise UserError(
                f"{self.name}: label: expected 0 to {len(self.class_names) - 1}, got {self.labels.unique().tolist()}"
            )
        if len(self.splits.get("test", ())) == 0:
            raise UserError(f"{self.name}: split: expected samples of 'test', got none")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dims(self) -> dict[str, int]:
        """The number of features D of each modality."""
        return {name: ragged.dim for name, ragged in self.modalities.items()}

    def fingerprint(self) -> str:
        """A SHA-256 of everything that training reads: names, splits, labels, lengths and values.

        It is the same whichever file the set was read from: for values of a packed store it uses the stored checksum.
        """
        parts: list[object] = [list(self.modalities), self.class_names, list(self.splits)]
        parts += [sha256(t) for t in (self.labels, *self.splits.values())]
        for ragged in self.modalities.values():
            parts += [sha256(ragged.offsets), ragged.dim, ragged.digest or sha256(ragged.stored)]
            if ragged.scale is not None:
                parts += [sha256(ragged.scale.mean), sha256(ragged.scale.std), CLIP]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def with_absent(self, dims: Mapping[str, int]) -> FeatureSet:
        """The set with these modalities, in this order; one that it lacks is added with length 0 in every sample."""
        if not self.modalities.keys() < dims.keys():
            return self
        nothing = torch.zeros(len(self), dtype=torch.int64)
        absent = {name: Ragged.from_lengths(torch.zeros(0, dim), nothing) for name, dim in dims.items()}
        return replace(self, modalities={name: self.modalities.get(name, absent[name]) for name in dims})

    def with_context(self, k: int) -> FeatureSet:
        """The set in which each sample is joined with up to k samples before it in its group and split.

        Utterance vectors so become sequences of 1 to k + 1 steps, and no sample of one split enters another. Each
        sample keeps its label.
        """
        if k < 0:
            raise UserError(f"context: expected 0 or more utterances, got {k}")
        if k == 0:
            return self
        if bool((self.groups < 0).any()):
            raise UserError(f"{self.name}: context: expected a group for every sample, got samples without one")
        place, split = torch.arange(len(self)), torch.full((len(self),), -1)
        for number, rows in enumerate(self.splits.values()):
            split[rows] = number
        groups = self.groups * (len(self.splits) + 1) + split
        order = torch.from_numpy(np.lexsort((self.positions.numpy(), groups.numpy())))
        group = groups[order]
        is_first = torch.cat([torch.ones(1, dtype=torch.bool), group[1:] != group[:-1]])
        group_start = torch.where(is_first, place, 0).cummax(0).values
        first, count = torch.empty_like(place), torch.empty_like(place)
        first[order] = torch.maximum(group_start, place - k)
        count[order] = place - first[order] + 1
        bounds = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
        within = torch.arange(int(bounds[-1])) - bounds[:-1].repeat_interleave(count)
        sources = order[first.repeat_interleave(count) + within]

        def join(ragged: Ragged) -> Ragged:
            taken = ragged.take(sources)
            return Ragged(taken.values, taken.offsets[bounds])

        return replace(self, modalities={name: join(ragged) for name, ragged in self.modalities.items()})

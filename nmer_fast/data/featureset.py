"""Feature sets: ragged sequences of several modalities, with labels, splits and groups."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Ragged:
    """N sequences of D-dimensional steps, end to end.

    Attributes:
        values: float32 [sum of lengths, D].
        offsets: int64 [N + 1]; sequence i is values[offsets[i] : offsets[i + 1]].
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        """Sequences of these lengths, cut from values in order."""
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor) -> Ragged:
        """[N, T, D] padded on the right."""
        valid = torch.arange(padded.shape[1]) < lengths[:, None]
        return cls.from_lengths(padded[valid], lengths)

    @property
    def lengths(self) -> Tensor:
        """int64 [N]."""
        return self.offsets.diff()

    @property
    def dim(self) -> int:
        """D."""
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def steps_of(self, rows: Tensor) -> Tensor:
        """Indices into values of all steps of these sequences, in order."""
        lengths = self.lengths[rows]
        starts = (self.offsets[:-1][rows] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        return starts + torch.arange(int(lengths.sum()))

    def take(self, rows: Tensor) -> Ragged:
        """These sequences alone."""
        return Ragged.from_lengths(self.values[self.steps_of(rows)], self.lengths[rows])

    def padded(self, rows: Tensor, multiple: int = 8) -> tuple[Tensor, Tensor]:
        """These sequences as [B, T, D], zeros beyond their lengths, and the lengths.

        T is the longest of them, at least 1, rounded up: 128-bit access on a GPU wants a multiple of 8.
        """
        lengths = self.lengths[rows]
        longest = max(int(lengths.max()) if len(rows) else 0, 1)
        steps = torch.arange(-(-longest // multiple) * multiple)
        index = self.offsets[:-1][rows, None] + steps
        valid = steps < lengths[:, None]
        if len(self.values) == 0:
            return self.values.new_zeros(*valid.shape, self.dim), lengths
        x = self.values[torch.where(valid, index, 0)]
        return x.masked_fill_(~valid[..., None], 0.0), lengths


@dataclass(frozen=True)
class FeatureSet:
    """A data set: N samples of M modalities.

    Attributes:
        name: for people.
        modalities: by name, in the order of the noise contract's streams; each of N sequences.
        labels: int64 [N], 0 to classes - 1.
        class_names: by class.
        splits: "train", "test" and, if there is one, "val": int64 row indices.
        sample_names: N names, unique.
        groups: int64 [N], which dialogue or video; -1 where none.
        positions: int64 [N], order inside the group.
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
            bad = ~torch.isfinite(ragged.values)
            if bad.any():
                step = int(bad.any(1).nonzero()[0])
                row = int(torch.searchsorted(ragged.offsets, step, right=True)) - 1
                raise UserError(
                    f"{self.name}: modality {name}: sample {self.sample_names[row]} holds "
                    f"{ragged.values[step][bad[step]][0].item()}; expected finite numbers"
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
        """Feature dimensions by modality."""
        return {name: ragged.dim for name, ragged in self.modalities.items()}

    def fingerprint(self) -> str:
        """A SHA-256 of all that training reads: names, splits, labels, lengths and values."""
        digest = hashlib.sha256(repr((list(self.modalities), self.class_names, list(self.splits))).encode())
        tensors = [self.labels, *self.splits.values()]
        for ragged in self.modalities.values():
            tensors += [ragged.offsets, ragged.values]
        for t in tensors:
            digest.update(repr((t.dtype, t.shape)).encode())
            digest.update(t.contiguous().numpy().data.cast("B") if t.numel() else b"")
        return digest.hexdigest()

    def with_absent(self, dims: Mapping[str, int]) -> FeatureSet:
        """The modalities of these names and dimensions, in this order; what the set lacks is absent in every sample."""
        if not self.modalities.keys() < dims.keys():
            return self
        nothing = torch.zeros(len(self), dtype=torch.int64)
        absent = {name: Ragged.from_lengths(torch.zeros(0, dim), nothing) for name, dim in dims.items()}
        return replace(self, modalities={name: self.modalities.get(name, absent[name]) for name in dims})

    def with_context(self, k: int) -> FeatureSet:
        """Each sample preceded by up to k samples before it in its group and split, joined into one sequence.

        So utterance vectors become real sequences of 1 to k + 1 steps, and no split sees another. Labels stay.
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

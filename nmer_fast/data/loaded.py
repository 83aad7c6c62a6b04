"""What a source of other people's holds, once it is read; and how it compares with what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .featureset import FeatureSet, Ragged
from .limits import check_memory

Splits = dict[str, Tensor]


@dataclass
class Findings:
    """What was found in a source, for people.

    Attributes:
        lines: facts, in order.
        warnings: what may be wrong.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def told(self) -> list[str]:
        """All of it, warnings last and named so."""
        return self.lines + [f"warning: {line}" for line in self.warnings]

    def say(self, line: str) -> None:
        """Note a fact."""
        self.lines.append(line)

    def warn(self, line: str) -> None:
        """Note what may be wrong."""
        self.warnings.append(line)


@dataclass(frozen=True)
class Loaded:
    """A source's samples and folds.

    Attributes:
        data: with the splits of fold 1.
        folds: the splits of each fold; empty where the source has one division and no folds.
        findings: what was found.
    """

    data: FeatureSet
    folds: list[Splits]
    findings: Findings

    def fold(self, number: int | None) -> FeatureSet:
        """The set with the splits of this fold, from 1; by default the first."""
        if not self.folds:
            if number is not None:
                raise UserError(f"{self.data.name}: fold: expected none, the source has no folds, got {number}")
            return self.data
        chosen = 1 if number is None else number
        if not 1 <= chosen <= len(self.folds):
            raise UserError(f"{self.data.name}: fold: expected 1 to {len(self.folds)}, got {chosen}")
        return self.data if chosen == 1 else replace(self.data, splits=self.folds[chosen - 1])

    def sets(self) -> list[FeatureSet]:
        """The sets of all folds, which share everything but their splits."""
        return [self.fold(k) for k in range(1, len(self.folds) + 1)] or [self.data]


class Pieces:
    """Sequences of one modality, gathered one by one or many at a time.

    Attributes:
        what: names the modality in messages.
        dim: D, once a piece is there.
    """

    def __init__(self, what: str) -> None:
        self.what, self.dim = what, 0
        self._values: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._bytes = 0

    def add(self, values: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None) -> None:
        """Append sequences, end to end [sum of lengths, D], of these lengths; by default one of all steps."""
        if values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] == 0:
            raise UserError(
                f"{self.what}: expected floats of shape [steps, D], got {values.dtype} {list(values.shape)}"
            )
        self.dim = self.dim or values.shape[1]
        if values.shape[1] != self.dim:
            raise UserError(
                f"{self.what}: expected {self.dim} dimensions everywhere, got {self.dim} and {values.shape[1]}"
            )
        with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused as that
            self._values.append(values.astype(np.float32, copy=False))
        self._lengths.append(np.array([len(values)] if lengths is None else lengths, dtype=np.int64))
        self._bytes += self._values[-1].nbytes
        check_memory(f"{self.what}: what is read of it", 2 * self._bytes)

    def ragged(self) -> Ragged:
        """All of them; what they were made of is let go."""
        values = np.concatenate(self._values) if self._values else np.zeros((0, 1), np.float32)
        self._values.clear()
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        return Ragged.from_lengths(torch.from_numpy(values), torch.from_numpy(lengths))


@dataclass(frozen=True)
class Published:
    """Sizes from the paper's Table 1.

    Attributes:
        classes: samples of each, in the splits that are counted.
        splits: samples of each.
        counted: which splits the classes are counted in; by default all samples.
    """

    classes: dict[str, int]
    splits: dict[str, int]
    counted: tuple[str, ...] = ()


TABLE_1 = {
    "IEMOCAP": Published({"happy": 1636, "angry": 1103, "sad": 1084, "neutral": 1708}, {"train": 4446, "test": 557}),
    "CMU-MOSEI": Published(
        {"negative": 6066, "positive": 14842}, {"train": 16265, "test": 4643}, counted=("train", "test")
    ),
}


def compare(data: FeatureSet, folds: Sequence[Splits], name: str, findings: Findings) -> None:
    """Say the sizes of splits and classes, and where they differ from the data set's in Table 1.

    With folds, the published division is one of them.
    """
    divisions = list(folds) or [data.splits]
    for number, splits in enumerate(divisions, start=1):
        findings.say(
            (f"fold {number}: " if folds else "splits: ") + _sizes({s: len(rows) for s, rows in splits.items()})
        )
    published = TABLE_1.get(name)
    counted = published.counted if published else ()
    labels = data.labels[torch.cat([data.splits[s] for s in counted if s in data.splits])] if counted else data.labels
    counts = torch.bincount(labels, minlength=len(data.class_names)).tolist()
    classes = dict(zip(data.class_names, counts, strict=True))
    findings.say(f"classes{' in ' + ' and '.join(counted) if counted else ''}: {_sizes(classes)}")
    if published is None:
        return
    found = [{split: len(splits.get(split, ())) for split in published.splits} for splits in divisions]
    for what, expected, got in (
        ("splits", published.splits, published.splits if published.splits in found else found[0]),
        ("classes", published.classes, classes),
    ):
        if got == expected:
            where = f" (fold {found.index(expected) + 1})" if what == "splits" and folds else ""
            findings.say(f"{what} as in the paper's Table 1, {name}{where}")
        else:
            findings.warn(f"{what}: the paper's Table 1 has {_sizes(expected)} for {name}, this source {_sizes(got)}")


def _sizes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

"""What a format of features is: how a source of it is recognised, how it is read, and what a reader returns.

One file of this folder reads each of this package's formats and declares a `Format` at its end; `nmer_fast.registry`
lists them by name. docs/formats.md shows how another package adds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import UserError
from .featureset import FeatureSet
from .unpickle import load_pickle

PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".dt", ".pt")
Splits = dict[str, Tensor]


@dataclass
class Findings:
    """Facts and warnings about a source, collected while it is read and printed for the user.

    Attributes:
        lines: facts, in the order in which they were found.
        warnings: things in the source that may be wrong.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def told(self) -> list[str]:
        """All lines, then all warnings, each of which begins with "warning: "."""
        return self.lines + [f"warning: {line}" for line in self.warnings]

    def say(self, line: str) -> None:
        """Add a fact."""
        self.lines.append(line)

    def warn(self, line: str) -> None:
        """Add a warning."""
        self.warnings.append(line)


@dataclass(frozen=True)
class Source:
    """A file or folder of features that is to be recognised and read.

    Attributes:
        path: the file or folder.
        binarise: the rule by which scores become the classes negative and positive: "ge0" (>= 0), "gt0" (> 0), or
            "nonzero" (> 0, and samples of score 0 are left out). Only formats that have scores read it.
    """

    path: Path
    binarise: str = "ge0"

    @property
    def is_pickle(self) -> bool:
        """Whether the path is no folder and ends as pickles do."""
        return self.path.suffix in PICKLE_SUFFIXES and not self.path.is_dir()

    @cached_property
    def pickle(self) -> Any:
        """The content of the pickle, read once and without running any code of the file (see `unpickle`)."""
        return load_pickle(self.path)


class Folds(Protocol):
    """A source that has been read: its samples under the splits of each fold."""

    @property
    def findings(self) -> Findings:
        """Facts and warnings, which the commands print."""

    def fold(self, number: int | None) -> FeatureSet:
        """The set with the splits of this fold, counted from 1; None is the first fold, or the only division.

        Raises:
            UserError: one line, if the source has no such fold.
        """

    def sets(self) -> list[FeatureSet]:
        """One set for each fold; the sets share everything but their splits."""


@dataclass(frozen=True)
class Loaded:
    """The samples and folds of a source, all in memory; the usual result of a reader.

    Attributes:
        data: the samples, with the splits of fold 1.
        folds: the splits of each fold; empty if the source has one division and no folds.
        findings: facts and warnings, which the commands print.
    """

    data: FeatureSet
    folds: list[Splits] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def fold(self, number: int | None) -> FeatureSet:
        """The set with the splits of this fold, counted from 1; None is the first fold, or the only division."""
        if not self.folds:
            if number is not None:
                raise UserError(f"{self.data.name}: fold: expected none, the source has no folds, got {number}")
            return self.data
        chosen = 1 if number is None else number
        if not 1 <= chosen <= len(self.folds):
            raise UserError(f"{self.data.name}: fold: expected 1 to {len(self.folds)}, got {chosen}")
        return self.data if chosen == 1 else replace(self.data, splits=self.folds[chosen - 1])

    def sets(self) -> list[FeatureSet]:
        """One set for each fold; the sets share everything but their splits."""
        return [self.fold(k) for k in range(1, len(self.folds) + 1)] or [self.data]


@dataclass(frozen=True)
class Format:
    """One way of storing features.

    Attributes:
        looks_like: tells whether a source is of this format. `--format auto` calls it, with folders only if
            `is_folder` is true, else with files only. It may raise UserError if the source is recognised and damaged.
        read: reads a source and raises UserError, one line that names the file, if it cannot.
        is_folder: whether a source is a folder; otherwise it is a file.
        has_scores: whether samples have scores, which `Source.binarise` turns into classes; otherwise they have
            classes, and any other rule than "ge0" is refused before the source is read.
        is_announced: whether the first finding names the format that the source was read as.
        caution: words that follow the format's name in that first finding if the format was recognised and not named.
    """

    looks_like: Callable[[Source], bool]
    read: Callable[[Source], Folds]
    is_folder: bool = False
    has_scores: bool = False
    is_announced: bool = True
    caution: str = ""

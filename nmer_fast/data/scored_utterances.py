"""Utterances with sentiment scores, collected split by split and made into a set of the classes negative and positive.

All readers of CMU-MOSEI and CMU-MOSI use it: multibench_pkl.py, mult_pkl.py, mmsa_pkl.py and csd.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .featureset import SPLITS, FeatureSet
from .formats import Findings, Loaded, Source
from .published_sizes import compare_with_table_1
from .ragged_builder import RaggedBuilder

MODALITIES = {"a": "audio", "v": "vision", "l": "text"}
RULES = {"ge0": ">= 0", "gt0": "> 0", "nonzero": "> 0, and those of score 0 left out"}
CLASSES = ["negative", "positive"]
LARGEST_SCORE = 3

Sequences = tuple[np.ndarray, np.ndarray]  # steps end to end, float [sum of lengths, D], and lengths [N]


class ScoredUtterances:
    """Collects the utterances of all splits of one source.

    Args:
        source: the file or folder, and the rule by which scores become classes.
        loader: the name of the data set's own loader, whose repairs are repeated here, for messages.
        minus_infinity: modalities in which that loader replaces -inf by 0.
        nan: whether that loader replaces NaN by 0, in all modalities.

    Attributes:
        findings: facts and warnings about the source.
    """

    def __init__(self, source: Source, loader: str, *, minus_infinity: Collection[str], nan: bool) -> None:
        self.path, self.rule, self.findings = source.path, source.binarise, Findings()
        self._loader, self._minus_infinity, self._nan = loader, minus_infinity, nan
        self._repaired = Counter[str]()
        self._builders = {m: RaggedBuilder(f"{source.path}: {m}") for m in MODALITIES}
        self._splits: list[str] = []
        self._scores: list[float] = []
        self._names: list[str] = []
        self._videos: list[str] = []
        self._positions: list[int] = []

    def add(
        self, split: str, sequences: Mapping[str, Sequences], scores: np.ndarray, names: Sequence[str],
        videos: Sequence[str], positions: Sequence[int],
    ) -> None:  # fmt: skip
        """Append N utterances of one split.

        Args:
            split: "train", "val" or "test".
            sequences: the features of the N utterances, by modality.
            scores: their sentiment scores, float [N], from -3 to 3.
            names: their names; a name that comes again is numbered.
            videos: the video that each utterance is cut from.
            positions: the place of each utterance in its video, in the order of time.

        Raises:
            UserError: one line, if scores are out of range or features do not fit those of earlier calls.
        """
        largest = np.abs(scores).max(initial=0)
        if not largest <= LARGEST_SCORE:
            raise UserError(
                f"{self.path}: {split}: expected scores from -{LARGEST_SCORE} to {LARGEST_SCORE}, got {largest}"
            )
        for m, (values, lengths) in sequences.items():
            self._builders[m].add(self._repair(m, values), lengths)
        self._splits += [split] * len(names)
        self._scores += scores.tolist()
        self._names += names
        self._videos += videos
        self._positions += positions

    def _repair(self, modality: str, values: np.ndarray) -> np.ndarray:
        bad = {"-inf": np.isneginf(values) if modality in self._minus_infinity else None}
        bad["NaN"] = np.isnan(values) if self._nan else None
        for what, where in bad.items():
            if where is not None and where.any():
                self._repaired[f"{what} in {modality}"] += int(where.sum())
                values = np.where(where, values.dtype.type(0), values)
        return values

    def loaded(self) -> Loaded:
        """The set of all utterances, with classes made by the source's rule, and the findings."""
        rule = self.rule
        for what, count in self._repaired.items():
            self.findings.say(f"{count:,} values of {what} are made 0, as {self._loader} does")
        scores, splits = torch.tensor(self._scores), np.array(self._splits)
        modalities = {m: builder.ragged() for m, builder in self._builders.items()}
        for m, ragged in modalities.items():
            absent = int((ragged.lengths == 0).sum())
            spread = f"{int(ragged.lengths.min())} to {int(ragged.lengths.max())}" if len(ragged) else "no"
            self.findings.say(
                f"{m}: {ragged.dim}-d, {spread} steps" + (f", absent in {absent} utterances" * bool(absent))
            )
        keep = torch.arange(len(scores)) if rule != "nonzero" else (scores != 0).nonzero()[:, 0]
        labels = (scores >= 0 if rule == "ge0" else scores > 0).long()[keep]
        if len(keep) < len(scores):
            modalities = {m: ragged.take(keep) for m, ragged in modalities.items()}
            splits = splits[keep.numpy()]
        names = self._unique(self._names)
        numbers = {video: i for i, video in enumerate(sorted(set(self._videos)))}
        videos = torch.tensor([numbers[video] for video in self._videos], dtype=torch.int64)
        self.findings.say(f"positive: score {RULES[rule]}")
        data = FeatureSet(
            name=self.path.resolve().stem,
            modalities=modalities,
            labels=labels,
            class_names=CLASSES,
            splits={s: torch.from_numpy(np.flatnonzero(splits == s)) for s in SPLITS if (splits == s).any()},
            sample_names=[names[i] for i in keep.tolist()],
            groups=videos[keep],
            positions=torch.tensor(self._positions, dtype=torch.int64)[keep],
        )
        corpus = _corpus(self.path)
        if corpus and rule != "ge0":
            self.findings.say(f"the paper's Table 1 counts scores {RULES['ge0']} of {corpus}, so it is not compared")
        compare_with_table_1(data, [], corpus if rule == "ge0" else "", self.findings)
        return Loaded(data, [], self.findings)

    def _unique(self, names: Sequence[str]) -> list[str]:
        """The names; one that comes again gets a number, as in name#2."""
        seen, out = Counter[str](), []
        for name in names:
            seen[name] += 1
            out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        if len(set(out)) < len(out):
            raise UserError(f"{self.path}: id: expected names that a number behind them makes different, got others")
        if len(seen) < len(names):
            self.findings.warn(f"{len(names) - len(seen)} names are there more than once: numbered, as {out[-1]!r}")
        return out


def _corpus(path: Path) -> str:
    """The name in Table 1 of the data set that the path names, nearest to its end; empty if it is not in Table 1."""
    for part in reversed(path.resolve().parts):
        if found := re.search("mosei|mosi|sims", part.lower()):
            return "CMU-MOSEI" if found[0] == "mosei" else ""
    return ""

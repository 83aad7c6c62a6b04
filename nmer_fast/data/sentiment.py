"""What the sources of CMU-MOSEI and CMU-MOSI have in common: splits of scored utterances, padded or cut by time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .featureset import FeatureSet
from .loaded import Findings, Loaded, Pieces, compare

KEYS = {"train": "train", "val": "valid", "test": "test"}  # of a pickle, by split
MODALITIES = {"a": "audio", "v": "vision", "l": "text"}
RULES = {"ge0": ">= 0", "gt0": "> 0", "nonzero": "> 0, and those of score 0 left out"}
CLASSES = ["negative", "positive"]
LARGEST_SCORE = 3

Sequences = tuple[np.ndarray, np.ndarray]  # float [sum of lengths, D], and lengths [N]


class Utterances:
    """Utterances of all splits, while a source is read.

    Attributes:
        findings: what was found.
    """

    def __init__(self, path: Path, loader: str, *, minus_infinity: Collection[str], nan: bool) -> None:
        """Of a source, and what its own loader makes 0: -inf in these modalities, and NaN in all or none."""
        self.path, self.findings = path, Findings()
        self._loader, self._minus_infinity, self._nan = loader, minus_infinity, nan
        self._repaired = Counter[str]()
        self._pieces = {m: Pieces(f"{path}: {m}") for m in MODALITIES}
        self._splits: list[str] = []
        self._scores: list[float] = []
        self._names: list[str] = []
        self._videos: list[str] = []
        self._positions: list[int] = []

    def add(
        self, split: str, sequences: Mapping[str, Sequences], scores: np.ndarray, names: Sequence[str],
        videos: Sequence[str], positions: Sequence[int],
    ) -> None:  # fmt: skip
        """Append N utterances of a split: features by modality, scores [N], names, videos and places in them."""
        largest = np.abs(scores).max(initial=0)
        if not largest <= LARGEST_SCORE:
            raise UserError(
                f"{self.path}: {split}: expected scores from -{LARGEST_SCORE} to {LARGEST_SCORE}, got {largest}"
            )
        for m, (values, lengths) in sequences.items():
            self._pieces[m].add(self._repair(m, values), lengths)
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

    def loaded(self, rule: str) -> Loaded:
        """All of them, classes by the rule."""
        for what, count in self._repaired.items():
            self.findings.say(f"{count:,} values of {what} are made 0, as {self._loader} does")
        scores, splits = torch.tensor(self._scores), np.array(self._splits)
        modalities = {m: pieces.ragged() for m, pieces in self._pieces.items()}
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
            splits={s: torch.from_numpy(np.flatnonzero(splits == s)) for s in KEYS if (splits == s).any()},
            sample_names=[names[i] for i in keep.tolist()],
            groups=videos[keep],
            positions=torch.tensor(self._positions, dtype=torch.int64)[keep],
        )
        corpus = _corpus(self.path)
        if corpus and rule != "ge0":
            self.findings.say(f"the paper's Table 1 counts scores {RULES['ge0']} of {corpus}, so it is not compared")
        compare(data, [], corpus if rule == "ge0" else "", self.findings)
        return Loaded(data, [], self.findings)

    def _unique(self, names: Sequence[str]) -> list[str]:
        """The names, those that are there again with a number behind them."""
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
    """The published data set that a path names, nearest to its end; empty for others."""
    for part in reversed(path.resolve().parts):
        if found := re.search("mosei|mosi|sims", part.lower()):
            return "CMU-MOSEI" if found[0] == "mosei" else ""
    return ""


def parts(path: Path, content: Any) -> dict[str, dict[str, Any]]:
    """A pickle's content by split."""
    if not isinstance(content, dict) or not {"train", "test"} <= content.keys():
        got = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: expected a dict of 'train', 'valid' and 'test', got {got[:80]}")
    out = {split: content[key] for split, key in KEYS.items() if key in content}
    for split, part in out.items():
        if not isinstance(part, dict):
            raise UserError(f"{path}: {split}: expected a dict of arrays, got {type(part).__name__}")
    return out


def features_of(where: str, part: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Padded features [N, T, D] of one split, by modality, all of as many utterances."""
    features = {m: _padded(where, part, key) for m, key in MODALITIES.items()}
    if len({len(f) for f in features.values()}) > 1:
        raise UserError(
            f"{where}: expected as many utterances in all modalities, got {[len(f) for f in features.values()]}"
        )
    return features


def _padded(where: str, part: Mapping[str, Any], key: str) -> np.ndarray:
    """Features [N, T, D] of one split."""
    value = part.get(key)
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind != "f" or 0 in value.shape:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        got = got if key in part else "only " + ", ".join(part)[:200]
        raise UserError(f"{where}: {key}: expected floats [N, T, D], got {got}")
    return value


def scores(where: str, value: Any, n: int) -> np.ndarray:
    """One score for each of N utterances, from [N], [N, 1] or [N, 1, 1]."""
    array = np.asarray(value) if isinstance(value, (list, np.ndarray)) else np.zeros(0)
    if array.dtype.kind not in "fi" or array.size != n or array.shape[:1] != (n,):
        raise UserError(f"{where}: expected scores [{n}, 1, 1], got {array.dtype} {list(array.shape)}")
    return array.reshape(n).astype(np.float64)


def names_of(where: str, value: Any, n: int) -> list[list[str]]:
    """The columns of N ids, from strings or bytes [N] or [N, columns]; of rows by number where there are none."""
    if value is None:
        return [[str(i)] for i in range(n)]
    if isinstance(value, list) and all(type(name) is str for name in value) and len(value) == n:
        return [[name] for name in value]  # no array, which has room for the longest in each place
    array: Any = value if isinstance(value, np.ndarray) else np.zeros(0)
    if array.dtype.kind not in "SUif" or array.ndim not in (1, 2) or len(array) != n or 0 in array.shape:
        raise UserError(f"{where}: id: expected {n} names, got {array.dtype} {list(array.shape)}")
    try:
        text = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError:
        raise UserError(f"{where}: id: expected names in UTF-8, got other bytes") from None
    return [[str(s) for s in row] for row in text.reshape(n, -1)]


def video_and_place(columns: Sequence[str], row: int) -> tuple[str, int]:
    """Of an id: video[3], or video, start, end in seconds; by default the row's number is the place."""
    if found := re.fullmatch(r"(.+)\[([0-9]{1,9})\]", columns[0]):
        return found[1], int(found[2])
    if len(columns) > 1 and re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", columns[1]):
        return columns[0], round(1000 * float(columns[1]))
    return columns[0], row


def first_steps(features: np.ndarray) -> np.ndarray:
    """Of [N, T, D], each sample's first step that is not all zero; T where all are."""
    there = (features != 0).any(2)
    return np.where(there.any(1), there.argmax(1), there.shape[1])


def last_steps(features: np.ndarray) -> np.ndarray:
    """Of [N, T, D], the step behind each sample's last that is not all zero; 0 where all are."""
    there = (features != 0).any(2)
    return np.where(there.any(1), there.shape[1] - there[:, ::-1].argmax(1), 0)


def cut(features: np.ndarray, start: np.ndarray | int, stop: np.ndarray | int) -> Sequences:
    """Steps start to stop of each sample of [N, T, D]."""
    steps = np.arange(features.shape[1])
    valid = (steps >= np.reshape(start, (-1, 1))) & (steps < np.reshape(stop, (-1, 1)))
    valid = np.broadcast_to(valid, features.shape[:2])
    return np.asarray(features[valid]), valid.sum(1)

"""The format csd: CMU-MOSEI and CMU-MOSI as the CMU Multimodal SDK distributes them, a folder of .csd files.

Each .csd file is an HDF5 file with one group, named by the sequence. The group holds, for each entry data/{video or
video[i]}, features [T, D...] and intervals [T, 2] in seconds. One file holds the labels: each of its intervals is an
utterance, and the first column is the sentiment score. Like the SDK's `align`, this reader gives an utterance the steps
whose intervals overlap its own, and drops utterances that have no step in some modality. The SDK lists the videos of
each split in a Python file, which is parsed and never run.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from . import hdf5
from .formats import Format, Loaded, Source
from .memory_limits import check_memory
from .scored_utterances import MODALITIES, ScoredUtterances

KINDS = {
    "labels": "label",
    "l": "glove|word_?vector|bert",
    "a": "covarep|opensmile|acoustic",
    "v": "facet|openface|visual",
    "strings": "words|phone",
}
"""What a file holds, by a pattern in its sequence's name or else in its own; the first that matches counts."""
FOLDS = {"train": "standard_train_fold", "val": "standard_valid_fold", "test": "standard_test_fold"}
EPSILON = 1e-5  # seconds, as in the SDK: a shorter overlap is none, and a shorter interval is no utterance
LARGEST_FOLDS = 10_000_000  # bytes of the Python file that is parsed


@dataclass(frozen=True)
class Utterance:
    """One interval of the labels.

    Attributes:
        key: the entry's name, video or video[i].
        place: the number of the utterance in its video, from 0.
        split: "train", "val" or "test".
        start: the beginning, in seconds.
        end: the end, in seconds.
        score: the sentiment score, from -3 to 3.
    """

    key: str
    place: int
    split: str
    start: float
    end: float
    score: float

    @property
    def name(self) -> str:
        """The utterance's name in the SDK, video[i]."""
        return self.key if self.key.endswith("]") else f"{self.key}[{self.place}]"


def looks_like(source: Source) -> bool:
    """Whether it is a folder that holds .csd files."""
    return any(source.path.glob("*.csd"))


def read(source: Source) -> Loaded:
    """Read a folder of .csd files.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    folder = source.path
    out = ScoredUtterances(source, "the SDK's users", minus_infinity=("a", "v", "l"), nan=True)
    split_of = _splits(folder)
    with hdf5.Reader() as reader:
        files = _files(reader, folder, out)
        utterances = _utterances(reader, *files.pop("labels"), split_of, out)
        found = {m: _cut(reader, *files[m], utterances) for m in MODALITIES if m in files}
    whole = [u for u in range(len(utterances)) if all(u in sequences for sequences in found.values())]
    if len(whole) < len(utterances):
        missing = {m: len(utterances) - len(sequences) for m, sequences in found.items()}
        without = ", ".join(f"{count} in {m}" for m, count in missing.items() if count)
        out.findings.say(
            f"{len(utterances) - len(whole)} utterances without a step are dropped, as the SDK does: {without}"
        )
    for split in FOLDS:
        rows = [u for u in whole if utterances[u].split == split]
        if rows:
            _add(out, split, rows, utterances, found)
    return out.loaded()


def _add(
    out: ScoredUtterances,
    split: str,
    rows: list[int],
    utterances: list[Utterance],
    found: dict[str, dict[int, np.ndarray]],
) -> None:
    sequences = {}
    for m, by_row in found.items():
        pieces = [by_row.pop(u) for u in rows]
        sequences[m] = np.concatenate(pieces), np.array([len(piece) for piece in pieces])
    chosen = [utterances[u] for u in rows]
    names, videos = [u.name for u in chosen], [u.key.partition("[")[0] for u in chosen]
    out.add(split, sequences, np.array([u.score for u in chosen]), names, videos, [u.place for u in chosen])


def _splits(folder: Path) -> dict[str, str]:
    """The split of each video, read from the SDK's Python file of folds."""
    paths = sorted(folder.glob("*std_folds.py"))
    if len(paths) != 1:
        got = ", ".join(p.name for p in paths) or "none"
        raise UserError(f"{folder}: expected the SDK's list of splits, such as cmu_mosei_std_folds.py, got {got}")
    (path,) = paths
    try:
        if path.stat().st_size > LARGEST_FOLDS:
            raise ValueError(f"a file of more than {LARGEST_FOLDS // 10**6} MB")
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{path}: expected lists of videos in Python, got: {str(error).partition(chr(10))[0]}"
        ) from None
    lists = {
        target.id: [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    out: dict[str, str] = {}
    for split, name in FOLDS.items():
        videos = lists.get(name, [])
        if not videos or not all(isinstance(video, str) for video in videos):
            raise UserError(f"{path}: expected {name}, a list of videos, got none")
        for video in map(str, videos):
            if out.setdefault(video, split) != split:
                raise UserError(f"{path}: expected each video in one split, got {video} in {out[video]} and {split}")
    return out


def _files(reader: hdf5.Reader, folder: Path, out: ScoredUtterances) -> dict[str, tuple[Path, str]]:
    """The path and the name of the data group of each file, by what the file holds (a key of KINDS)."""
    files: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.glob("*.csd")):
        reader.open(path)
        roots = reader.members("/")
        if len(roots) != 1:
            raise UserError(f"{path}: expected one sequence, got {', '.join(roots)[:80] or 'none'}")
        named = (
            kind
            for name in (roots[0], path.stem)
            for kind, pattern in KINDS.items()
            if re.search(pattern, name.lower())
        )
        kind = next(named, None)
        if kind is None:
            raise UserError(
                f"{path}: expected labels, words' vectors, acoustic or visual features, got {roots[0][:80]!r}"
            )
        if kind == "strings":
            out.findings.say(f"{path.name} holds strings and is not read")
            continue
        if kind in files:
            raise UserError(f"{path}: expected one file of {kind}, got {files[kind][0].name} too")
        files[kind] = path, f"{roots[0]}/data"
        out.findings.say(f"{kind}: {path.name}, {roots[0]}")
    if "labels" not in files or len(files) < 2:
        raise UserError(f"{folder}: expected .csd files of labels and of features, got {', '.join(files) or 'neither'}")
    return files


def _entries(reader: hdf5.Reader, path: Path, group: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, features [T, D] and intervals [T, 2] of each entry."""
    reader.open(path)
    keys = reader.members(group)
    arrays = reader.read([f"{group}/{key}/{what}" for key in keys for what in ("features", "intervals")])
    for key in keys:
        features, intervals = next(arrays), next(arrays)
        if features.ndim < 2 or intervals.shape != (len(features), 2) or not np.isfinite(intervals).all():
            got = f"{list(features.shape)} and {list(intervals.shape)}"
            raise UserError(f"{path}: {key}: expected features [T, D] and finite intervals [T, 2], got {got}")
        yield key, features.reshape(len(features), -1) if len(features) else features[:, None], intervals


def _utterances(
    reader: hdf5.Reader, path: Path, group: str, split_of: dict[str, str], out: ScoredUtterances
) -> list[Utterance]:
    utterances, short, elsewhere = [], 0, set()
    for key, features, intervals in _entries(reader, path, group):
        split = split_of.get(key.partition("[")[0])
        if split is None:
            elsewhere.add(key)
            continue
        for place, ((start, end), row) in enumerate(zip(intervals.tolist(), features, strict=True)):
            if abs(end - start) < EPSILON:
                short += 1
                continue
            number = re.search(r"\[([0-9]{1,9})\]$", key)
            utterances.append(Utterance(key, int(number[1]) if number else place, split, start, end, float(row[0])))
    if elsewhere:
        out.findings.say(f"{len(elsewhere)} videos of the labels are in no split and not read")
    if short:
        out.findings.say(f"{short} utterances of no duration are dropped, as the SDK does")
    return utterances


def _cut(reader: hdf5.Reader, path: Path, group: str, utterances: list[Utterance]) -> dict[int, np.ndarray]:
    """The steps of each utterance that has any, by the utterance's row.

    An entry named as the labels' entry serves its utterances; else an entry video[i] serves those of the labels' video.
    """
    of_key = defaultdict(list)
    for row, utterance in enumerate(utterances):
        of_key[utterance.key].append(row)
    pieces: dict[int, list[np.ndarray]] = defaultdict(list)
    kept = 0
    for key, features, intervals in _entries(reader, path, group):
        for row in of_key.get(key) or of_key.get(key.partition("[")[0], []):
            u = utterances[row]
            overlap = np.minimum(intervals[:, 1], u.end) - np.maximum(intervals[:, 0], u.start)
            steps = features[overlap > EPSILON]
            if len(steps):
                # A value beyond float32 becomes infinity, which FeatureSet refuses.
                with np.errstate(over="ignore", invalid="ignore"):
                    pieces[row].append(steps.astype(np.float32))
                kept += pieces[row][-1].nbytes
        check_memory(f"{path}: what is read of it", 2 * kept)
    return {row: np.concatenate(several) for row, several in pieces.items()}


CSD = Format(looks_like, read, is_folder=True, has_scores=True)

"""Helpers shared by the pickles of CMU-MOSEI and CMU-MOSI: arrays by split, padded features, scores and names.

Each of multibench_pkl.py, mult_pkl.py and mmsa_pkl.py reads one kind of pickle with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .formats import Source
from .scored_utterances import MODALITIES, Sequences

KEYS = {"train": "train", "val": "valid", "test": "test"}  # a pickle's key for each split


def train_part(source: Source) -> dict[str, Any] | None:
    """The train split's dict of a pickle, by which a pickle is recognised; None if the file or content is another."""
    content = source.pickle if source.is_pickle else None
    train = content.get("train") if isinstance(content, dict) else None
    return train if isinstance(train, dict) else None


def is_aligned(train: Mapping[str, Any]) -> bool:
    """Whether all modalities of a train split have the same number of steps."""
    return len({getattr(train.get(key), "shape", ())[1:2] for key in MODALITIES.values()}) == 1


def parts(path: Path, content: Any) -> dict[str, dict[str, Any]]:
    """The dicts of arrays in a pickle, by split."""
    if not isinstance(content, dict) or not {"train", "test"} <= content.keys():
        got = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: expected a dict of 'train', 'valid' and 'test', got {got[:80]}")
    out = {split: content[key] for split, key in KEYS.items() if key in content}
    for split, part in out.items():
        if not isinstance(part, dict):
            raise UserError(f"{path}: {split}: expected a dict of arrays, got {type(part).__name__}")
    return out


def features_of(where: str, part: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The padded features [N, T, D] of one split, by modality; N is the same for all."""
    features = {m: _padded(where, part, key) for m, key in MODALITIES.items()}
    if len({len(f) for f in features.values()}) > 1:
        raise UserError(
            f"{where}: expected as many utterances in all modalities, got {[len(f) for f in features.values()]}"
        )
    return features


def _padded(where: str, part: Mapping[str, Any], key: str) -> np.ndarray:
    """The features [N, T, D] of one modality."""
    value = part.get(key)
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind != "f" or 0 in value.shape:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        got = got if key in part else "only " + ", ".join(part)[:200]
        raise UserError(f"{where}: {key}: expected floats [N, T, D], got {got}")
    return value


def scores(where: str, value: Any, n: int) -> np.ndarray:
    """The scores of N utterances as float64 [N], from [N], [N, 1] or [N, 1, 1]."""
    array = np.asarray(value) if isinstance(value, (list, np.ndarray)) else np.zeros(0)
    if array.dtype.kind not in "fi" or array.size != n or array.shape[:1] != (n,):
        raise UserError(f"{where}: expected scores [{n}, 1, 1], got {array.dtype} {list(array.shape)}")
    return array.reshape(n).astype(np.float64)


def names_of(where: str, value: Any, n: int) -> list[list[str]]:
    """The columns of N ids, from strings or bytes [N] or [N, columns]; row numbers if there are no ids."""
    if value is None:
        return [[str(i)] for i in range(n)]
    if isinstance(value, list) and all(type(name) is str for name in value) and len(value) == n:
        return [[name] for name in value]  # an array would give each name the room of the longest
    array: Any = value if isinstance(value, np.ndarray) else np.zeros(0)
    if array.dtype.kind not in "SUif" or array.ndim not in (1, 2) or len(array) != n or 0 in array.shape:
        raise UserError(f"{where}: id: expected {n} names, got {array.dtype} {list(array.shape)}")
    try:
        text = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError:
        raise UserError(f"{where}: id: expected names in UTF-8, got other bytes") from None
    return [[str(s) for s in row] for row in text.reshape(n, -1)]


def video_and_place(columns: Sequence[str], row: int) -> tuple[str, int]:
    """The video and the place in it, from an id video[3] or video, start, end in seconds; else the place is the row."""
    if found := re.fullmatch(r"(.+)\[([0-9]{1,9})\]", columns[0]):
        return found[1], int(found[2])
    if len(columns) > 1 and re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", columns[1]):
        return columns[0], round(1000 * float(columns[1]))
    return columns[0], row


def first_steps(features: np.ndarray) -> np.ndarray:
    """The first step of each sample in [N, T, D] that is not all zero; T if all steps are zero."""
    there = (features != 0).any(2)
    return np.where(there.any(1), there.argmax(1), there.shape[1])


def last_steps(features: np.ndarray) -> np.ndarray:
    """One more than the last step of each sample in [N, T, D] that is not all zero; 0 if all steps are zero."""
    there = (features != 0).any(2)
    return np.where(there.any(1), there.shape[1] - there[:, ::-1].argmax(1), 0)


def cut(features: np.ndarray, start: np.ndarray | int, stop: np.ndarray | int) -> Sequences:
    """The steps from start to stop (exclusive) of each sample in [N, T, D], end to end, and their lengths."""
    steps = np.arange(features.shape[1])
    valid = (steps >= np.reshape(start, (-1, 1))) & (steps < np.reshape(stop, (-1, 1)))
    valid = np.broadcast_to(valid, features.shape[:2])
    return np.asarray(features[valid]), valid.sum(1)

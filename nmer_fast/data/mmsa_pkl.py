"""The format mmsa-pkl: MMSA's pickles of CMU-MOSEI, CMU-MOSI and CH-SIMS (aligned_50.pkl, unaligned_50.pkl).

Each split holds text [N, L, 768], audio and vision [N, T, D], regression_labels [N], id ("video$_$clip") and text_bert
[N, 3, L], whose second row is the mask of real tokens. If modalities are not aligned it also holds audio_lengths and
vision_lengths [N]. Padding is on the right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UserError
from .cmu_pickles import cut, features_of, last_steps, names_of, parts, scores, train_part
from .formats import Format, Loaded, Source
from .scored_utterances import MODALITIES, ScoredUtterances


def looks_like(source: Source) -> bool:
    """Whether it is a pickle with a train split that has MMSA's key regression_labels."""
    return "regression_labels" in (train_part(source) or {})


def read(source: Source) -> Loaded:
    """Read a pickle.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    out = ScoredUtterances(source, "MMSA", minus_infinity=("a",), nan=True)
    for split, part in parts(source.path, source.pickle).items():
        _add(out, f"{source.path}: {split}", split, part)
    return out.loaded()


def _add(out: ScoredUtterances, where: str, split: str, part: dict[str, Any]) -> None:
    features = features_of(where, part)
    n = len(features["l"])
    lengths = {"l": _tokens(where, part.get("text_bert"), features["l"])}
    for m in ("a", "v"):
        key = f"{MODALITIES[m]}_lengths"
        if key in part:
            lengths[m] = _lengths(f"{where}: {key}", part[key], features[m])
        elif features[m].shape[1] == features["l"].shape[1]:
            lengths[m] = lengths["l"]
        else:
            raise UserError(f"{where}: expected the key '{key}', since {MODALITIES[m]} is not aligned with text")
        beyond = int((last_steps(features[m]) > lengths[m]).sum())
        if beyond:
            out.findings.warn(f"{split}: {m}: {beyond} utterances hold values behind their length, which are cut")
    labels = scores(f"{where}: regression_labels", part.get("regression_labels"), n)
    ids = [row[0] for row in names_of(where, part.get("id"), n)]
    names = [f"{split} {name}" for name in ids] if part.get("id") is None else ids
    videos, clips = zip(*(name.rpartition("$_$")[::2] for name in ids), strict=True)
    places = [int(c) if c.isdecimal() and c.isascii() and len(c) < 10 else i for i, c in enumerate(clips)]
    sequences = {m: cut(f, 0, lengths[m]) for m, f in features.items()}
    out.add(split, sequences, labels, names, [v or name for v, name in zip(videos, ids, strict=True)], places)


def _tokens(where: str, value: Any, text: np.ndarray) -> np.ndarray:
    """The lengths of the texts [N]: the ones of the mask, or, without a mask, the steps up to the last nonzero one."""
    if value is None:
        return last_steps(text)
    n, steps = text.shape[:2]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fi" or value.shape != (n, 3, steps):
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{where}: text_bert: expected numbers [{n}, 3, {steps}], got {got}")
    mask = value[:, 1]
    lengths = (mask == 1).sum(1)
    if not (mask == (np.arange(steps) < lengths[:, None])).all():
        raise UserError(f"{where}: text_bert: expected a mask of ones, then zeros, got another")
    return lengths


def _lengths(where: str, value: Any, features: np.ndarray) -> np.ndarray:
    array = np.asarray(value) if isinstance(value, (list, np.ndarray)) else np.zeros(0)
    n, steps = features.shape[:2]
    if array.dtype.kind not in "iu" or array.size != n or array.shape[:1] != (n,):
        raise UserError(f"{where}: expected integers [{n}], got {array.dtype} {list(array.shape)}")
    if not 0 <= array.min() <= array.max() <= steps:
        raise UserError(f"{where}: expected 0 to {steps}, got {array.min()} to {array.max()}")
    return array.reshape(n)


MMSA_PKL = Format(looks_like, read, has_scores=True)

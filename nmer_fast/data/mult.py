"""MulT's pickles (mosei_senti_data.pkl, mosei_senti_data_noalign.pkl ...).

By split: vision, audio and text [N, T, D], labels [N, 1, 1], and perhaps id [N, 3]. Its loader never asks where padding
is, so the side is taken from the file, for each modality: the one with more steps that are all zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .loaded import Loaded
from .sentiment import (
    MODALITIES,
    Utterances,
    cut,
    features_of,
    first_steps,
    last_steps,
    names_of,
    parts,
    scores,
    video_and_place,
)


def from_mult(path: Path, content: Any, rule: str) -> Loaded:
    """Read what a pickle of this path holds; see the module.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    out = Utterances(path, "MulT", minus_infinity=("a",), nan=False)
    splits = parts(path, content)
    features = {split: features_of(f"{path}: {split}", part) for split, part in splits.items()}
    on_left = {m: _padded_on_left(m, [f[m] for f in features.values()], out) for m in MODALITIES}
    for split, part in splits.items():
        where, n = f"{path}: {split}", len(features[split]["l"])
        labels, ids = scores(f"{where}: labels", part.get("labels"), n), names_of(where, part.get("id"), n)
        sequences = {
            m: cut(f, first_steps(f), f.shape[1]) if on_left[m] else cut(f, 0, last_steps(f))
            for m, f in features[split].items()
        }
        names = [f"{split} {row[0]}" if part.get("id") is None else "_".join(row) for row in ids]
        places = [video_and_place(row, i) for i, row in enumerate(ids)]
        out.add(split, sequences, labels, names, [video for video, _ in places], [place for _, place in places])
    return out.loaded(rule)


def _padded_on_left(modality: str, features: list[np.ndarray], out: Utterances) -> bool:
    """By which side has more steps that are all zero."""
    left, right, steps = 0, 0, 0
    for f in features:
        first, behind = first_steps(f), last_steps(f)
        there = first < behind
        left += int(first[there].sum())
        right += int((f.shape[1] - behind[there]).sum())
        steps += f.shape[0] * f.shape[1]
    side = "left" if left > right else "right"
    shares = (
        f"{100 * left / steps:.1f} % of its steps are zero before the first value, {100 * right / steps:.1f} % behind"
    )
    out.findings.say(
        f"{modality}: {shares}: padding on the {side} is cut" if left + right else f"{modality}: no padding"
    )
    return left > right

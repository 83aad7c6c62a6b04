"""MultiBench's pickles of CMU-MOSEI and CMU-MOSI (mosei_raw.pkl, mosei_senti_data.pkl ...).

By split: vision, audio and text [N, T, D], labels [N, 1, 1], id. Padded on the left; as its loader does, utterances
without text are dropped, all modalities begin at the first word where they are aligned, and each at its own first
step where not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .loaded import Loaded
from .sentiment import Utterances, cut, features_of, first_steps, names_of, parts, scores, video_and_place


def from_multibench(path: Path, content: Any, rule: str) -> Loaded:
    """Read what a pickle of this path holds; see the module.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    out = Utterances(path, "MultiBench", minus_infinity=("a",), nan=True)
    dropped = 0
    for split, part in parts(path, content).items():
        dropped += _add(out, f"{path}: {split}", split, part)
    if dropped:
        out.findings.say(f"{dropped} utterances without text are dropped, as MultiBench does")
    return out.loaded(rule)


def _add(out: Utterances, where: str, split: str, part: dict[str, Any]) -> int:
    """Append one split and return how many utterances were dropped."""
    features = features_of(where, part)
    n = len(features["l"])
    labels, ids = scores(f"{where}: labels", part.get("labels"), n), names_of(where, part.get("id"), n)
    start = {m: first_steps(f) for m, f in features.items()}
    keep = np.flatnonzero(start["l"] < features["l"].shape[1])
    if len({f.shape[1] for f in features.values()}) == 1:
        start = dict.fromkeys(start, start["l"])
    sequences = {m: cut(f[keep], start[m][keep], f.shape[1]) for m, f in features.items()}
    places = [video_and_place(ids[i], i) for i in keep.tolist()]
    names = [f"{split} {ids[i][0]}" if part.get("id") is None else "_".join(ids[i]) for i in keep]
    out.add(split, sequences, labels[keep], names, [video for video, _ in places], [place for _, place in places])
    return n - len(keep)

"""The format multibench-pkl: MultiBench's pickles of CMU-MOSEI and CMU-MOSI (mosei_raw.pkl, mosei_senti_data.pkl ...).

Each split holds vision, audio and text [N, T, D], labels [N, 1, 1] and id, padded on the left. Like MultiBench's own
loader, this reader drops utterances without text. Aligned modalities all begin at the first word; if they are not
aligned, each begins at its own first step that is not all zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cmu_pickles import (
    cut,
    features_of,
    first_steps,
    is_aligned,
    names_of,
    parts,
    scores,
    train_part,
    video_and_place,
)
from .formats import Format, Loaded, Source
from .scored_utterances import ScoredUtterances


def looks_like(source: Source) -> bool:
    """Whether it is a pickle with a train split whose modalities have equally many steps, and none of MMSA's keys."""
    train = train_part(source)
    return train is not None and "regression_labels" not in train and is_aligned(train)


def read(source: Source) -> Loaded:
    """Read a pickle.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    out = ScoredUtterances(source, "MultiBench", minus_infinity=("a",), nan=True)
    dropped = 0
    for split, part in parts(source.path, source.pickle).items():
        dropped += _add(out, f"{source.path}: {split}", split, part)
    if dropped:
        out.findings.say(f"{dropped} utterances without text are dropped, as MultiBench does")
    return out.loaded()


def _add(out: ScoredUtterances, where: str, split: str, part: dict[str, Any]) -> int:
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


MULTIBENCH_PKL = Format(
    looks_like,
    read,
    has_scores=True,
    caution=", which MulT's look like, too: the format mult-pkl reads it as one of those",
)

"""The format mult-pkl: MulT's pickles of CMU-MOSEI and CMU-MOSI (mosei_senti_data.pkl, mosei_senti_data_noalign.pkl).

Each split holds vision, audio and text [N, T, D], labels [N, 1, 1], and optionally id [N, 3]. MulT's own loader does
not cut padding and so does not say on which side it is. This reader decides for each modality: padding is on the side
that has more steps that are all zero.
"""

from __future__ import annotations

import numpy as np

from .cmu_pickles import (
    cut,
    features_of,
    first_steps,
    is_aligned,
    last_steps,
    names_of,
    parts,
    scores,
    train_part,
    video_and_place,
)
from .formats import Format, Loaded, Source
from .scored_utterances import MODALITIES, ScoredUtterances


def looks_like(source: Source) -> bool:
    """Whether it is a pickle with a train split whose modalities differ in steps, and none of MMSA's keys."""
    train = train_part(source)
    return train is not None and "regression_labels" not in train and not is_aligned(train)


def read(source: Source) -> Loaded:
    """Read a pickle.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    path = source.path
    out = ScoredUtterances(source, "MulT", minus_infinity=("a",), nan=False)
    splits = parts(path, source.pickle)
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
    return out.loaded()


def _padded_on_left(modality: str, features: list[np.ndarray], out: ScoredUtterances) -> bool:
    """Whether more steps that are all zero stand before the first value than behind the last; the finding says so."""
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


MULT_PKL = Format(looks_like, read, has_scores=True)

"""The sizes of IEMOCAP and CMU-MOSEI in the paper's Table 1, and the comparison of a source with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .featureset import FeatureSet
from .formats import Findings, Splits


@dataclass(frozen=True)
class Published:
    """The sizes of one data set in the paper's Table 1.

    Attributes:
        classes: samples in each class, counted over the splits named by `counted`.
        splits: samples in each split.
        counted: splits over which the classes are counted; empty: all samples.
    """

    classes: dict[str, int]
    splits: dict[str, int]
    counted: tuple[str, ...] = ()


TABLE_1 = {
    "IEMOCAP": Published({"happy": 1636, "angry": 1103, "sad": 1084, "neutral": 1708}, {"train": 4446, "test": 557}),
    "CMU-MOSEI": Published(
        {"negative": 6066, "positive": 14842}, {"train": 16265, "test": 4643}, counted=("train", "test")
    ),
}


def compare_with_table_1(data: FeatureSet, folds: Sequence[Splits], name: str, findings: Findings) -> None:
    """Say the sizes of splits and classes, and warn where they differ from Table 1, if the data set is in it.

    Args:
        data: the samples, with the splits of fold 1.
        folds: the splits of each fold; empty if there are none. With folds, one of them must be the published division.
        name: the data set's name in Table 1; any other name is not compared.
        findings: the place where the sizes and warnings are noted.
    """
    divisions = list(folds) or [data.splits]
    for number, splits in enumerate(divisions, start=1):
        findings.say(
            (f"fold {number}: " if folds else "splits: ") + _sizes({s: len(rows) for s, rows in splits.items()})
        )
    published = TABLE_1.get(name)
    counted = published.counted if published else ()
    labels = data.labels[torch.cat([data.splits[s] for s in counted if s in data.splits])] if counted else data.labels
    counts = torch.bincount(labels, minlength=len(data.class_names)).tolist()
    classes = dict(zip(data.class_names, counts, strict=True))
    findings.say(f"classes{' in ' + ' and '.join(counted) if counted else ''}: {_sizes(classes)}")
    if published is None:
        return
    found = [{split: len(splits.get(split, ())) for split in published.splits} for splits in divisions]
    for what, expected, got in (
        ("splits", published.splits, published.splits if published.splits in found else found[0]),
        ("classes", published.classes, classes),
    ):
        if got == expected:
            where = f" (fold {found.index(expected) + 1})" if what == "splits" and folds else ""
            findings.say(f"{what} as in the paper's Table 1, {name}{where}")
        else:
            findings.warn(f"{what}: the paper's Table 1 has {_sizes(expected)} for {name}, this source {_sizes(got)}")


def _sizes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

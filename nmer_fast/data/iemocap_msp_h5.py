"""The formats iemocap-h5 and msp-h5: IEMOCAP and MSP-IMPROV as MMIN, IF-MMIN and NMER store them.

A source is a folder of HDF5 files (.h5), which hold the features, and of NumPy arrays (.npy), which hold the labels:

```
A/comparE.h5 (or comparE_raw.h5)   one dataset for each utterance, [T, 130]
V/denseface.h5                     likewise, [T, 342]
L/bert_large.h5                    likewise, [T, 1024]
A/comparE_mean_std.h5              optional, IEMOCAP only: groups "1" to "10", each with mean and std [130]
target/{fold}/{trn,val,tst}_label.npy      IEMOCAP: one-hot [N, 4]; MSP-IMPROV: integers [N]
target/{fold}/{trn,val,tst}_int2name.npy   utterance names; IEMOCAP: bytes [N, 1 or more]; MSP-IMPROV: strings [N]
```
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from . import hdf5
from .featureset import FeatureSet, Ragged
from .formats import Findings, Format, Loaded, Source, Splits
from .npy import load_npy
from .published_sizes import TABLE_1, compare_with_table_1
from .ragged_builder import RaggedBuilder

FILES = {"a": ("A/comparE.h5", "A/comparE_raw.h5"), "v": ("V/denseface.h5",), "l": ("L/bert_large.h5",)}
MEAN_STD = "A/comparE_mean_std.h5"
SETS = {"train": "trn", "val": "val", "test": "tst"}
# A plotting script implies this order and no file of IEMOCAP states one, so the published counts decide.
CLASSES = list(TABLE_1["IEMOCAP"].classes)
TOLERANCE = 1e-3  # standard deviations, far above what float32 rounding makes


@dataclass(frozen=True)
class Corpus:
    """The differences between the two data sets.

    Attributes:
        name: the data set's name in messages and in Table 1.
        folds: the number of folds of the published cross-validation.
        one_hot: whether labels are one-hot rows; otherwise they are integers.
    """

    name: str
    folds: int
    one_hot: bool


IEMOCAP = Corpus("IEMOCAP", 10, one_hot=True)
MSP = Corpus("MSP-IMPROV", 12, one_hot=False)


def looks_like(source: Source, corpus: Corpus) -> bool:
    """Whether a folder holds this data set, told from the labels of its first fold."""
    target = source.path / "target"
    return target.is_dir() and (load_npy(target / "1" / "trn_label.npy").ndim != 1) == corpus.one_hot


def read(source: Source, corpus: Corpus) -> Loaded:
    """Read a folder in the layout that the module's docstring shows.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    folder = source.path
    findings, rows, labels = Findings(), dict[str, int](), list[int]()
    numbers = _fold_numbers(folder, corpus, findings)
    folds = [_fold(folder / "target" / str(k), corpus, rows, labels) for k in numbers]
    names = list(rows)
    with hdf5.Reader() as reader:
        modalities = {m: _features(reader, folder, m, names, findings) for m in FILES}
        if (folder / MEAN_STD).exists():
            if corpus is IEMOCAP:
                _compare_mean_std(reader, folder / MEAN_STD, modalities["a"], numbers, folds, findings)
            else:
                findings.say(f"{MEAN_STD} is not used: its statistics include test samples")
    data = FeatureSet(
        name=folder.resolve().name,
        modalities=modalities,
        labels=torch.tensor(labels),
        class_names=_class_names(labels, corpus, findings),
        splits=folds[0],
        sample_names=names,
        groups=torch.full(
            (len(names),), -1
        ),  # a name numbers the turns of one speaker alone, so the order in the dialogue is unknown
        positions=torch.arange(len(names)),
    )
    compare_with_table_1(data, folds, corpus.name, findings)
    return Loaded(data, folds, findings)


def _fold_numbers(folder: Path, corpus: Corpus, findings: Findings) -> list[int]:
    there = sorted(int(p.name) for p in (folder / "target").glob("*") if p.name.isdecimal() and p.name.isascii())
    if there != list(range(1, len(there) + 1)) or not there:
        raise UserError(f"{folder}: expected target/1, target/2, ... one for each fold, got {there or 'none'}")
    if len(there) != corpus.folds:
        findings.warn(f"{corpus.name} has {corpus.folds} folds, this folder {len(there)}")
    return there


def _fold(target: Path, corpus: Corpus, rows: dict[str, int], labels: list[int]) -> Splits:
    """Return the splits of one fold, and append samples that no earlier fold named to rows and labels."""
    splits, seen = Splits(), set[str]()
    for split, short in SETS.items():
        names = _names(target / f"{short}_int2name.npy")
        classes = _labels(target / f"{short}_label.npy", corpus, len(names))
        for name, label in zip(names, classes, strict=True):
            if name in seen:
                raise UserError(f"{target}: expected every utterance in one split, got {name} in two or twice")
            seen.add(name)
            if rows.setdefault(name, len(rows)) == len(labels):
                labels.append(label)
            elif labels[rows[name]] != label:
                raise UserError(f"{target}: expected the label that other folds give {name}, got another")
        splits[split] = torch.tensor([rows[name] for name in names], dtype=torch.int64)
    return splits


def _names(path: Path) -> list[str]:
    array = load_npy(path)
    if array.dtype.kind not in "SU" or array.ndim not in (1, 2) or 0 in array.shape:
        raise UserError(f"{path}: expected names [N] or [N, 1], got {array.dtype} {list(array.shape)}")
    first = array[:, 0] if array.ndim == 2 else array
    try:
        return [name.decode() for name in first.tolist()] if array.dtype.kind == "S" else first.tolist()
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected names in UTF-8, got other bytes") from None


def _labels(path: Path, corpus: Corpus, n: int) -> list[int]:
    array = load_npy(path)
    if array.dtype.kind not in "fiu" or array.ndim != (2 if corpus.one_hot else 1) or len(array) != n:
        expected = f"one-hot labels [{n}, classes]" if corpus.one_hot else f"integer labels [{n}]"
        raise UserError(f"{path}: expected {expected}, one for each name, got {array.dtype} {list(array.shape)}")
    if corpus.one_hot:
        if not (np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()):
            raise UserError(f"{path}: expected one-hot labels, got rows of other values")
        return [int(label) for label in array.argmax(1)]
    if not (
        np.isfinite(array).all() and (array == array.astype(np.int64)).all() and 0 <= array.min() <= array.max() < 100
    ):
        raise UserError(f"{path}: expected classes 0, 1, ..., got others")
    return [int(label) for label in array]


def _features(reader: hdf5.Reader, folder: Path, modality: str, names: list[str], findings: Findings) -> Ragged:
    paths = [folder / file for file in FILES[modality]]
    path = next((p for p in paths if p.exists()), paths[0])
    reader.open(path)
    builder = RaggedBuilder(str(path))
    lengths, zeros = [], 0
    for name, values in zip(names, reader.read(names), strict=True):
        if values.ndim != 2 or len(values) == 0:
            raise UserError(f"{path}: {name}: expected features [T, D], got {list(values.shape)}")
        builder.add(values)
        lengths.append(len(values))
        zeros += len(values) - int(np.flatnonzero((values != 0).any(1)).max(initial=-1)) - 1
    shortest, longest = min(lengths), max(lengths)
    steps = f"{longest} steps each" if shortest == longest else f"{shortest} to {longest} steps"
    kept = f"; {100 * zeros / sum(lengths):.1f} % of them are zero to the end, and kept" if zeros else ""
    findings.say(f"{modality} of {path.name}: {builder.dim}-d, {steps}{kept}")
    return builder.ragged()


def _class_names(labels: list[int], corpus: Corpus, findings: Findings) -> list[str]:
    """Name IEMOCAP's classes by the published counts if they are this source's; else assume an order and warn."""
    counts = np.bincount(labels).tolist()
    if corpus is MSP:
        findings.say("classes go by their numbers: the source does not name them")
        return [str(i) for i in range(len(counts))]
    published = {count: name for name, count in TABLE_1["IEMOCAP"].classes.items()}
    if sorted(counts) == sorted(published):
        return [published[count] for count in counts]
    if len(counts) > len(CLASSES):
        raise UserError(f"label: expected {len(CLASSES)} classes, got {len(counts)}")
    findings.warn(f"the classes are taken to be {', '.join(CLASSES)} in this order, which their counts do not confirm")
    return list(CLASSES)


def _compare_mean_std(
    reader: hdf5.Reader, path: Path, ragged: Ragged, numbers: list[int], folds: list[Splits], findings: Findings
) -> None:
    """Compare the file's mean and std with those of each fold's train split.

    Features are always standardised by the train split, so the file changes nothing. A difference shows that the file
    was computed from another division or from other features.
    """
    reader.open(path)
    centre = ragged.stored.double().mean(0)
    steps = ragged.stored.double().sub_(centre)
    sums, squares = (_by_sample(values, ragged) for values in (steps, steps.square()))
    furthest = 0.0
    for number, splits in zip(numbers, folds, strict=True):
        train = splits["train"]
        count = ragged.lengths[train].sum()
        mean = sums[train].sum(0) / count
        std = (squares[train].sum(0) / count - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std > 0, std, 1.0)
        file_mean, file_std = (torch.from_numpy(v).double() for v in reader.read([f"{number}/mean", f"{number}/std"]))
        if file_mean.shape != mean.shape or file_std.shape != mean.shape:
            got = f"{list(file_mean.shape)} and {list(file_std.shape)}"
            raise UserError(f"{path}: {number}: expected mean and std [{ragged.dim}], got {got}")
        differences = torch.stack([(file_mean - centre - mean) / std, (file_std - std) / std]).abs()
        furthest = max(furthest, float(differences.nan_to_num(nan=torch.inf).max()))
    what = f"{path.name}: mean and std differ from those measured on each train split by at most {furthest:.1e} std"
    if furthest > TOLERANCE:
        findings.warn(f"{what}; the measured ones are used")
    else:
        findings.say(f"{what}; the measured ones are used")


def _by_sample(values: torch.Tensor, ragged: Ragged) -> torch.Tensor:
    """The sum of the values over each sample's steps, [N, D]."""
    owner = torch.arange(len(ragged)).repeat_interleave(ragged.lengths)
    return torch.zeros(len(ragged), ragged.dim, dtype=values.dtype).index_add_(0, owner, values)


IEMOCAP_H5 = Format(partial(looks_like, corpus=IEMOCAP), partial(read, corpus=IEMOCAP), is_folder=True)
MSP_H5 = Format(partial(looks_like, corpus=MSP), partial(read, corpus=MSP), is_folder=True)

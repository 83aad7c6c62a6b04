"""The format npz: the project's own feature-set file, whose keys docs/formats.md describes."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .featureset import SPLITS, FeatureSet, Ragged, is_tolerant
from .formats import Findings, Format
from .memory_limits import COPIES, check_memory
from .npy import read_npy

ABOUT = ("label", "label_names", "split", "id", "group", "position")


def load_npz(path: str | Path, fold: int | None = None) -> FeatureSet:
    """Read a feature-set file.

    Args:
        path: an .npz file. For N samples it holds `label` int [N]; `split` str [N] ('train', 'test', optionally 'val'),
            or [N, folds] with one column for each fold; for each modality m an array m [N, D] (sequences of one step)
            or [N, T, D] with `m_lengths` int [N]; and optionally `label_names`, `id`, `group` and `position`.
        fold: the number of the fold, counted from 1; None is the first fold, or the only division.

    Raises:
        UserError: one line that names the file, the key and what was expected. Nothing is unpickled.
    """
    return _opened(Path(path)).fold(fold)


def load_npz_folds(path: str | Path) -> list[FeatureSet]:
    """Read all folds of a feature-set file, which share everything but their splits and can be given to `write_store`.

    Raises:
        UserError: one line that names the file, the key and what was expected. Nothing is unpickled.
    """
    return _opened(Path(path)).sets()


@dataclass(frozen=True)
class Archive:
    """The arrays of a feature-set file.

    Attributes:
        name: the file's name without its ending, which names the set and begins messages.
        arrays: the arrays, by key.
        findings: empty; nothing of an archive is repaired or guessed.
    """

    name: str
    arrays: dict[str, np.ndarray[Any, Any]]
    findings: Findings = field(default_factory=Findings)

    def fold(self, number: int | None) -> FeatureSet:
        """The set with the splits of this fold, counted from 1; None is the first fold, or the only division."""
        return from_arrays(self.name, self.arrays, number)

    def sets(self) -> list[FeatureSet]:
        """One set for each fold; the sets share everything but their splits."""
        first, split = self.fold(None), self.arrays["split"]
        others = range(2, split.shape[1] + 1 if split.ndim > 1 else 2)
        n = len(first)
        return [first, *(replace(first, splits=_splits(self.name, _fold(self.name, split, k), n)) for k in others)]


def _opened(path: Path) -> Archive:
    return Archive(path.stem, _arrays(path))


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            check_memory(f"{path}: its arrays", COPIES * sum(entry.file_size for entry in entries))
            arrays = {}
            for entry in entries:
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{entry.filename} in a compression that NumPy does not write")
                key = entry.filename.removesuffix(".npy")
                if key in arrays:
                    raise ValueError(f"{key} twice")
                with file.open(entry) as member:
                    arrays[key] = read_npy(member, entry.file_size)
            return arrays
    except FileNotFoundError:
        raise UserError(f"{path}: expected a feature-set file (.npz), found no such file") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: expected an .npz of plain arrays (no objects), got: {str(error).partition(chr(10))[0]}"
        ) from None


def from_arrays(name: str, arrays: dict[str, np.ndarray[Any, Any]], fold: int | None = None) -> FeatureSet:
    """Make a feature set of one fold from the arrays of a feature-set file; messages begin with the name."""
    for key in ("label", "split"):
        if key not in arrays:
            raise UserError(f"{name}: expected the key '{key}', got only {', '.join(sorted(arrays))}")
    for key, array in arrays.items():
        if array.ndim == 0:
            raise UserError(
                f"{name}: {key}: expected an array with an entry for each sample or class, got a single {array.dtype}"
            )
        modality = key.removesuffix("_lengths")
        if key != modality and modality not in arrays:
            raise UserError(f"{name}: {key}: expected the lengths of a modality '{modality}', found no such array")
    n = len(arrays["label"])
    labels = _integers(name, "label", arrays["label"], n)
    modalities = {}
    for key, array in arrays.items():
        if key not in ABOUT and not key.endswith("_lengths"):
            modalities[key] = _modality(name, key, array, arrays.get(f"{key}_lengths"), n)
    if not modalities:
        raise UserError(f"{name}: expected at least one modality, an array [N, D] or [N, T, D], got none")
    classes = int(labels.max()) + 1 if n else 0
    if "label_names" not in arrays and classes > n:
        raise UserError(f"{name}: label: expected classes 0, 1, ..., fewer than samples, got {classes - 1}")
    names = [str(c) for c in arrays.get("label_names", range(classes))]
    sample_names = [str(s) for s in arrays.get("id", np.arange(n))]
    for key in ("id", "group"):
        if key in arrays and arrays[key].shape != (n,):
            raise UserError(
                f"{name}: {key}: expected {n} entries, one for each label, got shape {list(arrays[key].shape)}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"{name}: label_names: expected different names, got {', '.join(names)}")
    if len(set(sample_names)) < n and not is_tolerant():
        raise UserError(f"{name}: id: expected {n} different names, got {len(set(sample_names))}")
    return FeatureSet(
        name=name,
        modalities=modalities,
        labels=labels,
        class_names=names,
        splits=_splits(name, _fold(name, arrays["split"], fold), n),
        sample_names=sample_names,
        groups=_groups(name, arrays.get("group", np.full(n, "")), n),
        positions=_integers(name, "position", arrays.get("position", np.arange(n)), n),
    )


def _modality(name: str, key: str, array: np.ndarray[Any, Any], lengths: Any, n: int) -> Ragged:
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or len(array) != n or 0 in array.shape:
        raise UserError(
            f"{name}: {key}: expected numbers of shape [{n}, D] or [{n}, T, D], got {array.dtype} {list(array.shape)}"
        )
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinity, which FeatureSet refuses
        narrow = array.astype(np.float32)
    padded = torch.from_numpy(narrow).reshape(n, -1 if array.ndim == 3 else 1, array.shape[-1])
    steps = padded.shape[1]
    valid = torch.full((n,), steps) if lengths is None else _integers(name, f"{key}_lengths", lengths, n)
    if n and not 0 <= int(valid.min()) <= int(valid.max()) <= steps:
        raise UserError(f"{name}: {key}_lengths: expected 0 to {steps}, got {int(valid.min())} to {int(valid.max())}")
    return Ragged.from_padded(padded, valid)


def _groups(name: str, array: np.ndarray[Any, Any], n: int) -> Tensor:
    """The number of each sample's group, int64 [N]; -1 for an empty name or a negative number, which mean no group."""
    if array.dtype.kind not in "iuU":
        raise UserError(f"{name}: group: expected strings or integers of shape [{n}], got {array.dtype}")
    ids = np.unique(array, return_inverse=True)[1].reshape(n).astype(np.int64)
    ids[array == "" if array.dtype.kind == "U" else array < 0] = -1
    return torch.from_numpy(ids)


def _integers(name: str, key: str, array: np.ndarray[Any, Any], n: int) -> Tensor:
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise UserError(f"{name}: {key}: expected integers of shape [{n}], got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def _fold(name: str, split: np.ndarray[Any, Any], fold: int | None) -> np.ndarray[Any, Any]:
    """The split of each sample in one fold, str [N]."""
    if split.ndim < 2:
        if fold is not None:
            raise UserError(f"{name}: fold: expected none, split holds one fold, got {fold}")
        return split
    chosen = 1 if fold is None else fold
    if not 1 <= chosen <= split.shape[1]:
        raise UserError(f"{name}: fold: expected 1 to {split.shape[1]}, got {chosen}")
    return split[:, chosen - 1]


def _splits(name: str, array: np.ndarray[Any, Any], n: int) -> dict[str, Tensor]:
    if array.shape != (n,) or array.dtype.kind != "U" or not set(array.tolist()) <= set(SPLITS):
        found = ", ".join(sorted({str(s) for s in array.reshape(-1)[:10_000]}))
        raise UserError(f"{name}: split: expected {n} strings out of {', '.join(SPLITS)}, got {found}")
    rows = {split: torch.from_numpy(np.flatnonzero(array == split)) for split in SPLITS}
    return {split: index for split, index in rows.items() if len(index)}


NPZ = Format(
    looks_like=lambda source: source.path.suffix == ".npz",
    read=lambda source: _opened(source.path),
    is_announced=False,
)

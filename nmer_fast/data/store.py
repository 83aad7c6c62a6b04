"""The packed store: a data set in one safetensors file that is memory-mapped; docs/formats.md describes it.

Opening a store reads the header and the index tensors (labels, splits, offsets ...), a few megabytes at most, and
checks both against their checksums and against each other. The values are memory-mapped: a page is read when a batch
needs it, and processes share it. Values were checked for NaN and infinity when they were written; only `verify_store`
reads all of them again and compares their checksums.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically
from .featureset import FeatureSet, Ragged, sha256
from .formats import Findings, Format, Source

FORMAT, VERSION = "nmer_fast features", "1"
DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
PAGE = 4096  # bytes; the tensors begin at a multiple of it
LARGEST = 100_000_000  # bytes of a header that safetensors reads
PART = 2**24  # bytes that are written or read at a time
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, so that a file may be larger than memory and swap

Shapes = Mapping[str, Sequence[int]]


def write_store(data: FeatureSet | Sequence[FeatureSet], path: str | Path, *, source: str | Path | None = None) -> None:
    """Write a data set, or the folds of one, in one atomic step: on failure the file stays as it was.

    Args:
        data: one set, or a list of one set for each fold: the same samples with other splits.
        path: the .safetensors file to write.
        source: the file that the set was read from; its name and checksum are stored.

    Raises:
        UserError: one line, if the folds differ in more than their splits, if values mapped from another store are
            damaged, or if the file cannot be written.
    """
    path, folds = Path(path), [data] if isinstance(data, FeatureSet) else list(data)
    if not folds:
        raise UserError(f"{path}: expected a data set or its folds, got none")
    first = folds[0]
    for number, other in enumerate(folds[1:], start=2):
        if not _same_samples(first, other):
            raise UserError(
                f"{first.name}: fold {number}: expected the samples of fold 1 with other splits, got others"
            )
    tensors = _tensors(folds)
    checksums = {name: sha256(t) for name, t in tensors.items()}
    for name, ragged in first.modalities.items():
        if ragged.digest is not None and ragged.scale is None and ragged.digest != checksums[f"values.{name}"]:
            raise UserError(f"{first.name}: modality {name}: expected the values of its store, got damaged ones")
    about = {
        "name": first.name,
        "modalities": first.dims,
        "class_names": first.class_names,
        "folds": [list(fold.splits) for fold in folds],
        "sample_names": first.sample_names,
        "provenance": _provenance(source),
        "shapes": {name: list(t.shape) for name, t in tensors.items()},
        "sha256": checksums,
    }
    try:
        write_atomically(path, _content(about, tensors))
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be written, got: {error.strerror}") from None


def _same_samples(a: FeatureSet, b: FeatureSet) -> bool:
    if (a.name, a.class_names, a.sample_names, a.dims) != (b.name, b.class_names, b.sample_names, b.dims):
        return False
    pairs = [(a.labels, b.labels), (a.groups, b.groups), (a.positions, b.positions)]
    for name, ragged in a.modalities.items():
        pairs += [(ragged.offsets, b.modalities[name].offsets), (ragged.values, b.modalities[name].values)]
    return all(x is y or torch.equal(x, y) for x, y in pairs)


def _tensors(folds: Sequence[FeatureSet]) -> dict[str, Tensor]:
    """All tensors by name, the int64 index tensors first, so that each is aligned to its element's size."""
    data = folds[0]
    index = {"labels": data.labels, "groups": data.groups, "positions": data.positions}
    index |= {f"offsets.{name}": ragged.offsets for name, ragged in data.modalities.items()}
    index |= {f"fold{k}.{split}": rows for k, fold in enumerate(folds, start=1) for split, rows in fold.splits.items()}
    values = {f"values.{name}": ragged.values for name, ragged in data.modalities.items()}
    for kind, tensors in ((torch.int64, index), (torch.float32, values)):
        for name, t in tensors.items():
            if t.dtype != kind:
                raise UserError(f"{data.name}: {name}: expected {kind}, got {t.dtype}")
    return index | values


def _provenance(source: str | Path | None) -> dict[str, str | None]:
    out: dict[str, str | None] = {"source": None, "sha256": None}
    if source is not None:
        try:
            with open(source, "rb") as file:
                out = {"source": Path(source).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise UserError(f"source: expected the file that was packed, got {source}: {error.strerror}") from None
    return {**out, "date": datetime.now(UTC).isoformat(timespec="seconds"), "nmer_fast": version("nmer_fast")}


def _content(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    text = json.dumps(about)
    metadata = {"format": FORMAT, "version": VERSION, "about": text, "sha256": _digest(text)}
    header = json.dumps({"__metadata__": metadata, **_layout(about["shapes"])}).encode()
    header += b" " * (-(8 + len(header)) % PAGE)
    if len(header) > LARGEST:
        raise UserError(f"{about['name']}: expected sample names that fit a header of 100 MB, got longer ones")
    yield len(header).to_bytes(8, "little") + header
    for t in tensors.values():
        if t.numel():
            content = t.contiguous().numpy().data.cast("B")
            yield from (content[i : i + PART] for i in range(0, len(content), PART))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _layout(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """The entries of a safetensors header for tensors of these shapes, stored one after the other."""
    out: dict[str, dict[str, Any]] = {}
    begin = 0
    for name, shape in shapes.items():
        dtype = "F32" if name.startswith("values.") else "I64"
        end = begin + int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        out[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return out


def read_store(path: str | Path, fold: int | None = None) -> FeatureSet:
    """Open a packed store and map its values.

    Args:
        path: a file that `write_store` wrote. It must not be changed in place while it is mapped; replacing it is safe.
        fold: the number of the fold, counted from 1; None is the first fold.

    Returns:
        the set. Its values are mapped privately: writing to them changes neither the file nor what other processes see.

    Raises:
        UserError: one line, if the file is missing, damaged, truncated, of another version, or if its tensors do not
            fit each other. Damage among the values is not seen here; `verify_store` finds it.
    """
    path = Path(path)
    with _opened(path) as file:
        about, start = _header(path, file)
        try:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | NORESERVE, prot=protection)
        except OSError as error:
            raise UserError(f"{path}: expected a file that can be mapped, got: {error.strerror}") from None
    try:
        return _feature_set(path, about, _map(mapped, start, about["shapes"]), fold)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: expected a packed store's header, got one that lacks or misplaces {error}") from None


def read_store_folds(path: str | Path) -> list[FeatureSet]:
    """Open all folds of a packed store; arguments and errors are those of `read_store`."""
    path = Path(path)
    with _opened(path) as file:
        about, _ = _header(path, file)
    return [read_store(path, fold) for fold in range(1, len(about["folds"]) + 1)]


def _opened(path: Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: expected a packed store (.safetensors), got: {error.strerror}") from None


def _header(path: Path, file: Any) -> tuple[dict[str, Any], int]:
    """The header's description, once its checksum is verified, and the offset in bytes at which the tensors begin."""
    size, length = file.seek(0, 2), 0
    file.seek(0)
    try:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, LARGEST):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        layout = json.loads(file.read(length))
        metadata = layout.pop("__metadata__")
        if metadata["format"] != FORMAT:
            raise ValueError(f"the format {metadata['format']!r}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a packed store of nmer_fast, got a file without its header: {error}"
        ) from None
    if metadata.get("version") != VERSION:
        raise UserError(f"{path}: expected a packed store of version {VERSION}, got version {metadata.get('version')}")
    text = metadata.get("about")
    try:
        if _digest(text) != metadata.get("sha256"):
            raise ValueError("another checksum")
        about = json.loads(text)
        expected = _layout(about["shapes"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: expected the header that was written, got {error}: the file is damaged") from None
    if layout != expected:
        raise UserError(f"{path}: expected the header that was written, got other tensors: the file is damaged")
    end = 8 + length + max((entry["data_offsets"][1] for entry in expected.values()), default=0)
    if size != end:
        raise UserError(f"{path}: expected {end} bytes, got {size}: the file is truncated or has grown")
    return about, 8 + length


def _map(mapped: mmap.mmap, start: int, shapes: Shapes) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in _layout(shapes).items():
        offset = start + entry["data_offsets"][0]
        array: np.ndarray[Any, Any] = np.ndarray(entry["shape"], DTYPES[entry["dtype"]], buffer=mapped, offset=offset)
        tensors[name] = torch.from_numpy(array)
    return tensors


def _feature_set(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor], fold: int | None) -> FeatureSet:
    checksums: dict[str, str] = about["sha256"]
    for name, t in tensors.items():
        if not name.startswith("values.") and sha256(t) != checksums[name]:
            raise UserError(f"{path}: {name}: expected the checksum that was written, got another: the file is damaged")
    chosen = 1 if fold is None else fold
    if not 1 <= chosen <= len(about["folds"]):
        raise UserError(f"{path}: fold: expected 1 to {len(about['folds'])}, got {chosen}")
    labels, modalities = tensors["labels"], {}
    for name, dim in about["modalities"].items():
        values, offsets = tensors[f"values.{name}"], tensors[f"offsets.{name}"]
        _check_fits(path, name, dim, values, offsets, len(labels))
        modalities[name] = Ragged(values, offsets, digest=checksums[f"values.{name}"])
    splits = {split: tensors[f"fold{chosen}.{split}"] for split in about["folds"][chosen - 1]}
    for split, rows in splits.items():
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(labels):
            raise UserError(f"{path}: split {split}: expected rows 0 to {len(labels) - 1}, got others")
    for name in ("groups", "positions"):
        if tensors[name].shape != labels.shape:
            raise UserError(f"{path}: {name}: expected {len(labels)}, one for each label, got {len(tensors[name])}")
    if len(about["sample_names"]) != len(labels):
        raise UserError(f"{path}: expected {len(labels)} sample names, got {len(about['sample_names'])}")
    return FeatureSet(
        name=about["name"],
        modalities=modalities,
        labels=labels,
        class_names=about["class_names"],
        splits=splits,
        sample_names=about["sample_names"],
        groups=tensors["groups"],
        positions=tensors["positions"],
    )


def _check_fits(path: Path, name: str, dim: int, values: Tensor, offsets: Tensor, n: int) -> None:
    """Check the offsets against the values, since batches are gathered by them without further checks."""
    if values.shape[1:] != (dim,) or offsets.shape != (n + 1,):
        got = f"{list(values.shape)} and {list(offsets.shape)}"
        raise UserError(f"{path}: modality {name}: expected values [steps, {dim}] and offsets [{n + 1}], got {got}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise UserError(f"{path}: modality {name}: expected offsets that rise from 0 to {len(values)}, got others")


def verify_store(path: str | Path) -> dict[str, Any]:
    """Read a whole packed store and compare every tensor with its checksum.

    Returns:
        the description in the header: name, modalities, class_names, folds, sample_names, provenance, shapes, sha256.

    Raises:
        UserError: one line that names the first damaged tensor, or says what `read_store` would refuse.
    """
    path = Path(path)
    with _opened(path) as file:
        about, start = _header(path, file)
        file.seek(start)
        for name, entry in _layout(about["shapes"]).items():
            digest, left = hashlib.sha256(), entry["data_offsets"][1] - entry["data_offsets"][0]
            while part := file.read(min(PART, left)):
                digest.update(part)
                left -= len(part)
            if digest.hexdigest() != about["sha256"].get(name):
                raise UserError(
                    f"{path}: {name}: expected the checksum that was written, got another: the file is damaged"
                )
    for fold in range(1, len(about["folds"]) + 1):
        read_store(path, fold)
    return about


@dataclass(frozen=True)
class StoreFolds:
    """The folds of a packed store, each opened when it is asked for.

    Attributes:
        path: the store.
        findings: empty; nothing of a store is repaired or guessed.
    """

    path: Path
    findings: Findings = field(default_factory=Findings)

    def fold(self, number: int | None) -> FeatureSet:
        """The set with the splits of this fold, counted from 1; None is the first fold."""
        return read_store(self.path, number)

    def sets(self) -> list[FeatureSet]:
        """One set for each fold."""
        return read_store_folds(self.path)


def _looks_like(source: Source) -> bool:
    return source.path.suffix == ".safetensors" and not source.path.is_dir()


STORE = Format(_looks_like, lambda source: StoreFolds(source.path), is_announced=False)

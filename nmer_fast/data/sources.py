"""Any source of features, told from what it looks like: docs/formats.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from .csd import load_csd
from .featureset import FeatureSet
from .loaded import Findings, Loaded
from .mmin import is_msp, load_iemocap, load_msp
from .mmsa import from_mmsa
from .mult import from_mult
from .multibench import from_multibench
from .npz import load_npz, load_npz_folds
from .store import read_store, read_store_folds
from .unpickle import load_pickle

STORE = ".safetensors"
LONGEST = 500  # characters of a refusal
CORPORA: dict[str, Callable[[Path], Loaded]] = {"iemocap-h5": load_iemocap, "msp-h5": load_msp}
PICKLES: dict[str, Callable[[Path, Any, str], Loaded]] = {
    "multibench-pkl": from_multibench,
    "mult-pkl": from_mult,
    "mmsa-pkl": from_mmsa,
}
ALIKE = ", which MulT's look like, too: the format mult-pkl reads it as one of those"
FORMATS = ("auto", *CORPORA, *PICKLES, "csd", "npz")


def load(
    source: str | Path, fold: int | None = None, *, format: str = "auto", binarise: str = "ge0"
) -> tuple[FeatureSet, Findings]:
    """Read one fold of a source.

    Args:
        source: a file or a folder.
        fold: which of its folds, from 1; by default the first, or the only division.
        format: one of FORMATS, or auto. A packed store is known by its name.
        binarise: which scores are positive, where a source has scores: ge0 (>= 0), gt0 (> 0), or nonzero (> 0, and
            utterances of score 0 left out).

    Returns:
        the set, and what was found on the way.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    with _printable():
        path, kind = Path(source), _kind(Path(source), format)
        if kind in (STORE, "npz"):
            _check_no_scores(path, binarise)
            return (read_store if kind == STORE else load_npz)(path, fold), Findings()
        loaded = _load(path, kind, binarise)
        return loaded.fold(fold), loaded.findings


def load_folds(source: str | Path, *, format: str = "auto", binarise: str = "ge0") -> tuple[list[FeatureSet], Findings]:
    """Read all folds of a source, which share everything but their splits; see `load`."""
    with _printable():
        path, kind = Path(source), _kind(Path(source), format)
        if kind in (STORE, "npz"):
            _check_no_scores(path, binarise)
            return (read_store_folds if kind == STORE else load_npz_folds)(path), Findings()
        loaded = _load(path, kind, binarise)
        return loaded.sets(), loaded.findings


@contextmanager
def _printable() -> Iterator[None]:
    """Refusals of one short line, whatever a file's names and libraries' messages hold."""
    try:
        yield
    except UserError as error:
        line = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(line if len(line) <= LONGEST else f"{line[:LONGEST]}...") from None


def _kind(path: Path, format: str) -> str:
    """The format of a source; "pkl" where only its content tells which."""
    if format not in FORMATS:
        raise UserError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if format != "auto":
        if path.is_dir() != (format in (*CORPORA, "csd")):
            expected, got = ("a file", "a folder") if path.is_dir() else ("a folder", "none")
            raise UserError(f"{path}: expected {expected} for the format {format}, got {got}")
        return format
    if path.is_dir():
        if (path / "target").is_dir():
            return "msp-h5" if is_msp(path) else "iemocap-h5"
        if any(path.glob("*.csd")):
            return "csd"
        raise UserError(f"{path}: expected a folder with A/, V/, L/ and target/, or one of .csd files, got neither")
    if path.suffix in (".csd", ".h5", ".hdf5"):
        raise UserError(f"{path}: expected the folder that holds it, got the one file")
    if path.suffix in (".pkl", ".pickle", ".p", ".dt", ".pt"):
        return "pkl"
    return STORE if path.suffix == STORE else "npz"


def _load(path: Path, kind: str, binarise: str) -> Loaded:
    if kind in CORPORA:
        _check_no_scores(path, binarise)
        loaded = CORPORA[kind](path)
    elif kind == "csd":
        loaded = load_csd(path, binarise)
    else:
        content = load_pickle(path)
        chosen = _pickle_kind(path, content) if kind == "pkl" else kind
        loaded = PICKLES[chosen](path, content, binarise)
        kind = chosen + ALIKE * (kind == "pkl" and chosen == "multibench-pkl")
    loaded.findings.lines.insert(0, f"{path.name}: read as {kind}")
    return loaded


def _pickle_kind(path: Path, content: Any) -> str:
    """By its keys; MultiBench's and MulT's have the same, and MulT's alone comes unaligned."""
    train = content.get("train") if isinstance(content, dict) else None
    if not isinstance(train, dict):
        raise UserError(
            f"{path}: expected a dict of 'train', 'valid' and 'test', each of them a dict of arrays, got another"
        )
    if "regression_labels" in train:
        return "mmsa-pkl"
    steps = {getattr(train.get(key), "shape", ())[1:2] for key in ("vision", "audio", "text")}
    return "mult-pkl" if len(steps) > 1 else "multibench-pkl"


def _check_no_scores(path: Path, binarise: str) -> None:
    if binarise != "ge0":
        raise UserError(
            f"binarise: expected with a source of scores alone, got {binarise} beside {path}, which has classes"
        )

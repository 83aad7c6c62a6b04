"""Read features from any source: `load` one fold, `load_folds` all; docs/formats.md lists the formats.

The packed store is recognised by its ending .safetensors. Every other source is shown to the formats of
`nmer_fast.registry.FORMATS` in their order, installed plug-ins last, until one recognises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..registry import FORMATS
from .featureset import FeatureSet
from .formats import Findings, Folds, Format, Source
from .npz import NPZ
from .store import STORE

LONGEST = 500  # characters of a refusal


def load(
    source: str | Path, fold: int | None = None, *, format: str = "auto", binarise: str = "ge0"
) -> tuple[FeatureSet, Findings]:
    """Read one fold of a source.

    Args:
        source: a file or a folder.
        fold: the number of the fold, counted from 1; None is the first fold, or the only division.
        format: a name in `nmer_fast.registry.FORMATS`, `package.module:attribute` of a `Format`, or "auto", which
            recognises the format. A packed store is recognised alone.
        binarise: the scores that count as positive, if the source has scores: "ge0" (>= 0), "gt0" (> 0), or "nonzero"
            (> 0, and utterances of score 0 are left out).

    Returns:
        the set, and the findings that were made while it was read.

    Raises:
        UserError: one line that names the file and what was expected.
    """
    with _printable():
        read = _read(Source(Path(source), binarise), format)
        return read.fold(fold), read.findings


def load_folds(source: str | Path, *, format: str = "auto", binarise: str = "ge0") -> tuple[list[FeatureSet], Findings]:
    """Read all folds of a source, which share everything but their splits; arguments and errors are those of `load`."""
    with _printable():
        read = _read(Source(Path(source), binarise), format)
        return read.sets(), read.findings


@contextmanager
def _printable() -> Iterator[None]:
    """Make every refusal one short line of printable characters: a file chooses the names that it quotes."""
    try:
        yield
    except UserError as error:
        line = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(line if len(line) <= LONGEST else f"{line[:LONGEST]}...") from None


def _read(source: Source, name: str) -> Folds:
    is_recognised = name == "auto"
    name, chosen = _recognised(source) if is_recognised else (name, _named(source, name))
    if not chosen.has_scores and source.binarise != "ge0":
        raise UserError(
            f"binarise: expected with a source of scores alone, got {source.binarise} beside {source.path}, "
            "which has classes"
        )
    read = chosen.read(source)
    if chosen.is_announced:
        read.findings.lines.insert(0, f"{source.path.name}: read as {name}{chosen.caution * is_recognised}")
    return read


def _named(source: Source, name: str) -> Format:
    """The format of this name, if a source can be of it."""
    chosen = _format(name)
    if source.path.is_dir() != chosen.is_folder:
        expected, got = ("a file", "a folder") if source.path.is_dir() else ("a folder", "none")
        raise UserError(f"{source.path}: expected {expected} for the format {name}, got {got}")
    return chosen


def _format(name: str) -> Format:
    found = FORMATS.load(name)
    if not isinstance(found, Format):
        raise UserError(f"format: expected {name} to be an nmer_fast.data.Format, got a {type(found).__name__}")
    return found


def _recognised(source: Source) -> tuple[str, Format]:
    """The name and the format of a source, told from its name and content."""
    path, is_folder = source.path, source.path.is_dir()
    if STORE.looks_like(source):
        return "store", STORE
    for name in FORMATS:
        candidate = _format(name)
        if candidate.is_folder == is_folder and candidate.looks_like(source):
            return name, candidate
    if is_folder:
        raise UserError(f"{path}: expected a folder with A/, V/, L/ and target/, or one of .csd files, got neither")
    if path.suffix in (".csd", ".h5", ".hdf5"):
        raise UserError(f"{path}: expected the folder that holds it, got the one file")
    if source.is_pickle:
        raise UserError(
            f"{path}: expected a dict of 'train', 'valid' and 'test', each of them a dict of arrays, got another"
        )
    return "npz", NPZ  # whose reader says what it expected

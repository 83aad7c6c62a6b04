"""Checkpoints: tensors in a safetensors file, all other state in a JSON file, written atomically.

A run's folder holds up to three checkpoints: `checkpoint`, the trained model; and until training ends `resume`, the
complete training state, and `resume.before`, the previous one. The JSON file holds the name and the checksum of the
tensors' file and is replaced last, in one step. So at any time the folder holds one complete checkpoint of each name,
either the old or the new one, and it is synced to the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically, write_json

VERSION = 3
MODEL, RESUME = "checkpoint", "resume"


def save_checkpoint(
    folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep_before: bool = False
) -> Path:
    """Save a checkpoint, and remove files of this name that killed processes left half-written.

    Args:
        folder: the run's folder.
        name: the checkpoint's name, such as "checkpoint" or "resume".
        tensors: the tensors by name.
        state: all other state, as JSON.
        keep_before: whether to keep the previous checkpoint, if it is undamaged, for `load_newest`.

    Returns:
        the path of the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({key: t.detach().cpu().contiguous() for key, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file, path = folder / f"{name}-{digest[:16]}.safetensors", folder / f"{name}.json"
    _clean(folder, name)
    write_atomically(file, content)
    if keep_before and _is_whole(path) and _tensors_of(path) != file.name:
        write_atomically(_before(path), path.read_bytes())
    content_of = {"tensors": file.name, "sha256": digest, **state}
    write_json(path, {"version": VERSION, "digest": _digest(content_of), **content_of})
    _clean(folder, name)
    return path


def _before(path: Path) -> Path:
    """Return the path of the previous checkpoint's JSON file."""
    return path.with_name(f"{path.stem}.before.json")


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except UserError:
        return False
    return True


def _tensors_of(path: Path) -> str | None:
    """Return the name of the tensors' file that a JSON file refers to, or None if the JSON is missing or damaged."""
    try:
        return json.loads(path.read_text())["tensors"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _clean(folder: Path, name: str) -> None:
    """Remove the tensors' files that no JSON file refers to, and partially written files."""
    path = folder / f"{name}.json"
    used = {_tensors_of(path), _tensors_of(_before(path))}
    broken_off = (f".{name}-*.safetensors.*", f".{name}.json.*", f".{name}.before.json.*", ".config.json.*")
    for pattern in (f"{name}-*.safetensors", *broken_off):
        for file in folder.glob(pattern):
            if file.name not in used:
                file.unlink(missing_ok=True)


def _digest(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON state; the order of its keys makes no difference."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def remove_checkpoint(folder: Path, name: str) -> None:
    """Remove a checkpoint and the previous one of the same name, JSON files first."""
    path = folder / f"{name}.json"
    _before(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    _clean(folder, name)


def load_checkpoint(path: Path, name: str = MODEL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the tensors and the state of a checkpoint.

    Args:
        path: the run's folder, or the checkpoint's JSON file.
        name: the checkpoint's name, if `path` is a folder.

    Raises:
        UserError: one line, if the checkpoint is missing, damaged or of another version.
    """
    path = path / f"{name}.json" if path.is_dir() else path
    content, state = _read(path)
    try:
        return load(content), state
    except ValueError as error:
        raise UserError(f"{path}: expected tensors, got: {error}") from None


def load_newest(folder: Path, name: str, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint; if it is damaged, load the previous one and report that with `say`.

    Raises:
        UserError: one line, if both are missing or damaged.
    """
    path = folder / f"{name}.json"
    try:
        return load_checkpoint(path)
    except UserError as error:
        try:
            older = load_checkpoint(_before(path))
        except UserError as also:
            raise UserError(f"{name}: neither of the last two saved states is whole: {error}; {also}") from None
        say(f"{error}; the state saved before it is taken")
        return older


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read a checkpoint's tensors (the bytes of their file) and its JSON state, and verify both checksums."""
    try:
        state = json.loads(path.read_text())
        if not isinstance(state, dict) or state.get("version") != VERSION:
            found = state.get("version") if isinstance(state, dict) else None
            raise UserError(f"{path}: expected a checkpoint of version {VERSION}, got version {found}")
        if _digest({k: v for k, v in state.items() if k not in ("version", "digest")}) != state["digest"]:
            raise UserError(f"{path}: expected the contents that were written, got others: the file is damaged")
        content = path.with_name(state["tensors"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            raise UserError(f"{path}: expected the checksum of {state['tensors']}, got another: the file is damaged")
        return content, state
    except OSError as error:
        raise UserError(f"{path}: expected a checkpoint, got: {error.strerror}: {error.filename}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: expected a checkpoint's JSON, got: {error}") from None

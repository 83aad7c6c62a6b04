"""Checkpoints: tensors in safetensors, the rest in JSON, written atomically.

A run's folder holds `checkpoint`, the trained model, and while training is not over `resume`, its whole state, and
`resume.before`, the one before it. The JSON names its tensors' file and that file's checksum, and is replaced last in
one step: at any moment the folder holds one whole checkpoint of each name, old or new, and it is on the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically

VERSION = 3
MODEL, RESUME = "checkpoint", "resume"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process works in this folder; a process that dies lets go of it.

    Raises:
        UserError: one does.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out: expected a folder that no other process works in, got {folder}") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_checkpoint(
    folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep_before: bool = False
) -> Path:
    """Save tensors and JSON state to a folder under a name; what dead runs left half-written there goes.

    `keep_before` keeps the one that is replaced, if it is whole, for `load_newest`.

    Returns:
        the path of the JSON.
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
    """The JSON of the checkpoint before this one."""
    return path.with_name(f"{path.stem}.before.json")


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except UserError:
        return False
    return True


def _tensors_of(path: Path) -> str | None:
    """The name of the tensors' file, if there is one."""
    try:
        return json.loads(path.read_text())["tensors"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _clean(folder: Path, name: str) -> None:
    """Remove this name's tensors that no JSON names, and files that were broken off."""
    path = folder / f"{name}.json"
    used = {_tensors_of(path), _tensors_of(_before(path))}
    broken_off = (f".{name}-*.safetensors.*", f".{name}.json.*", f".{name}.before.json.*", ".config.json.*")
    for pattern in (f"{name}-*.safetensors", *broken_off):
        for file in folder.glob(pattern):
            if file.name not in used:
                file.unlink(missing_ok=True)


def _digest(state: Mapping[str, Any]) -> str:
    """Of JSON state, whatever its order."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def remove_checkpoint(folder: Path, name: str) -> None:
    """Remove a checkpoint and the one before it, their JSON first."""
    path = folder / f"{name}.json"
    _before(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    _clean(folder, name)


def load_checkpoint(path: Path, name: str = MODEL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint from its folder or JSON.

    Raises:
        UserError: one line, if it is missing, damaged or of another version.
    """
    path = path / f"{name}.json" if path.is_dir() else path
    content, state = _read(path)
    try:
        return load(content), state
    except ValueError as error:
        raise UserError(f"{path}: expected tensors, got: {error}") from None


def load_newest(folder: Path, name: str, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint, or, where it is damaged, the one before it, and say so.

    Raises:
        UserError: one line, if neither is whole.
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
    """A checkpoint's tensors, as they are in their file, and state, both as they were written."""
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

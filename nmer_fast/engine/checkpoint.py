"""Checkpoints: tensors in safetensors, the rest in JSON, written atomically.

A run's folder holds `checkpoint`, the trained model, and while training is not over `resume`, its whole state. The JSON
its tensors' file and that file's checksum, and is replaced last in one step: at any moment the folder holds one whole
checkpoint of each name, the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ..errors import UserError
from ..files import write_atomically

VERSION = 2
MODEL, RESUME = "checkpoint", "resume"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Save tensors and JSON state to a folder under a name.

    Returns:
        the path of the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({key: t.detach().cpu().contiguous() for key, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file = folder / f"{name}-{digest[:16]}.safetensors"
    write_atomically(file, content)
    path, content_of = folder / f"{name}.json", {"tensors": file.name, "sha256": digest, **state}
    write_json(path, {"version": VERSION, "digest": _digest(content_of), **content_of})
    for old in (*folder.glob(f"{name}-*.safetensors"), *folder.glob(f".{name}-*.safetensors.*")):  # and broken-off ones
        if old != file:
            old.unlink()
    return path


def _digest(state: Mapping[str, Any]) -> str:
    """Of JSON state, whatever its order."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def remove_checkpoint(folder: Path, name: str) -> None:
    """Remove a checkpoint, its JSON first."""
    (folder / f"{name}.json").unlink(missing_ok=True)
    for file in folder.glob(f"{name}-*.safetensors"):
        file.unlink()


def load_checkpoint(path: Path, name: str = MODEL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint from its folder or JSON.

    Raises:
        UserError: one line, if it is missing, damaged or of another version.
    """
    path = path / f"{name}.json" if path.is_dir() else path
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
        return load(content), state
    except OSError as error:
        raise UserError(f"{path}: expected a checkpoint, got: {error.strerror}: {error.filename}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: expected a checkpoint's JSON, got: {error}") from None

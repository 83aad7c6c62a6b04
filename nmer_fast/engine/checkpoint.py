"""Checkpoints: weights in safetensors, the rest in JSON, written atomically.

The JSON names its weights file and that file's checksum, and is replaced last in one step: at any moment the folder
holds one whole checkpoint, the old one or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import UserError

VERSION = 1
NAME = "checkpoint.json"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by a whole new one, or leave it as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Save tensors and JSON state to a folder.

    Returns:
        the path of the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    weights = folder / f"weights-{digest[:16]}.safetensors"
    write_atomically(weights, content)
    write_json(folder / NAME, {"version": VERSION, "weights": weights.name, "sha256": digest, **state})
    for old in folder.glob("weights-*.safetensors"):
        if old != weights:
            old.unlink()
    return folder / NAME


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint from its folder or JSON.

    Raises:
        UserError: one line, if it is missing, damaged or of another version.
    """
    path = path / NAME if path.is_dir() else path
    try:
        state = json.loads(path.read_text())
        if not isinstance(state, dict) or state.get("version") != VERSION:
            found = state.get("version") if isinstance(state, dict) else None
            raise UserError(f"{path}: expected a checkpoint of version {VERSION}, got version {found}")
        weights = path.with_name(state["weights"])
        if hashlib.sha256(weights.read_bytes()).hexdigest() != state["sha256"]:
            raise UserError(f"{weights}: expected the checksum in {path.name}, got another: the file is damaged")
        return load_file(weights), state
    except OSError as error:
        raise UserError(f"{path}: expected a checkpoint, got: {error.strerror}: {error.filename}") from None
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a checkpoint's JSON, got: {error}") from None

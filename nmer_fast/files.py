"""Atomic writing of files, and locks that let only one process at a time work in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError

LOCK = ".lock"


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file atomically: afterwards it holds either all of the new content, synced to the disk, or the old one.

    Args:
        path: the file to replace.
        content: the new content, in one piece or in several.

    Raises:
        OSError: the file cannot be written; the error's filename is `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            for part in (content,) if isinstance(content, bytes) else content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # syncs the renaming, too
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None  # errors of write and fsync do not name the file
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file, or None if the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def make_folder(folder: Path) -> Path:
    """Create an output folder and check that it is writable, before any work is done.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"out: expected a folder that can be written, got {folder}: {error.strerror}") from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process works in it; the lock of a process that dies is released.

    Raises:
        UserError: another process holds the lock.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"out: expected a folder that no other process works in, got {folder}") from None
    except OSError:
        pass  # this file system has no locks
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # before the release: filelock hands an unlinked file to nobody
        lock.release()

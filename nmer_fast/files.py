"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace a file by a whole new one that is on the disk, or leave it as it was; its content may come in parts.

    Raises:
        OSError: with the path, where it cannot be written.
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
            os.fsync(folder)  # the new name, too
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None  # which write and fsync do not say
        raise
    finally:
        partial.unlink(missing_ok=True)

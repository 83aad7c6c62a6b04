"""Reading of HDF5 files from untrusted sources, in a child process.

The HDF5 library is not made for hostile or damaged files: it may crash, loop, or allocate as much as a header asks for.
So h5py runs in a child process with limits on memory and processor time. The child's program, hdf5_child.py, checks
each dataset before it reads it and sends plain arrays. If the child dies, the caller gets a UserError of one line.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from ..errors import UserError
from .memory_limits import COPIES, free_memory

SECONDS = 20  # processor time that every file may take, in seconds
BYTES_A_SECOND = 10_000_000  # a file may take one more second for each so many bytes
PROGRAM = Path(__file__).with_name("hdf5_child.py")


class Reader:
    """A child process that reads one HDF5 file after another.

    Attributes:
        path: the file that is open.
        largest: the largest number of bytes of an array: the free memory, divided by the number of copies of an array.
    """

    def __init__(self) -> None:
        self.path, self.largest = Path(), free_memory() // COPIES
        environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}  # loads no filter plug-ins
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(self.largest)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self._child.kill()
        self._child.communicate()

    def open(self, path: Path) -> None:
        """Open a file, and close the one that was open.

        Raises:
            UserError: one line, if the file cannot be opened. All methods raise it if the file is damaged or refused.
        """
        self.path = path
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{path}: expected an HDF5 file, got: {error.strerror}") from None
        self._ask({"open": str(path.resolve()), "seconds": SECONDS + size // BYTES_A_SECOND})
        self._answer()

    def members(self, group: str) -> list[str]:
        """The names in a group, sorted."""
        self._ask({"list": group})
        return [str(name) for name in self._answer()["members"]]

    def read(self, names: Sequence[str]) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the arrays of these names in order; the caller takes all of them before it makes another request."""
        self._ask({"read": list(names)})
        for _ in names:
            about = self._answer()
            dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
            yield np.frombuffer(self._bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def _ask(self, request: dict[str, Any]) -> None:
        try:
            _pipe(self._child.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(self._child.stdin).flush()
        except OSError:
            raise self._dead() from None

    def _answer(self) -> dict[str, Any]:
        line = _pipe(self._child.stdout).readline()
        if not line.endswith(b"\n"):
            raise self._dead()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self.path}: {answer['error']}")
        return answer

    def _bytes(self, count: int) -> bytearray:
        content, done = bytearray(count), 0
        while done < count:
            read = _pipe(self._child.stdout).readinto(memoryview(content)[done:])  # type: ignore[attr-defined]
            if not read:
                raise self._dead()
            done += read
        return content

    def _dead(self) -> UserError:
        code = self._child.wait()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return UserError(f"{self.path}: expected a whole HDF5 file, got one on which its reader {how}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe

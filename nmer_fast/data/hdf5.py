"""HDF5 files that other people made, read by a process of its own.

The HDF5 library is not made for hostile or damaged files: it may crash, loop, or allocate what a header asks for. So
h5py runs in a child that has limits on memory and time, reads what `hdf5_reader` has checked, and sends plain arrays;
when it dies, that is one line here.
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
from .limits import COPIES, free_memory

SECONDS = 20  # of processor time for a file, and one more for each of
BYTES_A_SECOND = 10_000_000
PROGRAM = Path(__file__).with_name("hdf5_reader.py")


class Reader:
    """A child that reads one HDF5 file after another.

    Attributes:
        path: of the file that is open.
        largest: bytes that an array may have, what is free now divided by the copies that are made of it.
    """

    def __init__(self) -> None:
        self.path, self.largest = Path(), free_memory() // COPIES
        environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::"}  # no filters from outside
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(self.largest)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.communicate()

    def open(self, path: Path) -> None:
        """Open a file, and close the one before.

        Raises:
            UserError: one line, as all methods do.
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
        """Names in a group, sorted."""
        self._ask({"list": group})
        return [str(name) for name in self._answer()["members"]]

    def read(self, names: Sequence[str]) -> Iterator[np.ndarray[Any, Any]]:
        """The arrays of these names, one after the other; all must be taken before another request."""
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

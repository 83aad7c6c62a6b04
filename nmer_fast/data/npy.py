"""Safe reading of NumPy's .npy format: plain numbers and strings, never more bytes than the file really holds."""

from __future__ import annotations

import math
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
KINDS = "biufSU"
LAST_CHARACTER, SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)


def load_npy(path: Path) -> np.ndarray[Any, Any]:
    """Read an .npy file.

    Raises:
        UserError: one line that names the file. Nothing is unpickled, and no more is allocated than the file holds.
    """
    try:
        with open(path, "rb") as file:
            return read_npy(file, path.stat().st_size)
    except FileNotFoundError:
        raise UserError(f"{path}: expected an array (.npy), found no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: expected an .npy of plain numbers or strings, got: {str(error).partition(chr(10))[0]}"
        ) from None


def read_npy(file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """Read an array from a stream that holds the array and nothing else.

    Args:
        file: the stream.
        size: the number of bytes in the stream.

    Raises:
        ValueError, EOFError: the stream does not hold one whole array of plain numbers or strings.
    """
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the format; expected 1.0 or 2.0")
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning that headers written by Python 2 parse slowly
            shape, fortran, dtype = HEADERS[version](file)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"a header that does not parse: {type(error).__name__}") from None
    if dtype.kind not in KINDS:
        raise ValueError(f"an array of {'objects' if dtype.hasobject else dtype}; expected numbers or strings")
    there = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{there} bytes for an array of {dtype} {list(shape)}")
    array = np.empty(shape, dtype, order="F" if fortran else "C")
    content = memoryview(array.reshape(-1, order="A").view(np.uint8).data) if there else memoryview(bytearray())
    done = 0
    while done < there:
        read = file.readinto(content[done:])  # type: ignore[attr-defined]
        if not read:
            raise EOFError(f"{done} bytes of {there}")
        done += read
    check_characters(array)
    return array


def check_characters(array: np.ndarray[Any, Any]) -> None:
    """Check that an array of strings holds valid Unicode characters only, without which Python may crash.

    Raises:
        ValueError: a character is a surrogate or beyond the last one.
    """
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.max() > LAST_CHARACTER or ((codes >= SURROGATES[0]) & (codes <= SURROGATES[1])).any():
            raise ValueError("strings of characters that do not exist")

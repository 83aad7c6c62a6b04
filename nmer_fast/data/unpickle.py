"""Safe reading of pickles from untrusted sources: no code that a pickle names is imported or called.

The standard library's unpickler that is written in Python does the reading. It keeps only the opcodes that data needs.
Every name that a pickle asks for is looked up in a table of stand-ins for the few NumPy names that arrays are made of,
and the stand-ins accept plain numbers and strings only. Memory is bounded: all arrays together have no more bytes than
the file, and the number of opcodes bounds everything else.
"""

from __future__ import annotations

import codecs
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError
from .memory_limits import COPIES, check_memory
from .npy import check_characters

OPCODES = 5_000_000  # each makes at most about 250 bytes of Python objects
LARGEST_RANK = 8
# Opcodes that data does not need: instances of classes, extension and persistent ids, frozen sets, buffers outside.
FORBIDDEN = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID,
    pickle.BINPERSID, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip
DAMAGE = (
    EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, MemoryError,
    RecursionError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
"""The exceptions that the unpickler raises on bytes that no pickler wrote."""


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of arrays, numbers, strings, lists, tuples, sets of strings and dicts with strings for keys.

    Protocols 0 to 5, Python 2's too: its byte strings are read as latin1.

    Raises:
        UserError: one line that names the first thing in the file that is none of these, or says how it is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            check_memory(f"{path}: its contents", COPIES * size)
            return _Unpickler(file, size).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: expected a pickle, got: {error.strerror or error}") from None
    except DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: expected a whole pickle of arrays, got a damaged one: {reason}") from None


class _Bounded:
    """A file from which more bytes than are left are never asked.

    Attributes:
        left: the number of bytes that are left.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def _take(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise EOFError(f"{count} bytes asked for where {self.left} are left")
        self.left -= count

    def read(self, count: int) -> bytes:
        self._take(count)
        return self.file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        self._take(len(buffer))
        return self.file.readinto(buffer)  # type: ignore[attr-defined]

    def readline(self) -> bytes:
        line = self.file.readline()
        self._take(len(line))
        return line


class _Opcodes(dict[int, Callable[[Any], None]]):
    """The unpickler's functions by opcode; every look-up is counted.

    Attributes:
        left: the number of opcodes that may still come.
    """

    def __init__(self, functions: Mapping[int, Callable[[Any], None]]) -> None:
        super().__init__(functions)
        self.left = OPCODES

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise UserError(f"expected a pickle of arrays, at most {OPCODES:,} opcodes, got one of more")
        if code not in self:
            raise UserError(f"expected a pickle of plain data, got one with the opcode {bytes([code])!r}")
        return super().__getitem__(code)


class _Name:
    """The stand-in for a name that a pickle may mention but not call."""


NDARRAY = _Name()


class _Dtype:
    """The stand-in for numpy.dtype, which accepts plain numbers and strings only.

    Attributes:
        numpy: the dtype that NumPy uses.
    """

    def __init__(self, spec: Any, align: Any = False, copy: Any = True) -> None:
        if isinstance(spec, str) and spec[:1] == "O":
            raise UserError("expected arrays of numbers or strings, got one of objects")
        if not isinstance(spec, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU][0-9]{1,6}", spec):
            raise UserError(f"expected arrays of numbers or strings, got the dtype {str(spec)[:40]!r}")
        self.numpy = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Check the state (version, byte order, subarray, names, fields, element size, ...)."""
        _, order, subarray, names, fields, size, *rest = state
        if (subarray, names, fields) != (None, None, None) or len(rest) != 2:
            raise UserError("expected arrays of numbers or strings, got a structured one")
        if order not in ("<", "|", "=") or size not in (-1, self.numpy.itemsize):
            raise UserError(f"expected little-endian arrays, got byte order {str(order)[:9]!r} with elements of {size}")


class _Array(np.ndarray[Any, Any]):
    """An array whose contents are set later by a BUILD opcode; `fitting` checks and counts them."""

    fitting: Callable[[Any, Any, Any], tuple[tuple[int, ...], np.dtype[Any], bytes]]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the contents from the state (version, shape, dtype, whether the order is Fortran's, contents)."""
        *version, shape, dtype, fortran, content = state
        if len(version) > 1 or type(fortran) not in (bool, int):
            raise UserError("expected an array's shape, dtype, order and contents, got others")
        if isinstance(content, str):
            content = content.encode("latin1")  # a pickle of Python 2 has text here
        plain: Any = (1, *self.fitting(shape, dtype, content)[:2], bool(fortran), content)
        super().__setstate__(plain)
        check_characters(self)


class _Unpickler(pickle._Unpickler):
    """The unpickler that the module's docstring describes.

    Attributes:
        stack: the objects that were read since the last mark.
        append: the function that adds an object to the stack.
        read: the function that reads so many bytes of the file.
        array_bytes_left: the number of bytes that further arrays may have.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(_Bounded(file, size), fix_imports=False, encoding="latin1")
        self.array_bytes_left = size
        functions = {code: f for code, f in pickle._Unpickler.dispatch.items() if bytes([code]) not in FORBIDDEN}
        own = {
            pickle.BUILD: _Unpickler.load_build, pickle.SETITEM: _Unpickler.load_setitem,
            pickle.SETITEMS: _Unpickler.load_setitems, pickle.DICT: _Unpickler.load_dict,
            pickle.ADDITEMS: _Unpickler.load_additems, pickle.BYTEARRAY8: _Unpickler.load_bytearray8,
        }  # fmt: skip
        self.dispatch = _Opcodes({**functions, **{code[0]: f for code, f in own.items()}})  # type: ignore[misc]
        names: dict[str, dict[str, Any]] = {
            "multiarray": {"_reconstruct": self._reconstruct, "scalar": self._scalar},
            "numeric": {"_frombuffer": self._frombuffer},
        }
        self.names = {
            f"numpy.{core}.{module}": content for module, content in names.items() for core in ("core", "_core")
        }
        self.names |= {
            "numpy": {"ndarray": NDARRAY, "dtype": _Dtype},
            "_codecs": {"encode": self._encode},
            "builtins": {"set": self._set, "bytes": self._no_bytes},
            "__builtin__": {"set": self._set, "bytes": self._no_bytes},  # as Python 2 calls it
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name that a pickle asks for; any other name is refused."""
        known = self.names.get(module, {})
        if name not in known:
            raise UserError(
                f"expected a pickle of plain arrays, got one that asks for {module[:80]}.{name[:80]}: refused"
            )
        return known[name]

    def _fitting(self, shape: Any, dtype: Any, content: Any) -> tuple[tuple[int, ...], np.dtype[Any], bytes]:
        """Return the shape, dtype and contents of an array, if they fit each other and the bytes that are left."""
        if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, bytearray)):
            raise UserError("expected an array's dtype and bytes, got others")
        if (
            not isinstance(shape, tuple)
            or len(shape) > LARGEST_RANK
            or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
        ):
            raise UserError(f"expected an array's shape, got {type(shape).__name__} of {str(shape)[:80]}")
        wanted = math.prod(shape) * dtype.numpy.itemsize
        if wanted != len(content):
            raise UserError(f"expected {len(content)} bytes, those that are there, got an array of {wanted}: {shape}")
        self.array_bytes_left -= wanted
        if self.array_bytes_left < 0:
            raise UserError("expected arrays of no more bytes than the file has, got more")
        if dtype.numpy.kind == "b" and content and max(content) > 1:
            raise UserError("expected truth values of 0 and 1, got others")
        return shape, dtype.numpy, bytes(content)

    def _reconstruct(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        """Make an empty array, which a BUILD opcode will fill."""
        if kind is not NDARRAY:
            raise UserError(f"expected arrays of NumPy, got {type(kind).__name__}")
        array = np.ndarray.__new__(_Array, (0,), np.int8)
        array.fitting = self._fitting
        return array

    def _frombuffer(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
        shape, plain, content = self._fitting(shape, dtype, content)
        array = np.frombuffer(content, plain).reshape(shape, order="F" if order == "F" else "C")
        check_characters(array)
        return array

    def _scalar(self, dtype: Any, content: Any) -> Any:
        content = content.encode("latin1") if isinstance(content, str) else content
        return self._frombuffer(content, dtype, (), "C")[()]

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """Decode bytes as protocol 2 writes them, as latin1 text."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UserError(f"expected bytes as latin1 text, got {type(text).__name__} as {str(encoding)[:40]}")
        return codecs.latin_1_encode(text)[0]

    def _no_bytes(self) -> bytes:
        """Return empty bytes, which protocol 2 writes as a call of bytes."""
        return b""

    def _set(self, items: Any = ()) -> set[str]:
        if not isinstance(items, (list, tuple)):
            raise UserError(f"expected a set of a list, got of {type(items).__name__}")
        return set(_strings(items))

    def load_build(self) -> None:
        """Give an array or a dtype its contents; nothing else has a state."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Dtype)) or not isinstance(state, tuple):
            raise UserError(f"expected arrays alone to have a state, got {type(self.stack[-1]).__name__} with one")
        self.stack[-1].__setstate__(state)

    def load_setitem(self) -> None:
        """Put one value into a dict."""
        _strings(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        """Put several values into a dict."""
        _strings(self.stack[::2])
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        """Make a dict of several values."""
        _strings(self.stack[::2])
        super().load_dict()  # type: ignore[misc]

    def load_bytearray8(self) -> None:
        """Protocol 5's contents of an array; the library's own allocates before it reads."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_additems(self) -> None:
        """Put several strings into a set."""
        _strings(self.stack)
        super().load_additems()  # type: ignore[misc]


def _strings(keys: Iterable[Any]) -> list[str]:
    """Check that keys are strings: keys with chosen hashes or deep nesting could hang or crash the interpreter."""
    keys = list(keys)
    if any(type(key) is not str for key in keys):
        other = next(key for key in keys if type(key) is not str)
        raise UserError(f"expected strings for keys, got {type(other).__name__}")
    return keys

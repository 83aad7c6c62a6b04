"""Pickles: data comes back as it was; whatever else a pickle can do is refused by name, before it is done."""

import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from nmer_fast.data import unpickle
from nmer_fast.data.unpickle import load_pickle
from nmer_fast.errors import UserError

from .bounded import load_bounded
from .writers import python2, write_python2_pickle

CONTENT = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "doubles": np.random.default_rng(0).normal(size=(2, 3, 4)),
    "large": np.arange(2000.0),
    "ints": np.array([[1, -2], [3, 4]]),
    "bytes": np.array([b"abc", b"de"]),
    "none": np.zeros((0, 3)),
    "single": np.array(3.5),
    "list": [1, 2.5, "text", None, True, (1, "x"), []],
    "nested": {"a": {"b": [np.array([1, 2])]}},
}
MODERN = {
    "text": np.array([["ä", "longer"]]),
    "scalar": np.float32(2.5),
    "names": {"x", "y"},
    "raw": b"\x00\xff",
    "no bytes": b"",
}


def assert_same(a, b):
    assert isinstance(a, type(b)) or isinstance(b, np.ndarray)
    if isinstance(b, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    elif isinstance(b, dict):
        assert a.keys() == b.keys()
        for key in b:
            assert_same(a[key], b[key])
    elif isinstance(b, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", range(6))
def test_data_comes_back(protocol, tmp_path):
    content = {**CONTENT, **MODERN, "columns": np.asfortranarray(CONTENT["doubles"][0])}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert_same(load_pickle(tmp_path / "x.pkl"), content)


def test_python_2s_comes_back(tmp_path):
    content = {key: value for key, value in CONTENT.items() if key != "list"}
    write_python2_pickle(tmp_path / "x.pkl", content)
    assert b"numpy.core.multiarray" in (tmp_path / "x.pkl").read_bytes()
    assert_same(pickle.loads((tmp_path / "x.pkl").read_bytes(), encoding="latin1"), content)  # what it is a pickle of
    assert_same(load_pickle(tmp_path / "x.pkl"), content)


def test_numpy_2s_names_are_known(tmp_path):
    old = pickle.dumps(CONTENT["floats"], 2).replace(b"numpy._core.", b"numpy.core.")
    new = old.replace(b"numpy.core.", b"numpy._core.")
    for content in (old, new):
        (tmp_path / "x.pkl").write_bytes(content)
        assert_same(load_pickle(tmp_path / "x.pkl"), CONTENT["floats"])


def refusal(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_pickle(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, getattr, subprocess.Popen, open, np.load])
def test_code_is_not_run(function, protocol, tmp_path):
    """The file that it would make is not there; nor hidden among data."""
    made = tmp_path / "made"
    call = Calls(function, f"touch {made}" if function is not eval else f"open({str(made)!r}, 'w')")
    for content in (call, {"train": [np.zeros(3), call]}, [call] * 3):
        line = refusal(tmp_path, pickle.dumps(content, protocol))
        module = function.__module__ or "builtins"
        assert "expected a pickle of plain arrays, got one that asks for " in line
        assert line.endswith(f".{function.__name__}: refused") or module in line
    assert not made.exists()


def array_of(shape=(0,), state=None, dtype=b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR", build=True):
    """An array in protocol 2, from its parts."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + python2(shape) + b"U\x01btR"
    return b"\x80\x02" + empty + (b"(K\x01" + state.replace(b"DTYPE", dtype) + b"tb" if build else b"") + b"."


def test_a_hand_made_array_is_read(tmp_path):
    (tmp_path / "x.pkl").write_bytes(array_of(state=python2((2,)) + b"DTYPE\x89" + python2(bytes(8))))
    assert_same(load_pickle(tmp_path / "x.pkl"), np.zeros(2, np.float32))


def dtype(spec, state=b""):
    return b"cnumpy\ndtype\n" + python2((spec, 0, 1)) + b"R" + state


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(np.array([None, "x"], dtype=object)), "expected arrays of numbers or strings, got one of objects"),
        (pickle.dumps(np.zeros(2, dtype=[("x", "f4")])), "expected arrays of numbers or strings, got the dtype 'V4'"),
        (pickle.dumps(np.zeros(2, dtype="datetime64[s]")), "expected arrays of numbers or strings, got the dtype 'M8'"),
        (pickle.dumps(np.zeros(2, dtype=complex)), "expected arrays of numbers or strings, got the dtype 'c16'"),
        (pickle.dumps(np.zeros(2, dtype=">f4")), "expected little-endian arrays, got byte order '>'"),
        (pickle.dumps({(1, 2): 3}), "expected strings for keys, got tuple"),
        (pickle.dumps({1: 3}), "expected strings for keys, got int"),
        (pickle.dumps({1, 2}, 4), "expected strings for keys, got int"),
        (pickle.dumps({1, 2}, 2), "expected strings for keys, got int"),
        (pickle.dumps(frozenset("a"), 4), "opcode b'\\x91'"),
        (pickle.dumps(1 + 2j), "asks for builtins.complex: refused"),
        (pickle.dumps(range(3)), "asks for builtins.range: refused"),
        (pickle.dumps(np.random.default_rng(0)), "asks for numpy.random._pickle.__generator_ctor: refused"),
        (pickle.dumps(np.ma.zeros(3)), "asks for numpy.ma"),
        (b"PK\x03\x04 as torch.save writes", "opcode b'P'"),
        (b"\x80\x02cnumpy\nndarray\n(K\x05tR.", "expected a whole pickle of arrays, got a damaged one: '_Name' object is not"),
        (b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.", "expected arrays alone to have a state, got _Name with one"),
        (b"\x80\x02cbuiltins\nset\n}U\x01xK\x01sb.", "expected arrays alone to have a state"),
        (b"\x80\x02c__builtin__\nset\nU\x05abcde\x85R.", "expected a set of a list, got of str"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "expected bytes as latin1 text, got str as hex"),
        (array_of(state=python2((3,)) + b"DTYPE\x89" + python2(bytes(8))), "expected 8 bytes, those that are there, got an array of 12"),
        (array_of(state=python2((2, -1)) + b"DTYPE\x89" + python2(bytes(8))), "expected an array's shape"),
        (array_of(state=python2((2,)) + dtype("O8") + b"\x89" + python2(bytes(16))), "got one of objects"),
        (array_of(state=python2((2,)) + dtype("V4") + b"\x89" + python2(bytes(8))), "got the dtype 'V4'"),
        (array_of(state=python2((8,)) + dtype("b1") + b"\x89" + python2(b"\0\1\2\3\4\5\6\7")), "expected truth values of 0 and 1"),
        (array_of(state=python2((2,)) + dtype("U1") + b"\x89" + python2(b"\xff" * 8)), "strings of characters that do not exist"),
        (array_of(state=python2((2,)) + dtype("f4", python2((3, "<", None, None, ("x",), -1, -1, 0)) + b"b") + b"\x89" + python2(bytes(8))), "got a structured one"),
        (array_of(state=python2((2,)) + dtype("f4", python2((3, "<", None, None, None, 400, -1, 0)) + b"b") + b"\x89" + python2(bytes(8))), "with elements of 400"),
        (array_of(state=python2((2,)) + b"U\x02f4\x89" + python2(bytes(8))), "expected an array's dtype and bytes, got others"),
    ],
)  # fmt: skip
def test_what_is_no_plain_data(content, message, tmp_path):
    assert message in refusal(tmp_path, content)


TERABYTE = 2**40


BOMBS = [
    b"\x80\x04\x8e" + struct.pack("<Q", TERABYTE) + b"x",  # bytes
    b"\x80\x04\x8d" + struct.pack("<Q", TERABYTE) + b"x",  # text
    b"\x80\x05\x96" + struct.pack("<Q", TERABYTE) + b"x",  # a bytearray
    b"\x80\x04\x95" + struct.pack("<Q", TERABYTE) + b"N.",  # a frame
    b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x",  # a string
    b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x",  # an int
    array_of((TERABYTE,), build=False)
    + b"N.",  # NumPy would allocate it; here it is ignored, and then refused as no dict
    array_of(state=python2((1,)) + dtype("S999999") + b"\x89" + python2(b"")),
    array_of(state=python2((2**30, 2**30)) + b"DTYPE\x89" + python2(bytes(8))),
    b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo with room for 2**32
    b"\x80\x02" + b"]" * 6_000_000 + b".",  # millions of lists
    b"\x80\x02" + b"}" * 100_000,
    b"\x80\x04" + b"(" * 200_000 + b"t" * 200_000,  # marks in marks
    b"\x80\x02" + b"]" + b"]" * 200_000 + b"a" * 200_000 + b".",  # lists in lists
    b"\x80\x02" + b")" + b"\x85" * 200_000 + b"N}U\x01xs.",  # tuples in tuples
    b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",  # ... whose hash would end the interpreter
    b"\x80\x02]q\x00" + b"h\x00a" * 3 + b".",  # a list of itself
    b"\x80\x02]q\x00" + b"(" + b"h\x00" * 200_000 + b"e.",  # a million times
    b"".join([b"\x80\x02]q\x00", *(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)), b"."]),  # 2**60 leaves
    b"\x80\x02I" + b"9" * 200_000 + b"\n.",
    b"\x80\x00" + b"L" + b"9" * 100_000 + b"L\n.",
]


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
def test_memory_and_time_are_bounded(tmp_path):
    """In a process that may have 2 GB more than it starts with, and 100 s for all of them: a line for each."""
    paths = [tmp_path / f"{i}.pkl" for i in range(len(BOMBS))]
    for path, content in zip(paths, BOMBS, strict=True):
        path.write_bytes(content)
    for path, line in zip(paths, load_bounded(paths), strict=True):
        assert line.startswith(f"{path}: expected "), line


def test_the_same_bytes_make_no_thousand_arrays(tmp_path):
    """Contents that stand in the file once are not copied again and again."""
    contents = b"(K\x01" + python2((1000,)) + dtype("f4") + b"\x89" + python2(bytes(4000)).replace(b"T", b"T", 1)
    first = array_of(build=False)[2:-1] + contents + b"q\x05tb"
    again = array_of(build=False)[2:-1] + b"(K\x01" + python2((1000,)) + dtype("f4") + b"\x89h\x05tb"
    assert "expected arrays of no more bytes than the file has, got more" in refusal(
        tmp_path, b"\x80\x02](" + first + again * 60 + b"e."
    )


def test_too_little_memory_is_said_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(
        unpickle, "check_memory", lambda what, wanted: (_ for _ in ()).throw(UserError(f"{what} {wanted}"))
    )
    assert "its contents 27" in refusal(tmp_path, b"\x80\x04N......")


def test_files_that_are_none(tmp_path):
    assert "got a damaged one: 1 bytes asked for where 0 are left" in refusal(tmp_path, b"")
    with pytest.raises(UserError, match=r"nowhere.pkl: expected a pickle, got: No such file"):
        load_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(UserError, match=r"expected a pickle, got: Is a directory"):
        load_pickle(tmp_path)

"""Archives and HDF5 files that reach out, promise terabytes, or end their reader: one line, in bounded memory."""

import io
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest

from nmer_fast.data import hdf5, load, load_npz, memory_limits
from nmer_fast.errors import UserError

from . import writers
from .bounded import load_bounded
from .test_npz import arrays

# ---------------------------------------------------------------- HDF5


def replaced(file, value=None, **options):
    """The first utterance's features, as another kind of dataset."""
    name = next(iter(file))
    del file[name]
    return file.create_dataset(name, **options) if value is None else file.__setitem__(name, value)


def elsewhere(file, folder):
    """A file with features beside it, and the first utterance's name."""
    name = next(iter(file))
    with h5py.File(folder / "other.h5", "w") as other:
        other[name] = np.ones((3, 5), np.float32)
    return name


def external_link(file, folder):
    replaced(file, h5py.ExternalLink(str(folder / "other.h5"), "/" + elsewhere(file, folder)))


def soft_link(file, folder):
    replaced(file, h5py.SoftLink("/" + list(file)[1]))


def loop(file, folder):
    replaced(file, h5py.SoftLink("/" + next(iter(file))))


def group_of_itself(file, folder):
    name = next(iter(file))
    del file[name]
    file[name] = file["/"]


def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(60))
    replaced(file, shape=(3, 5), dtype="f4", external=[(str(folder / "secret"), 0, 60)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((3, 5), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), elsewhere(file, folder), (3, 5))
    name = next(iter(file))
    del file[name]
    file.create_virtual_dataset(name, layout)


def terabyte(file, folder):
    replaced(file, shape=(2**40, 5), dtype="f4", chunks=(1024, 5))


def absurd_chunk(file, folder):
    replaced(file, shape=(10, 5), maxshape=(None, None), dtype="f4", chunks=(2**16, 2**13))


def no_chunks(file, folder):
    replaced(file, shape=(1000, 5), dtype="f4", chunks=(10, 5), fillvalue=7)


def objects(file, folder):
    replaced(file, shape=(3,), dtype=h5py.special_dtype(vlen=str))


def ragged_objects(file, folder):
    replaced(file, shape=(3, 5), dtype=h5py.special_dtype(vlen=np.float32))


def compound(file, folder):
    replaced(file, shape=(3, 5), dtype=[("x", "f4")])


def references(file, folder):
    replaced(file, shape=(3, 5), dtype=h5py.ref_dtype)


def nothing(file, folder):
    replaced(file, h5py.Empty("f4"))


HOSTILE = {
    external_link: "expected what is in the file, got a link out of the file",
    soft_link: "expected what is in the file, got a soft link",
    loop: "expected what is in the file, got a soft link",
    group_of_itself: "expected an array, got a group",
    external_storage: "expected values in the file, got some of other files",
    virtual: "expected values in the file, got some of other files",
    terabyte: "GiB, got an array of [1099511627776, 5], 2.2e+13 bytes",
    absurd_chunk: "expected chunks of at most 256 MiB, got [65536, 8192]",
    no_chunks: "expected 100 chunks of values, got 0",
    objects: "expected an array of numbers, got object (3,)",
    ragged_objects: "expected an array of numbers, got object (3, 5)",
    compound: "expected an array of numbers, got [('x', '<f4')] (3, 5)",
    references: "expected an array of numbers, got object (3, 5)",
    nothing: "expected an array of numbers, got float32 None",
}


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_hdf5_that_reaches_out_or_promises_too_much(attack, tmp_path):
    writers.write_mmin(tmp_path / "x", n=12, folds=2)
    with h5py.File(tmp_path / "x/A/comparE.h5", "r+") as file:
        first = next(iter(file))
        attack(file, tmp_path)
    with hdf5.Reader() as reader:
        reader.open(tmp_path / "x/A/comparE.h5")
        with pytest.raises(UserError) as caught:
            list(reader.read([first]))
        assert HOSTILE[attack] in str(caught.value)
        reader.open(tmp_path / "x/V/denseface.h5")  # what is right is read by the same child
        assert next(reader.read([first])).shape == (7, 4)


def test_a_reader_that_dies_is_a_line(tmp_path, monkeypatch):
    """Of a crash in the library, and of a loop, which ends when its time is over."""
    writers.write_mmin(tmp_path / "x", n=12, folds=2)
    path = tmp_path / "x/V/denseface.h5"
    with hdf5.Reader() as reader:
        reader.open(path)
        name = reader.members("/")[0]
        monkeypatch.setattr(hdf5, "SECONDS", 0)
        reader.open(path)
        with pytest.raises(
            UserError, match=r"expected a whole HDF5 file, got one on which its reader ended by SIGXCPU$"
        ):
            for _ in reader.read([name] * 10**6):
                pass
    crash = tmp_path / "crash.py"
    crash.write_text("import os, sys\nsys.stdin.readline()\nos.abort()\n")
    monkeypatch.setattr(hdf5, "PROGRAM", crash)
    with hdf5.Reader() as reader, pytest.raises(UserError, match=r"denseface.h5: .* its reader ended by SIGABRT$"):
        reader.open(path)


def test_the_reader_has_no_more_memory_than_is_free(tmp_path, monkeypatch):
    """A gzip of zeros, a thousandth of their size."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((1000, 1000), np.float32), compression="gzip")
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(hdf5, "free_memory", lambda: 3 * 3_999_999)
    with hdf5.Reader() as reader:
        reader.open(path)
        with pytest.raises(
            UserError, match=r"/x: expected at most 0.0 GiB, got an array of \[1000, 1000\], 4.0e\+06 bytes"
        ):
            next(reader.read(["x"]))


# ---------------------------------------------------------------- .npz


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(array=None, shape=None):
    """An .npy, or the header alone of one of this shape."""
    out = io.BytesIO()
    if array is not None:
        np.save(out, array)
    else:
        np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def sized(path, name, size):
    """The archive with another size in its directory, which nothing but the data contradicts."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    at = content.index(name.encode(), start) - 46
    content[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


def members(**changes):
    return {f"{key}.npy": npy(value) for key, value in arrays(**changes).items()}


def bomb(folder):
    """A member of 48 MB in 50 KB, that says so."""
    return archive(folder / "bomb.npz", {**members(), "x.npy": npy(shape=(6, 2_000_000)) + bytes(48_000_000)})


def liar(folder):
    """The same, that says 1000 bytes."""
    return sized(bomb(folder).rename(folder / "liar.npz"), "x.npy", 1000)


def promise(folder):
    """A header of a terabyte, of a few bytes."""
    return archive(folder / "promise.npz", {**members(), "x.npy": npy(shape=(6, 2**35))})


def overlapping(folder):
    """A thousand members that are all the same bytes of the file, 8 MB each."""
    path = archive(folder / "overlapping.npz", {"a.npy": npy(shape=(6, 340_000)) + bytes(8_160_000)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    end = content.rindex(b"PK\5\6")
    entry, many = content[start:end], 1000
    entries = entry * many
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, many, many, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + tail)
    return path


def squeezed(folder):
    """By a compression whose blocks expand without a bound."""
    return archive(folder / "squeezed.npz", {"x.npy": npy(np.zeros(6))}, zipfile.ZIP_BZIP2)


def pickled(folder):
    """An array of objects, which NumPy would unpickle."""
    return archive(folder / "pickled.npz", {**members(), "x.npy": npy(np.array([None] * 6, dtype=object))})


def test_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_limits, "free_memory", lambda: 100_000_000)
    for make, message in (
        (bomb, "memory: .*bomb.npz: its arrays would take about 0.1 GiB; 0.1 GiB are free"),
        (liar, "liar.npz: expected an .npz of plain arrays .no objects., got: "),
        (promise, r"promise.npz: .* got: 0 bytes for an array of float32 \[6, 34359738368\]"),
        (overlapping, "memory: .*overlapping.npz: its arrays would take about 22.8 GiB; 0.1 GiB are free"),
        (squeezed, "squeezed.npz: .* got: x.npy in a compression that NumPy does not write"),
        (pickled, "pickled.npz: expected an .npz of plain arrays .no objects., got: an array of objects; expected"),
    ):
        with pytest.raises(UserError, match=message):
            load_npz(make(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
def test_archives_in_bounded_memory(tmp_path):
    """Without the check of what is free, in a process that has 2 GB."""
    paths = [make(tmp_path) for make in (promise, liar, squeezed)]
    for path, line in zip(paths, load_bounded(paths), strict=True):
        assert line.startswith(f"{path}: expected an .npz of plain arrays"), line


def test_npy_files_of_a_folder(tmp_path):
    """Labels and names are arrays of their own, and no less careful."""
    writers.write_mmin(tmp_path / "x", n=12, folds=2)
    path = tmp_path / "x/target/1/trn_label.npy"
    for content, message in (
        (npy(shape=(2**40, 4)), "got: 0 bytes for an array of float32 [1099511627776, 4]"),
        (npy(np.array([None] * 6, dtype=object)), "got: an array of objects"),
        (npy(np.zeros(6))[:-1], "got: 47 bytes for an array of float64 [6]"),
        (b"\x93NUMPY\1\0\x10\0" + b"{'descr': '<f4'," + bytes(64), "got: a header that does not parse"),
        (b"\x93NUMPY\3\0", "got: version (3, 0) of the format"),
        (b"", "got: "),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load(tmp_path / "x")
        assert message in str(caught.value)

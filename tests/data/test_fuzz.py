"""Damaged files of every format: each is loaded and valid, or refused in one line; nothing crashes, hangs or changes quietly.

Only .npz and the packed store hold checksums, and of them nothing damaged is loaded as something else. In the other
formats a changed feature, label or name that is still one cannot be told from the truth; values may then differ, but in no
more samples than so many changed bytes can reach.
"""

import signal
from collections import Counter

import numpy as np
import pytest
import torch

from nmer_fast.data import hdf5, load_folds, load_npz_folds, verify_store, write_store
from nmer_fast.errors import UserError

from . import writers
from .test_npz import arrays

SECONDS = 60  # no file of these takes a tenth of it


def pickled(write, content):
    def make(folder):
        path = folder / "mosei.pkl"
        return path, [write(path, content)]

    return make


def with_protocol(protocol):
    return lambda path, content: writers.write_pickle(path, content, protocol)


def npz(folder):
    np.savez_compressed(folder / "x.npz", **arrays())
    return folder / "x.npz", [folder / "x.npz"]


def store(folder):
    source, _ = npz(folder)
    write_store(load_npz_folds(source), folder / "x.safetensors")
    return folder / "x.safetensors", [folder / "x.safetensors"]


def csd(aligned, compression):
    def make(folder):
        path = writers.write_csd(folder / "mosei", writers.utterances((4, 3, 3)), aligned, compression)
        return path, sorted(path.iterdir())

    return make


def mmin(corpus):
    def make(folder):
        writers.write_mmin(folder / "x", corpus, n=12, folds=2)
        return folder / "x", sorted(p for p in (folder / "x").rglob("*") if p.is_file())

    return make


ALIGNED, UNALIGNED = writers.utterances((4, 3, 3)), writers.utterances((4, 3, 3), aligned=False)
PLAIN = {
    "npz": npz,
    "store": store,
    "multibench": pickled(with_protocol(4), writers.multibench(ALIGNED)),
    "multibench protocol 2": pickled(with_protocol(2), writers.multibench(ALIGNED)),
    "multibench Python 2": pickled(writers.write_python2_pickle, writers.multibench(ALIGNED)),
    "mult": pickled(with_protocol(5), writers.mult(UNALIGNED, steps={"a": 9, "v": 8, "l": 6}, ids=True)),
    "mult protocol 0": pickled(with_protocol(0), writers.mult(ALIGNED)),
    "mmsa": pickled(with_protocol(4), writers.mmsa(ALIGNED)),
    "mmsa unaligned": pickled(with_protocol(3), writers.mmsa(UNALIGNED, aligned=False)),
}
IN_HDF5 = {
    "csd": csd(aligned=False, compression=None),
    "csd aligned, gzip": csd(aligned=True, compression="gzip"),
    "iemocap": mmin("iemocap"),
    "msp": mmin("msp"),
}


class SharedReader:
    """One child for many files, a new one after a refusal: starting it takes longer than reading."""

    def __init__(self, kind):
        self.kind, self.reader = kind, None

    def __call__(self):
        return self

    def __enter__(self):
        self.reader = self.reader or self.kind()
        return self.reader

    def __exit__(self, kind, *_):
        if kind is not None:
            self.close()

    def close(self):
        if self.reader is not None:
            self.reader.close()
            self.reader = None


@pytest.fixture
def shared_reader(monkeypatch):
    shared = SharedReader(hdf5.Reader)
    monkeypatch.setattr(hdf5, "Reader", shared)
    monkeypatch.setattr(hdf5, "SECONDS", 5)
    yield
    shared.close()


def mutated(content, rng):
    """Other bytes, and how many were touched; None where they have moved."""
    out, n = bytearray(content), len(content)
    at = int(rng.integers(n))
    match int(rng.integers(8)):
        case 0 | 1 | 2:
            out[at] ^= 1 << int(rng.integers(8))
            return out, 1
        case 3:
            places = rng.integers(n, size=int(rng.integers(2, 6)))
            out[at] = int(rng.integers(256))
            for place in places.tolist():
                out[place] = int(rng.integers(256))
            return out, 1 + len(places)
        case 4:
            width = int(rng.choice([2, 4, 8]))
            out[at : at + width] = rng.choice([b"\0" * width, b"\xff" * width, b"\x7f" + b"\xff" * (width - 1)])[
                : n - at
            ]
            return out, width
        case 5:
            return out[:at], None
        case 6:
            end = min(n, at + int(rng.integers(1, 30)))
            return out[:at] + out[end:], None
        case _:
            end = min(n, at + int(rng.integers(1, 30)))
            return out[:end] + out[at:end] + out[end:], None


def described(folds):
    """By name of sample: all that is said of it, and what its features are."""
    first = folds[0]
    about = {}
    for i, name in enumerate(first.sample_names):
        split = [next((s for s, rows in fold.splits.items() if i in rows.tolist()), None) for fold in folds]
        features = {m: r.values[r.offsets[i] : r.offsets[i + 1]].numpy().tobytes() for m, r in first.modalities.items()}
        about[name] = (first.class_names[first.labels[i]], split, features)
    return about


def check_valid(folds):
    for data in folds:
        n = len(data.labels)
        assert len(set(data.sample_names)) == n == len(data.sample_names) == len(data.groups) == len(data.positions)
        rows = torch.cat(list(data.splits.values())).tolist()
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(n))
        assert all(isinstance(name, str) and name.encode() is not None for name in data.sample_names + data.class_names)
        for ragged in data.modalities.values():
            assert ragged.offsets[0] == 0
            assert ragged.offsets[-1] == len(ragged.stored)
            assert (ragged.lengths >= 0).all()
            assert torch.isfinite(ragged.values).all()


def outcome(source):
    """The folds of a file, or the line that refuses it."""
    try:
        folds, findings = load_folds(source)
        if source.suffix == ".safetensors":
            verify_store(source)
    except UserError as error:
        line = str(error)
        assert "\n" not in line
        assert 20 < len(line) < 600, line
        return line
    check_valid(folds)
    assert all("\n" not in line for line in findings.told())
    return folds


def fuzz(make, folder, count, seed):
    """Damage a file `count` times, each time from new; how often each end came."""
    source, files = make(folder)
    whole = outcome(source)
    before, largest = described(whole), max(len(rows) for rows in whole[0].splits.values())
    rng, ends = np.random.default_rng(seed), Counter()

    def too_long(*_):
        raise TimeoutError(f"a damaged file took more than {SECONDS} s")

    handler = signal.signal(signal.SIGALRM, too_long)
    try:
        for number in range(count):
            path = files[int(rng.integers(len(files)))]
            content = path.read_bytes()
            damaged, touched = mutated(content, rng)
            path.write_bytes(damaged)
            signal.alarm(SECONDS)
            end = outcome(source)
            signal.alarm(0)
            if isinstance(end, str):
                ends["its reader died" if "its reader ended" in end else "refused"] += 1
            else:
                after = described(end)
                others = sum(after.get(name) != about for name, about in before.items())
                ends["loaded, other values" if others else "loaded, the same"] += 1
                assert others <= largest * (touched or 1), (number, path.name, touched, others)
                assert end[0].dims == whole[0].dims, (number, path.name)
                assert end[0].class_names == whole[0].class_names, (number, path.name)
            path.write_bytes(content)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    print(f"{folder.name}: {count} damaged files: {dict(ends)}")
    return ends


@pytest.mark.parametrize("name", PLAIN)
def test_damaged_files(name, tmp_path):
    ends = fuzz(PLAIN[name], tmp_path, 150, seed=0)
    assert ends["refused"] > 20
    if name in ("npz", "store"):
        assert not ends["loaded, other values"]


@pytest.mark.parametrize("name", IN_HDF5)
def test_damaged_hdf5_files(name, tmp_path, shared_reader):
    assert fuzz(IN_HDF5[name], tmp_path, 60, seed=0)["refused"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_thousands_of_damaged_files(name, tmp_path):
    ends = fuzz(PLAIN[name], tmp_path, 3000, seed=1)
    assert ends["refused"] > 500
    if name in ("npz", "store"):
        assert not ends["loaded, other values"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_HDF5)
def test_a_thousand_damaged_hdf5_files(name, tmp_path, shared_reader):
    assert fuzz(IN_HDF5[name], tmp_path, 1000, seed=1)["refused"] > 100

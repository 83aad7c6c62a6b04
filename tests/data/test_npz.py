"""The project's own file: what it holds is what is loaded; what is wrong is refused in one line."""

import contextlib

import numpy as np
import pytest
import torch

from nmer_fast.data import load_npz, memory_limits
from nmer_fast.errors import UserError

N = 6


def arrays(**changes):
    rng = np.random.default_rng(0)
    base = {
        "speech": rng.normal(size=(N, 4, 3)).astype(np.float32),
        "speech_lengths": np.array([4, 0, 2, 1, 3, 4]),
        "words": rng.normal(size=(N, 5)),
        "label": np.array([0, 1, 2, 0, 1, 2]),
        "label_names": np.array(["x", "y", "z"]),
        "split": np.array(["train", "train", "val", "test", "train", "test"]),
        "id": np.array([f"utt{i}" for i in range(N)]),
        "group": np.array(["g", "g", "h", "h", "g", "h"]),
        "position": np.array([0, 1, 0, 1, 2, 2]),
    }
    merged = {**base, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "features.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_everything_is_loaded(tmp_path):
    data, source = load_npz(saved(tmp_path)), arrays()
    assert list(data.modalities) == ["speech", "words"]
    assert data.dims == {"speech": 3, "words": 5}
    assert data.class_names == ["x", "y", "z"]
    assert {split: rows.tolist() for split, rows in data.splits.items()} == {
        "train": [0, 1, 4],
        "val": [2],
        "test": [3, 5],
    }
    speech = data.modalities["speech"]
    assert speech.lengths.tolist() == [4, 0, 2, 1, 3, 4]
    for i, n in enumerate(source["speech_lengths"]):
        assert np.array_equal(speech.values[speech.offsets[i] : speech.offsets[i + 1]], source["speech"][i, :n])
    assert np.array_equal(data.modalities["words"].values, source["words"].astype(np.float32))
    assert data.modalities["words"].lengths.tolist() == [1] * N
    assert data.groups.tolist() == [0, 0, 1, 1, 0, 1]


def test_what_may_be_left_out(tmp_path):
    data = load_npz(saved(tmp_path, label_names=None, id=None, group=None, position=None, speech_lengths=None))
    assert data.class_names == ["0", "1", "2"]
    assert data.sample_names == list("012345")
    assert data.modalities["speech"].lengths.tolist() == [4] * N
    with pytest.raises(UserError, match="expected a group"):
        data.with_context(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "expected the key 'label'"),
        ({"split": None}, "expected the key 'split'"),
        ({"label": np.zeros(N)}, r"label: expected integers of shape \[6\], got float64 \[6\]"),
        (
            {"split": np.array(["train"] * 5 + ["dev"])},
            r"split: expected 6 strings out of train, val, test, got dev, train",
        ),
        (
            {"words": np.zeros((5, 5))},
            r"words: expected numbers of shape \[6, D\] or \[6, T, D\], got float64 \[5, 5\]",
        ),
        ({"words": np.array(["a"] * N)}, r"words: expected numbers"),
        ({"words": np.array([None] * N)}, r"expected an \.npz of plain arrays \(no objects\)"),
        ({"speech_lengths": np.array([4, 0, 2, 1, 3, 5])}, r"speech_lengths: expected 0 to 4, got 0 to 5"),
        ({"speech_lengths": np.array([4.0] * N)}, r"speech_lengths: expected integers"),
        (
            {"Words_lengths": np.ones(N, int)},
            r"Words_lengths: expected the lengths of a modality 'Words', found no such",
        ),
        (
            {"label": np.array(3)},
            r"label: expected an array with an entry for each sample or class, got a single int64",
        ),
        ({"group": np.zeros((N, 2))}, r"group: expected 6 entries, one for each label, got shape \[6, 2\]"),
        ({"group": np.zeros(N)}, r"group: expected strings or integers of shape \[6\], got float64"),
        ({"id": np.array(["a"] * N)}, r"id: expected 6 different names, got 1"),
        ({"label": np.array([0, 1, 2, 3, 0, 1])}, r"label: expected 0 to 2"),
        ({"speech": None, "speech_lengths": None, "words": None}, r"expected at least one modality"),
    ],
)
def test_refusals_are_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load_npz(saved(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_no_group_is_no_group(tmp_path):
    groups = load_npz(saved(tmp_path, group=np.array(["g", "", "g", "h", "", "h"]))).groups
    assert (groups == -1).tolist() == [False, True, False, False, True, False]
    assert groups[0] == groups[2] != groups[3]
    groups = load_npz(saved(tmp_path, group=np.array([3, -1, 3, 0, 0, -7]))).groups
    assert (groups == -1).tolist() == [False, True, False, False, False, True]


def test_every_flipped_byte_is_loaded_or_refused(tmp_path):
    """Compressed and plain: 300 damaged files end in a FeatureSet or in one line."""
    rng, path = np.random.default_rng(0), tmp_path / "flipped.npz"
    for write in (np.savez, np.savez_compressed):
        write(path, **arrays())
        content = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with contextlib.suppress(UserError):
                load_npz(path)


def test_folds(tmp_path):
    """A column of split for each fold; the first by default."""
    folds = np.array(
        [
            ["train", "test"],
            ["train", "train"],
            ["val", "train"],
            ["test", "train"],
            ["train", "val"],
            ["test", "train"],
        ]
    )
    path = saved(tmp_path, split=folds)
    first, again, second = (load_npz(path, fold) for fold in (None, 1, 2))
    assert {name: rows.tolist() for name, rows in first.splits.items()} == {
        "train": [0, 1, 4],
        "val": [2],
        "test": [3, 5],
    }
    assert all(torch.equal(first.splits[name], again.splits[name]) for name in first.splits)
    assert {name: rows.tolist() for name, rows in second.splits.items()} == {
        "train": [1, 2, 3, 5],
        "val": [4],
        "test": [0],
    }
    for fold in (0, 3):
        with pytest.raises(UserError, match=rf"fold: expected 1 to 2, got {fold}"):
            load_npz(path, fold)
    with pytest.raises(UserError, match=r"fold: expected none, split holds one fold, got 1"):
        load_npz(saved(tmp_path), 1)
    with pytest.raises(UserError, match=r"split: expected 6 strings"):
        load_npz(saved(tmp_path, split=folds[:, :, None]))


def test_a_file_that_cannot_fit_is_refused(tmp_path, monkeypatch):
    """By the sizes that it says its arrays have, before any of them is read."""
    path = tmp_path / "large.npz"
    np.savez_compressed(path, **arrays(words=np.zeros((N, 1_000_000), dtype=np.float32)))
    monkeypatch.setattr(memory_limits, "free_memory", lambda: 71_000_000)
    with pytest.raises(UserError, match=r"^memory: .*large.npz: its arrays would take about 0.1 GiB; 0.1 GiB are free"):
        load_npz(path)


def test_an_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"x\.npy: expected an \.npz of plain arrays"):
        load_npz(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz: expected an \.npz of plain arrays"):
        load_npz(path)
    with pytest.raises(UserError, match=r"expected a feature-set file \(\.npz\), found no such file"):
        load_npz(tmp_path / "nowhere.npz")


def test_real_features(cmu_mosi):
    data = load_npz(cmu_mosi).with_context(4)
    assert data.dims == {"a": 73, "v": 100, "l": 100}
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 1447, "test": 752}
    assert torch.bincount(data.modalities["a"].lengths).tolist() == [0, 93, 93, 93, 93, 1827]
    raw = np.load(cmu_mosi)
    last = data.modalities["l"].values[data.modalities["l"].offsets[1:] - 1]
    assert np.array_equal(last, raw["l"])

"""What a data set's own scripts write is loaded to the value, from every format."""

import h5py
import numpy as np
import pytest
import torch

from nmer_fast.data import Format, load, load_folds, published_sizes, read_store, write_store
from nmer_fast.data.published_sizes import Published
from nmer_fast.errors import UserError
from nmer_fast.registry import FORMATS

from . import writers
from .test_npz import saved
from .writers import utterances


def features_of(data, name):
    i = data.sample_names.index(name)
    return {m: r.values[r.offsets[i] : r.offsets[i + 1]].numpy() for m, r in data.modalities.items()}


def check(data, content, name_of=lambda u: u.name):
    """All utterances of the content, with their split, class and features."""
    assert len(data) == len(content)
    for u in content:
        i = data.sample_names.index(name_of(u))
        assert i in data.splits[u.split].tolist()
        assert data.class_names[data.labels[i]] == ("positive" if u.score >= 0 else "negative")
        for m, values in features_of(data, name_of(u)).items():
            assert np.array_equal(values, u.features[m]), (u.name, m)


def with_videos(data, video="train-video0"):
    """The rows of a video, in their order."""
    rows = [i for i, name in enumerate(data.sample_names) if name.startswith(video)]
    assert len({int(data.groups[i]) for i in rows}) == 1
    return sorted(rows, key=lambda i: int(data.positions[i]))


def test_every_registered_format_is_one():
    assert list(FORMATS.own) == ["iemocap-h5", "msp-h5", "multibench-pkl", "mult-pkl", "mmsa-pkl", "csd", "npz"]
    assert all(isinstance(FORMATS.load(name), Format) for name in FORMATS.own)


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", [0, 2, 4, 5, "Python 2"])
def test_multibench(protocol, tmp_path):
    content = utterances()
    write = writers.write_python2_pickle if protocol == "Python 2" else writers.write_pickle
    path = write(tmp_path / "x.pkl", writers.multibench(content), *([] if protocol == "Python 2" else [protocol]))
    data, findings = load(path)
    check(data, content)
    assert [data.sample_names[i] for i in with_videos(data)] == [f"train-video0[{i}]" for i in range(3)]
    assert findings.lines[0].startswith("x.pkl: read as multibench-pkl, which MulT's look like")
    assert "splits: train 8, val 4, test 5" in findings.lines
    assert not findings.warnings


def test_multibench_drops_and_repairs_as_its_loader_does(tmp_path):
    content = utterances()
    content[1].features["a"][0, :2] = -np.inf, np.nan
    content[2].features["v"][0, 0] = np.nan
    raw = writers.multibench(content)
    raw["train"]["text"][5] = 0  # no text
    raw["test"]["text"][0, :-1] = 0  # one word: everything begins there
    data, findings = load(writers.write_pickle(tmp_path / "x.pkl", raw))
    assert "1 utterances without text are dropped, as MultiBench does" in findings.lines
    for what, m in (("-inf", "a"), ("NaN", "a"), ("NaN", "v")):
        assert f"1 values of {what} in {m} are made 0, as MultiBench does" in findings.lines
    assert content[5].name not in data.sample_names
    assert (features_of(data, content[1].name)["a"][0, :2] == 0).all()
    first = next(u for u in content if u.split == "test")
    for m, values in features_of(data, first.name).items():
        assert np.array_equal(values, first.features[m][-1:])


def test_multibench_unaligned_begins_at_each_ones_first_step(tmp_path):
    content = utterances(aligned=False)
    path = writers.write_pickle(tmp_path / "x.pkl", writers.multibench(content, steps={"a": 9, "v": 8, "l": 6}))
    check(load(path, format="multibench-pkl")[0], content)
    assert load(path)[1].lines[0] == "x.pkl: read as mult-pkl"  # MulT's alone come unaligned


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ids", [False, True])
def test_mult(side, ids, tmp_path):
    content = utterances(aligned=False)
    raw = writers.mult(content, {"a": 9, "v": 8, "l": 6}, ids, side)
    data, findings = load(writers.write_pickle(tmp_path / "x_noalign.pkl", raw))
    rows = {split: [u for u in content if u.split == split] for split in writers.SPLITS}
    names = {
        u.name: f"{u.name.partition('[')[0]}_{i}.00_9.50" if ids else f"{split} {i}"
        for split, us in rows.items()
        for i, u in enumerate(us)
    }
    check(data, content, lambda u: names[u.name])
    assert any(f"padding on the {side} is cut" in line for line in findings.lines)
    if ids:
        assert [data.sample_names[i][-9:] for i in with_videos(data)] == ["0.00_9.50", "1.00_9.50", "2.00_9.50"]


def test_mults_nan_is_refused_and_its_minus_infinity_counted(tmp_path):
    content = utterances()
    content[1].features["a"][0, 0] = -np.inf
    path = writers.write_pickle(tmp_path / "x.pkl", writers.mult(content))
    assert "1 values of -inf in a are made 0, as MulT does" in load(path, format="mult-pkl")[1].lines
    content[1].features["v"][0, 0] = np.nan
    writers.write_pickle(path, writers.mult(content))
    with pytest.raises(UserError, match=r"x: modality v: sample train 1 holds nan; expected finite numbers"):
        load(path, format="mult-pkl")


@pytest.mark.parametrize("aligned", [True, False])
def test_mmsa(aligned, tmp_path):
    content = utterances(aligned=aligned)
    path = writers.write_pickle(tmp_path / "x.pkl", writers.mmsa(content, aligned=aligned))
    data, findings = load(path)
    assert findings.lines[0] == "x.pkl: read as mmsa-pkl"
    check(data, content, lambda u: u.name.replace("[", "$_$").rstrip("]"))
    assert [data.sample_names[i][-1] for i in with_videos(data)] == ["0", "1", "2"]
    assert not findings.warnings


def test_mmsas_lengths_are_checked_against_its_values(tmp_path):
    content = utterances(aligned=False)
    content[2].features["a"] = content[2].features["a"].repeat(2, axis=0)[:6]
    raw = writers.mmsa(content, aligned=False)
    raw["train"]["audio_lengths"][2] -= 1
    raw["train"]["audio"][0, 0, 0] = -np.inf
    _, findings = load(writers.write_pickle(tmp_path / "x.pkl", raw))
    assert findings.warnings == ["train: a: 1 utterances hold values behind their length, which are cut"]
    assert "1 values of -inf in a are made 0, as MMSA does" in findings.lines


def change(key, value, split="train"):
    def apply(raw):
        raw[split][key] = value(raw[split][key]) if callable(value) else value

    return apply


@pytest.mark.parametrize(
    ("build", "apply", "message"),
    [
        (writers.multibench, lambda raw: raw.pop("test"), "expected a dict of 'train', 'valid' and 'test', got train, valid"),
        (writers.multibench, lambda raw: raw.update(train=[1]), "each of them a dict of arrays, got another"),
        (writers.multibench, change("audio", 3), "train: audio: expected floats [N, T, D], got int"),
        (writers.multibench, change("audio", lambda x: x[0]), "train: audio: expected floats [N, T, D], got float32 [6, 5]"),
        (writers.multibench, change("audio", lambda x: x.astype(int)), "train: audio: expected floats [N, T, D], got int64"),
        (writers.multibench, change("audio", lambda x: x[:3]), "expected as many utterances in all modalities, got [3, 8, 8]"),
        (writers.multibench, change("vision", lambda x: x[:, :, :3], "valid"), "v: expected 4 dimensions everywhere, got 4 and 3"),
        (writers.multibench, lambda raw: raw["train"].pop("text"), "train: text: expected floats [N, T, D], got only"),
        (writers.multibench, change("labels", lambda x: x[:3]), "train: labels: expected scores [8, 1, 1], got float32 [3, 1, 1]"),
        (writers.multibench, change("labels", lambda x: x * 9), "train: expected scores from -3 to 3, got 27.0"),
        (writers.multibench, change("labels", lambda x: x * np.nan), "train: expected scores from -3 to 3, got nan"),
        (writers.multibench, change("id", np.array([["a"]])), "train: id: expected 8 names, got <U1 [1, 1]"),
        (writers.multibench, change("id", np.full((8, 1), b"\xff")), "train: id: expected names in UTF-8"),
        (writers.multibench, change("audio", lambda x: np.full_like(x, np.inf)), "x: modality a: sample train-video0[0] holds"),
        (writers.mmsa, change("text_bert", lambda x: x[:, :2]), "train: text_bert: expected numbers [8, 3, 6], got float32 [8, 2, 6]"),
        (writers.mmsa, change("text_bert", lambda x: x[:, :, ::-1]), "text_bert: expected a mask of ones, then zeros"),
        (writers.mmsa, change("audio_lengths", [7] * 8), "train: audio_lengths: expected 0 to 6, got 7 to 7"),
        (writers.mmsa, change("audio_lengths", [-1] * 8), "train: audio_lengths: expected 0 to 6, got -1 to -1"),
        (writers.mmsa, change("audio_lengths", [1.0] * 8), "train: audio_lengths: expected integers [8], got float64"),
        (writers.mmsa, change("audio", lambda x: x[:, :4]), "train: expected the key 'audio_lengths', since audio is not aligned"),
    ],
)  # fmt: skip
def test_pickles_of_other_content(build, apply, message, tmp_path):
    raw = build(utterances())
    apply(raw)
    with pytest.raises(UserError) as caught, np.errstate(invalid="ignore"):
        load(writers.write_pickle(tmp_path / "x.pkl", raw))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_are_there_twice_are_numbered(tmp_path):
    raw = writers.multibench(utterances())
    raw["train"]["id"][:3] = "same\n\x1b[2J"
    data, findings = load(writers.write_pickle(tmp_path / "x.pkl", raw))
    assert data.sample_names[:3] == ["same\n\x1b[2J", "same\n\x1b[2J#2", "same\n\x1b[2J#3"]
    assert findings.warnings[0].startswith("2 names are there more than once: numbered")
    raw["train"]["audio"][1, -1, 0] = np.inf
    with pytest.raises(
        UserError, match=r"sample same\?\?\[2J#2 holds inf"
    ):  # what a file calls itself stays on its line
        load(writers.write_pickle(tmp_path / "x.pkl", raw))


# ---------------------------------------------------------------- which scores are positive, and the published sizes


def test_the_three_rules(tmp_path):
    content = utterances()  # of scores -3 to 3
    path = writers.write_pickle(tmp_path / "x.pkl", writers.multibench(content))
    of = {rule: load(path, binarise=rule)[0] for rule in ("ge0", "gt0", "nonzero")}
    scores = torch.tensor([u.score for u in content])
    assert of["ge0"].labels.tolist() == (scores >= 0).long().tolist()
    assert of["gt0"].labels.tolist() == (scores > 0).long().tolist()
    assert of["nonzero"].labels.tolist() == (scores[scores != 0] > 0).long().tolist()
    check(of["nonzero"], [u for u in content if u.score])


def test_sizes_are_compared_with_table_1(tmp_path, monkeypatch):
    content = utterances()
    path = writers.write_pickle(tmp_path / "mosei_senti_data.pkl", writers.multibench(content))
    warnings = load(path)[1].warnings
    assert (
        "splits: the paper's Table 1 has train 16265, test 4643 for CMU-MOSEI, this source train 8, test 5" in warnings
    )
    assert (
        "classes: the paper's Table 1 has negative 6066, positive 14842 for CMU-MOSEI, this source negative 7, positive 6"
        in warnings
    )
    counted = [u.score >= 0 for u in content if u.split != "val"]
    sizes = Published(
        {"negative": counted.count(False), "positive": counted.count(True)}, {"train": 8, "test": 5}, ("train", "test")
    )
    monkeypatch.setitem(published_sizes.TABLE_1, "CMU-MOSEI", sizes)
    _, findings = load(path)
    assert not findings.warnings
    assert "splits as in the paper's Table 1, CMU-MOSEI" in findings.lines
    assert not load(path, binarise="gt0")[1].warnings  # which it does not count
    other = writers.write_pickle(tmp_path / "mosi_data.pkl", writers.multibench(content))
    assert not any("Table 1" in line for line in load(other)[1].told())


# ---------------------------------------------------------------- CMU SDK


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_csd(aligned, compression, tmp_path):
    """Utterances of 10 s with a second between them, whose step belongs to none."""
    content = utterances(aligned=False)
    data, findings = load(writers.write_csd(tmp_path / "mosei", content, aligned, compression))
    check(data, content)
    assert [data.sample_names[i] for i in with_videos(data)] == [f"train-video0[{i}]" for i in range(3)]
    assert "l: CMU_MOSEI_TimestampedWordVectors.csd, glove_vectors" in findings.lines


def test_csd_takes_the_steps_that_overlap(tmp_path):
    """A step that reaches over the end belongs to both utterances; one that only touches, to neither more."""
    folder = writers.write_csd(tmp_path / "mosi", utterances())
    label = np.array([[1.0], [-1.0], [2.0]])
    writers.write_csd_file(
        folder / "CMU_MOSEI_Labels.csd", "Opinion Segment Labels",
        {"train-video0": (label, np.array([[0, 2], [2, 4], [4, 4]])), "test-video0": (label[:1], np.array([[0, 9]])),
         "train-video1": (label[:1], np.array([[0, 1]])), "elsewhere": (label[:1], np.array([[0, 1]]))},
    )  # fmt: skip
    steps = np.arange(1, 5, dtype=np.float64)[:, None] * np.ones((1, 5))
    at = np.array([[0, 1], [1, 2], [1.5, 2.5], [3, 3.5]])
    at_least = np.array([[0, 9.0]])
    audio = {"train-video0": (steps, at), "test-video0": (steps[:1] * np.nan, at_least)}
    writers.write_csd_file(folder / "CMU_MOSEI_COVAREP.csd", "COVAREP", audio)
    for name, root, dim in (
        ("CMU_MOSEI_VisualFacet42", "FACET 4.2", 4),
        ("CMU_MOSEI_TimestampedWordVectors", "glove_vectors", 6),
    ):
        entries = {v: (np.ones((1, dim)), at_least) for v in ("train-video0", "train-video1", "test-video0")}
        writers.write_csd_file(folder / f"{name}.csd", root, entries)
    writers.write_csd_file(
        folder / "CMU_MOSEI_TimestampedWords.csd", "words", {"train-video0": (np.array([[b"hi"]]), at[:1])}
    )
    data, findings = load(folder)
    assert data.sample_names == ["train-video0[0]", "train-video0[1]", "test-video0[0]"]
    assert features_of(data, "train-video0[0]")["a"][:, 0].tolist() == [1, 2, 3]
    assert features_of(data, "train-video0[1]")["a"][:, 0].tolist() == [3, 4]
    assert features_of(data, "test-video0[0]")["a"].tolist() == [[0] * 5]
    for line in (
        "CMU_MOSEI_TimestampedWords.csd holds strings and is not read",
        "1 videos of the labels are in no split and not read",
        "1 utterances of no duration are dropped, as the SDK does",
        "1 utterances without a step are dropped, as the SDK does: 1 in a",
        "5 values of NaN in a are made 0, as the SDK's users does",
    ):
        assert line in findings.lines


def test_what_a_csd_folder_must_hold(tmp_path):
    folder = writers.write_csd(tmp_path / "mosei", utterances())
    folds = folder / "cmu_mosei_std_folds.py"
    text = folds.read_text()
    for content, message in (
        (f"import os\nos.system('touch {tmp_path}/made')\nstandard_train_fold = 3", "expected standard_train_fold, a list of videos, got none"),
        ("standard_train_fold = [", "expected lists of videos in Python, got: '[' was never closed"),
        (text.replace("standard_valid_fold = [", "standard_valid_fold = ['test-video0', "), "expected each video in one split, got test-video0 in val and test"),
        ("(" * 10_000, "expected lists of videos in Python, got:"),
    ):  # fmt: skip
        folds.write_text(content)
        with pytest.raises(UserError) as caught:
            load(folder)
        assert message in str(caught.value)
    assert not (tmp_path / "made").exists()
    folds.unlink()
    with pytest.raises(UserError, match=r"expected the SDK's list of splits, such as cmu_mosei_std_folds.py, got none"):
        load(folder)
    folds.write_text(text)
    writers.write_csd_file(folder / "more.csd", "OpenFace_2", {})
    with pytest.raises(UserError, match=r"more.csd: expected one file of v, got CMU_MOSEI_VisualFacet42.csd too"):
        load(folder)
    (folder / "more.csd").unlink()
    (folder / "CMU_MOSEI_Labels.csd").unlink()
    with pytest.raises(UserError, match=r"expected .csd files of labels and of features, got a, l, v"):
        load(folder)


# ---------------------------------------------------------------- MMIN's layout


@pytest.mark.parametrize(("corpus", "folds"), [("iemocap", 10), ("msp", 12)])
def test_mmin(corpus, folds, tmp_path):
    names, labels, features, divisions = writers.write_mmin(tmp_path / "x", corpus, folds=folds)
    sets, findings = load_folds(tmp_path / "x")
    assert findings.lines[0] == f"x: read as {corpus}-h5"
    assert len(sets) == folds
    for data, rows in zip(sets, divisions, strict=True):
        for split, chosen in rows.items():
            assert [data.sample_names[i] for i in data.splits[split]] == [names[i] for i in chosen]
    for i, name in enumerate(names):
        assert sets[0].labels[sets[0].sample_names.index(name)] == labels[i]
        for m, values in features_of(sets[0], name).items():
            assert np.array_equal(values, features[m][i])
    assert torch.equal(load(tmp_path / "x", 3)[0].splits["test"], sets[2].splits["test"])
    with pytest.raises(UserError, match=rf"x: fold: expected 1 to {folds}, got 13"):
        load(tmp_path / "x", 13)
    assert "v of denseface.h5: 4-d, 7 steps each" in findings.lines


def test_iemocaps_classes_are_named_by_their_counts(tmp_path, monkeypatch):
    """Table 1's counts, in whatever order; where the counts are others, the order is said to be unproven."""
    _, labels, _, _ = writers.write_mmin(tmp_path / "x", n=22)  # 6, 6, 5, 5 are no names: made four different counts
    sizes = Published({"happy": 5, "angry": 6, "sad": 4, "neutral": 7}, {"train": 11, "test": 6})
    monkeypatch.setitem(published_sizes.TABLE_1, "IEMOCAP", sizes)
    data, findings = load(tmp_path / "x")
    assert data.class_names == ["happy", "angry", "sad", "neutral"]
    assert any("in this order, which their counts do not confirm" in line for line in findings.warnings)
    counts = [7, 6, 5, 4]
    new = np.repeat(np.arange(4), counts)
    for path in (tmp_path / "x" / "target").rglob("*_label.npy"):
        names = [n[0].decode() for n in np.load(path.with_name(path.name.replace("label", "int2name")))]
        rows = [data.sample_names.index(name) for name in names]
        np.save(path, np.eye(4)[new[rows]])
    data, findings = load(tmp_path / "x")
    assert data.class_names == ["neutral", "angry", "happy", "sad"]
    assert "splits as in the paper's Table 1, IEMOCAP (fold 1)" in findings.lines
    assert not findings.warnings


def test_mean_and_std_of_the_file_are_compared(tmp_path):
    writers.write_mmin(tmp_path / "x")
    line = next(line for line in load(tmp_path / "x")[1].lines if line.startswith("comparE_mean_std.h5"))
    assert float(line.split(" at most ")[1].split()[0]) < 1e-5
    with h5py.File(tmp_path / "x/A/comparE_mean_std.h5", "r+") as file:
        file["7/mean"][2] += 0.5
    (warning,) = (w for w in load(tmp_path / "x")[1].warnings if w.startswith("comparE_mean_std.h5"))
    assert 0.5 < float(warning.split(" at most ")[1].split()[0]) < 5  # in units of std, 0.29 of a uniform number
    assert warning.endswith("the measured ones are used")


def rewrite(path, value):
    def apply(folder):
        np.save(folder / path, value)

    return apply


def in_h5(path, change):
    def apply(folder):
        with h5py.File(folder / path, "r+") as file:
            change(file)

    return apply


def first_name(file):
    return next(iter(file))


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (rewrite("target/2/trn_label.npy", np.ones((12, 4))), "2/trn_label.npy: expected one-hot labels, got rows of other values"),
        (rewrite("target/2/trn_label.npy", np.eye(4)), "expected one-hot labels [12, classes], one for each name, got float64 [4, 4]"),
        (rewrite("target/2/trn_label.npy", np.eye(12)[:, :4]), "expected one-hot labels, got rows of other values"),
        (rewrite("target/2/trn_label.npy", np.eye(12)), "expected the label that other folds give Ses0"),
        (rewrite("target/1/val_int2name.npy", np.array([[b"x"]] * 6)), "expected every utterance in one split, got x in two or twice"),
        (rewrite("target/1/val_int2name.npy", np.array([[b"\xff"]] * 6)), "val_int2name.npy: expected names in UTF-8"),
        (rewrite("target/1/val_int2name.npy", np.arange(6)), "expected names [N] or [N, 1], got int64 [6]"),
        (rewrite("target/1/val_int2name.npy", np.array([[f"none{i}".encode()] for i in range(6)])), "comparE.h5: none0: found no such name"),
        (lambda folder: (folder / "target/3").rename(folder / "target/30"), "expected target/1, target/2, ... one for each fold, got [1, 2, 4"),
        (lambda folder: (folder / "V/denseface.h5").unlink(), "denseface.h5: expected an HDF5 file, got: No such file"),
        (in_h5("A/comparE_mean_std.h5", lambda f: f.pop("4")), "comparE_mean_std.h5: 4/mean: found no such name"),
        (in_h5("A/comparE_mean_std.h5", lambda f: (f["4"].pop("std"), f["4"].create_dataset("std", data=[1.0]))), "4: expected mean and std [5], got [5] and [1]"),
    ],
)  # fmt: skip
def test_folders_of_other_content(apply, message, tmp_path):
    writers.write_mmin(tmp_path / "x")
    apply(tmp_path / "x")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "x")
    assert message in str(caught.value)


# ---------------------------------------------------------------- any source


def test_every_source_becomes_a_store_of_the_same_bits(tmp_path):
    """Folds, too; and the fingerprint says so."""
    content = utterances()
    writers.write_mmin(tmp_path / "mmin", folds=3)
    paths = [
        writers.write_pickle(tmp_path / "x.pkl", writers.mmsa(content)),
        writers.write_csd(tmp_path / "mosei", content),
        tmp_path / "mmin",
        saved(tmp_path),
    ]
    for path in paths:
        sets, _ = load_folds(path)
        write_store(sets, tmp_path / "x.safetensors")
        for number, data in enumerate(sets, start=1):
            assert read_store(tmp_path / "x.safetensors", number).fingerprint() == data.fingerprint()
        again, _ = load_folds(tmp_path / "x.safetensors")
        assert [data.fingerprint() for data in again] == [data.fingerprint() for data in sets]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: p.mkdir(), {}, "expected a folder with A/, V/, L/ and target/, or one of .csd files, got neither"),
        (lambda p: p.mkdir(), {"format": "npz"}, "expected a file for the format npz, got a folder"),
        (lambda p: p.touch(), {"format": "csd"}, "expected a folder for the format csd, got none"),
        (lambda p: p.touch(), {"format": "xml"}, "format: expected one of auto, iemocap-h5, msp-h5, multibench-pkl, mult-pkl, mmsa-pkl, csd, npz, or package.module:attribute, got 'xml'"),
        (lambda p: p.touch(), {"format": "no_such_package:X"}, "format: expected no_such_package:X to be importable, got: No module named 'no_such_package'"),
        (lambda p: p.touch(), {"format": "json:loads"}, "format: expected json:loads to be an nmer_fast.data.Format, got a function"),
        (lambda p: p.touch(), {"binarise": "gt0"}, "binarise: expected with a source of scores alone, got gt0 beside"),
    ],
)  # fmt: skip
def test_what_is_no_source(make, options, message, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "x", **options)
    assert message in str(caught.value)


def test_options_that_do_not_fit_the_source(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(UserError, match=r"binarise: expected with a source of scores alone, got gt0 beside"):
        load(path, binarise="gt0")
    pickled = writers.write_pickle(tmp_path / "x.pkl", writers.mmsa(utterances()))
    with pytest.raises(UserError, match=r"x: fold: expected none, the source has no folds, got 1"):
        load(pickled, 1)
    (tmp_path / "x.csd").touch()
    with pytest.raises(UserError, match=r"x.csd: expected the folder that holds it, got the one file"):
        load(tmp_path / "x.csd")

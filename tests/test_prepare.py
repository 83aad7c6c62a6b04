"""The prepare command as a user runs it, and the other commands on its output."""

import numpy as np
import pytest

from nmer_fast import evaluate, prepare, sweep, train
from nmer_fast.data import load_folds, read_store, verify_store
from nmer_fast.errors import UserError

from .data import writers

SETTINGS = ("training.teacher_epochs=1", "model.layers=1")


@pytest.fixture
def mosei(tmp_path):
    content = writers.utterances((12, 6, 6))
    content[2].features["a"][0, 0] = -float("inf")
    return writers.write_pickle(tmp_path / "mosei.pkl", writers.multibench(content))


def test_a_source_becomes_a_store_and_what_was_found_is_said(mosei, tmp_path, capsys):
    out = tmp_path / "mosei.safetensors"
    prepare.run(prepare.Options((mosei, out)))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mosei.pkl: read as multibench-pkl")
    assert "1 values of -inf in a are made 0, as MultiBench does" in said
    assert "splits: train 12, val 6, test 6" in said
    assert any(line.startswith("warning: splits: the paper's Table 1 has train 16265, test 4643") for line in said)
    assert said[-1].startswith(f"written: {out}: 24 samples, ")
    (data,), _ = load_folds(mosei)
    assert read_store(out).fingerprint() == data.fingerprint()
    assert verify_store(out)["provenance"]["source"] == "mosei.pkl"


def test_all_folds_of_a_folder(tmp_path, capsys):
    writers.write_mmin(tmp_path / "IEMOCAP", folds=10)
    out = tmp_path / "x.safetensors"
    prepare.run(prepare.Options((tmp_path / "IEMOCAP", out)))
    assert ": 24 samples, 10 folds, " in capsys.readouterr().out.splitlines()[-1]
    sets, _ = load_folds(tmp_path / "IEMOCAP")
    assert [read_store(out, k).fingerprint() for k in range(1, 11)] == [data.fingerprint() for data in sets]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.pkl x.safetensors", "nowhere.pkl: expected a pickle, got: No such file"),
        ("nowhere x.safetensors", "nowhere: expected a feature-set file (.npz), found no such file"),
        ("mosei.pkl x.npz", "out: expected a name that ends in .safetensors, got x.npz"),
        ("mosei.pkl none/x.safetensors", "out: expected a name in a folder that exists, got none/x.safetensors"),
        ("mosei.pkl x.safetensors --format csd", "mosei.pkl: expected a folder for the format csd"),
        ("mosei.pkl x.safetensors --format mmsa-pkl", "mosei.pkl: train: regression_labels: expected scores"),
        ("mosei.pkl x.safetensors --format xml", "format: expected one of auto, iemocap-h5, "),
        ("mosei.pkl x.safetensors --binarise ge1", "invalid choice 'ge1' for argument '--binarise'"),
        ("mosei.pkl", "paths: expected SOURCE OUT, got mosei.pkl"),
        ("mosei.pkl --inspect mosei.pkl", "paths: expected no more than --inspect FILE, got mosei.pkl"),
        ("--audio-dir wavs", "paths: expected --audio-dir WAVS OUT, got none"),
        ("mosei.pkl x.safetensors --plot x.png", "plot: expected with --inspect alone, got x.png"),
        ("mosei.pkl x.safetensors --workers 2", "workers: expected with --audio-dir alone, got 2"),
        ("--inspect mosei.pkl --audio-dir wavs", "inspect, audio-dir: expected one of the two, got both"),
        ("--inspect nowhere.npz", "nowhere.npz: expected a feature-set file (.npz), found no such file"),
        ("--audio-dir wavs x.npz", "out: expected a file's name that ends in .h5, got x.npz"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, message, mosei, monkeypatch, refused):
    monkeypatch.chdir(mosei.parent)
    before = set(mosei.parent.iterdir())
    assert message in refused(prepare.main, *arguments.split())
    assert set(mosei.parent.iterdir()) == before  # no partially written file is left


def test_the_commands_take_a_source_as_it_is(mosei, tmp_path, capsys):
    """Remarks on the source are printed, a store gives the same bits, and the config has the rule of the classes."""
    settings = (*SETTINGS, "data.binarise=gt0")
    one = train.run(train.Options(data=str(mosei), epochs=1, settings=settings, out=tmp_path / "one"))
    assert "positive: score > 0" in capsys.readouterr().out
    assert one["config"]["data"]["binarise"] == "gt0"
    prepare.run(prepare.Options((mosei, tmp_path / "mosei.safetensors"), binarise="gt0"), quiet=True)
    data = str(tmp_path / "mosei.safetensors")
    other = train.run(train.Options(data=data, epochs=1, settings=SETTINGS, out=tmp_path / "other"), quiet=True)
    assert one["losses"] == other["losses"]
    assert one["conditions"] == other["conditions"]
    (point,) = evaluate.run(evaluate.Options(tmp_path / "one")).points
    assert point.evaluation.as_dict()["conditions"] == one["conditions"]
    assert "mosei.pkl: read as multibench-pkl" in capsys.readouterr().out
    done = sweep.run(
        sweep.Options(tmp_path / "grid", data=str(mosei), epochs=1, settings=settings, systems=("men",), seeds=(0,))
    )
    assert len(done.finished) == 1
    assert "1 values of -inf in a are made 0" in capsys.readouterr().out


def test_synthetic_data_has_no_format(tmp_path):
    for setting in ("data.format=csd", "data.binarise=gt0"):
        with pytest.raises(UserError, match=r"^format, binarise: expected with files alone, got them beside the synth"):
            train.run(train.Options(settings=(setting,), out=tmp_path / "x"), quiet=True)


def test_inspection_says_what_training_would_refuse_and_writes_its_picture(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[4, 1] = np.nan
    split = np.array(["train"] * 12 + ["test"] * 8)
    np.savez(tmp_path / "mine.npz", a=x, label=np.arange(20) % 2, split=split)
    prepare.run(prepare.Options(inspect=tmp_path / "mine.npz", plot=tmp_path / "mine.png"))
    said = capsys.readouterr().out
    assert "mine: 20 samples, 2 classes" in said
    assert any(line.startswith("a: ") and "NaN" in line for line in said.splitlines())
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="expected finite numbers"):
        load_folds(tmp_path / "mine.npz")


def test_inspection_of_another_format_tells_its_repairs(mosei, capsys):
    prepare.run(prepare.Options(inspect=mosei))
    said = capsys.readouterr().out
    assert "1 values of -inf in a are made 0, as MultiBench does" in said
    assert "mosei: 24 samples" in said


def test_wavs_become_descriptors(tmp_path):
    pytest.importorskip("opensmile", reason="openSMILE is not installed (pip install 'nmer_fast[audio]')")
    soundfile, h5py = (pytest.importorskip(name) for name in ("soundfile", "h5py"))
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "one.wav", np.sin(np.arange(16000) / 10) / 2, 16000)
    prepare.run(prepare.Options((tmp_path / "a.h5",), audio_dir=tmp_path / "wavs", workers=1), quiet=True)
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["one"]
        assert file["one"].shape == (10, 130)

"""The commands as a user runs them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nmer_fast import evaluate, train
from nmer_fast.engine import run as engine
from nmer_fast.engine.checkpoint import load_checkpoint, save_checkpoint
from nmer_fast.errors import UserError

CONDITIONS = ["a", "v", "l", "av", "al", "vl", "none", "all"]


def command(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"nmer_fast.{name}", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of a run of one epoch on the synthetic data."""
    folder = tmp_path_factory.mktemp("checkpoint")
    train.run(train.Options(size=40, epochs=1, settings=("training.teacher_epochs=1",), out=folder), quiet=True)
    return folder


def test_train_then_evaluate(tmp_path):
    done = command(
        "train", "--size", 60, "--epochs", 2, "--out", tmp_path, "--snr", -20, "--compile", "--set", "model.layers=1"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "compiled the step as one graph in" in done.stdout
    assert "average of 6" in done.stdout
    assert "realised SNR, dB: a -" in done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["conditions"]) == CONDITIONS
    assert {"wa", "ua", "f1", "n"} <= set(results["conditions"]["av"])
    assert results["conditions"]["av"]["n"] == 24
    assert set(results["average6"]) == {"wa", "ua", "f1"}
    assert all(abs(snr + 20) < 1 for snr in results["snr_db"].values())
    assert results["config"]["model"]["lambda_inv"] == 10
    assert results["versions"]["torch"]
    assert {"teacher", "compile", "train", "evaluate"} <= set(results["times"])

    again = command("evaluate", tmp_path, "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    entry = json.loads((tmp_path / "again.json").read_text())["results"][0]
    assert entry["conditions"] == results["conditions"]  # the checkpoint holds the evaluated model
    refused = command("evaluate", tmp_path / "nowhere")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


def test_evaluate_sweeps_in_one_table(tmp_path, capsys):
    train.run(train.Options(size=60, epochs=1, out=tmp_path), quiet=True)
    capsys.readouterr()
    result = evaluate.run(
        evaluate.Options(
            tmp_path, noise=("gaussian", "impulse", "missing"), snr=(0.0, -40.0), p=0.2,
            conditions=("a", "vl", "none"), out=tmp_path / "sweep",
        )
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("each cell: WA % over UA %") == 1
    assert [(p.noise.kind, p.noise.snr_db) for p in result.points] == [
        ("gaussian", 0), ("gaussian", -40), ("impulse", 0), ("impulse", -40), ("missing", None),
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [(row["noise"], row["clean"]) for row in rows[:4]] == [
        ("gaussian", "a"), ("gaussian", "vl"), ("gaussian", "none"), ("gaussian", "a"),
    ]  # fmt: skip
    assert [row["p"] for row in rows] == [""] * 6 + ["0.2"] * 6 + [""] * 3
    assert all(abs(float(row["realised_snr_db_l"]) + 40) < 1 for row in rows if row["snr_db"] == "-40.0")
    entry = json.loads((tmp_path / "sweep.json").read_text())["results"][1]
    assert entry["conditions"]["vl"]["wa"] == float(rows[4]["wa"])
    assert (entry["noise"]["kind"], entry["noise"]["snr_db"]) == ("gaussian", -40)
    alone = evaluate.run(evaluate.Options(tmp_path, noise=("impulse",), snr=(-40.0,), p=0.2), quiet=True).points[0]
    assert alone.evaluation.conditions["vl"] == result.points[3].evaluation.conditions["vl"]


def test_the_written_config_repeats_the_run(tmp_path):
    """Every section has a setting that is not the default; the repeated run has the same bits and the same config."""
    options = train.Options(
        preset="released", settings=("model.layers=1", "training.teacher_epochs=1"), size=60, epochs=2, seed=3,
        allow_leak=True, noise="impulse", p=0.5, out=tmp_path / "first",
    )  # fmt: skip
    first = train.run(options, quiet=True)
    again = train.run(train.Options(config=tmp_path / "first" / "config.json", out=tmp_path / "again"), quiet=True)
    assert first["config"] == again["config"]
    assert first["config"]["model"]["tokens"] == "batch"
    assert first["losses"] == again["losses"]
    assert first["conditions"] == again["conditions"]
    with pytest.raises(UserError, match=r"^tokens: in evaluation, model.tokens=batch lets a prediction depend on its"):
        evaluate.run(evaluate.Options(tmp_path / "first"), quiet=True)
    evaluated = evaluate.run(evaluate.Options(tmp_path / "first", allow_leak=True), quiet=True).points[0].evaluation
    assert evaluated.as_dict()["conditions"] == first["conditions"]
    changed = train.Options(config=tmp_path / "first" / "config.json", seed=4, epochs=1, out=tmp_path / "changed")
    assert train.run(changed, quiet=True)["config"]["training"]["seed"] == 4


@pytest.mark.parametrize("noise", ["impulse", "uniform", "laplace", "missing"])
def test_every_kind_of_noise(tmp_path, noise):
    results = train.run(train.Options(size=40, epochs=1, noise=noise, out=tmp_path), quiet=True)
    assert list(results["conditions"]) == CONDITIONS
    expected = None if noise == "missing" else pytest.approx(-10, abs=1)
    assert results["snr_db"]["l"] == expected
    json.loads((tmp_path / "results.json").read_text())


def test_steps_as_in_the_paper(tmp_path):
    options = train.Options(size=40, epochs=1, steps=("a=140", "v=60", "l=5"), out=tmp_path)
    results = train.run(options, quiet=True)
    assert results["snr_db"]["a"] < results["snr_db"]["v"] < results["snr_db"]["l"]
    (point,) = evaluate.run(evaluate.Options(tmp_path), quiet=True).points
    assert point.noise.steps == {"a": 140, "v": 60, "l": 5}


def test_features_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez(
        tmp_path / "mine.npz",
        speech=(rng.normal(size=(60, 9, 4)) + labels[:, None, None]).astype(np.float32),
        speech_lengths=rng.integers(0, 10, 60),
        text=rng.normal(size=(60, 8)).astype(np.float32),
        label=labels,
        split=np.where(np.arange(60) < 36, "train", np.where(np.arange(60) < 45, "val", "test")),
        group=np.array([str(i // 6) for i in range(60)]),
    )
    results = train.run(
        train.Options(data=str(tmp_path / "mine.npz"), epochs=2, context=2, out=tmp_path / "run"), quiet=True
    )
    assert list(results["conditions"]) == ["speech", "text", "none", "all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data nowhere.npz", "nowhere.npz: expected a feature-set file"),
        ("--data .", ".: expected a folder with A/, V/, L/ and target/, or one of .csd files, got neither"),
        ("--data mine.npz --size 40", "size, difficulty: expected with the synthetic data alone"),
        ("--snr -10 --steps a=1 v=1 l=1", "snr, steps: expected one of the two"),
        ("--snr inf", "noise.snr_db: expected decibels from -200 to 200"),
        ("--steps", "steps: expected modality=T for each modality, such as a=140, or random, got none"),
        ("--steps a=x", "steps: expected modality=T with a whole T above 0, such as a=140, got 'a=x'"),
        ("--steps a=1 x=2", "steps: expected one each for a, v, l, got {'a': 1, 'x': 2}"),
        ("--noise impulse --p 2", "noise.p: expected at most 1, got 2.0"),
        ("--noise impulse --p 0", "p: expected above 0, got 0: no impulse noise has an SNR"),
        ("--p 0.2", "p: expected with impulse noise alone, got 0.2 with gaussian"),
        ("--noise pink", "noise.kind: expected 'gaussian', 'impulse', 'uniform', 'laplace' or 'missing', got 'pink'"),
        ("--noise missing --snr -10", "snr, steps: expected neither with missing modalities"),
        ("--snr-convention loud", "noise.snr_convention: expected 'exact' or 'paper', got 'loud'"),
        ("--device quantum", "device: expected cpu, cuda, cuda:N or auto, got 'quantum'"),
        ("--epochs 0", "training.epochs: expected at least 1, got 0"),
        ("--epochs many", "--epochs: expected INT, got 'many'"),
        ("--epoch", "Unrecognized options: --epoch"),
        ("--device meta", "device: expected cpu, cuda, cuda:N or auto, got 'meta'"),
        ("--steps a=²", "steps: expected modality=T with a whole T above 0, such as a=140, got 'a=²'"),
        ("--steps a=1 a=5 v=1 l=1", "steps: expected one T for a, got two"),
        ("--steps a=10000000000000 v=1 l=1", "noise.steps.a: expected at most 1000000, got 10000000000000"),
        ("--snr 1e300", "noise.snr_db: expected decibels from -200 to 200"),
        ("--set noise.beta_start=0.5", "beta_start: expected at most beta_end, got 0.5 and 0.1"),
        ("--set model.latent=1000000000000000000", "model.latent: expected at most 1000000"),
        ("--context 100000000000000000000", "data.context: expected at most 1000000"),
        ("--context 5 --set data.size=none --set data.context=5", "set: data.context is given by --set and by an option"),
        ("--resume nowhere --set model.layers=1", "resume: expected no --set beside it"),
        ("--size 45 --preset released --allow-leak --set training.batch_size=2",
         "model.classifier_batch_norm: expected batches of 2 or more training samples, got 27 samples in batches of 2, one"),
        (f"--out {'x' * 300}", f"{'x' * 300}"),
        ("--out /proc/nowhere", "out: expected a folder that can be written"),
        ("--context -1", "data.context: expected at least 0, got -1"),
        ("--fold 2", "fold: expected none, the synthetic data has no folds, got 2"),
        ("--select best", "select: expected a val split to choose the best epoch on, synthetic has none; use last"),
        ("--select middle", "training.select: expected 'best' or 'last', got 'middle'"),
        ("--log-every 0", "log-every: expected 1 or more steps, got 0"),
        ("--preset mine", "preset: expected one of paper, recommended, released, got 'mine'"),
        ("--preset paper --config c.json", "preset, config: expected one of the two"),
        ("--config nowhere.json", "config: expected a file, got nowhere.json: No such file"),
        ("--preset released", "tokens: model.tokens=batch (released code) lets a prediction depend on its batch mates"),
        ("--set lr=1", "set: expected section.field=value, such as training.lr=2e-4, got 'lr=1'"),
        ("--set training.speed=1", "training.speed: no such field; expected epochs, batch_size"),
        ("--set model.classifier=[1", "set: model.classifier: expected JSON, got '[1'"),
        ("--set training.epochs=3 --epochs 4", "set: training.epochs is given by --set and by an option of its own"),
        ("--set model.heads=7", "model.heads: expected a divisor of the token's 768 dimensions, got 7"),
        ("--size 30000000", "memory: synthetic data of 30000000 utterances would take about "),
        ("--resume nowhere", "resume: expected the folder of a run that was stopped, got nowhere, where no state is saved"),
        ("--resume nowhere --epochs 4", "resume: expected no --epochs beside it"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, message, monkeypatch, refused, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refused(train.main, *arguments.split()).startswith(message)
    assert not list(tmp_path.iterdir())  # no partially written file is left


def features(n=40, **changes):
    """Return the arrays of a small feature-set file."""
    rng = np.random.default_rng(0)
    base = {
        "speech": rng.normal(size=(n, 5, 4)).astype(np.float32),
        "text": rng.normal(size=(n, 8)).astype(np.float32),
        "label": np.arange(n) % 3,
        "split": np.where(np.arange(n) < 24, "train", "test"),
        "id": np.array([f"utt{i}" for i in range(n)]),
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def with_value(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": None}, "expected the key 'split', got only id, label, speech, text"),
        ({"text": np.zeros((39, 8))}, "text: expected numbers of shape [40, D] or [40, T, D], got float64 [39, 8]"),
        ({"speech_lengths": np.arange(39)}, "speech_lengths: expected integers of shape [40], got int64 [39]"),
        ({"speech_lengths": np.full(40, 6)}, "speech_lengths: expected 0 to 5, got 6 to 6"),
        ({"speech": with_value(features()["speech"], (7, 2, 1), np.nan)}, "modality speech: sample utt7 holds nan"),
        ({"text": with_value(features()["text"], (9, 3), -np.inf)}, "modality text: sample utt9 holds -inf"),
        ({"text": np.array([{}] * 40)}, "expected an .npz of plain arrays (no objects), got: "),
        ({"text": np.ones((40, 8))}, "modality text: expected features that vary, got variance 0 in train"),
        ({"label": np.arange(40) - 1}, "label: expected 0 to 38, got [-1, 0"),
        ({"label_names": np.array(["x", "y"])}, "label: expected 0 to 1, got [0, 1, 2]"),
        ({"split": np.array(["train"] * 40)}, "split: expected samples of 'test', got none"),
        ({"split": np.array(["test"] * 40)}, "split: expected samples of 'train', got none"),
        ({"text_lengths": np.zeros(40, dtype=int)}, "modality text: expected steps in the train split, got none"),
        ({"label": np.zeros(40, dtype=int)}, "label: expected two classes or more, got 0"),
        (
            {"label": np.where(np.arange(40) == 3, 10**7, 0)},
            "label: expected classes 0, 1, ..., fewer than samples, got 10000000",
        ),
        ({"label_names": np.array(["x", "x", "y"])}, "label_names: expected different names, got x, x, y"),
        (
            {"speech": np.zeros((40, 5, 0))},
            "speech: expected numbers of shape [40, D] or [40, T, D], got float64 [40, 5, 0]",
        ),
        ({"text": with_value(features()["text"].astype(float), (3, 1), 1e300)}, "modality text: sample utt3 holds inf"),
        ({"vidoe_lengths": np.ones(40)}, "vidoe_lengths: expected the lengths of a modality 'vidoe'"),
    ],
)
def test_bad_features_are_one_line_and_status_2(changes, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **features(**changes))
    line = refused(train.main, "--data", "mine.npz")
    assert line.startswith("mine")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_one_line(keep, tmp_path, refused):
    np.savez(tmp_path / "whole.npz", **features())
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(content[: int(keep * len(content))])
    line = refused(train.main, "--data", tmp_path / "mine.npz")
    assert "mine.npz: expected an .npz of plain arrays (no objects), got: " in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--conditions a va", "condition: expected one of a, v, l, av, al, vl, none, all, got 'va'"),
        ("--noise pink", "noise.kind: expected 'gaussian'"),
        ("--snr loud", "--snr: expected"),
        ("--fold 1", "fold: expected --data beside it"),
        ("--data mine.npz", "mine: expected the classes ['happy', 'angry', 'sad', 'neutral'], got ['x', 'y', 'z']"),
        ("--steps a=1", "steps: expected one each for a, v, l, got {'a': 1}"),
        ("--noise missing --steps random", "snr, steps: expected neither with missing modalities"),
        ("--noise missing --snr -10", "snr: expected none with missing modalities alone"),
        ("--p 0.2", "p: expected with impulse noise alone, got 0.2 with gaussian"),
        ("--data synthetic --fold 2", "fold: expected 1, which the model was trained on, got 2"),
        ("--data mine.npz --fold 0", "data.fold: expected at least 1, got 0"),
        ("--out .", "out: expected a file's name"),
        ("--out folder", "out: expected a file, got folder.csv, which is a folder"),
    ],
)
def test_bad_input_of_evaluate(arguments, message, checkpoint, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **features(label_names=np.array(["x", "y", "z"])))
    (tmp_path / "folder.csv").mkdir()
    assert refused(evaluate.main, checkpoint, *arguments.split()).startswith(message)


def test_evaluate_refuses_other_dimensions_and_damage(checkpoint, tmp_path):
    np.savez(tmp_path / "mine.npz", **features(label_names=np.array(["happy", "angry", "sad", "neutral"])))
    with pytest.raises(
        UserError, match=r"^mine: expected modalities with dimensions {'a': 130, 'v': 342, 'l': 1024}, got"
    ):
        evaluate.run(evaluate.Options(checkpoint, data=str(tmp_path / "mine.npz")), quiet=True)
    tensors, content = load_checkpoint(checkpoint)
    own = ("version", "digest", "tensors", "sha256")
    for change, message in (
        ({"config": {"model": {"latent": 3}}}, "expected a checkpoint of a whole model, got one that does not fit"),
        ({"config": {"model": {"latent": "many"}}}, "model.latent: expected a valid integer"),
        ({"data": {"dims": {"a": 130}, "class_names": ["x", "y"]}}, "expected a checkpoint of a whole model"),
        ({"data": {}}, "expected a checkpoint of a whole model, got one that does not fit: 'dims'"),
        ({"fingerprint": "0"}, "^synthetic: expected the data that the model was trained on, got other contents"),
    ):
        state = {key: value for key, value in content.items() if key not in own}
        path = save_checkpoint(tmp_path, "checkpoint", tensors, {**state, **change})
        with pytest.raises(UserError, match=message):
            evaluate.run(evaluate.Options(path), quiet=True)


def test_a_folder_of_its_own_by_default(tmp_path, monkeypatch):
    """Without --out, the run gets a new folder under runs/, even if two runs start within a second."""
    monkeypatch.chdir(tmp_path)
    options = train.Options(size=40, epochs=1, settings=("training.teacher_epochs=1", "model.layers=1"))
    monkeypatch.setattr(engine.time, "strftime", lambda _: "now")
    for _ in range(2):
        train.run(options, quiet=True)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["now-synthetic", "now-synthetic-2"]


def test_evaluating_on_the_training_file_keeps_the_fold(tmp_path):
    """Another fold's test samples were used in training, so it is refused, as is a file that has changed."""
    path = tmp_path / "mine.npz"
    split = features()["split"]
    np.savez(path, **features(split=np.stack([split, np.roll(split, 16)], axis=1)))
    options = train.Options(
        data=str(path), fold=2, epochs=1, settings=("training.teacher_epochs=1",), out=tmp_path / "run"
    )
    results = train.run(options, quiet=True)
    for data in (None, str(path)):
        (point,) = evaluate.run(evaluate.Options(tmp_path / "run", data=data), quiet=True).points
        assert point.evaluation.as_dict()["conditions"] == results["conditions"]
    with pytest.raises(
        UserError, match=r"^fold: expected 2, which the model was trained on, got 1, whose test samples"
    ):
        evaluate.run(evaluate.Options(tmp_path / "run", data=str(path), fold=1), quiet=True)
    np.savez(path, **features(split=np.stack([split, np.roll(split, 8)], axis=1)))
    with pytest.raises(
        UserError, match=r"mine.npz: expected the data that the model was trained on, got other contents"
    ):
        evaluate.run(evaluate.Options(tmp_path / "run"), quiet=True)


def test_evaluating_where_a_modality_is_absent(tmp_path):
    """A test set without text can be used with a model of speech and text; the text is absent in its samples."""
    np.savez(tmp_path / "mine.npz", **features())
    np.savez(tmp_path / "speech.npz", **features(text=None))
    np.savez(tmp_path / "silent.npz", **features(text_lengths=np.zeros(40, dtype=int)))
    options = train.Options(
        data=str(tmp_path / "mine.npz"), epochs=1, settings=("training.teacher_epochs=1",), out=tmp_path / "run"
    )
    train.run(options, quiet=True)
    absent, silent = (
        evaluate.run(evaluate.Options(tmp_path / "run", data=str(tmp_path / f"{name}.npz")), quiet=True).points[0]
        for name in ("speech", "silent")
    )
    assert absent.evaluation.conditions == silent.evaluation.conditions


def test_evaluate_never_overwrites_a_runs_files(tmp_path):
    train.run(train.Options(size=40, epochs=1, settings=("training.teacher_epochs=1",), out=tmp_path), quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("checkpoint", "config.json", "results.csv"):
        with pytest.raises(UserError, match=r"^out: expected a name that no file of the run has"):
            evaluate.run(evaluate.Options(tmp_path, out=tmp_path / name), quiet=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    evaluate.run(evaluate.Options(tmp_path, out=tmp_path / "at-10.5dB"), quiet=True)
    assert (tmp_path / "at-10.5dB.json").exists()


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    train.run(train.Options(size=40, epochs=1, out=tmp_path), quiet=True)
    np.savez(
        tmp_path / "x.npz",
        a=np.zeros((4, 130)),
        label=np.array([0, 1, 0, 1]),
        label_names=np.array(["x", "y"]),
        split=np.array(["train", "test"] * 2),
    )
    with pytest.raises(
        UserError, match=r"^x: expected the classes \['happy', 'angry', 'sad', 'neutral'\], got \['x', 'y'\]"
    ):
        evaluate.run(evaluate.Options(tmp_path, data=str(tmp_path / "x.npz")), quiet=True)


def test_evaluate_refuses_before_it_works(tmp_path):
    train.run(train.Options(size=40, epochs=1, out=tmp_path), quiet=True)
    with pytest.raises(UserError, match=r"^snr, steps: expected one of the two"):
        evaluate.run(evaluate.Options(tmp_path, snr=(-10.0,), steps=("a=1", "v=1", "l=1")), quiet=True)
    with pytest.raises(UserError, match=r"^out: expected a folder that can be written"):
        evaluate.run(evaluate.Options(tmp_path, out=Path("/proc/nowhere/x.json")), quiet=True)
    rng = np.random.default_rng(0)
    features = {m: rng.normal(size=(6, d)) for m, d in (("a", 130), ("v", 342), ("l", 1024))}
    np.savez(tmp_path / "test.npz", **features, label=np.arange(6) % 2, split=np.array(["test"] * 6))
    (point,) = evaluate.run(evaluate.Options(tmp_path, data=str(tmp_path / "test.npz")), quiet=True).points
    assert point.evaluation.conditions["all"].n == 6


@pytest.mark.slow
def test_real_input_reaches_75_percent(cmu_mosi, tmp_path):
    """On clean CMU-MOSI, over 3 seeds; noise on l costs accuracy, noise on a and v hardly any (the data's README)."""
    runs = [
        train.run(
            train.Options(data=str(cmu_mosi), context=4, snr=-10, seed=seed, out=tmp_path / str(seed)), quiet=True
        )
        for seed in range(3)
    ]
    wa = {name: sum(r["conditions"][name]["wa"] for r in runs) / 3 for name in CONDITIONS}
    assert wa["all"] >= 0.75
    assert wa["l"] > wa["av"] + 0.03
    assert abs(wa["l"] - wa["all"]) < 0.02

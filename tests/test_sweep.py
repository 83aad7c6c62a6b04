"""Grids of runs: each is done once, whatever comes in between, and all are in one table."""

import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from nmer_fast import evaluate, sweep, train
from nmer_fast.config import NoiseConfig
from nmer_fast.engine.checkpoint import RESUME, load_checkpoint
from nmer_fast.engine.saving import Saver
from nmer_fast.errors import Stopped, UserError
from nmer_fast.sweeping import work, workers
from nmer_fast.sweeping.grid import Grid, make_jobs, name_strength

TINY = ("data.size=40", "training.teacher_epochs=1", "model.layers=1")
GRID = sweep.Options(
    out=Path(), systems=("nmer", "men"), noise=("gaussian", "missing"), snr=(-20.0,), seeds=(0,), epochs=3, settings=TINY,
)  # fmt: skip
RUNS = ["nmer_gaussian_-20dB_seed0", "nmer_missing_seed0", "men_seed0"]
COMMAND = [
    "--systems", "nmer", "men", "--noise", "gaussian", "missing", "--snr", "-20", "--seeds", "0", "--epochs", "3",
    *(argument for setting in TINY for argument in ("--set", setting)),
]  # fmt: skip


def run(folder, **changes):
    return sweep.run(replace(GRID, out=folder, **changes), quiet=True)


def rows(folder):
    return list(csv.DictReader((folder / "results.csv").open()))


def exact(folder):
    """Return the table except times and the code's revision, and every run's weights."""
    table = [{k: v for k, v in row.items() if not k.startswith("seconds") and k != "revision"} for row in rows(folder)]
    weights = {
        path.parent.name: json.loads(path.read_text())["sha256"] for path in folder.glob("runs/*/checkpoint.json")
    }
    return table, weights


def files(folder):
    """Return the content and the modification time of every file of the runs."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "runs").rglob("*.*") if path.is_file()
    }


pytestmark = pytest.mark.usefixtures("one_thread")  # their bits are compared with subprocesses of one thread


@pytest.fixture
def trained(monkeypatch):
    """Return the list of started and resumed runs: names, with whether the run was resumed."""
    calls, begin, go_on = [], work.run, work.resume

    def spy_run(config, *, out, **keywords):
        calls.append((out.name, False))
        return begin(config, out=out, **keywords)

    def spy_resume(folder, **keywords):
        calls.append((folder.name, True))
        return go_on(folder, **keywords)

    monkeypatch.setattr(work, "run", spy_run)
    monkeypatch.setattr(work, "resume", spy_resume)
    return calls


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    summary = run(folder)
    assert (summary.finished, summary.before, summary.failed) == (RUNS, [], {})
    return folder


def names(**changes):
    return [job.name for job in make_jobs(Grid(**changes), Path("runs"))]


def test_the_grids_names():
    assert names() == ["nmer_gaussian_-10dB_seed0"]
    assert names(noise=("gaussian",), snr=(-10.0,), seeds=(0,)) == names()  # the values that defaults stand for
    assert names(systems=("mmin", "men"), noise=("impulse", "missing"), snr=(-10.5, -0.0), seeds=(3, 1)) == [
        "mmin_impulse_-10.5dB_seed3", "mmin_impulse_0dB_seed3", "mmin_missing_seed3", "men_seed3",
        "mmin_impulse_-10.5dB_seed1", "mmin_impulse_0dB_seed1", "mmin_missing_seed1", "men_seed1",
    ]  # fmt: skip


def test_the_grids_count():
    grid = Grid(
        ("nmer", "men", "mmin"), ("gaussian", "impulse"), (-10.0, -20.0, -30.0, -40.0), folds=(1, 2), seeds=(0, 1, 2),
        changes={"data.source": "mine.npz", "noise.p": 0.2},
    )  # fmt: skip
    jobs = make_jobs(grid, Path("runs"))
    assert len(jobs) == len({job.name for job in jobs}) == (2 * 8 + 1) * 2 * 3
    assert jobs[0].name == "nmer_gaussian_-10dB_fold1_seed0"
    for job, (seed, fold) in zip(jobs, [(s, f) for s in (0, 1, 2) for f in (1, 2) for _ in range(17)], strict=True):
        config = job.config
        assert (config.data.fold, config.training.seed, config.noise.p) == (fold, seed, 0.2)
        assert job.name.startswith(f"{config.model.system}_")
        noises = [(noise.kind, noise.snr_db, noise.p) for noise in job.noises]
        men = [(kind, snr, 0.2) for kind in grid.noise for snr in grid.snr]
        assert noises == (men if config.model.system == "men" else [])


def test_each_run_is_what_train_alone_gives(undisturbed, tmp_path):
    options = train.Options(noise="gaussian", snr=-20, epochs=3, seed=0, settings=TINY, out=tmp_path / "alone")
    alone = train.run(options, quiet=True)
    folder = undisturbed / "runs" / "nmer_gaussian_-20dB_seed0"
    results = json.loads((folder / "results.json").read_text())
    for key in ("conditions", "losses", "epoch", "snr_db", "config"):
        assert results[key] == json.loads(json.dumps(alone[key]))
    assert json.loads((folder / "config.json").read_text()) == results["config"]
    mine = [row for row in rows(undisturbed) if row["run"] == folder.name]
    assert [row["condition"] for row in mine] == list(alone["conditions"])
    for row in mine:
        scores = alone["conditions"][row["condition"]]
        assert [float(row[key]) for key in ("wa", "ua", "f1", "n")] == [scores[key] for key in ("wa", "ua", "f1", "n")]
        assert float(row["realised_snr_db_l"]) == alone["snr_db"]["l"]
        assert (row["noise"], float(row["snr_db"]), row["seed"], row["fold"]) == ("gaussian", -20, "0", "")
        assert json.loads(row["config"]) == results["config"]
        assert row["revision"] == results["versions"]["revision"]
        assert json.loads(row["versions"])["torch"] == torch.__version__
        assert [float(row[f"seconds_{phase}"]) for phase in ("teacher", "train", "evaluate")] == [
            results["times"][phase] for phase in ("teacher", "train", "evaluate")
        ]


def test_what_is_trained_on_complete_data_is_trained_once(undisturbed):
    folder = undisturbed / "runs" / "men_seed0"
    mine = [row for row in rows(undisturbed) if row["system"] == "men"]
    assert {row["run"] for row in mine} == {"men_seed0"}
    assert [(row["noise"], row["snr_db"]) for row in mine[::8]] == [
        ("gaussian", "-20.0"),
        ("missing", ""),
    ]
    evaluated = evaluate.run(evaluate.Options(folder, noise=("gaussian", "missing"), snr=(-20.0,)), quiet=True)
    for row, expected in zip(mine, evaluated.rows(), strict=True):
        assert row["condition"] == expected["clean"]
        assert [float(row[key]) for key in ("wa", "ua", "f1")] == [expected[key] for key in ("wa", "ua", "f1")]


def test_csv_and_sqlite_hold_the_same(undisturbed):
    with sqlite3.connect(undisturbed / "results.sqlite") as database:
        database.row_factory = sqlite3.Row
        stored = [dict(row) for row in database.execute("SELECT * FROM results")]
    database.close()
    assert len(stored) == 4 * 8
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in stored] == rows(
        undisturbed
    )
    kinds = {"wa": float, "n": int, "seed": int, "system": str, "realised_snr_db_a": float, "seconds_train": float}
    gaussian = next(row for row in stored if row["noise"] == "gaussian")
    assert all(type(gaussian[key]) is kind for key, kind in kinds.items())
    assert json.loads(gaussian["config"])["training"]["epochs"] == 3
    assert {row["snr_db"] for row in stored if row["noise"] == "missing"} == {None}


def test_nothing_is_repeated(undisturbed, trained):
    before = files(undisturbed)
    summary = run(undisturbed)
    assert (summary.finished, summary.before) == ([], RUNS)
    assert trained == []
    assert files(undisturbed) == before


class Crash(BaseException):
    """An exception that the sweep must not catch."""


@pytest.mark.parametrize(
    ("epochs", "state"), [(1, ("teacher", 1)), (7, ("nmer", 2))], ids=["first run's teacher", "second run's system"]
)
def test_after_a_crash_the_same_command_gives_the_same_bits(epochs, state, undisturbed, tmp_path, monkeypatch, trained):
    """A run has one teacher epoch and three epochs of the system; its state is saved after each."""
    left, real = epochs, Saver.after_epoch

    def crash(self, snapshot):
        nonlocal left
        left -= 1
        self.save(snapshot())
        if left == 0:
            raise Crash
        real(self, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "after_epoch", crash)
        with pytest.raises(Crash):
            run(tmp_path)
    interrupted = trained[-1][0]
    fit = load_checkpoint(tmp_path / "runs" / interrupted, RESUME)[1]["fit"]
    assert (fit["name"], fit["epoch"]) == state
    before, done = files(tmp_path), [name for name, _ in trained[:-1]]
    trained.clear()
    run(tmp_path)
    assert exact(tmp_path) == exact(undisturbed)
    assert trained == [(name, name == interrupted) for name in RUNS if name not in done]
    assert all(files(tmp_path)[path] == content for path, content in before.items() if path.parent.name in done)


@pytest.mark.parametrize("lost", ["results.json", "resume.json", "evaluations.json"])
def test_what_is_not_whole_is_done_again(lost, undisturbed, tmp_path, trained):
    """A run without state or results starts again; a run that lacks evaluations alone is only evaluated."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    name = "men_seed0" if lost == "evaluations.json" else RUNS[1]
    folder = tmp_path / "runs" / name
    whole = folder.joinpath("results.json").read_bytes()
    if lost == "resume.json":
        (folder / "results.json").unlink()
        (folder / lost).write_text("{")
    else:
        (folder / lost).write_bytes(whole[: len(whole) // 2])
    summary = run(tmp_path)
    assert summary.finished == [name]
    assert trained == ([] if lost == "evaluations.json" else [(name, False)])
    assert exact(tmp_path) == exact(undisturbed)


def test_after_sigkill_the_same_command_gives_the_same_bits(undisturbed, tmp_path):
    command = [sys.executable, "-m", "nmer_fast.sweep", "--out", tmp_path / "sweep", *COMMAND]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert "3 runs, 0 of them finished before" in process.stdout.readline()
        assert process.stdout.readline().startswith("1/3  nmer_gaussian_-20dB_seed0  WA ")
        assert {row["run"] for row in rows(tmp_path / "sweep")} == {RUNS[0]}  # readable during the sweep
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = {path.parent.name for path in tmp_path.glob("sweep/runs/*/results.json")}
    assert RUNS[0] in done
    assert len(done) < 3
    first = {path: content for path, content in files(tmp_path / "sweep").items() if path.parent.name == RUNS[0]}
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert f"3 runs, {len(done)} of them finished before" in again.stdout
    assert exact(tmp_path / "sweep") == exact(undisturbed)
    assert first.items() <= files(tmp_path / "sweep").items()


def test_a_failing_run_is_tried_twice_and_recorded(undisturbed, tmp_path, monkeypatch, capsys):
    real, tries = work.run, []

    def failing(config, *, out, **keywords):
        tries.append(out.name)
        if out.name == RUNS[0] or (out.name == RUNS[1] and tries.count(out.name) == 1):
            raise RuntimeError(f"the disk of {out.name}\nis on fire")
        return real(config, out=out, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(work, "run", failing)
        patch.setattr(sys, "argv", ["sweep", "--out", str(tmp_path), *COMMAND])
        assert sweep.main() == 1
    assert tries == [*RUNS, RUNS[0], RUNS[1]]
    printed = capsys.readouterr().out
    assert f"{RUNS[0]} failed, is tried once more: RuntimeError: the disk of {RUNS[0]}\n" in printed
    assert f"{RUNS[0]} failed: RuntimeError: the disk of {RUNS[0]}\n" in printed
    assert "2 runs finished, 0 before, 1 failed" in printed
    failed = json.loads((tmp_path / "failed.json").read_text())
    assert list(failed) == [RUNS[0]]
    assert failed[RUNS[0]]["message"] == f"RuntimeError: the disk of {RUNS[0]}"
    assert "is on fire" in failed[RUNS[0]]["traceback"]
    assert {row["run"] for row in rows(tmp_path)} == {*RUNS} - {RUNS[0]}
    summary = run(tmp_path)
    assert (summary.finished, summary.failed) == ([RUNS[0]], {})
    assert json.loads((tmp_path / "failed.json").read_text()) == {}
    assert exact(tmp_path) == exact(undisturbed)


def test_a_run_that_diverges_fails_in_one_line(tmp_path):
    summary = run(tmp_path, systems=("men",), settings=(*TINY, "training.lr=1e30"))
    assert summary.failed["men_seed0"].message.startswith("men: the ")
    assert "expected a finite number" in summary.failed["men_seed0"].message


def test_more_axes_add_what_is_missing(tmp_path, trained):
    run(tmp_path, systems=("men",), snr=(-20.0,), noise=("gaussian",))
    first = rows(tmp_path)
    run(tmp_path, systems=("men",), snr=(-10.0, -20.0), noise=("impulse", "gaussian"), seeds=(0, 1))
    assert trained == [("men_seed0", False), ("men_seed1", False)]
    both = rows(tmp_path)
    points = [("gaussian", "-10.0"), ("gaussian", "-20.0"), ("impulse", "-10.0"), ("impulse", "-20.0")]
    assert [(row["noise"], row["snr_db"], row["seed"]) for row in both[::8]] == [
        (*p, seed) for p in points for seed in "01"
    ]
    assert len(both) == 2 * 4 * 8
    assert all(row in both for row in first)
    run(tmp_path, systems=("late_fusion",), snr=(), noise=(), seeds=())  # the rows of earlier grids stay
    assert rows(tmp_path)[8:] == both


def test_a_modality_for_unimodal_is_an_axis(tmp_path, trained):
    run(tmp_path, systems=("unimodal.a", "unimodal.l"), noise=("gaussian",), snr=(0.0, -20.0))
    assert trained == [("unimodal.a_seed0", False), ("unimodal.l_seed0", False)]
    table = rows(tmp_path)
    assert [(row["system"], row["snr_db"]) for row in table[::8]] == [
        ("unimodal.a", "0.0"), ("unimodal.a", "-20.0"), ("unimodal.l", "0.0"), ("unimodal.l", "-20.0"),
    ]  # fmt: skip
    assert json.loads(table[0]["config"])["model"]["modality"] == "a"
    scores = {(row["system"], row["condition"]): row["wa"] for row in table if row["snr_db"] == "-20.0"}
    assert (
        scores["unimodal.l", "l"] == scores["unimodal.l", "al"] == scores["unimodal.l", "all"]
    )  # the other fields are not read
    assert scores["unimodal.a", "all"] != scores["unimodal.l", "all"]


def test_a_stop_says_resume_hint(tmp_path, monkeypatch, capsys):
    def stopping(config, *, out, **_):
        raise Stopped(out, signal.SIGINT)

    monkeypatch.setattr(work, "run", stopping)
    monkeypatch.setattr(sys, "argv", ["sweep", "--out", str(tmp_path), *COMMAND])
    assert sweep.main() == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out new --snr -10 -20 -10", "snr: expected different ones, got -10.0 twice"),
        ("--out new --seeds 0 0", "seeds: expected different ones, got 0 twice"),
        ("--out new --systems nmer psychic", "model.system: expected one of nmer, nmer_no_vae"),
        ("--out new --systems", "systems: expected one or more, got none"),
        ("--out new --noise pink", "noise.kind: expected 'gaussian'"),
        ("--out new --noise missing --snr -10", "snr: expected none with missing modalities alone"),
        ("--out new --snr 1e300", "noise.snr_db: expected decibels from -200 to 200"),
        ("--out new --seeds -1", "training.seed: expected at least 0, got -1"),
        ("--out new --folds 2", "fold: expected none, the synthetic data has no folds, got 2"),
        ("--out new --set training.seed=1 --seeds 2", "set: expected training.seed once, got it twice"),
        ("--out new --set training.select=best", "select: expected a val split"),
        ("--out new --systems unimodal", "model.modality: expected"),
        ("--out new --systems unimodal.a unimodal.x", "model.modality: expected one of a, v, l for unimodal, got x"),
        ("--out new --systems men.a", "model.modality: no such field of men; expected classifier, "),
        ("--out new --systems unimodal.a --set model.modality=v", "set: expected model.modality once, got it twice"),
        ("--out new --device quantum", "device: expected cpu, cuda, cuda:N or auto, got 'quantum'"),
        ("--out new --cpus-per-run 2", "cpus-per-run: expected with --ray or --address alone, got 2"),
        ("--out new --ray --address auto", "ray, address: expected one of the two, got --ray and auto"),
        ("--out new --ray --cpus-per-run 0", "cpus-per-run: expected 1 or more, got 0"),
        ("--out file", "out: expected a new folder, or one of a sweep, got"),
        ("--out other", "out: expected a new folder, or one of a sweep, got"),
        ("--out broken", "out: expected a new folder, or one of a sweep, got"),
        ("--snr -10", "Missing from python -m nmer_fast.sweep: out"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, message, monkeypatch, refused, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for name, file in (("other", "thesis.tex"), ("broken", "sweep.json")):
        Path(name).mkdir()
        Path(name, file).write_text("{}")
    there = sorted(Path().rglob("*"))
    assert refused(sweep.main, *arguments.split(), *["--epochs", "1", "--set", "data.size=40"]).startswith(message)
    assert sorted(Path().rglob("*")) == there


def test_without_ray_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^ray: expected Ray, which is not installed: pip install 'nmer_fast\[sweep\]'"
    ):
        run(tmp_path / "new", ray=True)
    assert not (tmp_path / "new").exists()


def test_another_sweeps_folder_is_refused(undisturbed):
    before = files(undisturbed)
    for changes, what in (
        ({"epochs": 4}, "training.epochs 3 and not 4"),
        ({"settings": (*TINY, "noise.p=0.2")}, "noise.p 0.3 and not 0.2"),
        ({"data": "synthetic", "settings": ("data.size=41", *TINY[1:])}, "data.size 40 and not 41"),
    ):
        with pytest.raises(UserError, match=rf"^out: expected a folder of the same sweep, got \S+, of {what}$"):
            run(undisturbed, **changes)
    with pytest.raises(UserError, match=r"^out: expected a folder of the same sweep, .* is of another config$"):
        run(
            undisturbed,
            snr=(),
            noise=("gaussian",),
            settings=(
                *TINY,
                "noise.snr_db=-20",
            ),
            systems=("men",),
        )
    assert files(undisturbed) == before


def test_two_sweeps_in_one_folder(tmp_path, monkeypatch):
    """The second sweep is refused while the first is running."""
    real = work.run

    def meanwhile(config, **keywords):
        with pytest.raises(UserError, match=r"^out: expected a folder that no other process works in, got"):
            run(tmp_path, systems=("men",))
        return real(config, **keywords)

    monkeypatch.setattr(work, "run", meanwhile)
    assert run(tmp_path, systems=("men",)).finished == ["men_seed0"]


def test_folds_of_a_file_and_a_file_that_has_changed(tmp_path):
    rng, split = np.random.default_rng(0), np.where(np.arange(40) < 24, "train", "test")
    content = {
        "speech": rng.normal(size=(40, 5, 4)).astype(np.float32),
        "text": rng.normal(size=(40, 8)).astype(np.float32),
    }
    content |= {"label": np.arange(40) % 3, "split": np.stack([split, np.roll(split, 16)], axis=1)}
    np.savez(tmp_path / "mine.npz", **content)
    changes = {"data": str(tmp_path / "mine.npz"), "settings": TINY[1:], "noise": (), "snr": (), "systems": ("men",)}
    assert run(tmp_path / "sweep", folds=(1, 2), **changes).finished == ["men_fold1_seed0", "men_fold2_seed0"]
    assert [row["fold"] for row in rows(tmp_path / "sweep")] == ["1"] * 4 + ["2"] * 4
    with pytest.raises(UserError, match=r"fold"):
        run(tmp_path / "sweep", folds=(3,), **changes)
    np.savez(tmp_path / "mine.npz", **{**content, "label": (np.arange(40) + 1) % 3})
    with pytest.raises(
        UserError, match=r"^data: expected what the sweep began with, got other contents of .*mine.npz$"
    ):
        run(tmp_path / "sweep", folds=(1, 2), seeds=(0, 1), **{k: v for k, v in changes.items()})


def test_on_ray_with_a_worker_killed_in_the_middle(undisturbed, tmp_path):
    """The first worker of a local Ray that has saved a state is killed (SIGKILL), and another one continues the run."""
    pytest.importorskip(
        "ray", reason="Ray is not installed (pip install 'nmer_fast[sweep]'): sweeps on it are not tested"
    )
    killed, over = [], threading.Event()

    def kill():
        while not over.is_set() and not killed:
            working = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::attempt")]
            if working and list(tmp_path.glob("runs/*/resume.json")):
                working[0].kill()
                killed.append(working[0].pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = run(tmp_path, ray=True)
    finally:
        over.set()
        killer.join()
    assert killed
    assert sorted(summary.finished) == sorted(RUNS)
    assert summary.failed == {}
    assert exact(tmp_path) == exact(undisturbed)


def test_on_a_cluster_that_is_running(undisturbed, tmp_path):
    """A cluster of a single machine, which keeps running after the sweep; an address without a cluster is refused."""
    pytest.importorskip(
        "ray", reason="Ray is not installed (pip install 'nmer_fast[sweep]'): sweeps on it are not tested"
    )
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}  # in both processes, as Ray's documentation says
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={address.partition(':')[2]}", "--include-dashboard=false", "--disable-usage-stats"]
    with open(tmp_path / "ray.log", "w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 90
        while "--block" not in (tmp_path / "ray.log").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        sweeping = [
            sys.executable,
            "-m",
            "nmer_fast.sweep",
            *COMMAND,
            "--address",
            address,
            "--out",
            tmp_path / "sweep",
        ]
        done = subprocess.run(sweeping, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert head.poll() is None
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:  # a soft end would take Ray 30 s
            process.kill()
        head.wait()
    assert "3 runs finished" in done.stdout
    assert exact(tmp_path / "sweep") == exact(undisturbed)
    with pytest.raises(UserError, match=rf"^address: expected a Ray cluster that is running, got {address}: "):
        run(tmp_path / "none", address=address)


@pytest.mark.parametrize(
    ("ratio", "name"),
    [(-10.0, "-10dB"), (-0.0, "0dB"), (2.5, "2.5dB"), ((-40.0, 0.0), "-40to0dB"), ({"a": (-5.0, 0.0), "l": 3.0}, "a-5to0_l3dB")],
)  # fmt: skip
def test_a_folder_is_named_by_its_ratio(ratio, name):
    assert name_strength(NoiseConfig(snr_db=ratio)) == [name]

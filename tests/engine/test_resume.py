"""Resuming: a run stopped anywhere gives the same bits as an uninterrupted run; signals; saved states."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from nmer_fast import train as command
from nmer_fast.engine import saving
from nmer_fast.engine.checkpoint import RESUME, load_checkpoint, save_checkpoint
from nmer_fast.engine.log import Log
from nmer_fast.engine.stopping import StopRequest
from nmer_fast.engine.trainer import train
from nmer_fast.errors import Stopped, UserError
from nmer_fast.noise import NoiseScheduler

from .test_engine import CPU, QUIET, SMALL, config, dataset, scalars, scheduler

assert SMALL.dropout > 0  # so that a wrong state of a random generator is noticed
QUICK = ("--size", "40", "--set", "model.layers=1", "--set", "training.teacher_epochs=2", "--epochs", "10")


class StopAfter(StopRequest):
    """A request to stop that becomes true after a number of checks; it is checked once after every step."""

    signal = signal.SIGTERM

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def stop_and_go_on(data, noise, cfg, looks, folder):
    """Train with a stop after some steps, then resume from the saved state and train to the end."""
    torch.manual_seed(77)  # resuming must not depend on the state of the process's generator
    with pytest.raises(Stopped):
        train(data, noise, cfg, CPU, QUIET, folder=folder, request=StopAfter(looks))
    saved = load_checkpoint(folder, RESUME)
    torch.manual_seed(78)
    return train(data, noise, cfg, CPU, QUIET, folder=folder, saved=saved), saved[1]["fit"]


def assert_same(a, b):
    assert a.losses == b.losses
    assert a.epoch == b.epoch
    states = a.model.state_dict(), b.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# The teacher has two epochs of two steps, NMER three epochs of two steps; there is one check a step.
@pytest.mark.parametrize(
    ("looks", "where"),
    [
        (0, ("teacher", 0, 1)),
        (1, ("teacher", 1, 0)),
        (3, ("teacher", 2, 0)),
        (4, ("nmer", 0, 1)),
        (5, ("nmer", 1, 0)),
        (6, ("nmer", 1, 1)),
        (9, ("nmer", 3, 0)),
    ],
)
def test_a_stop_anywhere_changes_no_bit(looks, where, tmp_path):
    """The run has dropout, BatchNorm, a val split whose best epoch is kept, and gradient clipping."""
    data, noise = dataset(val=True), scheduler()
    cfg = config(replace(SMALL, classifier_batch_norm=True), epochs=3, clip=1.0, clip_each=True)
    whole = train(data, noise, cfg, CPU, QUIET)
    resumed, fit = stop_and_go_on(data, noise, cfg, looks, tmp_path)
    assert (fit["name"], fit["epoch"], fit["step_in_epoch"]) == where
    assert_same(whole, resumed)


def test_stopping_twice_changes_no_bit(tmp_path):
    data, noise, cfg = dataset(), scheduler(), config(epochs=3)
    whole = train(data, noise, cfg, CPU, QUIET)
    for looks in (1, 1, 2):
        saved = load_checkpoint(tmp_path, RESUME) if (tmp_path / "resume.json").exists() else None
        with pytest.raises(Stopped):
            train(data, noise, cfg, CPU, QUIET, folder=tmp_path, request=StopAfter(looks), saved=saved)
    resumed = train(data, noise, cfg, CPU, QUIET, folder=tmp_path, saved=load_checkpoint(tmp_path, RESUME))
    assert_same(whole, resumed)


def test_a_stop_changes_no_bit_under_compile(tmp_path):
    """Inductor's random numbers for dropout continue. One modality gives a small graph, which compiles sooner."""
    data, noise, cfg = dataset(), NoiseScheduler({"l": 1.0}, snr_db=-10), config(compile=True)
    data = replace(data, modalities={"l": data.modalities["l"]})
    whole = train(data, noise, cfg, CPU, QUIET)
    resumed, fit = stop_and_go_on(data, noise, cfg, 5, tmp_path)
    assert (fit["name"], fit["epoch"]) == ("nmer", 1)
    assert_same(whole, resumed)


def test_states_are_saved_now_and_then(tmp_path, monkeypatch):
    """With one saved state an epoch, a crash in epoch 3 loses that epoch at most."""
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", 0.0)
    data, noise, cfg, calls = dataset(), scheduler(), config(epochs=3), []
    whole = train(data, noise, cfg, CPU, QUIET)

    def crash(snapshot):
        calls.append(snapshot)
        if len(calls) == 5:
            raise RuntimeError("the machine died")

    monkeypatch.setattr(saving.Saver, "after_step", lambda self, snapshot: crash(snapshot))
    with pytest.raises(RuntimeError, match="the machine died"):
        train(data, noise, cfg, CPU, QUIET, folder=tmp_path)
    monkeypatch.undo()
    saved = load_checkpoint(tmp_path, RESUME)
    assert (saved[1]["fit"]["name"], saved[1]["fit"]["epoch"]) == ("nmer", 2)
    assert_same(whole, train(data, noise, cfg, CPU, QUIET, folder=tmp_path, saved=saved))


def test_a_loss_that_becomes_nan_keeps_the_last_good_state(tmp_path, monkeypatch):
    """A weight becomes NaN in epoch 3: the error names the step and the loss, and epoch 2's finite state is kept."""
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", 0.0)
    data, noise, cfg, steps = dataset(), scheduler(), config(epochs=4), []

    def poison(self, snapshot):
        fit = snapshot.__self__
        steps.append(fit.name)
        if steps.count("nmer") == 3:  # after the first step of epoch 3, so that the second step sees it
            with torch.no_grad():
                fit.model.to_logvar.weight.fill_(float("nan"))

    monkeypatch.setattr(saving.Saver, "after_step", poison)
    with pytest.raises(UserError, match=r"^nmer: the loss 'kl' became nan at step 2 of epoch 3; expected a finite"):
        train(data, noise, cfg, CPU, QUIET, folder=tmp_path)
    tensors, state = load_checkpoint(tmp_path, RESUME)
    assert state["fit"]["epoch"] == 2
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())


def test_a_nan_is_not_saved_on_request(tmp_path, monkeypatch):
    """A request to stop while the loss is already NaN keeps the last finite state."""
    data, noise, cfg = dataset(), scheduler(), config(teacher_epochs=1, epochs=3)
    real, seen = saving.Saver.after_step, []

    def poison(self, snapshot):
        fit = snapshot.__self__
        seen.append(fit.name)
        if fit.name == "nmer":
            fit.records["cls"][-1] = torch.tensor(float("nan"))
        real(self, snapshot)

    monkeypatch.setattr(saving.Saver, "after_step", poison)
    with pytest.raises(UserError, match=r"^nmer: the loss 'cls' became nan at step 1 of epoch 1"):
        train(data, noise, cfg, CPU, QUIET, folder=tmp_path, request=StopAfter(2))
    assert load_checkpoint(tmp_path, RESUME)[1]["fit"]["step_in_epoch"] == 0


# ---------------------------------------------------------------- the command


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "nmer_fast.train", *QUICK, "--out", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process, text):
    """Read lines until one contains the text."""
    deadline = time.monotonic() + 120
    for line in process.stdout:
        if text in line:
            return
        assert time.monotonic() < deadline
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()}")


def stop(folder, number):
    """Send the signal in epoch 3 of NMER; return the exit status and stderr."""
    process = start(folder)
    wait_for(process, "nmer 2/10")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    asked, said = stderr.splitlines()
    assert asked == "stopping after this step; Ctrl-C again stops at once and loses it"
    return process.returncode, said


def test_sigterm_leaves_a_state_that_ends_as_an_uninterrupted_run(tmp_path):
    folder = tmp_path / "run"
    assert stop(folder, signal.SIGTERM) == (0, f"stopped; go on with: python -m nmer_fast.train --resume {folder}")
    assert not (folder / "results.json").exists()
    with pytest.raises(UserError, match=r"^out: expected a new folder, got .*run, which holds a run"):
        command.run(command.Options(size=40, out=folder), quiet=True)
    resumed = command.run(command.Options(resume=folder), quiet=True)
    whole = command.run(command.Options(config=folder / "config.json", out=tmp_path / "whole"), quiet=True)
    assert resumed["losses"] == whole["losses"]
    assert resumed["conditions"] == whole["conditions"]
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == [
        "checkpoint", "checkpoint.json", "config.json", "results.json", "tensorboard",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"^resume: .*which is finished"):
        command.run(command.Options(resume=folder), quiet=True)


def test_resume_refuses_other_data_and_damage(tmp_path):
    folder = tmp_path / "run"
    assert stop(folder, signal.SIGINT) == (130, f"stopped; go on with: python -m nmer_fast.train --resume {folder}")
    tensors, content = load_checkpoint(folder, RESUME)
    state = {key: content[key] for key in ("config", "fingerprint", "fit")}
    if "teacher_seconds" in content:
        state["teacher_seconds"] = content["teacher_seconds"]

    def refused(changes, match):
        save_checkpoint(folder, RESUME, tensors, {**state, **changes})
        with pytest.raises(UserError, match=match):
            command.run(command.Options(resume=folder), quiet=True)

    other = {**state["config"], "data": {**state["config"]["data"], "size": 70}}
    refused({"config": other}, r"^resume: expected the data that the run began with, got other contents of synthetic")
    refused({"config": {"data": {"source": 3}}}, r"run: data.source: expected a valid string, got 3")
    refused({"fit": {**state["fit"], "epoch": 99}}, r"^resume: expected a whole state of this run, got")
    refused({"fit": {"name": "nmer"}}, r"^resume: expected a whole state of this run, got")
    refused({"fit": []}, r"^resume: expected a whole state of this run, got")
    save_checkpoint(folder, RESUME, tensors, state)
    (folder / "resume.before.json").unlink()  # the fallback, which test_crash.py tests
    path = folder / "resume.json"
    whole = path.read_text()
    for old, new, match in (
        ('"version": 3', '"version": 1', r"resume.json: expected a checkpoint of version 3, got version 1"),
        ('"epochs": 10', '"epochs": 11', r"resume.json: expected the contents that were written, got others"),
        ("{", "[" * 9999, r"resume.json: expected a checkpoint's JSON"),
    ):
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=match):
            command.run(command.Options(resume=folder), quiet=True)


def test_tensorboard_is_whole_after_a_stop_at_an_epochs_end_and_inside_one(tmp_path):
    """Every step and epoch is logged exactly once, as in an uninterrupted run."""
    data, noise, cfg = dataset(), scheduler(), config(epochs=3)
    train(data, noise, cfg, CPU, QUIET, log=Log(tmp_path / "whole", every=1))
    for looks in (5, 6):  # after epoch 1 of NMER, and after a step of epoch 2
        folder = tmp_path / str(looks)
        with pytest.raises(Stopped):
            train(
                data, noise, cfg, CPU, QUIET, folder=folder, log=Log(folder / "log", every=1), request=StopAfter(looks)
            )
        saved = load_checkpoint(folder, RESUME)
        train(data, noise, cfg, CPU, QUIET, folder=folder, log=Log(folder / "log", every=1), saved=saved)
        for name in ("teacher", "nmer"):
            whole, resumed = (scalars(path / name) for path in (tmp_path / "whole", folder / "log"))
            for values in (whole, resumed):
                del values["samples_per_second"]
            assert resumed == whole


@pytest.mark.parametrize("moment", ["teacher 2/2", "synthetic:"])
def test_sigterm_before_nmer_trains(moment, tmp_path):
    """SIGTERM in the teacher's epochs, or right after the line about the data: status 0, and how to resume."""
    process = start(tmp_path / "run")
    wait_for(process, moment)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr.splitlines()[-1].startswith("stopped; ")
    if "--resume" in stderr:
        assert command.run(command.Options(resume=tmp_path / "run"), quiet=True)["epoch"] == 10


def test_sigterm_before_anything_is_saved(tmp_path):
    """SIGTERM during imports and loading gives status 0, too, and no traceback."""
    process = start(tmp_path / "run")
    time.sleep(1.5)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert process.returncode in (0, -signal.SIGTERM)  # the signal itself, if Python had not started to run the command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_final_evaluation_keeps_the_state(number, tmp_path, monkeypatch):
    """The error message says how to resume, and resuming gives the results."""
    from nmer_fast.engine import run as engine

    def interrupted(*_, **__):
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(None, number)

    options = command.Options(size=40, epochs=1, settings=("training.teacher_epochs=1",), out=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate", interrupted)
        with pytest.raises(Stopped) as stop:
            command.run(options, quiet=True)
    assert (stop.value.folder, stop.value.signal) == (tmp_path / "run", number)
    assert command.run(command.Options(resume=tmp_path / "run"), quiet=True)["epoch"] == 1

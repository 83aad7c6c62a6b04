"""Crashes: processes killed at any moment, damaged files, full disks, and leftovers of killed processes."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from nmer_fast import files
from nmer_fast import train as command
from nmer_fast.command import fail_in_one_line
from nmer_fast.engine import saving
from nmer_fast.engine.checkpoint import RESUME, load_checkpoint, load_newest, save_checkpoint
from nmer_fast.engine.trainer import train
from nmer_fast.errors import Stopped, UserError
from nmer_fast.files import locked

from .test_engine import CPU, QUIET, config, dataset, scalars, scheduler
from .test_resume import StopAfter, assert_same

SETTINGS = ("model.layers=1", "training.teacher_epochs=3", "training.batch_size=12")  # two steps an epoch
QUICK = ("--size", "40", "--epochs", "5", "--log-every", "1", *(word for each in SETTINGS for word in ("--set", each)))
SAVING = """
import runpy
from nmer_fast.engine import saving
saving.SAVE_INTERVAL_S = 0.0  # after every epoch
runpy.run_module("nmer_fast.train", run_name="__main__", alter_sys=True)
"""  # python -m nmer_fast.train, which saves after every epoch


def options_of(folder):
    return command.Options(size=40, epochs=5, settings=SETTINGS, log_every=1, out=folder)


def start(*arguments, output=subprocess.DEVNULL):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", SAVING, *map(str, arguments)], stdout=output, stderr=subprocess.PIPE,
        text=True, env=environment,
    )  # fmt: skip


def run_or_resume(folder):
    """Do what a user does after a crash: resume, or repeat the first command if there is no run yet."""
    begun = (folder / "config.json").exists()
    return start("--resume", folder, "--log-every", "1") if begun else start(*QUICK, "--out", folder)


def kill_when(process, moment, delay=0.0):
    """Send SIGKILL some seconds after a condition holds; return whether that was before the process ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not moment():
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(delay)
    process.kill()
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode == -signal.SIGKILL


def finish(folder):
    process = run_or_resume(folder)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr


def assert_same_run(folder, whole):
    """Weights, results except times, and TensorBoard scalars except speeds agree bit for bit; no file is left over."""
    ours, theirs = load_checkpoint(folder)[0], load_checkpoint(whole)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    results = [json.loads((path / "results.json").read_text()) for path in (folder, whole)]
    for each in results:
        del each["times"]
    assert results[0] == results[1]
    for name in ("teacher", "nmer"):
        logs = [scalars(path / "tensorboard" / name) for path in (folder, whole)]
        for log in logs:
            del log["samples_per_second"]
        assert logs[0] == logs[1]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return an uninterrupted run and its duration in seconds."""
    folder, begin = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    finish(folder)
    return folder, time.monotonic() - begin


def test_killed_in_every_phase(whole, tmp_path):
    """Kill at the start, in the teacher's epochs, in a save, in NMER's epochs, and between checkpoint and results."""
    folder, chance = tmp_path / "run", random.Random(0)
    saved = folder / "resume.json"

    def epochs(name, count):
        """Return whether the last saved state has reached that number of epochs."""
        fit = json.loads(saved.read_text())["fit"] if saved.exists() else {"name": "", "epoch": -1}
        return fit["name"] == name and fit["epoch"] >= count

    kills = [
        (lambda: (folder / "config.json").exists(), 0.0),  # no state is saved yet
        (lambda: epochs("teacher", 1) and any(folder.glob(".resume-*.safetensors.*")), 0.0),  # half-written weights
        (lambda: epochs("nmer", chance.randrange(1, 4)), chance.uniform(0, 0.1)),
        (lambda: any(folder.glob(".checkpoint-*.safetensors.*")), 0.0),
        (lambda: (folder / "checkpoint.json").exists(), 0.0),  # during the evaluation
    ]
    for number, (moment, delay) in enumerate(kills):
        assert kill_when(run_or_resume(folder), moment, delay), number
        assert not (folder / "results.json").exists()
    finish(folder)
    assert_same_run(folder, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_times(seed, whole, tmp_path):
    """Kill twenty times, between the first import and the last file."""
    folder, chance = tmp_path / "run", random.Random(seed)
    for _ in range(20):
        if (folder / "results.json").exists():
            break
        kill_when(run_or_resume(folder), lambda: True, chance.uniform(0.4, 1) * whole[1])
    if not (folder / "results.json").exists():
        finish(folder)
    if (folder / "resume.json").exists():  # killed between writing the results and the clean-up
        with pytest.raises(UserError, match="which is finished"):
            command.run(command.Options(resume=folder), quiet=True)
    assert_same_run(folder, whole[0])


# ---------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def two_states(tmp_path_factory):
    """Return a folder with states of NMER's first and second epoch, and the model of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("states")
    data, noise, cfg = dataset(), scheduler(), config(epochs=3)
    with pytest.raises(Stopped):
        train(data, noise, cfg, CPU, QUIET, folder=folder, request=StopAfter(4))
    saved = load_checkpoint(folder, RESUME)
    with pytest.raises(Stopped):
        train(data, noise, cfg, CPU, QUIET, folder=folder, request=StopAfter(1), saved=saved)
    assert json.loads((folder / "resume.before.json").read_text())["fit"]["epoch"] == 0
    assert json.loads((folder / "resume.json").read_text())["fit"]["epoch"] == 1
    return folder, train(data, noise, cfg, CPU, QUIET)


def weights_of(path):
    return path.with_name(json.loads(path.read_text())["tensors"])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "weights truncated": (lambda path: truncate(weights_of(path)), "expected the checksum of resume-"),
    "weights empty": (lambda path: weights_of(path).write_bytes(b""), "expected the checksum of resume-"),
    "a bit of the weights": (lambda path: flip_a_bit(weights_of(path)), "expected the checksum of resume-"),
    "weights gone": (lambda path: weights_of(path).unlink(), "No such file"),
    "JSON truncated": (truncate, "expected a checkpoint's JSON"),
    "JSON empty": (lambda path: path.write_bytes(b""), "expected a checkpoint's JSON"),
    "JSON no text": (lambda path: path.write_bytes(b"\xff\x00" * 50), "expected a checkpoint's JSON"),
    "JSON of another state": (
        lambda path: path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 2')),
        "expected the contents that were written",
    ),
    "JSON gone": (lambda path: path.unlink(), "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_state_before_a_damaged_one_serves(damage, two_states, tmp_path):
    """A damaged state falls back to the previous one.

    One line says so, the result has the same bits, and the next save does not replace the undamaged state by the
    damaged one.
    """
    folder, undisturbed = shutil.copytree(two_states[0], tmp_path / "run"), two_states[1]
    harm, message = DAMAGES[damage]
    harm(folder / "resume.json")
    said = []
    saved = load_newest(folder, RESUME, said.append)
    assert len(said) == 1
    assert message in said[0]
    assert said[0].startswith(str(folder / "resume.json"))
    assert said[0].endswith("; the state saved before it is taken")
    assert "\n" not in said[0]
    assert saved[1]["fit"]["epoch"] == 0
    before = weights_of(folder / "resume.before.json")
    with pytest.raises(Stopped):
        train(dataset(), scheduler(), config(epochs=3), CPU, QUIET, folder=folder, request=StopAfter(0), saved=saved)
    assert weights_of(folder / "resume.before.json") == before
    again = load_newest(folder, RESUME, said.append)
    assert len(said) == 1
    assert_same(undisturbed, train(dataset(), scheduler(), config(epochs=3), CPU, QUIET, folder=folder, saved=again))


@pytest.mark.parametrize("other", DAMAGES)
def test_two_damaged_states_are_one_clear_line(other, two_states, tmp_path):
    folder = shutil.copytree(two_states[0], tmp_path / "run")
    before = folder / "resume.before.json"
    before.write_text(before.read_text().replace('"epoch": 0', '"epoch": 1'))
    DAMAGES["a bit of the weights"][0](folder / "resume.json")
    if other != "JSON of another state":
        DAMAGES[other][0](before)
    with pytest.raises(UserError, match=r"^resume: neither of the last two saved states is whole: ") as error:
        load_newest(folder, RESUME, pytest.fail)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Return the folder of an uninterrupted run in this process."""
    folder = tmp_path_factory.mktemp("calm") / "run"
    command.run(options_of(folder), quiet=True)
    return folder


def in_step(number, act):
    """Return a replacement of Saver.after_step that acts in NMER's number-th step that does not end an epoch."""
    steps = []

    def after_step(self, snapshot):
        steps.extend([1] if snapshot.__self__.name == "nmer" else [])
        if len(steps) == number:
            act()

    return after_step


def crash():
    raise RuntimeError("the machine died")


def test_the_command_says_which_state_it_takes(calm, tmp_path, monkeypatch, capsys):
    """The command reports on stderr which state it resumes from, and gives the results of an uninterrupted run."""
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(saving.Saver, "after_step", in_step(3, crash))
        with pytest.raises(RuntimeError, match="the machine died"):
            command.run(options_of(tmp_path / "run"), quiet=True)
    path = tmp_path / "run" / "resume.json"
    assert json.loads(path.read_text())["fit"]["epoch"] == 2
    flip_a_bit(weights_of(path))
    capsys.readouterr()
    command.run(command.Options(resume=path.parent, log_every=1), quiet=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"resume: {path}: expected the checksum of ")
    assert line.endswith("; the state saved before it is taken")
    assert_same_run(path.parent, calm)


# ---------------------------------------------------------------- full disks


class Disk:
    """A replacement of the file system that counts writes, fsyncs and renames, and fails the n-th.

    It fails like a full disk: a write fails after half of its content.
    """

    def __init__(self, patch, fail_at=None):
        self.fail_at, self.calls = fail_at, []
        real = {"fsync": os.fsync, "replace": os.replace}
        patch.setattr(os, "fsync", lambda fd: self.step("fsync", lambda: real["fsync"](fd)))
        patch.setattr(
            os, "replace", lambda a, b: self.step(f"replace {os.path.basename(b)}", lambda: real["replace"](a, b))
        )
        patch.setattr(files, "open", self.open, raising=False)

    def step(self, what, call, half=lambda: None):
        self.calls.append(what)
        if len(self.calls) - 1 == self.fail_at:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call()

    def open(self, path, mode):
        file = open(path, mode)  # noqa: SIM115 (closed below)
        write = file.write
        outer = self

        class File:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, content):
                return outer.step("write", lambda: write(content), lambda: write(content[: len(content) // 2]))

            flush, fileno = file.flush, file.fileno

        return File()


def save_third(folder):
    tensors, state = load_checkpoint(folder, RESUME)
    kept = {key: value for key, value in state.items() if key not in ("version", "digest", "tensors", "sha256")}
    save_checkpoint(folder, RESUME, {**tensors, "third": torch.ones(1)}, {**kept, "third": True}, keep_before=True)


FILES = 3  # the tensors, the previous state's JSON, the new JSON


def test_files_and_folder_are_on_the_disk_in_this_order(two_states, tmp_path, monkeypatch):
    """Each file is synced before its renaming, and each renaming before the next file; the JSON comes last."""
    folder = shutil.copytree(two_states[0], tmp_path / "run")
    disk = Disk(monkeypatch)
    save_third(folder)
    names = [weights_of(folder / "resume.json").name, "resume.before.json", "resume.json"]
    assert disk.calls == [call for name in names for call in ("write", "fsync", f"replace {name}", "fsync")]


@pytest.mark.parametrize("fail_at", range(4 * FILES))
def test_a_full_disk_at_any_moment_leaves_a_whole_state(fail_at, two_states, tmp_path, monkeypatch):
    folder = shutil.copytree(two_states[0], tmp_path / "run")
    with monkeypatch.context() as patch:
        Disk(patch, fail_at)
        with pytest.raises(OSError, match="No space left on device") as error:
            save_third(folder)
    assert str(folder / "resume") in error.value.filename
    assert not list(folder.glob(".*"))
    state = load_newest(folder, RESUME, pytest.fail)[1]
    assert state.get("third", False) == (fail_at == 4 * FILES - 1)  # only the folder's last fsync may be missing
    assert load_checkpoint(folder / "resume.before.json")[1]["fit"]["epoch"] <= 1
    save_third(folder)
    assert load_newest(folder, RESUME, pytest.fail)[1]["third"]
    assert len(list(folder.glob("resume*"))) == 4


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of a few megabytes."""
    mounted = []

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode:
            pytest.skip("needs root, to mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_real_full_disk_stops_in_one_line_and_training_goes_on_from_it(calm, small_disk, monkeypatch, capfd):
    """Another process fills the disk during NMER's training; once space is free, resuming gives the usual results."""
    folder = small_disk("500m") / "run"
    ballast = folder.with_name("ballast")
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", 0.0)

    def fill():
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(500 << 20))

    with monkeypatch.context() as patch:
        patch.setattr(saving.Saver, "after_step", in_step(2, fill))
        assert fail_in_one_line(lambda: command.run(options_of(folder), quiet=True)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}")
    assert line.endswith(
        f"No space left on device; what was saved before is whole, go on with: python -m nmer_fast.train --resume {folder}"
    )
    ballast.unlink()
    command.run(command.Options(resume=folder, log_every=1), quiet=True)
    assert_same_run(folder, calm)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("size", ["4k", "20m"])
def test_a_disk_too_small_to_begin(size, small_disk, capfd):
    """The disk is too small for TensorBoard's first entry or for the first state; the error is one line."""
    options = options_of(small_disk(size) / "run")
    assert fail_in_one_line(lambda: command.run(options, quiet=True)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {options.out}")
    assert "No space left on device" in line


# ---------------------------------------------------------------- leftovers of killed processes, and other processes


def test_what_dead_runs_left_goes_at_the_next_save(two_states, tmp_path):
    folder = shutil.copytree(two_states[0], tmp_path / "run")
    dead = [
        ".resume-0123456789abcdef.safetensors.99",
        ".resume.json.99",
        ".resume.before.json.99",
        "resume-0123456789abcdef.safetensors",
    ]
    others = [".mine.json.99", "checkpoint-0123456789abcdef.safetensors", "notes.txt"]
    for name in dead + others:
        (folder / name).write_text("half")
    save_third(folder)
    left = {path.name for path in folder.iterdir()}
    assert left.isdisjoint(dead)
    assert left >= set(others)
    assert load_newest(folder, RESUME, pytest.fail)[1]["third"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on_all_the_same(number, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        (tmp_path / "file").write_text("written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        locked(folder),
        pytest.raises(UserError, match=r"^out: expected a folder that no other process works in, got .*run$"),
    ):
        command.run(options_of(folder), quiet=True)
    assert command.run(options_of(folder), quiet=True)["epoch"] == 5

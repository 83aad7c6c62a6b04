"""A run from Python: a validated Config goes in, a finished run comes out, the caller's torch state is unchanged."""

import json
import random
import threading

import numpy as np
import pytest
import torch

from nmer_fast import train as command
from nmer_fast.config import make_config
from nmer_fast.engine.checkpoint import load_checkpoint
from nmer_fast.engine.inputs import pick_device
from nmer_fast.engine.robustness import robustness_of_run
from nmer_fast.engine.run import resume, run
from nmer_fast.engine.trained_model import load_model
from nmer_fast.errors import UserError

CHANGES = {"data.size": 40, "training.epochs": 2, "training.teacher_epochs": 1, "model.layers": 1, "training.seed": 3}


def state():
    return (
        torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(), threading.excepthook,
        random.getstate(), np.random.get_state()[1].tolist(),
    )  # fmt: skip


@pytest.fixture
def another_default():
    """Set torch defaults that differ from those that training expects."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.manual_seed(77)
    torch.rand(3)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


def test_the_callers_torch_is_unchanged(tmp_path, another_default):
    before = state()
    finished = run(make_config(CHANGES), out=tmp_path / "run", device="cpu")
    assert state() == before
    trained = load_model(finished.folder, pick_device("cpu"))
    where, noise = trained.config.data, trained.config.noise
    (point,) = robustness_of_run(trained, trained.data(where, own=True), [noise], pick_device("cpu")).points
    assert state() == before
    assert point.evaluation == finished.evaluation


def test_the_callers_torch_is_unchanged_where_a_run_fails(tmp_path, another_default):
    before = state()
    with pytest.raises(UserError, match=r"^tokens: model.tokens=batch"):
        run(make_config({**CHANGES, "model.tokens": "batch"}), out=tmp_path / "run", device="cpu")
    assert state() == before
    assert not (tmp_path / "run").exists()


def test_it_is_the_commands_run(tmp_path):
    """Whatever the caller's torch defaults are, weights and scores have the same bits as the command's."""
    settings = tuple(f"{name}={value}" for name, value in CHANGES.items())
    results = command.run(command.Options(settings=settings, out=tmp_path / "command", device="cpu"), quiet=True)
    torch.set_default_dtype(torch.float64)
    try:
        finished = run(make_config(CHANGES), out=tmp_path / "python", device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert finished.results["conditions"] == results["conditions"]
    assert json.loads((finished.folder / "results.json").read_text())["config"] == results["config"] | {
        "model": {**results["config"]["model"], "classifier": [384, 128]}
    }
    ours, theirs = load_checkpoint(finished.folder)[0], load_checkpoint(tmp_path / "command")[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_not_resumed(tmp_path):
    finished = run(make_config(CHANGES), out=tmp_path / "run", device="cpu")
    with pytest.raises(
        UserError, match=r"^resume: expected the folder of a run that was stopped, got .*, which is fin"
    ):
        resume(finished.folder)
    with pytest.raises(UserError, match=r"^out: expected a new folder, got .*, which holds a run$"):
        run(make_config(CHANGES), out=finished.folder, device="cpu")

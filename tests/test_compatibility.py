"""Configs, checkpoints and sweep folders that version 0.1.0 wrote still load and give the same results.

The weights of the checkpoints are not stored: each tensor is a function of its name and shape, so the test generates
the file again, and the checksum in the recorded checkpoint.json proves that it is the same bit for bit.
"""

import hashlib
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from nmer_fast import evaluate, report, sweep, train
from nmer_fast.config import load_config
from nmer_fast.engine.trained_model import load_model
from nmer_fast.models import Batch

RECORDED = Path(__file__).parent / "compatibility"
RUNS = json.loads((RECORDED / "runs.json").read_text())
DIMS = {"a": 130, "v": 342, "l": 1024}


def filled(name, shape):
    """Return recorded weights: values determined by name and position, with a scale determined by the width."""
    values = (torch.arange(math.prod(shape)) * 40503 + zlib.crc32(name.encode())) % 65536
    x = (values.float() / 65536 - 0.5) * (2 / math.sqrt(shape[-1] if shape else 1))
    return (1 + x.abs() if name.startswith("std.") or "running_var" in name else x).reshape(shape)


@pytest.fixture(scope="module", params=RUNS)
def recorded(request, tmp_path_factory):
    """Return a run's folder as version 0.1.0 wrote it, and the values recorded from it."""
    run, folder = RUNS[request.param], tmp_path_factory.mktemp(request.param)
    tensors = {
        name: torch.ones(shape, dtype=torch.int64) if name in run["integers"] else filled(name, shape)
        for name, shape in run["shapes"].items()
    }
    content, about = save(tensors), run["checkpoint"]
    assert hashlib.sha256(content).hexdigest() == about["sha256"]
    (folder / about["tensors"]).write_bytes(content)
    (folder / "checkpoint.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps(about["config"]))
    return folder, run


def test_a_checkpoint_gives_the_same_logits(recorded):
    folder, run = recorded
    features = {name: filled(name, (4, 6, dim)) for name, dim in DIMS.items()}
    lengths, ids = dict.fromkeys(DIMS, torch.tensor([6, 3, 1, 0])), torch.arange(4)
    model = load_model(folder, torch.device("cpu")).model
    with torch.no_grad():
        logits = model(Batch(features, lengths, ids, ids)).logits
    torch.testing.assert_close(logits, torch.tensor(run["logits"]), rtol=0, atol=1e-5)


def test_a_checkpoint_is_evaluated_under_all_conditions(recorded):
    folder, run = recorded
    data, about = folder / "other.npz", run["checkpoint"]
    np.savez(
        data, **{name: filled(name, (16, 6, dim)).numpy() for name, dim in DIMS.items()}, label=np.arange(16) % 4,
        split=np.array(["train"] * 10 + ["test"] * 6), label_names=np.array(about["data"]["class_names"]),
    )  # fmt: skip
    leak = about["config"]["training"]["allow_leak"]
    (point,) = evaluate.run(evaluate.Options(folder, data=str(data), allow_leak=leak), quiet=True).points
    assert list(point.evaluation.conditions) == ["a", "v", "l", "av", "al", "vl", "none", "all"]
    assert point.evaluation.conditions["all"].n == 6


def test_a_config_repeats_its_run(recorded):
    """Every field that the system has keeps its value; fields of other systems are dropped without an error."""
    folder, run = recorded
    config = load_config(folder / "config.json")
    assert train.config_of(train.Options(config=folder / "config.json")) == config
    for section, fields in run["checkpoint"]["config"].items():
        own = vars(getattr(config, section))
        for name, value in fields.items():
            if name in own:
                assert json.loads(json.dumps(own[name])) == value, name
    assert config.model.system == run["checkpoint"]["config"]["model"]["system"]


@pytest.fixture
def folder(tmp_path):
    """Return a sweep's folder without the runs' weights."""
    out = tmp_path / "sweep"
    for name, content in json.loads((RECORDED / "sweep.json").read_text()).items():
        if name.endswith(".json"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(json.dumps(content))
    return out


SWEEP = [
    "--systems",
    "nmer",
    "men",
    "unimodal.a",
    "late_fusion",
    "--snr",
    "-10",
    "-20",
    "--seeds",
    "0",
    "--epochs",
    "1",
    "--device",
    "cpu",
] + [
    word
    for s in ("training.teacher_epochs=1", "data.size=60", "model.latent=8", "model.layers=1")
    for word in ("--set", s)
]


def test_a_sweep_folder_is_finished_and_gives_the_same_table(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep", "--out", str(folder), *SWEEP])
    assert sweep.main() == 0
    assert "0 runs finished, 6 before, 0 failed" in capsys.readouterr().out
    recorded = json.loads((RECORDED / "sweep.json").read_text())["results.csv"]
    assert hashlib.sha256((folder / "results.csv").read_bytes()).hexdigest() == recorded


def test_a_sweep_folder_goes_on_with_another_seed(folder, monkeypatch, capsys):
    words = [word if word != "0" else "1" for word in SWEEP]
    words[words.index("--systems") + 1 : words.index("--snr")] = ["men"]
    monkeypatch.setattr(sys, "argv", ["sweep", "--out", str(folder), *words])
    assert sweep.main() == 0
    assert "1 runs finished, 0 before, 0 failed" in capsys.readouterr().out


def test_a_sweep_folder_has_a_page(folder):
    page = report.run(report.Options(folder), quiet=True).read_text()
    for system in ("nmer", "men", "unimodal.a", "late_fusion"):
        assert system in page

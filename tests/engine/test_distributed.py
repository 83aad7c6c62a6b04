"""Training under torchrun equals training in one process: noise, losses, gradients, stops and resuming."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch._dynamo.utils import counters

from nmer_fast.config import Config, NoiseConfig, preset
from nmer_fast.engine.batches import Batches, add_noise
from nmer_fast.engine.checkpoint import RESUME, load_checkpoint, load_newest
from nmer_fast.engine.distributed import Ranks
from nmer_fast.engine.trainer import all_sizes_differ, compiled, noisy_step, train
from nmer_fast.errors import UserError
from nmer_fast.models import NMERConfig, make_system

from .ranks import Said
from .test_engine import CPU, SMALL, config, dataset, scalars, scheduler

ROOT = Path(__file__).resolve().parents[2]
STILL = [f"model.{name}=0" for name in ("dropout", "transformer_dropout", "classifier_dropout")]


def torchrun(processes, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def ended(process):
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stdout, stderr


# ---------------------------------------------------------------- ranks without torchrun


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", ["gaussian", "impulse"])
def test_every_sample_has_the_noise_that_one_process_gives_it(size, kind):
    """Noise and conditions agree bit for bit, and the ranks' rows are all rows of the batch, in order."""
    data, noise = dataset(), scheduler(kind=kind)
    whole = list(Batches(data, CPU, 11).shuffled(data.splits["train"], 3, 7))
    parts = [
        list(Batches(data, CPU, 11, ranks=Ranks(r, size)).shuffled(data.splits["train"], 3, 7)) for r in range(size)
    ]
    for batch, *own in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part.sample_ids for part in own]), batch.sample_ids)
        assert {part.global_size for part in own} == {len(batch.labels)}
        expected = add_noise(noise, batch, batch.rng)
        noised = [add_noise(noise, part, part.rng) for part in own]
        assert torch.equal(torch.cat([each.condition for each in noised]), expected.condition)
        for name, x in expected.features.items():
            first = 0
            for part, each in zip(own, noised, strict=True):
                for i in range(len(part.labels)):
                    steps = int(part.lengths[name][i])
                    assert torch.equal(each.features[name][i, :steps], x[first + i, :steps])
                first += len(part.labels)
        stats = torch.stack([each.stats for each in noised]).sum(0)
        torch.testing.assert_close(stats, expected.stats, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("cfg", "rows", "match"),
    [
        (preset("released"), 100, r"^model.tokens: expected one or modality in 2 processes, got batch$"),
        (
            Config(model=NMERConfig(classifier_batch_norm=True)),
            100,
            r"^model.classifier_batch_norm: expected False in 2",
        ),
        (
            Config(noise=NoiseConfig(snr_db=None, steps="random")),
            100,
            r"^noise.steps: expected snr_db, or steps of each modality in 2 processes, got random$",
        ),
        (
            Config(),
            1,
            r"^training.batch_size: expected batches of 2 samples or more, one for each process, got one of 1$",
        ),
    ],
)
def test_what_depends_on_batch_mates_is_refused(cfg, rows, match):
    leaks = cfg.model.tokens == "batch"
    with pytest.raises(UserError, match=match):
        Ranks(1, 2).check(cfg, rows, leaks)
    Ranks().check(cfg, rows, leaks)


def test_a_system_of_another_package_whose_predictions_depend_on_the_batch_is_refused():
    with pytest.raises(
        UserError, match=r"^model.system: expected one whose predictions do not depend on the batch in 2"
    ):
        Ranks(1, 2).check(Config(), 100, depends_on_batch=True)


def test_padding_that_counts_is_the_whole_batchs():
    data = dataset()
    rows, options = data.splits["train"], {"padding": True}
    whole, parts = (Batches(data, CPU, 4, ranks=r, **options).shuffled(rows, 0, 0) for r in (Ranks(), Ranks(1, 2)))
    for batch, part in zip(whole, parts, strict=True):
        for name, lengths in batch.lengths.items():
            assert torch.equal(part.lengths[name], lengths[-len(part.labels) :])


@pytest.mark.parametrize("name", ["late_fusion", "mctn"])
def test_a_parts_step_is_one_graph(name, monkeypatch):
    """Dynamo compiles one graph for a rank's share of batches, although the sizes of share and global batch change."""
    data, noise, cfg = dataset(70), scheduler(), config(replace(SMALL, system=name))
    model, real = make_system(data.dims, 2, cfg.model), torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, **options: real(step, backend="eager", **options))
    step, batches = compiled(noisy_step(model, noise, cfg, CPU)), Batches(data, CPU, 16, ranks=Ranks(0, 2))
    counters.clear()
    step(all_sizes_differ(next(batches.shuffled(data.splits["train"], 0, 0))))
    for rows in (data.splits["train"], data.splits["test"]):
        for epoch in range(2):
            for batch in batches.shuffled(rows, 0, epoch):
                assert batch.global_size > len(batch.labels)
                step(batch)
    assert counters["stats"]["unique_graphs"] == 1


# ---------------------------------------------------------------- torchrun


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients_stops_and_bits(processes, tmp_path):
    """tests/engine/ranks.py checks every rank; then one process resumes their state and reports the change."""
    arguments = [ROOT / "tests" / "engine" / "ranks.py", tmp_path, *(["compiled"] if processes == 3 else [])]
    _, stderr = ended(torchrun(processes, *arguments))
    assert "Warning" not in stderr
    assert json.loads((tmp_path / "done.json").read_text()) == {"ranks": processes}
    saved, said = load_checkpoint(tmp_path, RESUME), Said()
    cfg = config(epochs=3, batch_size=10, clip=1.0)
    trained = train(dataset(val=True), scheduler(), cfg, CPU, said, folder=tmp_path, saved=saved)
    assert said.lines == [f"resume: 1 processes now, {processes} before: bits may differ"]
    assert len(trained.losses) == 3
    assert trained.losses[0] == saved[1]["fit"]["history"][0]


ARGUMENTS = [
    "-m",
    "nmer_fast.train",
    "--size",
    "60",
    "--set",
    "model.layers=1",
    "--set",
    "training.batch_size=9",
    "--log-every",
    "1",
]


def test_the_loss_curve_is_one_processs(tmp_path):
    """The losses of each step agree within 1e-5, for teacher and NMER, in batches of 9: 5 and 4 samples a rank."""
    arguments = [*ARGUMENTS, "--epochs", "1", "--set", "training.teacher_epochs=1"]
    for setting in STILL:
        arguments += ["--set", setting]
    two, one = tmp_path / "two", tmp_path / "one"
    stdout, stderr = ended(torchrun(2, *arguments, "--out", two))
    assert stderr == ""
    assert stdout.count("synthetic: 36 train, 24 test") == stdout.count("written: ") == 1
    ended(torchrun(1, *arguments, "--out", one))
    for name in ("teacher", "nmer"):
        ours, theirs = scalars(two / "tensorboard" / name), scalars(one / "tensorboard" / name)
        assert ours.keys() == theirs.keys()
        assert len(ours["loss/total"]) == 4
        for tag in ours.keys() - {"samples_per_second"}:
            steps, values = zip(*ours[tag], strict=True)
            assert steps == tuple(step for step, _ in theirs[tag])
            assert values == pytest.approx([value for _, value in theirs[tag]], rel=1e-5, abs=1e-7), (name, tag)
    weights = [load_checkpoint(folder)[0] for folder in (two, one)]
    for name, t in weights[0].items():
        torch.testing.assert_close(t, weights[1][name], rtol=0, atol=5e-5)  # four steps of Adam at lr 1e-4


def test_sigterm_stops_all_after_the_same_step(tmp_path):
    """The stop is announced once, and --resume under torchrun continues from the saved state."""
    arguments = [*ARGUMENTS, "--epochs", "12", "--set", "training.teacher_epochs=1"]
    folder = tmp_path / "run"
    process = torchrun(2, *arguments, "--out", folder)
    for line in process.stdout:
        if "nmer 2/12" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert stderr.count("stopping after this step") == 1
    how = f"go on with: torchrun --nproc-per-node 2 -m nmer_fast.train --resume {folder}"
    assert stderr.count(f"stopped; {how}") == 1
    assert not (folder / "results.json").exists()
    state = load_checkpoint(folder, RESUME)[1]
    stopped = state["fit"]
    assert (state["ranks"], stopped["name"]) == (2, "nmer")
    assert 2 <= stopped["epoch"] < 12
    ended(torchrun(2, "-m", "nmer_fast.train", "--resume", folder, "--log-every", "1"))
    results = json.loads((folder / "results.json").read_text())
    assert len(results["losses"]) == 12
    assert results["losses"][: len(stopped["history"])] == stopped["history"]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_in_one_line(tmp_path):
    """The saved state is undamaged."""
    folder = tmp_path / "run"
    process = torchrun(2, *ARGUMENTS, "--epochs", "300", "--set", "training.teacher_epochs=1", "--out", folder)
    for line in process.stdout:
        if line.startswith("nmer "):
            break
    (second,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    second.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    how = f"go on with: torchrun --nproc-per-node 2 -m nmer_fast.train --resume {folder}"
    assert stderr.count(f"error: torchrun: another process ended; what was saved is whole, {how}") == 1
    assert "[rank0]" not in stderr
    assert load_newest(folder, RESUME, pytest.fail)[1]["fit"]["name"] == "nmer"


def test_a_folder_that_holds_a_run_is_one_line_and_nobody_waits(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    process = torchrun(2, *ARGUMENTS, "--out", tmp_path)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode != 0
    assert stderr.count("error: out: expected a new folder") == 1

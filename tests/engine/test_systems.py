"""Every system with the one trainer: it compiles to one graph, resumes to the same bits, and is evaluated in pairs."""

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._dynamo.utils import counters

from nmer_fast import evaluate as evaluate_command
from nmer_fast import train as train_command
from nmer_fast.config import from_dict, model_config
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.checkpoint import load_checkpoint
from nmer_fast.engine.evaluation import EVALUATION_DRAW, predictor_of
from nmer_fast.engine.log import Log
from nmer_fast.engine.trained_model import load_model
from nmer_fast.engine.trainer import train
from nmer_fast.errors import UserError
from nmer_fast.models import SYSTEMS, Batch, Output, System, make_system, system_class
from nmer_fast.models.encoders import LSTMEncoder
from nmer_fast.noise import NoiseScheduler

from .test_engine import CPU, QUIET, SMALL, config, dataset, scalars, scheduler
from .test_resume import assert_same, stop_and_go_on

EVERY = pytest.mark.parametrize("name", SYSTEMS)
STILL = replace(SMALL, dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)


def of(name, base=SMALL):
    return model_config({**asdict(base), "system": name} | ({"modality": "l"} if name == "unimodal" else {}))


def has_teacher(name):
    return system_class(name).teacher({"a": 2, "l": 3}, 2, of(name), 0.01) is not None


@EVERY
@pytest.mark.parametrize("after", [1, 4])
def test_a_stop_changes_no_bit(name, after, tmp_path):
    """The stop is inside an epoch or at its end, with dropout; the teacher, if there is one, takes 4 steps first."""
    data, noise, cfg = dataset(), scheduler(), config(of(name), epochs=3)
    whole = train(data, noise, cfg, CPU, QUIET)
    looks = after - 1 + (4 if has_teacher(name) else 0)
    resumed, fit = stop_and_go_on(data, noise, cfg, looks, tmp_path)
    assert (fit["name"], fit["epoch"], fit["step_in_epoch"]) == (name, after // 2, after % 2)
    assert_same(whole, resumed)
    assert ("teacher" in whole.seconds) == has_teacher(name)


def one_graph(name):
    """Losses of the compiled and the eager step agree over batches of changing size and length."""
    data, noise = dataset(70), NoiseScheduler({"a": 1.0, "l": 1.0}, snr_db=-10)
    data = replace(data, modalities={m: data.modalities[m] for m in "al"})
    counters.clear()
    eager, compiled = (
        train(data, noise, config(of(name, STILL), compile=c, epochs=3), CPU, QUIET) for c in (False, True)
    )
    assert counters["stats"]["unique_graphs"] == 1
    assert len(eager.losses) == 3
    for a, b in zip(eager.losses, compiled.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@EVERY
def test_the_compiled_step_is_one_graph(name, monkeypatch):
    """This tests Dynamo's part, in seconds; `make test-slow` tests the code that Inductor generates."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, **options: real(step, backend="eager", **options))
    one_graph(name)


def test_a_summed_kl_is_one_graph_too(monkeypatch):
    """The sum is the mean times the size of the global batch, on which no graph may be specialised."""
    monkeypatch.setattr(sys.modules[__name__], "STILL", replace(STILL, kl="sum"))
    test_the_compiled_step_is_one_graph("nmer", monkeypatch)


@EVERY
@pytest.mark.slow
def test_the_compiled_step_trains_as_eager_does(name):
    one_graph(name)


@EVERY
def test_paired_evaluation_equals_one_pass_for_each_condition(name):
    data, noise = dataset(), scheduler(seed=5)
    model, batches, rows = make_system(data.dims, 2, of(name)).eval(), Batches(data, CPU, 16), data.splits["test"]
    assert_as_one_pass_each(model, batches, rows, noise)


def assert_as_one_pass_each(model, batches, rows, noise):
    """Compare logits, not scores: an untrained model may predict the same class under every condition."""
    predict, rng = predictor_of(model), torch.tensor([5, EVALUATION_DRAW])
    for b in batches.sequential(rows):
        own = {"lengths": b.lengths, "sample_ids": b.sample_ids, "rng": rng}
        noisy = {c: noise(b.features, condition=c, **own).features for c in noise.conditions.names}
        with torch.no_grad():
            logits = predict(b, noisy["none"], noise.noisy_of_condition)
            expected = [model(Batch(x, b.lengths, b.labels, b.sample_ids)).logits for x in noisy.values()]
        torch.testing.assert_close(logits, torch.stack(expected))
        assert (logits[-1] != logits[-2]).any()


class EarlyFusion(System):
    """A system that reads the first steps of all modalities together, so that no modality is encoded independently."""

    def __init__(self, dims, classes, config):
        super().__init__(dims, classes, config)
        self.encoder, self.out = LSTMEncoder(sum(dims.values())), torch.nn.Linear(128, classes)

    def forward(self, batch):
        steps = min(x.shape[1] for x in batch.features.values())
        x = torch.cat([x[:, :steps] for x in batch.features.values()], 2)
        logits = self.out(self.encoder(x, torch.stack(list(batch.lengths.values())).amin(0)))
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        return Output(logits, {"total": loss} if self.training else {})


def test_a_system_that_is_not_separable_runs_once_for_each_condition(monkeypatch):
    monkeypatch.setitem(SYSTEMS.own, "early_fusion", f"{__name__}:EarlyFusion")
    data, noise = dataset(), scheduler(seed=5)
    trained = train(data, noise, config(of("early_fusion")), CPU, QUIET)
    assert_as_one_pass_each(trained.model, Batches(data, CPU, 16), data.splits["test"], noise)


class Transposed(EarlyFusion):
    """A system whose first weight is stored transposed."""

    def __init__(self, dims, classes, config):
        super().__init__(dims, classes, config)
        self.out.weight = torch.nn.Parameter(torch.randn(128, classes).t())


def test_a_stop_changes_no_bit_where_weights_are_not_contiguous(tmp_path, monkeypatch):
    """A file stores no strides, but the fused optimizer pairs weights and moments by their position in memory."""
    monkeypatch.setitem(SYSTEMS.own, "transposed", f"{__name__}:Transposed")
    data, noise, cfg = dataset(), scheduler(), config(of("transposed"), epochs=3, lr=1e-2)
    whole = train(data, noise, cfg, CPU, QUIET)
    assert_same(whole, stop_and_go_on(data, noise, cfg, 2, tmp_path)[0])


class Seen(EarlyFusion):
    batches = []  # noqa: RUF012

    def forward(self, batch):
        if self.training:
            self.batches.append(batch)
        return super().forward(batch)


@pytest.mark.parametrize("complete", [False, True])
def test_a_system_is_told_what_is_noisy(complete, monkeypatch):
    """`noisy` marks exactly the modalities with noise; for systems that are trained on complete data it is None."""
    monkeypatch.setitem(SYSTEMS.own, "seen", f"{__name__}:Seen")
    monkeypatch.setattr(Seen, "trains_on_complete_data", complete)
    Seen.batches.clear()
    train(dataset(), scheduler(), config(of("seen"), epochs=1), CPU, QUIET)
    assert len(Seen.batches) == 2
    for b in Seen.batches:
        if complete:
            assert b.noisy is b.clean is None
            continue
        assert b.noisy.any()
        assert not b.noisy.all()
        for m, (name, x) in enumerate(b.features.items()):
            changed = (x != b.clean[name]).flatten(1).any(1)
            assert torch.equal(changed, b.noisy[:, m] & (b.lengths[name] > 0))


@pytest.mark.parametrize("name", ["men", "mmin"])
def test_tensorboard_has_the_systems_own_terms(name, tmp_path):
    train(dataset(), scheduler(), config(of(name)), CPU, QUIET, log=Log(tmp_path, every=1))
    tags = scalars(tmp_path / name)
    assert {"loss/cls", "loss/total", "grad_norm", "lr"} <= tags.keys()
    assert ("loss/backward" in tags) == ("realised_snr_db/a" in tags) == (name == "mmin")
    assert (tmp_path / "teacher").exists() == (name == "mmin")


# ---------------------------------------------------------------- the commands


QUICK = {"size": 40, "epochs": 1, "settings": ("model.layers=1", "training.teacher_epochs=1")}


@pytest.mark.parametrize("name", ["late_fusion", "mctn"])
def test_train_and_evaluate_by_name(name, tmp_path):
    """Checkpoint, config and results contain the system's name, and evaluation reconstructs the system."""
    results = train_command.run(train_command.Options(system=name, out=tmp_path, **QUICK), quiet=True)
    assert results["system"] == results["config"]["model"]["system"] == name
    assert load_checkpoint(tmp_path)[1]["system"] == name
    assert type(load_model(tmp_path, CPU).model) is system_class(name)
    again = evaluate_command.run(evaluate_command.Options(tmp_path), quiet=True).points[0].evaluation
    assert again.as_dict()["conditions"] == results["conditions"]


def test_a_config_without_the_field_means_nmer():
    """The same holds for checkpoints with such a config."""
    assert from_dict({"model": {"latent": 32}}).model.system == "nmer"


def test_what_a_system_cannot_do_is_refused(tmp_path):
    for options, message in (
        ({"system": "mine"}, r"^model.system: expected one of nmer, .*, got 'mine'"),
        ({"system": "unimodal"}, r"^model.modality: expected one of a, v, l for unimodal, got none"),
        (
            {"settings": ("model.modality=a",)},
            r"^model.modality: no such field of nmer; expected classifier, .*, transformer_dropout$",
        ),
    ):
        with pytest.raises(UserError, match=message):
            train_command.run(train_command.Options(size=40, out=tmp_path / "x", **options), quiet=True)
    assert not (tmp_path / "x").exists()


def test_the_released_settings_leak_in_nmer_alone(tmp_path):
    """MEN has no attention over the batch, so its run does not need --allow-leak."""
    options = {**QUICK, "preset": "released", "out": tmp_path}
    with pytest.raises(UserError, match=r"^tokens: model.tokens=batch \(released code\) lets a prediction depend"):
        train_command.run(train_command.Options(**options), quiet=True)
    assert train_command.run(train_command.Options(system="men", **options), quiet=True)["system"] == "men"


def test_the_example_of_adding_a_system(tmp_path, monkeypatch):
    """The documented system of at most 55 lines, with its line in the registry, trains, evaluates and compiles."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "adding_a_system.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (name, path) = re.findall(r'^ +"(\w+)": "([\w.]+:\w+)",$', page, re.M)[0]
    assert len(code.splitlines()) <= 55
    module = ModuleType(f"nmer_fast.models.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # Dynamo looks the module up there
    exec(code, vars(module))
    monkeypatch.setitem(SYSTEMS.own, name, path)
    results = train_command.run(train_command.Options(system=name, out=tmp_path, **QUICK), quiet=True)
    assert {"cls", "gate", "total"} == results["losses"][0].keys()
    again = evaluate_command.run(evaluate_command.Options(tmp_path), quiet=True).points[0].evaluation
    assert again.as_dict()["conditions"] == results["conditions"]
    data, noise = dataset(), scheduler(seed=5)
    model = make_system(data.dims, 2, of(name)).eval()
    assert_as_one_pass_each(model, Batches(data, CPU, 16), data.splits["test"], noise)
    test_the_compiled_step_is_one_graph(name, monkeypatch)

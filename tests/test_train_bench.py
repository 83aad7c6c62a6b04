"""The training bench: its baseline computes what the engine does, and what it counts and fits is right."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from nmer_fast import ops
from nmer_fast.config import Config, NMERConfig
from nmer_fast.contract import LATENT_STREAM
from nmer_fast.data import FeatureSet, Ragged
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.trainer import noisy_step, teacher_targets
from nmer_fast.models import NMER, Teacher
from nmer_fast.models.encoders import TEXT
from nmer_fast.noise import NoiseScheduler

BENCH = Path(__file__).resolve().parent.parent / "bench"
CPU = torch.device("cpu")
DIMS = {"a": 6, "v": 5, "l": 7}
RNG = torch.tensor([3, 1])
NO_DROPOUT = {"dropout": 0.0, "transformer_dropout": 0.0, "classifier_dropout": 0.0}


@pytest.fixture(scope="module")
def modules():
    """The bench's files under the names by which they import each other."""
    names, loaded = ("measure", "baseline", "train_throughput"), {}
    for name in names:
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def baseline(modules):
    return modules["baseline"]


@pytest.fixture(scope="module")
def bench(modules):
    return modules["train_throughput"]


def equal_lengths(n=12, steps=8):
    """Nothing is padded: all sequences have the length that batches are rounded to."""
    generator = torch.Generator().manual_seed(0)
    modalities = {
        name: Ragged.from_lengths(torch.randn(n * steps, dim, generator=generator), torch.full((n,), steps))
        for name, dim in DIMS.items()
    }
    order = torch.arange(n)
    return FeatureSet(
        "equal", modalities, order % 3, ["x", "y", "z"], {"train": order, "test": order}, [str(i) for i in range(n)],
        order, order,
    )  # fmt: skip


def copy_encoders(ours, theirs):
    """Our encoders' weights into torch's layers; nn.LSTM has two biases, whose sum is ours."""
    for stream in ("specific", "invariant"):
        for encoder, (name, stock) in zip(getattr(ours, stream), getattr(theirs, stream).items(), strict=True):
            if name in TEXT:
                for weight, bias, convolution in zip(encoder.weights, encoder.biases, stock.convolutions, strict=True):
                    convolution.load_state_dict({"weight": weight.mT, "bias": bias})
                stock.linear.load_state_dict(encoder.linear.state_dict())
            else:
                stock.lstm.load_state_dict(
                    {
                        "weight_ih_l0": encoder.weight_ih,
                        "weight_hh_l0": encoder.weight_hh,
                        "bias_ih_l0": encoder.bias,
                        "bias_hh_l0": torch.zeros_like(encoder.bias),
                    }
                )
    theirs.shared.load_state_dict(ours.shared.state_dict())


def copy_model(ours, theirs):
    copy_encoders(ours.encoders, theirs.encoders)
    for mine, stock in zip(ours.vae_encoder, theirs.transformer.layers, strict=True):
        stock.load_state_dict(mine.state_dict())
    for name in ("to_mu", "to_logvar", "decoder", "classifier"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())


def gradients(model, lstm_of, transformer):
    """By names that both models have."""
    out = {}
    for stream in ("specific", "invariant"):
        encoders = getattr(model.encoders, stream)
        for name, encoder in zip(DIMS, encoders.values() if hasattr(encoders, "values") else encoders, strict=True):
            if name in TEXT:
                ours = hasattr(encoder, "weights")  # [128, kernel, D], not [128, D, kernel]
                tensors = [p.grad.mT if ours and p.dim() == 3 else p.grad for p in encoder.parameters()]
                tensors.sort(key=lambda t: (t.dim(), t.shape))  # convolutions and the linear layer, in one order
            else:
                tensors = lstm_of(encoder)
            out |= {f"{stream}.{name}.{i}": t for i, t in enumerate(tensors)}
    rest = {"shared": model.encoders.shared, "transformer": transformer}
    rest |= {name: getattr(model, name) for name in ("to_mu", "to_logvar", "decoder", "classifier")}
    for name, module in rest.items():
        out |= {f"{name}.{i}": p.grad for i, p in enumerate(module.parameters())}
    return out


@pytest.fixture
def both(baseline, monkeypatch):
    """Losses and gradients of ours and of the baseline with our weights, at alpha_bar 1 and with one latent draw."""
    data, config = equal_lengths(), NMERConfig(layers=2, feedforward=16, latent=8, tokens="batch", **NO_DROPOUT)
    batches = Batches(data, CPU, 12)
    teacher, model = Teacher(DIMS, 3, config, 0.01), NMER(DIMS, 3, config)
    targets = teacher_targets(teacher, batches)
    scheduler = NoiseScheduler(dict.fromkeys(DIMS, 1.0), snr_db=200)
    assert (scheduler.alpha_bars == 1).all()
    rows = data.splits["train"]
    output = noisy_step(model.train(), scheduler, Config(model=config), CPU)(batches.of(rows, rng=RNG, targets=targets))
    output.losses["total"].backward()

    encoders = baseline.Encoders(DIMS, config)
    copy_encoders(teacher.encoders, encoders)
    stock = baseline.Baseline(DIMS, 3, config, encoders)
    copy_model(model, stock)
    latent = ops.noise((12, 8), seed=RNG, stream=LATENT_STREAM, sample_ids=rows)
    draw = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda t: latent if t.shape == latent.shape else draw(t))
    optimizer = torch.optim.SGD(stock.parameters(), lr=0.0)
    losses = baseline.step(
        stock, optimizer, baseline.collate(data, rows), data.labels, scheduler.alpha_bars.float(), scheduler.conditions
    )
    ours = gradients(model, lambda e: [e.weight_ih.grad, e.weight_hh.grad, e.bias.grad], model.vae_encoder)
    theirs = gradients(
        stock, lambda e: [e.lstm.weight_ih_l0.grad, e.lstm.weight_hh_l0.grad, e.lstm.bias_ih_l0.grad], stock.transformer
    )
    return model, stock, output.losses, losses, ours, theirs


def test_the_baseline_trains_the_same_model(both):
    """As many parameters but for nn.LSTM's second bias; the same losses and gradients."""
    model, stock, our_losses, their_losses, ours, theirs = both
    count = [sum(p.numel() for p in m.parameters()) for m in (model, stock)]
    assert count[1] - count[0] == 4 * 512
    assert our_losses.keys() == their_losses.keys()
    for name, loss in our_losses.items():
        assert their_losses[name].item() == pytest.approx(loss.item(), rel=1e-4), name
    assert ours.keys() == theirs.keys()
    assert len(ours) == len(list(model.parameters()))
    for name, gradient in ours.items():
        error = (theirs[name] - gradient).norm() / gradient.norm().clamp(min=1e-7)
        assert error < 1e-4, f"{name}: {error:.1e}"


def test_the_baselines_noise(baseline):
    """Of the variance that alpha_bar asks for, on padding too, and where a sample's modality is noisy alone."""
    x = {"a": torch.zeros(4, 50, 6), "l": torch.ones(4, 30, 7)}
    noisy = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    out = baseline.add_noise(x, torch.tensor([0.75, 0.36]), noisy)
    for m, (name, clean) in enumerate(x.items()):
        for i in range(4):
            if not noisy[i, m]:
                assert torch.equal(out[name][i], clean[i])
    assert out["a"][0].std().item() == pytest.approx(0.5, rel=0.15)  # 3.7 standard errors
    assert (out["a"][[0, 2]] != 0).all()
    assert out["l"][1].mean().item() == pytest.approx(0.6, abs=0.22)
    assert out["l"][1].std().item() == pytest.approx(0.8, rel=0.2)


def test_the_baselines_batches_and_passes(baseline, bench):
    """Padded with zeros to the longest; every sample once in each condition."""
    data = bench.ragged(DIMS, {name: torch.tensor([1, 5, 3, 8, 6, 7]) for name in DIMS}, 4, torch.Generator())
    batch = baseline.collate(data, torch.tensor([2, 1]))
    for name, dim in DIMS.items():
        assert batch[name].shape == (2, 5, dim)
        assert (batch[name][0, 3:] == 0).all()
        assert torch.equal(batch[name][1], data.modalities[name].values[1:6])
    config = NMERConfig(layers=1, feedforward=16, latent=8)
    scheduler = NoiseScheduler(dict.fromkeys(DIMS, 1.0), snr_db=200)
    data = bench.ragged(DIMS, {name: torch.tensor([5, 6, 7, 8, 6, 7]) for name in DIMS}, 4, torch.Generator())
    model = baseline.Baseline(DIMS, 4, config, baseline.Encoders(DIMS, config))
    names = scheduler.conditions.names[:6]
    predicted = baseline.evaluate(
        model, data, torch.arange(6), 6, scheduler.alpha_bars.float(), scheduler.conditions, names
    )
    assert list(predicted) == names
    with torch.no_grad():
        expected = model.predict(baseline.collate(data, torch.arange(6))).argmax(1)
    assert all(torch.equal(classes, expected) for classes in predicted.values())  # no noise at alpha_bar 1


def test_launches_are_leaves_that_compute(bench):
    x, weights = torch.randn(4, 6), [torch.randn(3) for _ in range(5)]
    assert bench.launches(lambda: x + x) == 1
    assert bench.launches(lambda: (x[:2].reshape(-1).t().detach(), torch.empty_like(x), x[0, 0].item())) == 0
    assert bench.launches(lambda: torch.nn.functional.linear(x, x)) == 1  # addmm's own parts are views
    assert bench.launches(lambda: torch._foreach_add_(weights, 1.0)) == 1
    assert bench.launches(lambda: [w.add_(1.0) for w in weights]) == 5
    leaf = x.clone().requires_grad_()
    # 2x, sin, sum; ones, cos, cos * gradient, 2 * gradient
    assert bench.launches(lambda: (2 * leaf).sin().sum().backward()) == 7
    assert bench.launches(lambda: ops.noise((4, 6), seed=torch.tensor([1, 2]))) == 1


def test_the_line_and_its_residual(bench):
    slope, intercept, residual = bench.line([1, 2, 4], [5.0, 7.0, 11.0])
    assert (slope, intercept) == pytest.approx((2, 3))
    assert residual < 1e-9
    assert bench.line([1, 2, 3], [1.0, 4.0, 9.0])[2] > 0.1


def test_arithmetic_counts_products(bench):
    """One LSTM step of one sample: W x and U h forward, their weights' gradients and h's backward, in two encoders."""
    model = torch.nn.Linear(3, 2)
    lstm = 2 * 2 * 512 * ((130 + 128) + (130 + 128 + 128))
    dense = 3 * 2 * 6
    assert bench.arithmetic(model, {"a": 1}, 1, teacher=False) == lstm + dense
    text = 2 * 2 * 12 * 128 * 1024
    assert bench.arithmetic(model, {"l": 1}, 1, teacher=True) == 3 * text + dense


def test_parts_add_up_to_the_step(bench):
    plan = bench.Plan(batch=4, train=8, test=4, layers=1)
    data = bench.iemocap(plan.train, plan.test)
    config = bench.config_of(plan)
    for system in (bench.Theirs(data, config), bench.Ours(data, config)):
        times = bench.parts(system, [torch.arange(4), torch.arange(4, 8)])
        named = set(bench.PARTS) - ({"teacher"} if isinstance(system, bench.Ours) else set())
        assert set(times) == named
        assert all(len(values) == 2 and min(values) > 0 for values in times.values())


def test_table_csv_and_plot(bench, tmp_path, capsys):
    figures = [
        bench.figure("step", "seconds", who, "s", [t, t, t]) for who, t in ((bench.BASELINE, 3.0), (bench.OURS, 1.5))
    ]
    figures += [bench.figure("parts", p, who, "s", [0.1]) for who in (bench.BASELINE, bench.OURS) for p in bench.PARTS]
    figures.append(bench.figure("operations", "a step", bench.OURS, "operations", [100]))
    for what in ("utterances", "modalities"):
        figures += [bench.figure(what, str(n), bench.OURS, "s", [float(n)]) for n in (1, 2)]
        figures += [
            bench.figure(what, name, bench.OURS, "s", [v])
            for name, v in (("slope", 1.0), ("intercept", 0.0), ("largest residual", 0.0))
        ]
    bench.show(figures)
    assert "2.00x" in capsys.readouterr().out
    bench.write(tmp_path / "x.csv", figures)
    written = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert len(written) == len(figures)
    assert all(row["threads"] and row["torch"] and row["commit"] for row in written)
    bench.plot(tmp_path / "x.png", figures)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

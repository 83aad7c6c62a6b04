"""The training bench: its baseline computes what the engine does, and what it counts and fits is right."""

import csv
import importlib
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nmer_fast import ops
from nmer_fast.contract import LATENT_STREAM
from nmer_fast.data import FeatureSet, Ragged
from nmer_fast.noise import NoiseScheduler
from nmer_fast.ops import reference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
library, made_up, baseline, measure = map(importlib.import_module, ("library", "made_up", "baseline", "measure"))
counting, figures, growth, systems, timing = (
    importlib.import_module(f"training.{name}") for name in ("counting", "figures", "growth", "systems", "timing")
)

DIMS = {"a": 6, "v": 5, "l": 7}
NO_DROPOUT = {"dropout": 0.0, "transformer_dropout": 0.0, "classifier_dropout": 0.0}


def equal_lengths(n=12, steps=8):
    """Return data without padding: all sequences have the length that batches are rounded up to."""
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
    """Copy our encoders' weights into torch's layers; nn.LSTM has two biases, whose sum is our bias."""
    for stream in ("specific", "invariant"):
        for encoder, (name, stock) in zip(getattr(ours, stream), getattr(theirs, stream).items(), strict=True):
            if name in library.TEXT_MODALITIES:
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
    """Return the gradients under the names that both models share."""
    out = {}
    for stream in ("specific", "invariant"):
        encoders = getattr(model.encoders, stream)
        for name, encoder in zip(DIMS, encoders.values() if hasattr(encoders, "values") else encoders, strict=True):
            if name in library.TEXT_MODALITIES:
                ours = hasattr(encoder, "weights")  # [128, kernel, D], not [128, D, kernel]
                tensors = [p.grad.mT if ours and p.dim() == 3 else p.grad for p in encoder.parameters()]
                tensors.sort(key=lambda t: (t.dim(), t.shape))  # convolutions and the linear layer, in a common order
            else:
                tensors = lstm_of(encoder)
            out |= {f"{stream}.{name}.{i}": t for i, t in enumerate(tensors)}
    rest = {"shared": model.encoders.shared, "transformer": transformer}
    rest |= {name: getattr(model, name) for name in ("to_mu", "to_logvar", "decoder", "classifier")}
    for name, module in rest.items():
        out |= {f"{name}.{i}": p.grad for i, p in enumerate(module.parameters())}
    return out


@pytest.fixture
def both(monkeypatch):
    """Return losses and gradients of both models with the same weights, at alpha_bar 1 and with one latent draw."""
    data, rows = equal_lengths(), torch.arange(12)
    config = library.Config(
        noise=library.NoiseConfig(snr_db=200),
        model=library.NMERConfig(layers=2, feedforward=16, latent=8, tokens="batch", **NO_DROPOUT),
    )
    ours, theirs = systems.Ours(data, config), systems.Theirs(data, config)
    assert (ours.scheduler.alpha_bars == 1).all()
    ours.model.train()
    batch = ours.batch(rows)
    output = ours.fit.step(batch)
    output.losses["total"].backward()

    model, stock = ours.model, theirs.model
    copy_encoders(ours.teacher.encoders, stock.teacher[0])
    copy_model(model, stock)
    latent = ops.noise((12, 8), seed=batch.rng, stream=LATENT_STREAM, sample_ids=rows)
    draw = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda t: latent if t.shape == latent.shape else draw(t))
    stock.train()
    optimizer = torch.optim.SGD(stock.parameters(), lr=0.0)
    losses = baseline.step(stock, optimizer, *theirs.batch(rows), theirs.alpha_bars, theirs.known)
    our_gradients = gradients(model, lambda e: [e.weight_ih.grad, e.weight_hh.grad, e.bias.grad], model.vae_encoder)
    their_gradients = gradients(
        stock, lambda e: [e.lstm.weight_ih_l0.grad, e.lstm.weight_hh_l0.grad, e.lstm.bias_ih_l0.grad], stock.transformer
    )
    return model, stock, output.losses, losses, our_gradients, their_gradients


def test_the_baseline_trains_the_same_model(both):
    """The models have equally many parameters except for nn.LSTM's second bias, and the same losses and gradients."""
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


def test_the_baselines_noise():
    """The variance is that of alpha_bar, on padding too; only the noisy modalities of a sample get noise."""
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


def test_the_baselines_batches_and_passes():
    """Batches are zero-padded to the longest sample, and every sample occurs once in each condition."""
    data = made_up.features(DIMS, {name: torch.tensor([1, 5, 3, 8, 6, 7]) for name in DIMS}, 4)
    batch = baseline.collate(data, torch.tensor([2, 1]))
    for name, dim in DIMS.items():
        assert batch[name].shape == (2, 5, dim)
        assert (batch[name][0, 3:] == 0).all()
        assert torch.equal(batch[name][1], data.modalities[name].values[1:6])
    config = library.NMERConfig(layers=1, feedforward=16, latent=8)
    scheduler = NoiseScheduler(dict.fromkeys(DIMS, 1.0), snr_db=200)
    data = made_up.features(DIMS, {name: torch.tensor([5, 6, 7, 8, 6, 7]) for name in DIMS}, 4)
    model = baseline.Baseline(DIMS, 4, config, baseline.Encoders(DIMS, config))
    names = scheduler.conditions.names[:6]
    predicted = baseline.evaluate(
        model, data, torch.arange(6), 6, scheduler.alpha_bars.float(), scheduler.conditions, names
    )
    assert list(predicted) == names
    with torch.no_grad():
        expected = model.predict(baseline.collate(data, torch.arange(6))).argmax(1)
    assert all(torch.equal(classes, expected) for classes in predicted.values())  # there is no noise at alpha_bar 1


def test_launches_are_leaves_that_compute():
    x, weights = torch.randn(4, 6), [torch.randn(3) for _ in range(5)]
    assert counting.launches(lambda: x + x) == 1
    assert counting.launches(lambda: (x[:2].reshape(-1).t().detach(), torch.empty_like(x), x[0, 0].item())) == 0
    assert counting.launches(lambda: torch.nn.functional.linear(x, x)) == 1  # addmm's own parts are views
    assert counting.launches(lambda: torch._foreach_add_(weights, 1.0)) == 1
    assert counting.launches(lambda: [w.add_(1.0) for w in weights]) == 5
    leaf = x.clone().requires_grad_()
    # 2x, sin, sum; ones, cos, cos * gradient, 2 * gradient
    assert counting.launches(lambda: (2 * leaf).sin().sum().backward()) == 7
    assert counting.launches(lambda: ops.noise((4, 6), seed=torch.tensor([1, 2]))) == 1


def test_the_line_and_its_residual():
    slope, intercept, residual = growth.line([1, 2, 4], [5.0, 7.0, 11.0])
    assert (slope, intercept) == pytest.approx((2, 3))
    assert residual < 1e-9
    assert growth.line([1, 2, 3], [1.0, 4.0, 9.0])[2] > 0.1


def torchs_count(call):
    """By torch's own formulas alone: the products of plain PyTorch."""
    with FlopCounterMode(display=False) as counter:
        call()
    counted = counter.get_flop_counts()["Global"]
    assert not any("nmer_fast" in str(op) or "rnn" in str(op) for op in counted)
    return sum(counted.values())


def test_the_baselines_lstm_is_counted_as_torch_counts_its_products():
    """oneDNN's LSTM is one op; without oneDNN torch makes the same LSTM of products."""
    lstm, x = torch.nn.LSTM(5, 16, batch_first=True), torch.randn(3, 7, 5)

    def train():
        lstm(x)[0].sum().backward()

    counted = counting.arithmetic(train)
    with torch.backends.mkldnn.flags(enabled=False):
        # torch stops at the first step, whose state before it needs no gradient
        assert counted == torchs_count(train) + 2 * 3 * 64 * 16
        with torch.no_grad():
            products = torchs_count(lambda: lstm(x))
    with torch.no_grad():
        assert counting.arithmetic(lambda: lstm(x)) == products == 2 * 3 * 7 * 64 * (5 + 16)


@pytest.mark.parametrize("needs_x", [False, True])
def test_our_lstm_is_counted_as_torch_counts_its_reference(needs_x):
    """Two encoders of whole samples; then of one step in all, by hand."""
    x = torch.randn(3, 7, 5, requires_grad=needs_x)
    weights = [torch.randn(2, 64, 5), torch.randn(2, 64, 16), torch.randn(2, 64)]
    leaves = [w.requires_grad_() for w in weights]

    def train(lengths):
        ops.lstm_max_pool(x, lengths, *leaves).sum().backward()

    def plain(lengths):
        with torch.no_grad():
            pooled, argmax, *states = reference.lstm_max_pool(x, lengths, *weights)
            reference.lstm_backward(torch.ones_like(pooled), x, lengths, *weights[:2], *states, needs_x, argmax)

    whole = torch.tensor([7, 7, 7])
    assert counting.arithmetic(lambda: train(whole)) == torchs_count(lambda: plain(whole))
    by_hand = 2 * 2 * 64 * ((5 + 16) + (5 + 16 + 16) + (5 if needs_x else 0))
    assert counting.arithmetic(lambda: train(torch.tensor([0, 1, 0]))) == by_hand


def test_our_convolution_is_counted_by_its_windows():
    """Forward as torch counts its convolution; backward one window of each sample and filter."""
    x, weight = torch.randn(3, 9, 5), torch.randn(16, 5, 4, requires_grad=True)
    bias, lengths = torch.zeros(16), torch.tensor([9, 9, 9])
    stock = torchs_count(lambda: torch.nn.functional.conv1d(x.mT, weight))
    assert stock == 2 * 3 * 6 * 16 * 5 * 4
    assert counting.arithmetic(lambda: ops.conv_max_pool(x, lengths, [weight], [bias])) == stock
    short = torch.tensor([7, 2, 0])  # four windows, one that is padded, none

    def train():
        ops.conv_max_pool(x, short, [weight], [bias]).sum().backward()

    assert counting.arithmetic(train) == 2 * 16 * 5 * 4 * (5 + 2)


def test_a_steps_arithmetic_is_its_products():
    """Ours beside the sum of what encoders and dense layers take, forward and twice as much backward."""
    data = equal_lengths()
    config = library.Config(model=library.NMERConfig(layers=2, feedforward=16, latent=8))
    ours, rows = systems.Ours(data, config), torch.arange(12)
    batch = ours.batch(rows)
    counted = counting.arithmetic(lambda: ours.step(batch))
    lstms = sum(2 * 2 * 12 * 8 * 512 * ((d + 128) + (d + 2 * 128)) for d in (6, 5))
    windows = sum(k * (8 - k + 1 + 1) for k in (3, 4, 5))  # every window forward, one backward
    convolutions = 2 * 2 * 12 * 128 * 7 * windows
    heads = 3 * 2 * 2 * 12 * 384 * 128  # the TextCNNs' linear layers, twice
    shared = 3 * 3 * 2 * 12 * 128 * 128
    behind = [p for name, p in ours.model.named_parameters() if p.dim() == 2 and not name.startswith("encoders")]
    dense = 3 * 2 * 12 * sum(p.numel() for p in behind)
    assert counted == lstms + convolutions + heads + shared + dense


def test_parts_add_up_to_the_step():
    plan = systems.Plan(batch=4, train=8, test=4, layers=1)
    data = made_up.iemocap(plan.train, plan.test)
    config = systems.config_of(plan)
    for system in (systems.Theirs(data, config), systems.Ours(data, config)):
        times = timing.parts(system, [torch.arange(4), torch.arange(4, 8)])
        named = set(timing.PARTS) - ({"teacher"} if isinstance(system, systems.Ours) else set())
        assert set(times) == named
        assert all(len(values) == 2 and min(values) > 0 for values in times.values())


def test_steps_are_timed_in_turn_on_the_same_rows():
    """Each batch once, by every system; two turns warm up."""
    plan, seen = systems.Plan(batch=4, train=16, test=4, turns=3), []

    class Spy:
        def __init__(self, who):
            self.who = who

        def batch(self, rows):
            seen.append((self.who, rows.tolist()))

        def step(self, batch):
            time.sleep(0.002)  # above the millisecond from which a call is timed alone

    found = timing.steps(plan, made_up.iemocap(16, 4), {"baseline": Spy("baseline"), "ours": Spy("ours")})
    assert [who for who, _ in seen] == ["baseline", "ours"] * 5
    assert all(a[1] == b[1] for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert len({str(rows) for _, rows in seen}) == 5
    assert [(f.who, f.unit) for f in found] == [("baseline", "s"), ("ours", "s")]
    assert all(0.002 <= f.p20 <= f.p50 <= f.p80 for f in found)


def test_table_csv_and_plot(tmp_path, capsys):
    figure, ours, rival = figures.figure, measure.OURS, measure.BASELINE
    found = [figure("step", "seconds", who, "s", [t, t, t]) for who, t in ((rival, 3.0), (ours, 1.5))]
    found += [figure("parts", part, who, "s", [0.1]) for who in (rival, ours) for part in timing.PARTS]
    found.append(figure("operations", "a step", ours, "operations", [100]))
    for what in ("utterances", "modalities"):
        found += [figure(what, str(n), ours, "s", [float(n)]) for n in (1, 2)]
        found += [
            figure(what, name, ours, "s", [v])
            for name, v in (("slope", 1.0), ("intercept", 0.0), ("largest residual", 0.0))
        ]
    figures.show(found)
    assert "2.00x" in capsys.readouterr().out
    figures.write(tmp_path / "x.csv", found)
    written = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert len(written) == len(found)
    assert all(row["threads"] and row["torch"] and row["commit"] for row in written)
    figures.plot(tmp_path / "x.png", found)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

"""NoiseScheduler: every kind at the given SNR, conditions, the user's own noise, a compiled loop."""

import math
import subprocess
import sys

import pytest
import scipy.stats
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS
from nmer_fast.noise import NoiseSchedule, NoiseScheduler

VARIANCES = {"a": 4.0, "v": 0.25, "l": 1.0}


def batch(size=50, steps=20):
    generator = torch.Generator().manual_seed(3)
    features = {m: math.sqrt(v) * torch.randn(size, steps, 30, generator=generator) for m, v in VARIANCES.items()}
    lengths = {m: torch.randint(0, steps + 1, (size,), generator=generator) for m in VARIANCES}
    return features, lengths


@pytest.mark.parametrize("convention", ["exact", "paper"])
@pytest.mark.parametrize("kind", GENERATED_KINDS)
def test_every_kind_realises_its_snr(kind, convention):
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10, kind=kind, snr_convention=convention)
    expected = -10 + (-10 * math.log10(0.3) if (kind, convention) == ("impulse", "paper") else 0)
    features, lengths = batch(400)
    stats = scheduler(features, lengths=lengths, condition="none", return_stats=True).stats
    for name, snr in scheduler.realised_snr_db(stats).items():
        assert scheduler.snr_db[name] == pytest.approx(expected)
        assert snr == pytest.approx(expected, abs=0.1)


def test_an_snr_for_each_modality():
    scheduler = NoiseScheduler(VARIANCES, snr_db={"a": 0, "v": -10, "l": 10})
    assert scheduler.snr_db == pytest.approx({"a": 0, "v": -10, "l": 10})


def test_steps_as_in_the_paper():
    scheduler = NoiseScheduler(VARIANCES, steps={"a": 140, "v": 60, "l": 5})
    betas = [0.001 + (0.1 - 0.001) * t / 4 for t in range(5)]
    assert scheduler.alpha_bars[2].item() == pytest.approx(math.prod(1 - b for b in betas))


def test_conditions_leave_their_modalities_clean():
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10, seed=4)
    features, lengths = batch()
    valid = {m: (torch.arange(20) < lengths[m][:, None])[..., None] for m in VARIANCES}
    for name in scheduler.conditions.names:
        noised = scheduler(features, lengths=lengths, condition=name).features
        clean = {"none": "", "all": "avl"}.get(name, name)
        for m in VARIANCES:
            kept = torch.where(valid[m], features[m], 0)
            assert torch.equal(noised[m], kept) == (m in clean)


def test_paired_noise_across_conditions():
    """A modality's noise for a sample is the same in every condition that leaves it noisy."""
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10)
    features, _ = batch()
    by_condition = {c: scheduler(features, draw=0, condition=c).features for c in ("a", "v", "none")}
    assert torch.equal(by_condition["a"]["l"], by_condition["v"]["l"])
    assert torch.equal(by_condition["a"]["l"], by_condition["none"]["l"])


def test_a_call_that_names_no_draw_takes_the_next():
    """Draws count calls from 0; the count is in the state, so a resumed loop continues it."""
    scheduler, (features, _) = NoiseScheduler(VARIANCES, snr_db=-10, seed=2**64 - 5), batch(7)
    for draw in range(3):
        noised, expected = scheduler(features), scheduler(features, draw=draw)
        assert torch.equal(noised.condition, expected.condition)
        assert all(torch.equal(noised.features[m], expected.features[m]) for m in VARIANCES)
    resumed = NoiseScheduler(VARIANCES, snr_db=-10, seed=2**64 - 5)
    resumed.load_state_dict(scheduler.state_dict())
    assert torch.equal(resumed(features, draw=1).features["a"], scheduler(features, draw=1).features["a"])
    with pytest.raises(ValueError, match=r"^draw: expected none beside rng, which holds it, got 1"):
        scheduler(features, draw=1, rng=scheduler.rng)
    assert torch.equal(resumed(features).features["a"], scheduler(features, draw=3).features["a"])


def test_training_draws_a_condition_for_each_sample():
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10, seed=1)
    features, _ = batch(600)
    ids = torch.arange(1000, 1600)
    noised = scheduler(features, sample_ids=ids, draw=3)
    assert set(noised.condition.tolist()) == set(range(6))
    for c in range(6):
        chosen = noised.condition == c
        explicit = scheduler({m: x[chosen] for m, x in features.items()}, sample_ids=ids[chosen], draw=3, condition=noised.condition[chosen])  # fmt: skip
        for m in VARIANCES:
            assert torch.equal(noised.features[m][chosen], explicit.features[m])
    again = scheduler(features, sample_ids=ids, draw=4)
    assert not torch.equal(noised.condition, again.condition)


def test_missing_is_zeros():
    scheduler = NoiseScheduler(VARIANCES, kind="missing")
    features, lengths = batch()
    noised = scheduler(features, lengths=lengths, condition="a", return_stats=True)
    assert noised.features["v"].abs().max() == 0
    assert torch.equal(noised.features["a"], scheduler(features, lengths=lengths, condition="all").features["a"])
    assert set(scheduler.snr_db.values()) == {-math.inf}
    assert scheduler.realised_snr_db(noised.stats)["v"] == -math.inf
    assert math.isnan(scheduler.realised_snr_db(noised.stats)["a"])


def test_noise_of_ones_own():
    features, lengths = batch()
    constant = NoiseScheduler(VARIANCES, snr_db=0, kind=torch.tensor(2.0), power=4.0)
    noised = constant(features, lengths=lengths, condition="none", return_stats=True)
    alpha_bar = 4 / (4 + 4)  # variance 4, power 4, 0 dB
    expected = math.sqrt(alpha_bar) * features["a"] + math.sqrt(1 - alpha_bar) * 2
    valid = (torch.arange(20) < lengths["a"][:, None])[..., None]
    torch.testing.assert_close(noised.features["a"], torch.where(valid, expected, 0))
    assert all(abs(snr) < 0.25 for snr in constant.realised_snr_db(noised.stats).values())
    called = NoiseScheduler(VARIANCES, snr_db=0, kind=dict.fromkeys(VARIANCES, torch.zeros_like))
    half = called(features, condition="none").features["l"]
    torch.testing.assert_close(half, features["l"] * math.sqrt(0.5))


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_casting_a_model_keeps_the_exact_snr(cast):
    scheduler = NoiseScheduler(VARIANCES, snr_db=40)
    exact = scheduler.alpha_bars.clone()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), scheduler)
    getattr(model, cast)()
    assert model[0].weight.dtype != torch.float64
    assert torch.equal(scheduler.alpha_bars, exact)


def test_a_constant_modality_has_an_snr_all_the_same():
    """Rounding must not make the variance of a constant negative."""
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10)
    features = {m: torch.full((5, 9, 3), 119.7528) for m in VARIANCES}
    stats = scheduler(features, condition="none", return_stats=True).stats
    assert all(snr < 0 for snr in scheduler.realised_snr_db(stats).values())


def test_a_training_loop_of_ones_own_compiles():
    scheduler = NoiseScheduler(VARIANCES, snr_db=-10)
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, fullgraph=True)
    def step(features, lengths, ids, rng):
        noised = scheduler(features, lengths=lengths, sample_ids=ids, rng=rng)
        return noised.features["a"].square().mean(), noised.condition

    features, lengths = batch()
    for draw in range(10):
        ids = torch.randperm(50)
        loss, condition = step(features, lengths, ids, torch.tensor([0, draw]))
        eager = scheduler(features, lengths=lengths, sample_ids=ids, draw=draw)
        assert torch.equal(condition, eager.condition)
        torch.testing.assert_close(loss, eager.features["a"].square().mean())
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pink"}, "^kind: expected one of gaussian, impulse, uniform, laplace, missing, a tensor"),
        ({}, "^snr_db, steps: expected one of the two, got neither"),
        ({"snr_db": -10, "steps": {"a": 1, "v": 1, "l": 1}}, "^snr_db, steps: expected one of the two"),
        ({"snr_db": -10, "kind": "impulse", "p": 1.5}, "^p: expected a number from 0 to 1, got 1.5"),
        ({"snr_db": -10, "kind": "impulse", "p": 0.0}, "^noise_power: expected a power above 0"),
        ({"snr_db": -10, "kind": {"a": torch.zeros(1)}}, "^kind: expected noise for each of a, v, l, got a"),
        ({"variances": {"none": 1.0}, "snr_db": -10}, "^modalities: expected names without"),
        ({"steps": {"a": 1}}, "^steps: expected one each for a, v, l, got"),
        ({"snr_db": {"a": 1, "v": 2, "x": 3}}, "^snr_db: expected one each for a, v, l"),
        ({"variances": {"a": 1.0, "v": 0.0}, "snr_db": -10}, "^variance of modality v: expected a variance above 0"),
        ({"variances": {"a": math.nan}, "snr_db": -10}, "^variance of modality a: expected a variance above 0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseScheduler(**{"variances": VARIANCES, **arguments})


def test_ops_import_torch_alone():
    """Kernel users get no models, data, Triton or command-line libraries."""
    code = (
        "import sys, nmer_fast.ops; "
        "print([m for m in ('triton', 'tyro', 'rich', 'torchmetrics', 'nmer_fast.models', 'nmer_fast.data', "
        "'nmer_fast.noise', 'nmer_fast.engine') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ops_are_what_the_scheduler_adds():
    features, lengths = batch()
    scheduler = NoiseScheduler(VARIANCES, snr_db=-20, kind="laplace", seed=2**63 + 1)
    ids = torch.arange(50) + 9
    noised = scheduler(features, lengths=lengths, sample_ids=ids, draw=2, condition="none").features
    for stream, m in enumerate(VARIANCES):
        y = ops.add_noise(
            features[m], scheduler.alpha_bars[stream], seed=2**63 + 1, draw=2, stream=stream, kind="laplace",
            sample_ids=ids, lengths=lengths[m],
        )  # fmt: skip
        assert torch.equal(noised[m], y)


def test_random_steps_are_uniform_and_one_for_each_batch_and_modality():
    """Over 4,000 batches every T from 1 to 20 is equally frequent (chi-square), and modalities draw independently."""
    schedule = NoiseSchedule("scaled_linear", 0.01, 0.5, 20)
    scheduler = NoiseScheduler(VARIANCES, steps="random", schedule=schedule)
    drawn = torch.stack([scheduler._random_alpha_bars(torch.tensor([3, 0]), torch.tensor([i])) for i in range(4000)])
    table = torch.tensor([schedule.alpha_bar(t) for t in range(1, 21)], dtype=torch.float64)
    index = (drawn[..., None] == table).long().argmax(-1)
    assert torch.equal(table[index], drawn)
    for m in range(3):
        counts = torch.bincount(index[:, m], minlength=20)
        assert ((counts - 200) ** 2 / 200).sum() < 43.8  # the 99.9 % point of 19 degrees of freedom
    assert abs(torch.corrcoef(index.double().t())[0, 1]) < 0.06


def test_random_steps_by_hand():
    """The batch's noise is that of its T; another draw or another first sample has another T."""
    schedule = NoiseSchedule("scaled_linear", 0.01, 0.5, 100)
    scheduler = NoiseScheduler(VARIANCES, steps="random", schedule=schedule, seed=5)
    features, lengths = batch()
    ids = torch.arange(7, 7 + len(lengths["a"]))
    noised = scheduler(features, lengths=lengths, sample_ids=ids, draw=2, condition="none", return_stats=True)
    alpha_bars = scheduler._random_alpha_bars(torch.tensor([5, 2]), ids)
    for m, name in enumerate(VARIANCES):
        y = ops.add_noise(
            features[name], alpha_bars[m], seed=5, draw=2, stream=m, sample_ids=ids, lengths=lengths[name]
        )
        assert torch.equal(noised.features[name], y)
    assert not torch.equal(alpha_bars, scheduler._random_alpha_bars(torch.tensor([5, 3]), ids))
    assert not torch.equal(alpha_bars, scheduler._random_alpha_bars(torch.tensor([5, 2]), ids + 1))
    assert all(math.isnan(snr) for snr in scheduler.snr_db.values())


def test_realised_snr_over_batches_of_different_alpha_bars():
    """Signal and noise power add up over batches, each scaled by its own alpha_bar."""
    schedule = NoiseSchedule("scaled_linear", 0.01, 0.5, 100)
    scheduler = NoiseScheduler(VARIANCES, steps="random", schedule=schedule)
    total, signal, noise = 0, 0.0, 0.0
    for first in (0, 100, 200):
        features, _ = batch(30)
        ids = torch.arange(first, first + 30)
        noised = scheduler(features, sample_ids=ids, draw=0, condition="none", return_stats=True)
        alpha_bar = scheduler._random_alpha_bars(torch.tensor([0, 0]), ids)[0]
        clean = alpha_bar.sqrt() * features["a"].double()
        signal += (clean**2).sum().item()
        noise += ((noised.features["a"].double() - clean) ** 2).sum().item()
        total = total + noised.stats
    # batch() draws features around 0, so the mean's share of the power is below the tolerance
    assert scheduler.realised_snr_db(total)["a"] == pytest.approx(10 * math.log10(signal / noise), abs=0.02)


def test_steps_that_are_no_steps():
    with pytest.raises(ValueError, match=r"^steps: expected T for each modality or 'random', got 'many'"):
        NoiseScheduler(VARIANCES, steps="many")


def test_a_range_gives_each_sample_its_own_snr_uniform_in_decibels():
    """The SNR measured on each sample's noise is that of the words of stream 243, and has the right distribution."""
    scheduler = NoiseScheduler(VARIANCES, snr_db={"a": (-40, 0), "v": -10, "l": [-12, -8]}, seed=5)
    assert scheduler.snr_db["v"] == pytest.approx(-10)
    assert math.isnan(scheduler.snr_db["a"])
    assert math.isnan(scheduler.snr_db["l"])
    ids = torch.arange(400) + 17
    features = {
        m: math.sqrt(v) * torch.randn(400, 300, 4, generator=torch.manual_seed(1)) for m, v in VARIANCES.items()
    }
    noised = scheduler(features, sample_ids=ids, draw=3, condition="none").features
    words = ops.philox(5, ops.noise_counter(ids, torch.zeros_like(ids), draw=3, stream=243))[:, :3]
    u = (words.double() + 0.5) / 2**32
    for m, (name, low, high) in enumerate((("a", -40, 0), ("v", -10, -10), ("l", -12, -8))):
        asked = low + (high - low) * u[:, m]
        alpha_bar = 1 / (1 + VARIANCES[name] * 10 ** (-asked / 10))
        expected = ops.add_noise(features[name], alpha_bar, seed=5, draw=3, stream=m, sample_ids=ids)
        torch.testing.assert_close(noised[name], expected, rtol=0, atol=1e-6)
        if low < high:  # Kolmogorov-Smirnov, at the 1e-4 level
            assert scipy.stats.kstest(asked.numpy(), scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(torch.corrcoef(u.t())[0, 2]) < 0.2
    again = scheduler(features, sample_ids=ids, draw=4, condition="none").features
    assert not torch.equal(noised["a"], again["a"])
    part = scheduler({m: x[100:200] for m, x in features.items()}, sample_ids=ids[100:200], draw=3, condition="none")
    assert all(torch.equal(part.features[m], noised[m][100:200]) for m in VARIANCES)


@pytest.mark.parametrize("kind", ["gaussian", "impulse", torch.randn_like])
def test_statistics_of_a_range(kind):
    """The statistics cover valid noisy elements alone, whatever the padding holds."""
    scheduler = NoiseScheduler(VARIANCES, snr_db=(-20, 5), kind=kind)
    features, lengths = batch(60)
    for m, x in features.items():
        x[torch.arange(20) >= lengths[m][:, None]] = torch.nan
    torch.manual_seed(0)
    noised = scheduler(features, lengths=lengths, draw=1, return_stats=True)
    alpha_bars = scheduler._mixed_alpha_bars(torch.tensor([0, 1]), torch.arange(60))
    noisy = scheduler.noisy_of_condition[noised.condition]
    for m, name in enumerate(VARIANCES):
        rows = []
        for i in noisy[:, m].nonzero()[:, 0].tolist():
            x = features[name][i, : lengths[name][i]].double()
            noise = noised.features[name][i, : lengths[name][i]].double() - alpha_bars[i, m].sqrt() * x
            kept = alpha_bars[i, m].item()
            rows.append([x.numel(), kept * x.numel(), kept * x.sum(), kept * x.square().sum(), noise.square().sum()])
        expected = torch.tensor(rows, dtype=torch.float64).sum(0)
        torch.testing.assert_close(noised.stats[m], expected, rtol=1e-5, atol=1e-3)


def test_a_range_under_compile_keeps_its_bits():
    scheduler = NoiseScheduler(VARIANCES, snr_db=(-40, 0))
    features, lengths = batch(8)
    step = torch.compile(lambda f: scheduler(f, lengths=lengths, draw=2).features, fullgraph=True, backend="aot_eager")
    eager = scheduler(features, lengths=lengths, draw=2).features
    assert all(torch.equal(y, eager[m]) for m, y in step(features).items())


def test_a_range_stays_exact_when_the_model_is_cast():
    scheduler = NoiseScheduler(VARIANCES, snr_db=(-40, 0))
    exact = scheduler.odds_db.clone()
    assert torch.equal(scheduler.half().odds_db, exact)


@pytest.mark.parametrize("snr_db", [(0, -10), (-10,), (-10, 0, 10), (float("-inf"), 0), (float("nan"), 0)])
def test_no_range(snr_db):
    with pytest.raises(ValueError, match=r"^snr_db: expected decibels, or a range's lower and higher end, got \("):
        NoiseScheduler(VARIANCES, snr_db=snr_db)


@pytest.mark.parametrize("convention", ["exact", "paper"])
def test_a_narrow_range_of_impulse_noise_is_its_one_snr(convention):
    options = {"kind": "impulse", "snr_convention": convention}
    fixed = NoiseScheduler(VARIANCES, snr_db=-10, **options).alpha_bars
    narrow = NoiseScheduler(VARIANCES, snr_db=(-10, -9.99999), **options)
    alpha_bars = narrow._mixed_alpha_bars(torch.tensor([0, 0]), torch.arange(5))
    torch.testing.assert_close(alpha_bars, fixed.expand(5, 3), rtol=1e-5, atol=0)

"""Schedules and the SNR: closed forms, Algorithm 1 step by step, both conventions."""

import itertools
import math

import pytest
import torch

from nmer_fast import ops
from nmer_fast.noise import NoiseSchedule, alpha_bar_of_snr, noise_power, snr_of_alpha_bar, variance
from nmer_fast.noise.schedule import SCHEDULES


def test_the_papers_betas():
    betas = NoiseSchedule().betas(5)
    assert betas.tolist() == pytest.approx([0.001, 0.02575, 0.0505, 0.07525, 0.1])
    assert NoiseSchedule().betas(1).tolist() == [0.001]
    assert NoiseSchedule().alpha_bar(2) == pytest.approx(0.999 * 0.9)


@pytest.mark.parametrize("steps", [1, 2, 5, 60, 140])
def test_algorithm_1_is_the_closed_form(steps):
    """Every step of Algorithm 1 on real noise: the weights of x and of each eps_t are those of Eq. 3.

    x_T = sqrt(alpha_bar) x_0 + sum_t w_t eps_t with sum w_t^2 = 1 - alpha_bar, exactly; and the sum of 10^5 values'
    noise has that variance within 5 standard errors.
    """
    schedule, x0 = NoiseSchedule(), torch.randn(10, 10_000, dtype=torch.float64)
    x, weights = x0, []
    for t, beta in enumerate(schedule.betas(steps).tolist()):
        eps = ops.noise(x.shape, seed=1, draw=t, dtype=torch.float64)
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * eps
        weights = [math.sqrt(1 - beta) * w for w in weights] + [math.sqrt(beta)]
    alpha_bar = schedule.alpha_bar(steps)
    assert sum(w * w for w in weights) == pytest.approx(1 - alpha_bar, rel=1e-12)
    total = sum(w * ops.noise(x.shape, seed=1, draw=t, dtype=torch.float64) for t, w in enumerate(weights))
    torch.testing.assert_close(x, math.sqrt(alpha_bar) * x0 + total, rtol=0, atol=1e-12)
    residual = x - math.sqrt(alpha_bar) * x0
    n = residual.numel()
    assert abs(residual.mean()) < 5 * math.sqrt((1 - alpha_bar) / n)
    assert abs(residual.var() / (1 - alpha_bar) - 1) < 5 * math.sqrt(2 / n)


def test_schedules_of_fixed_length():
    t = torch.arange(1, 11, dtype=torch.float64)
    linear = NoiseSchedule("linear", 0.01, 0.5, 10)
    assert torch.allclose(linear.betas(10), 0.01 + 0.49 * (t - 1) / 9)
    assert torch.equal(linear.betas(3), linear.betas(10)[:3])
    scaled = NoiseSchedule("scaled_linear", 0.01, 0.5, 10)
    assert torch.allclose(scaled.betas(10), (0.1 + (math.sqrt(0.5) - 0.1) * (t - 1) / 9) ** 2)
    cosine = NoiseSchedule("cosine", length=10)
    expected = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert cosine.alpha_bar(5) == pytest.approx(expected, rel=1e-12)
    assert cosine.betas(10)[-1] == 0.999
    sigmoid = NoiseSchedule("sigmoid", 0.01, 0.5, 11)
    assert sigmoid.betas(11)[5] == pytest.approx(0.255)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_more_steps_leave_less_signal(kind):
    schedule = NoiseSchedule(kind)
    values = [schedule.alpha_bar(t) for t in range(1, 101)]
    assert all(0 < b < a < 1 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("snr_db", [-400.0, -40.0, -10.0, 0.0, 3.0, 400.0])
@pytest.mark.parametrize("var", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("power", [1.0, 0.3])
def test_snr_and_alpha_bar_are_inverse(snr_db, var, power):
    alpha_bar = alpha_bar_of_snr(snr_db, var, power)
    assert 0 < alpha_bar <= 1
    if abs(snr_db) < 100:  # past that 1 - alpha_bar is below float64's resolution
        assert snr_of_alpha_bar(alpha_bar, var, power) == pytest.approx(snr_db, abs=1e-6)


def test_known_snrs():
    assert alpha_bar_of_snr(0, 1) == 0.5
    assert alpha_bar_of_snr(-10, 1) == pytest.approx(1 / 11)
    assert alpha_bar_of_snr(10, 4) == pytest.approx(10 / 14)
    assert snr_of_alpha_bar(0, 1) == -math.inf
    assert snr_of_alpha_bar(1, 1) == math.inf


def test_conventions():
    """With v = 1, impulse noise at p = 0.3 realises 5.2 dB more than the given SNR."""
    assert noise_power("impulse", 0.3) == 0.3
    assert noise_power("impulse", 0.3, "paper") == noise_power("gaussian", 0.3) == 1
    paper = alpha_bar_of_snr(-10, 2.0, noise_power("impulse", 0.3, "paper"))
    assert snr_of_alpha_bar(paper, 2.0, 0.3) == pytest.approx(-10 + 5.2288, abs=1e-4)
    with pytest.raises(ValueError, match=r"^snr_convention: expected one of exact, paper, got 'db'"):
        noise_power("impulse", 0.3, "db")


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("snr_db", [5.0, -3.0, -10.0, -20.0])
def test_nearest_steps_by_brute_force(kind, snr_db):
    schedule = NoiseSchedule(kind)
    steps, realised = schedule.nearest_steps(snr_db, 0.5)
    brute = {t: snr_of_alpha_bar(schedule.alpha_bar(t), 0.5) for t in range(1, 101 if kind != "paper" else 400)}
    assert steps == min(brute, key=lambda t: abs(brute[t] - snr_db))
    assert realised == brute[steps]


def test_the_papers_steps_are_near_minus_10_db_for_some_variance():
    """[140, 60, 5] give -10 dB at the variances that Eq. 5 implies, and nearest_steps finds the same T."""
    for steps in (140, 60, 5):
        alpha_bar = NoiseSchedule().alpha_bar(steps)
        var = 0.1 * (1 - alpha_bar) / alpha_bar
        assert NoiseSchedule().nearest_steps(-10, var) == (steps, pytest.approx(-10))


def test_variance_counts_valid_elements_alone():
    x = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [float("nan")], [float("nan")]]])
    assert variance(x, torch.tensor([2, 1])) == pytest.approx(8 / 3)
    assert variance(torch.tensor([[1.0, 3.0]])) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoiseSchedule("quadratic"), "^kind: expected one of paper, linear"),
        (lambda: NoiseSchedule(beta_start=0.2), "^beta: expected 0 < beta_start <= beta_end < 1"),
        (lambda: NoiseSchedule().betas(0), "^steps: expected 1 or more, got 0"),
        (lambda: NoiseSchedule("linear").betas(101), "^steps: expected 1 to 100, got 101"),
        (lambda: alpha_bar_of_snr(-10, 0.0), "^variance: expected a variance above 0"),
        (lambda: alpha_bar_of_snr(-10, math.nan), "^variance: expected a variance above 0"),
        (lambda: alpha_bar_of_snr(math.nan, 1), "^snr_db: expected a number of decibels"),
        (lambda: alpha_bar_of_snr(-10, 1, 0.0), "^noise_power: expected a power above 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""What a NoiseScheduler and a schedule are given is right, whatever type a number has, or is refused in one line."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nmer_fast import noise
from nmer_fast.noise import NoiseSchedule, NoiseScheduler

ONES = {"a": 1.0, "v": 1.0, "l": 1.0}
SCHEDULER = NoiseScheduler(ONES, snr_db=-10)
X = {"a": torch.randn(3, 5, 2), "v": torch.randn(3, 4, 2), "l": torch.randn(3, 6, 2)}
LENGTHS = {"a": torch.tensor([5, 2, 0]), "v": torch.tensor([4, 4, 1]), "l": None}

REALS = [np.float32, np.float64, np.float16, Fraction, np.array, torch.tensor, lambda value: torch.tensor(value).half()]
INTEGERS = [np.int64, np.uint8, np.array, torch.tensor, lambda value: torch.tensor(value, dtype=torch.int8)]


@pytest.mark.parametrize("real", REALS)
def test_numbers_of_any_type(real):
    """The numbers have the same value in all of these types."""

    def alike(make):
        one, other = make(real), make(float)
        assert torch.equal(one.alpha_bars, other.alpha_bars)
        assert type(one.p) is float
        assert one.snr_db.keys() == other.snr_db.keys()
        assert all(type(v) is float for v in (*one.snr_db.values(), *one.variances.values()))
        got, expected = (scheduler(X, draw=0, condition="none").features for scheduler in (one, other))
        assert all(torch.equal(got[m], expected[m]) for m in X)

    alike(lambda t: NoiseScheduler({m: t(1.5) for m in ONES}, snr_db=t(-10.0)))
    alike(lambda t: NoiseScheduler(ONES, snr_db={"a": t(-10.0), "v": (t(-10.0), t(4.0)), "l": [t(0.5), 2]}))
    alike(lambda t: NoiseScheduler(ONES, snr_db=(t(-10.0), t(0.0)), kind="impulse", p=t(0.25)))
    alike(lambda t: NoiseScheduler(ONES, snr_db=0, kind=torch.ones_like, power=t(4.0)))
    alike(
        lambda t: NoiseScheduler(
            ONES, steps=dict.fromkeys(ONES, 3), schedule=NoiseSchedule("linear", t(0.125), t(0.25))
        )
    )


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_of_any_type(integer):
    scheduler = NoiseScheduler(ONES, steps=dict.fromkeys(ONES, integer(7)), seed=integer(3))
    expected = NoiseScheduler(ONES, steps=dict.fromkeys(ONES, 7), seed=3)
    assert type(scheduler.seed) is int
    for options in ({"draw": 5}, {"draw": 5, "condition": 2}):
        got = scheduler(X, **{name: integer(value) for name, value in options.items()})
        right = expected(X, **options)
        assert torch.equal(got.condition, right.condition)
        assert all(torch.equal(got.features[m], right.features[m]) for m in X)
    assert torch.equal(NoiseSchedule(length=integer(50)).betas(integer(4)), NoiseSchedule(length=50).betas(4))


def test_arrays_of_two_are_ranges():
    expected = NoiseScheduler(ONES, snr_db=(-10, 4)).odds_db
    for snr_db in (np.array([-10.0, 4.0]), torch.tensor([-10, 4]), [-10, 4]):
        assert torch.equal(NoiseScheduler(ONES, snr_db=snr_db).odds_db, expected)


@pytest.mark.parametrize("real", REALS)
def test_conversions_take_numbers_of_any_type(real):
    assert noise.alpha_bar_of_snr(real(-10.0), real(1.5), real(0.5)) == noise.alpha_bar_of_snr(-10, 1.5, 0.5)
    assert noise.snr_of_alpha_bar(real(0.25), real(1.5), real(0.5)) == noise.snr_of_alpha_bar(0.25, 1.5, 0.5)
    assert noise.noise_power("impulse", real(0.25)) == 0.25
    assert NoiseSchedule().nearest_steps(real(-10.0), real(1.5)) == NoiseSchedule().nearest_steps(-10, 1.5)


def test_odds_are_exact():
    """They are computed in float64: a variance of 3 shifts them by 10 log10(1 / 3) dB."""
    odds_db = NoiseScheduler({"a": 3.0}, snr_db=(-10, 0)).odds_db
    assert odds_db.tolist() == [[-10 + 10 * math.log10(1 / 3), 10 * math.log10(1 / 3)]]


@pytest.mark.parametrize("number", [5, np.int64(5), torch.tensor(5)])
def test_a_draw_in_a_compiled_step(number):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(draw):
        return SCHEDULER(X, draw=draw, condition="none").features["a"]

    assert torch.equal(step(number), SCHEDULER(X, draw=5, condition="none").features["a"])


def test_draws_in_a_compiled_step_do_not_recompile():
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def step(draw):
        return SCHEDULER(X, draw=draw, condition="none").features["a"]

    for draw in range(5, 12):
        assert torch.equal(step(draw), SCHEDULER(X, draw=draw, condition="none").features["a"])
    assert counter.frame_count <= 2  # the second draw makes it symbolic


def test_other_names_are_ignored():
    batch = {"label": torch.tensor([0, 1, 2]), **X}
    assert list(SCHEDULER(batch, lengths={"label": None, **LENGTHS}).features) == ["a", "v", "l"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_conditions_by_index(dtype):
    index = torch.tensor([0, 7, 3])
    noised, expected = SCHEDULER(X, draw=0, condition=index.to(dtype)), SCHEDULER(X, draw=0, condition="none")
    assert noised.condition.dtype == torch.int64
    assert noised.condition.tolist() == [0, 7, 3]
    for m, noisy in zip("avl", SCHEDULER.conditions.noisy[index].t(), strict=True):
        assert torch.equal(noised.features[m], torch.where(noisy[:, None, None], expected.features[m], X[m]))
    assert SCHEDULER(X, draw=0, condition=torch.tensor(2)).condition.tolist() == [2, 2, 2]


def test_a_batch_of_none():
    noised = SCHEDULER({m: x[:0] for m, x in X.items()}, condition=torch.zeros(0, dtype=torch.int64))
    assert noised.features["a"].shape == (0, 5, 2)


def test_autocast_casts_features_of_two_dtypes():
    with torch.autocast("cpu", torch.bfloat16):
        assert SCHEDULER({**X, "l": X["l"].bfloat16()}).features["l"].dtype == torch.float32


def test_integers_of_narrow_types_are_ids():
    assert torch.equal(
        SCHEDULER(X, draw=0, sample_ids=torch.tensor([4, 5, 6], dtype=torch.uint8)).features["a"],
        SCHEDULER(X, draw=0, sample_ids=torch.tensor([4, 5, 6])).features["a"],
    )


REFUSED = {
    "^features: expected a, v, l, got a, v: l is missing": lambda: SCHEDULER({"a": X["a"], "v": X["v"]}),
    "^features: expected a, v, l, got a, v, text: l is missing": lambda: SCHEDULER(
        {"a": X["a"], "v": X["v"], "text": X["l"]}
    ),
    "^features: expected a mapping from modality to tensor, got list": lambda: SCHEDULER(list(X.values())),
    r"^features\['l'\]: expected a float32, .* got None": lambda: SCHEDULER({**X, "l": None}),
    r"^features\['a'\]: expected a float32, .* got ndarray, float32 of shape \(3, 5, 2\)": lambda: SCHEDULER(
        {m: x.numpy() for m, x in X.items()}
    ),
    r"^features\['v'\]: expected a float32, .* got torch.int64": lambda: SCHEDULER({**X, "v": X["v"].long()}),
    r"^features\['a'\]: expected \[B, ...\] with a batch dim": lambda: SCHEDULER({**X, "a": torch.tensor(1.0)}),
    r"^features\['l'\]: expected the batch, dtype and device of a, .* got torch.float32 of shape \(2": lambda: (
        SCHEDULER({**X, "l": X["l"][:2]})
    ),
    r"^features\['l'\]: expected the batch, dtype and device of a, .* got torch.float16": lambda: SCHEDULER(
        {**X, "l": X["l"].half()}
    ),
    r"^lengths: expected a, v, l \(None where all steps are valid\), got a: v, l is missing": lambda: SCHEDULER(
        X, lengths={"a": LENGTHS["a"]}
    ),
    "^lengths: expected a mapping from modality to lengths": lambda: SCHEDULER(X, lengths=LENGTHS["a"]),
    r"^sample_ids: expected an integer tensor of shape \[3\], got \[1, 2, 3\] \(list\)": lambda: SCHEDULER(
        X, sample_ids=[1, 2, 3]
    ),
    r"^sample_ids: expected an integer tensor of shape \[3\], got torch.float32": lambda: SCHEDULER(
        X, sample_ids=torch.zeros(3)
    ),
    r"^sample_ids: expected an integer tensor of shape \[3\], got .* \(2,\)": lambda: SCHEDULER(
        X, sample_ids=torch.arange(2)
    ),
    "^condition: expected indices from 0 to 7, got 0 to 99": lambda: SCHEDULER(X, condition=torch.tensor([0, 1, 99])),
    "^condition: expected indices from 0 to 7, got -1 to 1": lambda: SCHEDULER(X, condition=torch.tensor([0, 1, -1])),
    r"^condition: expected an integer tensor of shape \[3\], got torch.float32": lambda: SCHEDULER(
        X, condition=torch.zeros(3)
    ),
    r"^condition: expected an integer tensor of shape \[3\], got torch.bool": lambda: SCHEDULER(
        X, condition=torch.tensor([True, False, True])
    ),
    r"^condition: expected an integer tensor of shape \[3\], got .* \(2,\)": lambda: SCHEDULER(
        X, condition=torch.tensor([0, 1])
    ),
    "^condition: expected an index from 0 to 7, got 8": lambda: SCHEDULER(X, condition=8),
    "^condition: expected an index from 0 to 7, got -1": lambda: SCHEDULER(X, condition=np.int64(-1)),
    "^condition: expected a name, an index or an integer tensor, got True": lambda: SCHEDULER(X, condition=True),
    "^condition: expected a name, an index or an integer tensor, got 1.5": lambda: SCHEDULER(X, condition=1.5),
    r"^condition: expected a name, an index or an integer tensor, got \['a', 'v', 'l'\]": lambda: SCHEDULER(
        X, condition=["a", "v", "l"]
    ),
    "^condition: expected one of a, v, l, av, al, vl, none, all, got 'va'": lambda: SCHEDULER(X, condition="va"),
    r"^draw: expected an int from 0 to 2\^32-1, got -1": lambda: SCHEDULER(X, draw=torch.tensor(-1)),
    r"^draw: expected an int from 0 to 2\^32-1, got 4294967296": lambda: SCHEDULER(X, draw=2**32),
    "^draw: expected an int, got 1.5": lambda: SCHEDULER(X, draw=1.5),
    r"^rng: expected an int64 tensor \[2\] = \(seed, draw\), got \(1, 2\)": lambda: SCHEDULER(X, rng=(1, 2)),
    "^variances: expected a mapping from modality to variance, got": lambda: NoiseScheduler([1.0, 2.0], snr_db=0),
    "^variance of modality a: expected a number, got 'loud'": lambda: NoiseScheduler({"a": "loud"}, snr_db=0),
    "^modalities: expected names without .* got 0": lambda: NoiseScheduler({0: 1.0}, snr_db=0),
    "^snr_db: expected decibels, or a range's lower and higher end, got 'loud'": lambda: NoiseScheduler(
        ONES, snr_db="loud"
    ),
    "^snr_db: expected a number, got 'loud'": lambda: NoiseScheduler(ONES, snr_db=("loud", 0)),
    "^seed: expected an int, got 1.5": lambda: NoiseScheduler(ONES, snr_db=0, seed=1.5),
    "^p: expected a number, got 'most'": lambda: NoiseScheduler(ONES, snr_db=0, kind="impulse", p="most"),
    "^power: expected a number, got None": lambda: NoiseScheduler(ONES, snr_db=0, kind=torch.ones_like, power=None),
    "^steps: expected T for each modality or 'random', got 5": lambda: NoiseScheduler(ONES, steps=5),
    "^steps: expected an int, got 1.5": lambda: NoiseScheduler(ONES, steps=dict.fromkeys(ONES, 1.5)),
    "^length: expected an int, got 9.5": lambda: NoiseSchedule(length=9.5),
    "^beta_start: expected a number, got 'few'": lambda: NoiseSchedule(beta_start="few"),
    "^noise_power: expected a number, got 'loud'": lambda: noise.alpha_bar_of_snr(0, 1.0, "loud"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_name_the_argument_in_one_line(message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


def test_noise_of_ones_own_takes_features_of_two_dtypes():
    """Each modality is mixed by itself, so the dtypes need not agree."""
    own = NoiseScheduler(ONES, snr_db=0, kind=torch.randn_like)
    assert own({**X, "l": X["l"].half()}).features["l"].dtype == torch.float16

"""The paired test: known answers, what it claims under simulation, and what it does where it can say nothing."""

import math
from dataclasses import astuple
from random import Random

import numpy as np
import pytest
from scipy import integrate, stats

from nmer_fast.errors import UserError
from nmer_fast.reproducing.significance import compare, corrected_t_test, holm, sampling_error, scores_of
from tests.reproducing.rows import CONDITIONS, row, run

SLEEP = [-1.2, -2.4, -1.3, -1.3, 0.0, -1.0, -1.8, -0.8, -4.6, -1.4]
"""Hours that ten patients slept longer under one drug than under another (Student, The Probable Error of a Mean, 1908)."""


def test_students_own_example():
    test = corrected_t_test(SLEEP, ratio=0)
    assert astuple(test) == pytest.approx((-1.58, -2.4598858, -0.7001142, -4.0621, 0.002833), abs=5e-5)


@pytest.mark.parametrize("j", [2, 3, 5, 10, 30])
def test_without_the_correction_it_is_scipys_paired_t_test(j):
    a, b = np.random.default_rng(j).normal(size=(2, j))
    expected = stats.ttest_rel(a, b)
    test = corrected_t_test(list(a - b), ratio=0)
    assert (test.t, test.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert (test.low, test.high) == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize(("j", "ratio"), [(2, 0.5), (3, 752 / 1447), (5, 1 / 4), (10, 1 / 9)])
def test_by_hand_and_by_the_density(j, ratio):
    differences = np.random.default_rng(7).normal(0.01, 0.02, j)
    spread = ((differences - differences.mean()) ** 2).sum() / (j - 1)
    t = differences.mean() / ((1 / j + ratio) * spread) ** 0.5
    scale = math.gamma(j / 2) / (math.sqrt((j - 1) * math.pi) * math.gamma((j - 1) / 2))

    def density(x):
        return scale * (1 + x * x / (j - 1)) ** (-j / 2)

    test = corrected_t_test(list(differences), ratio)
    assert test.t == pytest.approx(t)
    assert test.p == pytest.approx(2 * integrate.quad(density, abs(t), math.inf)[0])
    half = (test.high - test.low) / 2
    assert test.mean == pytest.approx((test.low + test.high) / 2) == pytest.approx(differences.mean())
    assert integrate.quad(density, 0, half / ((1 / j + ratio) * spread) ** 0.5)[0] == pytest.approx(0.475)


def test_what_the_correction_costs():
    """Five folds: the error is sqrt(0.2 + 0.25) / sqrt(0.2) = 1.5 times as large."""
    plain, corrected = corrected_t_test(SLEEP[:5], 0), corrected_t_test(SLEEP[:5], 0.25)
    assert plain.t == pytest.approx(1.5 * corrected.t)
    assert plain.high - plain.low == pytest.approx((corrected.high - corrected.low) / 1.5)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_without_spread_there_is_nothing_to_test_by(differences):
    test = corrected_t_test(differences, 0.25)
    assert all(map(math.isnan, (test.low, test.high, test.t, test.p)))
    assert test.mean == (pytest.approx(differences[0]) if differences else pytest.approx(math.nan, nan_ok=True))


def nearest_means(x, y, train, test):
    """Accuracy on test [R] of a threshold between the class means of the train samples (weights [R, N]), one feature."""
    high = (x * y * train).sum(1) / (y * train).sum(1)
    low = (x * (1 - y) * train).sum(1) / ((1 - y) * train).sum(1)
    above = x > ((high + low) / 2)[:, None]
    right = np.where((high > low)[:, None], above == y, above != y)
    return (right * test).sum(1) / test.sum(1)


def cross_validated(rng, distances, repeats=2000, n=100, folds=5, seeds=2):
    """Differences [repeats, folds, seeds] of two learners, each of its own feature, on data sets drawn anew.

    A seed is the bootstrap of the fold's train samples that a learner sees. With equal distances between the classes
    the two are equally good, by symmetry, whatever overlaps.
    """
    y = (np.arange(n) % 2)[None].repeat(repeats, 0)
    features = [rng.normal(size=(repeats, n)) + d * y for d in distances]
    fold, out = np.arange(n) // 2 % folds, np.empty((repeats, folds, seeds))
    for k in range(folds):
        test = (fold == k)[None].repeat(repeats, 0)
        for s in range(seeds):
            weights = [rng.poisson(1.0, size=(repeats, n)) * ~test for _ in distances]
            scores = [nearest_means(x, y, w, test) for x, w in zip(features, weights, strict=True)]
            out[:, k, s] = scores[0] - scores[1]
    return out


def found(differences, ratio):
    """The share of the p below 0.05; where nothing can be tested nothing is found."""
    return np.mean([corrected_t_test(list(d), ratio).p < 0.05 for d in differences])


def test_false_positives_and_power_over_folds():
    """Two equal learners: the corrected test claims no difference in 95 % of all data sets, and sees a real one."""
    rng = np.random.default_rng(0)
    equal = cross_validated(rng, (1.0, 1.0))
    naive = found(equal.reshape(len(equal), -1), 0)  # every run for itself, as if samples were not shared
    folds = found(equal.mean(2), 0)
    corrected = found(equal.mean(2), 1 / 4)
    assert naive > 0.12
    assert corrected < 0.055
    assert corrected < folds < naive
    assert found(cross_validated(rng, (0.2, 2.5), repeats=500).mean(2), 1 / 4) > 0.85


def test_false_positives_and_power_over_seeds_of_one_split():
    """Chance of training alone: the plain test keeps its level, the margin costs power and stays below it."""
    rng = np.random.default_rng(1)
    null, real = rng.normal(0, 0.01, (20000, 3)), rng.normal(0.05, 0.01, (2000, 3))
    p = [corrected_t_test(list(d), 0).p for d in null]
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.less(p, 0.05)) == pytest.approx(0.05, abs=0.005)
    assert 0.01 < found(null[:5000], 752 / 1447) < 0.035
    assert found(real, 0) > 0.95 > found(real, 752 / 1447) > 0.7


def test_seeds_of_few_folds_are_no_runs_of_their_own():
    """All chance is in the folds: six runs of two folds, each for itself, would find too much; compare tests two."""
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(4000, 2)).repeat(3, axis=1)
    differences += rng.normal(0, 1e-3, differences.shape)
    assert found(differences, 1.0) > 0.15
    rows = []
    for i, d in enumerate(differences[0]):
        for system, wa in (("nmer", 0.5 + d / 10), ("men", 0.5)):
            rows += run(system, wa, fold=1 + i // 3, seed=i % 3)
    (comparison,) = compare(rows, ratio=1.0, metrics=("wa",))
    by_fold = [differences[0, :3].mean() / 10, differences[0, 3:].mean() / 10]
    assert (comparison.pairs, comparison.tested) == (6, 2)
    assert astuple(comparison.test) == pytest.approx(astuple(corrected_t_test(by_fold, 1.0)))


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02, math.nan, 0.01]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


def test_holm_keeps_its_level_over_many_tests():
    """Ten true nulls: some p is below 0.05 in 40 % of all tables, an adjusted one in 5 %."""
    p = np.random.default_rng(3).uniform(size=(4000, 10))
    assert (p.min(1) < 0.05).mean() > 0.35
    assert np.mean([min(holm(list(table))) < 0.05 for table in p]) == pytest.approx(0.05, abs=0.012)


NMER = {-10.0: [0.80, 0.82, 0.81], -20.0: [0.70, 0.75, 0.70]}
MEN = {-10.0: [0.78, 0.81, 0.81], -20.0: [0.71, 0.70, 0.66]}
ROWS = [
    line
    for system, table in (("nmer", NMER), ("men", MEN), ("mmin", NMER))
    for snr, values in table.items()
    for seed, wa in enumerate(values)
    for line in run(system, wa, snr_db=snr, seed=seed)
]


def flat(comparison):
    """Its numbers."""
    return [getattr(comparison, name) for name in ("pairs", "wins", "ties", "test_error", "p_holm")] + list(
        astuple(comparison.test)
    )


def by_key(comparisons):
    return {(c.system, c.metric, c.noise, c.snr_db): c for c in comparisons}


def test_pairs_are_of_the_same_noise_snr_fold_and_seed():
    found = by_key(compare(ROWS, ratio=0.5))
    assert list(found) == [
        (system, metric, "gaussian", snr)
        for metric in ("wa", "ua")
        for snr in (-10.0, -20.0)
        for system in ("men", "mmin")
    ]
    for snr in (-10.0, -20.0):
        for metric in ("wa", "ua"):
            expected = corrected_t_test([a - b for a, b in zip(NMER[snr], MEN[snr], strict=True)], 0.5)
            c = found["men", metric, "gaussian", snr]
            assert astuple(c.test) == pytest.approx(astuple(expected))
            assert (c.pairs, c.tested) == (3, 3)
    mild, strong = found["men", "wa", "gaussian", -10.0], found["men", "wa", "gaussian", -20.0]
    assert (mild.wins, mild.ties, mild.losses) == (2, 1, 0)
    assert (strong.wins, strong.ties, strong.losses) == (2, 0, 1)
    same = found["mmin", "wa", "gaussian", -10.0]
    assert (same.test.mean, same.wins, same.ties, same.losses) == (0, 0, 3, 0)
    assert math.isnan(same.p_holm)
    tested = [c for c in found.values() if c.system == "men"]
    assert [c.p_holm for c in tested] == pytest.approx(holm([c.test.p for c in tested]))
    assert mild.test_error == pytest.approx(math.sqrt((0.81 * 0.19 + 0.80 * 0.20) / 100))
    assert math.isnan(found["men", "ua", "gaussian", -10.0].test_error)


def test_the_order_of_rows_is_nothing():
    shuffled = Random(0).sample(ROWS, len(ROWS))
    expected = by_key(compare(ROWS, ratio=0.5))
    for key, comparison in by_key(compare(shuffled, ratio=0.5)).items():
        assert flat(comparison) == pytest.approx(flat(expected[key]), nan_ok=True)


def test_swapping_the_two_swaps_the_signs():
    c = by_key(compare(ROWS, ratio=0.5, metrics=("wa",)))["men", "wa", "gaussian", -10.0]
    r = by_key(compare(ROWS, ratio=0.5, metrics=("wa",), reference="men"))["nmer", "wa", "gaussian", -10.0]
    assert (r.test.mean, r.test.low, r.test.high, r.test.p) == pytest.approx(
        (-c.test.mean, -c.test.high, -c.test.low, c.test.p)
    )
    assert (r.wins, r.losses) == (c.losses, c.wins)


def test_pooled_is_of_the_means_over_the_cells():
    found = by_key(compare(ROWS, ratio=0.5, metrics=("wa",), pooled=True))
    assert list(found) == [("men", "wa", None, None), ("mmin", "wa", None, None)]
    differences = [(NMER[-10.0][i] - MEN[-10.0][i] + NMER[-20.0][i] - MEN[-20.0][i]) / 2 for i in range(3)]
    c = found["men", "wa", None, None]
    assert astuple(c.test) == pytest.approx(astuple(corrected_t_test(differences, 0.5)))
    assert (c.levels, c.pairs, c.wins, c.ties, c.losses) == (2, 3, 3, 0, 0)


def test_what_one_of_the_two_lacks_is_left_out():
    """A seed that has not come to -20 dB is no part of the pooled test; a noise that MEN was not run at neither."""
    rows = [r for r in ROWS if not (r["system"] == "men" and r["snr_db"] == -20 and r["seed"] == 2)]
    rows += run("nmer", 0.1, noise="missing", snr_db=None)
    each = by_key(compare(rows, ratio=0.5, metrics=("wa",)))
    assert [each["men", "wa", "gaussian", snr].pairs for snr in (-10.0, -20.0)] == [3, 2]
    assert ("men", "wa", "missing", None) not in each
    pooled = by_key(compare(rows, ratio=0.5, metrics=("wa",), pooled=True))["men", "wa", None, None]
    differences = [(NMER[-10.0][i] - MEN[-10.0][i] + NMER[-20.0][i] - MEN[-20.0][i]) / 2 for i in range(2)]
    assert astuple(pooled.test) == pytest.approx(astuple(corrected_t_test(differences, 0.5)))


def test_nan_is_left_out():
    rows = [dict(r) for r in ROWS]
    for r in rows:
        if r["system"] == "men" and r["seed"] == 1:
            r["ua"] = math.nan
    found = by_key(compare(rows, ratio=0.5))
    assert found["men", "wa", "gaussian", -10.0].pairs == 3
    c = found["men", "ua", "gaussian", -10.0]
    assert c.pairs == 2
    assert astuple(c.test) == pytest.approx(astuple(corrected_t_test([0.02, 0.0], 0.5)))


def test_which_conditions_are_averaged():
    values = dict(zip(CONDITIONS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 1.0), strict=True))
    rows = run("nmer", values, seed=3, n=7)
    ((cell, scores),) = scores_of(rows, "wa")["nmer"].items()
    assert (cell, list(scores)) == (("gaussian", -10.0), [(None, 3)])
    assert scores[None, 3] == pytest.approx((0.35, 7))
    assert scores_of(rows, "ua", "all")["nmer"][cell][None, 3].value == pytest.approx(0.9)
    assert scores_of(rows, "wa", "none")["nmer"][cell][None, 3].value == 0
    alone = [row("nmer", "none", 0.4), row("nmer", "all", 0.8)]  # one modality
    assert scores_of(alone, "wa")["nmer"][cell][None, 0].value == 0.4


def test_folds_count_their_own_test_samples():
    rows = [
        line
        for fold, n in ((1, 50), (2, 70))
        for seed in (0, 1)
        for system, wa in (("nmer", 0.8), ("men", 0.7 + fold / 100))
        for line in run(system, wa, fold=fold, seed=seed, n=n)
    ]
    (c,) = compare(rows, ratio=1.0, metrics=("wa",))
    assert c.test_error == pytest.approx(sampling_error(0.8, 0.715, 120))


def test_the_sampling_error_is_a_bound():
    """Test sets drawn anew for two systems that err on some of the same samples."""
    rng = np.random.default_rng(4)
    hard = rng.uniform(size=(4000, 200, 1))
    right = 0.4 * hard + 0.6 * rng.uniform(size=(4000, 200, 2)) < (0.65, 0.6)
    accuracy = right.mean(1)
    true = (accuracy[:, 0] - accuracy[:, 1]).std()
    bound = sampling_error(*accuracy.mean(0), 200)
    assert 0.5 * bound < true < bound


def test_what_is_refused():
    with pytest.raises(UserError, match=r"^nmer: expected runs of it to compare with, got men$"):
        compare(run("men", 0.5), ratio=0)
    with pytest.raises(UserError, match=r"^men: expected one run of a noise, SNR, fold and seed, got men_.* and twin$"):
        compare([*ROWS, row("men", "a", 0.5) | {"run": "twin"}], ratio=0)

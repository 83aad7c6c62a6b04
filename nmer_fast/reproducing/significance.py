"""Tests whether systems differ from NMER by more than chance, from a sweep's rows.

The test is the corrected resampled t-test (Nadeau and Bengio, Inference for the Generalization Error, Machine Learning
52, 2003, section 3): J differences with mean m and variance s^2 give t = m / sqrt((1 / J + n_test / n_train) s^2) on
J - 1 degrees of freedom. The second term corrects for training sets that overlap; the ordinary t-test assumes that they
are independent. What a small p means depends on what the J differences are:

- Several folds: each fold gives one difference, the mean over its seeds. The seeds of one fold share their training and
  test samples. If each seed counted as a difference of its own, the test would find differences that do not exist: with
  2 folds x 3 seeds in up to 20 % of cases, where 5 % are claimed. The price is power: with 5 folds x 2 seeds of two
  equal learners the test finds 1.6 % different (with all ten runs as differences 3.9 %, and an ordinary t-test of them
  18 %; the tests of this module simulate all three).
- One split: each seed gives one difference. All seeds share all samples, so their spread measures the chance of
  training alone, and not the chance by which samples came into the test set. The theory does not cover this case; the
  second term is kept as a margin. Without the margin (`ratio=0`) the test is an ordinary paired t-test, and p speaks of
  this very test set only. `Comparison.test_error` says how much another test set could change; it needs no seeds. An
  exact test over the samples of the test set (McNemar's) needs the prediction of each sample, which results do not
  hold.

Scores of one fold and seed at several noises come from the same split, and a system that is trained on complete data is
one model under all of them. A test that is pooled over noises therefore averages these scores first.

Three seeds leave two degrees of freedom, so t must exceed 4.3. At n_test / n_train = 0.52 the test finds a difference
of five standard deviations of the seeds in 78 % of cases and one of two standard deviations in 23 % (without the margin
98 % and 47 %). A difference that is not found may still exist.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Any, NamedTuple

from scipy.special import stdtr, stdtrit

from ..errors import UserError
from ..tables import AVERAGE

Result = Mapping[str, Any]
"""A row of `nmer_fast.sweeping.table`: the scores of one run under one noise and condition."""
TIE = 1e-9  # scores are computed in float32, and their means are rounded
CONFIDENCE = 0.95


class NoiseLevel(NamedTuple):
    """A noise under which systems are compared; the SNR is in dB, None for missing modalities."""

    noise: str
    snr_db: float | None


class Repetition(NamedTuple):
    """A fold and a seed with which every system is run; the fold is None where the data has no folds."""

    fold: int | None
    seed: int


class Score(NamedTuple):
    """The score of one run at one noise level, a fraction, and the number of test samples."""

    value: float
    samples: int


Scores = dict[str, dict[NoiseLevel, dict[Repetition, Score]]]
"""Scores by system, noise level, and fold and seed."""


@dataclass(frozen=True)
class TTest:
    """A corrected resampled t-test of differences.

    With fewer than two differences, and where all of them are equal, there is no spread to test by: t, p and the
    interval are NaN.

    Attributes:
        mean: the mean of the differences.
        low: the lower end of the 95 % interval around the mean.
        high: the upper end of that interval.
        t: the statistic.
        p: the two-sided p-value.
    """

    mean: float
    low: float
    high: float
    t: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """The reference compared with another system by one metric.

    Attributes:
        system: the other system.
        metric: "wa", "ua" or "f1".
        noise: the kind of noise; None where the comparison is pooled over noise levels.
        snr_db: the SNR in dB; None where the comparison is pooled, and for missing modalities.
        levels: the number of noise levels that both systems have; 1 unless pooled.
        pairs: the number of (fold, seed) pairs that both systems have.
        tested: J, the number of differences that are tested: one a fold, or one a seed where there is a single split.
        test: the test of reference minus system, in fractions.
        wins: the number of pairs in which the reference is better.
        ties: the number of pairs in which neither is better.
        losses: the number of pairs in which the system is better.
        test_error: an upper bound of the standard error of the difference from one test set to another (see
            `sampling_error`); NaN for metrics other than "wa".
        p_holm: the test's p-value after Holm's correction over all comparisons that were made together.
    """

    system: str
    metric: str
    noise: str | None
    snr_db: float | None
    levels: int
    pairs: int
    tested: int
    test: TTest
    wins: int
    ties: int
    losses: int
    test_error: float
    p_holm: float = math.nan


def compare(
    results: Iterable[Result],
    *,
    ratio: float,
    reference: str = "nmer",
    metrics: Sequence[str] = ("wa", "ua"),
    condition: str = AVERAGE,
    pooled: bool = False,
) -> list[Comparison]:
    """Compare the reference with every other system, at each noise level or pooled, paired by fold and seed.

    Args:
        results: a sweep's rows, as `nmer_fast.sweeping.table.Results(folder).tidy()` gives them. Runs that one of the
            two systems lacks, and scores that are NaN, are left out.
        ratio: test samples for each training sample; 0 makes the test an ordinary paired t-test.
        reference: the name of a system.
        metrics: the metrics to compare by: "wa", "ua", "f1".
        condition: the name of a condition, or AVERAGE.
        pooled: whether to make one comparison for each system and metric, by the mean over all noise levels that both
            systems have. A fold and seed that lacks one of these levels is left out.

    Returns:
        the comparisons by metric, noise level and system, in the order of the rows. Holm's correction is over all of
        them.

    Raises:
        UserError: the reference has no run, or one run exists twice.
    """
    results, found = list(results), []
    for metric in metrics:
        scores = scores_of(results, metric, condition)
        if reference not in scores:
            raise UserError(f"{reference}: expected runs of it to compare with, got {', '.join(scores) or 'none'}")
        mine = scores[reference]
        others = {name: levels for name, levels in scores.items() if name != reference}
        for level in [None] if pooled else list(mine):
            for system, theirs in others.items():
                levels = [one for one in mine if one in theirs and level in (None, one)]
                if levels:
                    both = [(mine[one], theirs[one]) for one in levels]
                    found.append(_comparison(system, metric, level, both, ratio))
    adjusted = holm([comparison.test.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def scores_of(results: Iterable[Result], metric: str, condition: str = AVERAGE) -> Scores:
    """Each run's score at each noise level, under one condition or averaged over the incomplete ones.

    Raises:
        UserError: two runs have the same system, noise level, fold and seed.
    """
    values: dict[tuple[str, NoiseLevel, Repetition], dict[str, Result]] = defaultdict(dict)
    for row in results:
        key = row["system"], NoiseLevel(row["noise"], row["snr_db"]), Repetition(row["fold"], row["seed"])
        if twice := values[key].get(row["condition"]):
            raise UserError(
                f"{row['system']}: expected one run of a noise, SNR, fold and seed, got {twice['run']} and {row['run']}"
            )
        values[key][row["condition"]] = row
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for (system, level, repetition), conditions in values.items():
        names = incomplete(conditions) if condition == AVERAGE else [condition]
        taken = [conditions[name] for name in names if name in conditions]
        if taken:
            scores[system][level][repetition] = Score(fmean(row[metric] for row in taken), taken[0]["n"])
    return {system: dict(levels) for system, levels in scores.items()}


def incomplete(conditions: Iterable[str]) -> list[str]:
    """The conditions that leave some modalities clean and some noisy; of a single modality, the noisy condition."""
    names = list(conditions)
    return [name for name in names if name not in ("none", "all")] or [name for name in names if name == "none"]


def _comparison(
    system: str,
    metric: str,
    level: NoiseLevel | None,
    both: Sequence[tuple[Mapping[Repetition, Score], ...]],
    ratio: float,
) -> Comparison:
    """The comparison of two systems by their scores (reference, system) at one noise level, or at several together."""
    common = [one for one in both[0][0] if all(one in scores for pair in both for scores in pair)]
    means = {one: tuple(fmean(pair[i][one].value for pair in both) for i in (0, 1)) for one in common}
    means = {one: pair for one, pair in means.items() if not any(map(math.isnan, pair))}
    differences = {one: mine - theirs for one, (mine, theirs) in means.items()}
    tested = _tested(differences)
    samples = sum({one.fold: both[0][0][one].samples for one in means}.values())
    error = math.nan
    if metric == "wa" and means:
        mine, theirs = (fmean(column) for column in zip(*means.values(), strict=True))
        error = sampling_error(mine, theirs, samples)
    return Comparison(
        system, metric, level.noise if level else None, level.snr_db if level else None, len(both),
        len(differences), len(tested), corrected_t_test(tested, ratio),
        wins=sum(d > TIE for d in differences.values()),
        ties=sum(abs(d) <= TIE for d in differences.values()),
        losses=sum(d < -TIE for d in differences.values()),
        test_error=error,
    )  # fmt: skip


def _tested(differences: Mapping[Repetition, float]) -> list[float]:
    """One difference for each fold, or for each seed where there is a single fold."""
    folds = defaultdict(list)
    for repetition, difference in differences.items():
        folds[repetition.fold].append(difference)
    return [fmean(seeds) for seeds in folds.values()] if len(folds) > 1 else list(differences.values())


def corrected_t_test(differences: Sequence[float], ratio: float) -> TTest:
    """Test whether the mean of the differences is 0, as the module's docstring says.

    Args:
        differences: J differences of paired scores.
        ratio: n_test / n_train, at least 0.
    """
    j = len(differences)
    mean = fmean(differences) if differences else math.nan
    spread = variance(differences) if j > 1 else 0.0
    if spread <= TIE**2:
        return TTest(mean, math.nan, math.nan, math.nan, math.nan)
    error = math.sqrt((1 / j + ratio) * spread)
    reach = float(stdtrit(j - 1, (1 + CONFIDENCE) / 2)) * error
    return TTest(mean, mean - reach, mean + reach, mean / error, 2 * float(stdtr(j - 1, -abs(mean) / error)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979): the chance that any false one falls below a level is at most that level.

    NaN stays NaN and is not counted as a test.
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted, largest = list(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def sampling_error(one: float, other: float, n: int) -> float:
    """An upper bound of the standard error that a test set of n samples gives the difference of two accuracies.

    The score of a sample, averaged over runs and conditions, lies between 0 and 1 and has the mean a, so its variance
    is at most a (1 - a). The variance of the difference is assumed to be at most the sum of both, which holds where
    both systems find the same samples hard.
    """
    return math.sqrt((one * (1 - one) + other * (1 - other)) / n)

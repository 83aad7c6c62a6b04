"""Whether systems differ from NMER by more than chance, from a sweep's rows.

The test is the corrected resampled t-test (Nadeau and Bengio, Inference for the Generalization Error, Machine Learning
52, 2003, section 3): of J differences with mean m and variance s^2, t = m / sqrt((1 / J + n_test / n_train) s^2) on
J - 1 degrees of freedom. The second term is for training sets that overlap, which the ordinary test takes for
independent. What the J differences are decides what a small p says:

- Several folds: one difference for each fold, the mean of its seeds. Seeds of one fold have the same training and test
  samples; taken for J of their own they would find differences that are not there: of 2 folds x 3 seeds in up to 20 %
  of cases, where 5 % are claimed. The price is power: of 5 folds x 2 seeds of two equal learners the test finds 1.6 %
  different (all ten runs, corrected: 3.9 %; an ordinary t-test of them: 18 %; simulated in its tests).
- One split: one difference for each seed. All seeds share all samples, so their spread knows the chance of training
  alone, not which samples the test set happened to get. Nothing in the theory covers that; the second term is kept
  as a margin. Without it (`ratio=0`) the test is an ordinary paired one, and p speaks of this very test set only.
  How much another test set could change is in `Comparison.test_error`, which needs no seeds. An exact test over the
  test set's samples (McNemar's) needs predictions sample by sample, which results do not hold.

Scores of one fold and seed at several noises come from the same split and, of a system trained on complete data, from
one model, so a test pooled over noises averages them first. Three seeds leave two degrees of freedom: t must exceed
4.3. At n_test / n_train = 0.52 a difference of five standard deviations of seeds is found in 78 % of cases, one of two
in 23 % (without the margin 98 % and 47 %): what is not found need not be absent.
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

Row = Mapping[str, Any]
"""Of `nmer_fast.sweeping.table`."""
INCOMPLETE = "incomplete"
"""Instead of a condition: the mean over those in which some modalities are clean and some are not."""
TIE = 1e-9  # scores are of float32, and means of them round
CONFIDENCE = 0.95


class Cell(NamedTuple):
    """Where two systems are compared; SNR in dB, None for missing modalities."""

    noise: str
    snr_db: float | None


class Unit(NamedTuple):
    """What is run anew."""

    fold: int | None
    seed: int


class Score(NamedTuple):
    """Of one run under one noise: a fraction, and of how many test samples."""

    value: float
    n: int


Scores = dict[str, dict[Cell, dict[Unit, Score]]]
"""By system, noise, fold and seed."""


@dataclass(frozen=True)
class TTest:
    """A corrected resampled t-test of differences.

    Attributes:
        mean: of the differences.
        low: of the 95 % interval around it.
        high: of the same.
        t: the statistic.
        p: two-sided. Like t and the interval it is nan of fewer than two differences, and where all are the same:
            without spread there is nothing to test by.
    """

    mean: float
    low: float
    high: float
    t: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """The reference against another system by one metric.

    Attributes:
        system: the other one.
        metric: "wa", "ua" or "f1".
        noise: of the cell; None where pooled over noises.
        snr_db: of the cell, in dB; None where pooled, and for missing modalities.
        cells: noises and SNRs that both have; 1 unless pooled.
        pairs: (fold, seed)s that both have.
        units: J, the differences that are tested: folds, or with one split seeds.
        test: of reference minus system, fractions.
        wins: pairs in which the reference is better.
        ties: pairs in which neither is.
        losses: pairs in which the system is better.
        test_error: of WA: the difference's standard error from test set to test set, at most (see `sampling_error`);
            else nan.
        p_holm: the test's p after Holm's correction over all comparisons that were made together.
    """

    system: str
    metric: str
    noise: str | None
    snr_db: float | None
    cells: int
    pairs: int
    units: int
    test: TTest
    wins: int
    ties: int
    losses: int
    test_error: float
    p_holm: float = math.nan


def compare(
    rows: Iterable[Row],
    *,
    ratio: float,
    reference: str = "nmer",
    metrics: Sequence[str] = ("wa", "ua"),
    condition: str = INCOMPLETE,
    pooled: bool = False,
) -> list[Comparison]:
    """The reference against every other system, at each noise and SNR or pooled over them, paired by fold and seed.

    Args:
        rows: of a sweep, as `nmer_fast.sweeping.table.Results(folder).tidy()` gives them. Runs that one of the two
            lacks, and scores of nan, are left out.
        ratio: test samples for each training sample; 0 is the ordinary paired t-test.
        reference: a system.
        metrics: of "wa", "ua", "f1".
        condition: the name of one, or the mean over the incomplete ones.
        pooled: one comparison for each system and metric, of the mean over all noises and SNRs that both have; a fold
            and seed that lacks one of them is left out.

    Returns:
        by metric, noise, SNR and system, as they come in the rows. Holm's correction is over all of them.

    Raises:
        UserError: there is no run of the reference, or two of the same.
    """
    rows, found = list(rows), []
    for metric in metrics:
        scores = collect(rows, metric, condition)
        if reference not in scores:
            raise UserError(f"{reference}: expected runs of it to compare with, got {', '.join(scores) or 'none'}")
        mine = scores[reference]
        others = {name: cells for name, cells in scores.items() if name != reference}
        for cell in [None] if pooled else list(mine):
            for system, theirs in others.items():
                cells = [c for c in mine if c in theirs and cell in (None, c)]
                if cells:
                    found.append(_comparison(system, metric, cell, [(mine[c], theirs[c]) for c in cells], ratio))
    adjusted = holm([comparison.test.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def collect(rows: Iterable[Row], metric: str, condition: str = INCOMPLETE) -> Scores:
    """Each run's score under each noise; of the incomplete conditions the mean.

    Raises:
        UserError: two runs of the same system, noise, SNR, fold and seed.
    """
    values: dict[tuple[str, Cell, Unit], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        key = row["system"], Cell(row["noise"], row["snr_db"]), Unit(row["fold"], row["seed"])
        if twice := values[key].get(row["condition"]):
            raise UserError(
                f"{row['system']}: expected one run of a noise, SNR, fold and seed, got {twice['run']} and {row['run']}"
            )
        values[key][row["condition"]] = row
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for (system, cell, unit), conditions in values.items():
        names = incomplete(conditions) if condition == INCOMPLETE else [condition]
        taken = [conditions[name] for name in names if name in conditions]
        if taken:
            scores[system][cell][unit] = Score(fmean(row[metric] for row in taken), taken[0]["n"])
    return {system: dict(cells) for system, cells in scores.items()}


def incomplete(conditions: Iterable[str]) -> list[str]:
    """Those in which some modalities are clean and some are not; of one modality, the noisy one."""
    names = list(conditions)
    return [name for name in names if name not in ("none", "all")] or [name for name in names if name == "none"]


def _comparison(
    system: str, metric: str, cell: Cell | None, both: Sequence[tuple[Mapping[Unit, Score], ...]], ratio: float
) -> Comparison:
    """Of the scores of reference and system in one cell, or in several together."""
    units = [unit for unit in both[0][0] if all(unit in scores for pair in both for scores in pair)]
    means = {unit: tuple(fmean(pair[i][unit].value for pair in both) for i in (0, 1)) for unit in units}
    means = {unit: pair for unit, pair in means.items() if not any(map(math.isnan, pair))}
    differences = {unit: one - other for unit, (one, other) in means.items()}
    tested = _tested(differences)
    samples = sum({unit.fold: both[0][0][unit].n for unit in means}.values())
    error = math.nan
    if metric == "wa" and means:
        mine, theirs = (fmean(column) for column in zip(*means.values(), strict=True))
        error = sampling_error(mine, theirs, samples)
    return Comparison(
        system, metric, cell.noise if cell else None, cell.snr_db if cell else None, len(both),
        len(differences), len(tested), corrected_t_test(tested, ratio),
        wins=sum(d > TIE for d in differences.values()),
        ties=sum(abs(d) <= TIE for d in differences.values()),
        losses=sum(d < -TIE for d in differences.values()),
        test_error=error,
    )  # fmt: skip


def _tested(differences: Mapping[Unit, float]) -> list[float]:
    """A difference for each fold, or for each seed of a single one."""
    folds = defaultdict(list)
    for unit, difference in differences.items():
        folds[unit.fold].append(difference)
    return [fmean(seeds) for seeds in folds.values()] if len(folds) > 1 else list(differences.values())


def corrected_t_test(differences: Sequence[float], ratio: float) -> TTest:
    """Whether the mean of differences is 0 (see above).

    Args:
        differences: J of them, of paired scores.
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
    """p-values such that the chance of any false one below a level is at most the level (Holm 1979).

    nan is left alone and counts for nothing.
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted, largest = list(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def sampling_error(one: float, other: float, n: int) -> float:
    """An upper bound of the standard error that a test set of n samples gives the difference of two accuracies.

    A sample's score, averaged over runs and conditions, is from 0 to 1 and of mean a, so its variance is at most
    a (1 - a). Two systems that find the same samples hard differ by less than the sum: that much is assumed.
    """
    return math.sqrt((one * (1 - one) + other * (1 - other)) / n)

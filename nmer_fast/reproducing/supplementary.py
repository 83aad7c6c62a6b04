"""What the paper's tables lack: tests against NMER, realised SNR, seconds, robustness summaries, unseen noise."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import fmean

from .multibench import effective_robustness, relative_robustness
from .paper_tables import LEVEL, METRICS, Study, comparisons, label_of, strength
from .significance import INCOMPLETE, Comparison, Unit, collect
from .significance import Row as Tidy
from .tables import Row, Table, Value, mark_best, value_of

BASELINE = "late_fusion"
TESTED = ("mean", "from", "to", "p", "Holm", "W", "T", "L")


def table_of_tests(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table:
    """NMER against each system at each noise and SNR."""
    rows = [
        Row((METRICS[c.metric], c.noise or "", strength(c.snr_db), label_of(c.system)), _numbers(c))
        for c in comparisons(study, condition, noises, pooled=False)
    ]
    title, labels = f"NMER less each other system, {_what(condition)}, {study.name}", ("by", "noise", "SNR", "system")
    return Table(f"{name}_tests", title, labels, [(c,) for c in TESTED], rows, _about_tests(study))


def table_of_pooled(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table:
    """NMER against each system, all noises and SNRs together."""
    found = comparisons(study, condition, noises, pooled=True)
    every = len(study.of(noises, ["nmer"]).cells(noises))
    rows: list[Row] = []
    for c in found:
        label = label_of(c.system) + (f", {c.cells} of {every}" if c.cells < every else "")
        begins = not rows or rows[-1].labels[0] != METRICS[c.metric]
        rows.append(Row((METRICS[c.metric], label), [*_numbers(c), Value(c.test_error)], begins))
    title = f"NMER less each other system, mean over {', '.join(noises)} and all SNRs, {_what(condition)}, {study.name}"
    notes = [
        *_about_tests(study),
        "SE: the standard error of the difference from one test set to another, at most; seeds do not lessen it.",
    ]
    if any(c.cells < every for c in found):
        notes.append(f"Of {every}: at so many noises and SNRs both were run, and are compared.")
    columns = [(c,) for c in (*TESTED, "SE")]
    return Table(f"{name}_pooled", title, ("by", "system"), columns, rows, notes)


def _numbers(c: Comparison) -> list[Value]:
    numbers = [Value(number) for number in (c.test.mean, c.test.low, c.test.high, c.test.p)]
    return [*numbers, Value(c.p_holm, best=c.p_holm < LEVEL), *(Value(n, digits=0) for n in (c.wins, c.ties, c.losses))]


def _about_tests(study: Study) -> list[str]:
    units = {Unit(row["fold"], row["seed"]) for row in study.rows}
    folds = len({unit.fold for unit in units})
    tested = (
        f"{folds} folds, the seeds of each averaged"
        if folds > 1
        else f"{len(units)} seed{'s' * (len(units) > 1)} of one split"
    )
    notes = [
        f"Corrected resampled t-test (Nadeau and Bengio 2003) of {tested}, n_test / n_train {study.ratio:.3f}. "
        f"From, to: 95 % interval. Holm: p after Holm's correction over this table, bold below {LEVEL:g}. W, T, L: "
        "pairs of fold and seed in which NMER is better, as good, worse."
    ]
    if folds == 1:
        notes.append("On one split it speaks of the chance of training, with a margin, not of other test sets.")
    if folds == 2 or (folds == 1 and len(units) < 3):
        notes.append("So few can hardly show anything.")
    return notes


def _what(condition: str) -> str:
    return "average over the incomplete conditions" if condition == INCOMPLETE else f"{condition} clean"


def table_of_snr(study: Study, name: str) -> Table:
    """The SNR that the noise really had on the test split, by modality."""
    realised: dict[tuple[str, float | None], dict[Unit, Tidy]] = defaultdict(dict)
    for row in study.rows:
        realised[row["noise"], row["snr_db"]].setdefault(Unit(row["fold"], row["seed"]), row)
    rows: list[Row] = []
    for noise in study.noises:
        for cell in study.cells([noise]):
            of_cell = realised[cell].values()
            numbers = [[_number(row.get(f"realised_snr_db_{m}")) for row in of_cell] for m in study.modalities]
            values = [value_of(each, digits=2) for each in numbers]
            rows.append(Row((noise, strength(cell.snr_db)), values, begins=not any(r.labels[0] == noise for r in rows)))
    notes = ["dB, measured on the test split's valid elements; asked for are those of the train split's variance."]
    notes += _about_convention(study)
    columns = [(m,) for m in study.modalities]
    return Table(f"{name}_snr", f"Realised SNR, {study.name}", ("noise", "asked for"), columns, rows, notes)


def _about_convention(study: Study) -> list[str]:
    """What counting the noise's power as 1 means for impulses."""
    configs = [json.loads(row["config"])["noise"] for row in study.rows[:1]]
    if not configs or configs[0]["snr_convention"] != "paper" or "impulse" not in study.noises:
        return []
    p = configs[0]["p"]
    return [
        f"As in the paper, an SNR counts the noise's power as 1. Impulses at p = {p:g} have a power of {p:g}, so "
        f"impulse noise is {-10 * math.log10(p):.1f} dB weaker than its label says."
    ]


def table_of_seconds(study: Study, name: str) -> Table:
    """What the runs took."""
    times: dict[str, dict[str, Tidy]] = defaultdict(dict)
    evaluated: dict[str, list[float]] = defaultdict(list)
    for row in study.rows:
        if row["condition"] == "none":
            times[row["system"]][row["run"]] = row
            evaluated[row["system"]].append(_number(row["seconds_evaluate"]))
    rows = []
    for system in study.systems():
        runs = times[system].values()
        epoch = [_number(row["seconds_train"]) / json.loads(row["config"])["training"]["epochs"] for row in runs]
        teacher = [_number(row["seconds_teacher"]) for row in runs]
        values = [value_of(epoch, digits=2), value_of(teacher, digits=1), value_of(evaluated[system], digits=2)]
        rows.append(Row((label_of(system),), [*values, Value(len(runs), digits=0)]))
    columns = [("an epoch",), ("its teacher",), ("an evaluation",), ("runs",)]
    notes = [
        "Seconds, as they passed: other work on the machine counts. What is trained on complete data is trained once."
    ]
    return Table(f"{name}_seconds", f"Seconds, {study.name}", ("system",), columns, rows, notes)


def table_of_robustness(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table | None:
    """MultiBench's two summaries of each system's curve over the SNRs; None where no noise has two of them."""
    noises = [noise for noise in noises if sum(cell.snr_db is not None for cell in study.cells([noise])) > 1]
    if not noises:
        return None
    curves = {
        (metric, noise, which): _curves(study, metric, noise, which)
        for metric in METRICS
        for noise in noises
        for which in (condition, "all")
    }
    rows = []
    for system in study.systems():
        values = []
        for noise in noises:
            both = [[curves[metric, noise, which] for which in (condition, "all")] for metric in METRICS]
            values += [value_of(map(relative_robustness, noisy.get(system, {}).values())) for noisy, _ in both]
            values += [value_of(_effective(noisy, clean, system)) for noisy, clean in both]
        rows.append(Row((label_of(system),), values))
    columns = [
        (noise, kind, shown) for noise in noises for kind in ("relative", "effective") for shown in METRICS.values()
    ]
    notes = [
        "Relative: the area under the curve over the SNRs, divided by its width. Effective: how much less of its "
        "clean accuracy a system loses than late fusion loses of its own, averaged so (MultiBench, Liang et al. "
        "2021). Systems trained under noise are another model at each SNR."
    ]
    if BASELINE not in study.systems():
        notes.append(f"Effective robustness needs {BASELINE} among the systems.")
    title = f"Robustness over the SNRs, {_what(condition)}, {study.name}"
    return Table(f"{name}_robustness", title, ("system",), columns, mark_best(rows), notes)


def _curves(study: Study, metric: str, noise: str, condition: str) -> dict[str, dict[Unit, dict[float, float]]]:
    """Scores by system, fold and seed, and SNR; of those that have every SNR, for others are of another mean."""
    curves: dict[str, dict[Unit, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for system, cells in study.of([noise]).scores(metric, condition).items():
        for cell, units in cells.items():
            for unit, score in units.items():
                if cell.snr_db is not None:
                    curves[system][unit][cell.snr_db] = score.value
    every = {cell.snr_db for cell in study.cells([noise])} - {None}
    return {system: {u: c for u, c in units.items() if c.keys() == every} for system, units in curves.items()}


def _effective(
    noisy: Mapping[str, Mapping[Unit, Mapping[float, float]]],
    clean: Mapping[str, Mapping[Unit, Mapping[float, float]]],
    system: str,
) -> list[float]:
    """Of each fold and seed that late fusion has, too."""
    units = [unit for unit in noisy.get(system, {}) if unit in noisy.get(BASELINE, {})]
    return [
        effective_robustness(
            noisy[system][unit], clean[system][unit], noisy[BASELINE][unit], clean[BASELINE][unit]
        )
        for unit in units
    ]  # fmt: skip


def table_of_unseen(study: Study, trained: str, rows: Sequence[Tidy]) -> Table:
    """Systems trained under one noise, tested under others at the same SNR, and averaged over the SNRs.

    Args:
        study: whose rows are of the noise that was trained under.
        trained: that noise.
        rows: of the evaluations, `trained_snr_db` among their columns, None of what is trained on complete data.
    """
    kinds = list(dict.fromkeys(row["noise"] for row in rows))
    seen: list[Tidy] = [{**row, "trained_snr_db": row["snr_db"]} for row in study.rows if row["noise"] == trained]
    systems = [name for name in study.systems() if any(row["system"] == name for row in rows)]
    values: dict[str, list[Value]] = {system: [] for system in systems}
    for kind in (trained, *kinds):
        of_kind = [row for row in (*seen, *rows) if row["noise"] == kind]
        for metric in METRICS:
            by_unit = _over_snrs(of_kind, metric, {row["snr_db"] for row in seen})
            for system in systems:
                values[system].append(value_of(by_unit.get(system, {}).values()))
    lines = mark_best([Row((label_of(system),), values[system]) for system in systems])
    columns = [
        (f"{kind}, seen" if kind == trained else kind, shown)
        for kind in (trained, *kinds)
        for shown in METRICS.values()
    ]
    notes = [
        f"Trained under {trained} noise at each SNR, tested at the same; average over SNRs and incomplete conditions. "
        "What is trained on complete data has seen none of them. Missing: zeros, whatever the SNR trained at. "
        "unseen_results.csv has every condition and SNR.",
        *_about_convention(study.of([trained, *kinds])),
    ]
    return Table("unseen", f"Noise unseen in training, {study.name}", ("system",), columns, lines, notes)


def _over_snrs(rows: Sequence[Tidy], metric: str, every: AbstractSet[float | None]) -> dict[str, dict[Unit, float]]:
    """Scores by system, fold and seed: the mean over the SNRs trained at, or, where that was on clean data, tested.

    Of those that have every SNR; missing modalities have none where training had none.
    """
    at: dict[float | None, list[Tidy]] = defaultdict(list)
    for row in rows:
        at[row["snr_db"] if row["trained_snr_db"] is None else row["trained_snr_db"]].append(row)
    scores: dict[str, dict[Unit, dict[float | None, float]]] = defaultdict(lambda: defaultdict(dict))
    for snr, together in at.items():
        for system, cells in collect(together, metric).items():
            for units in cells.values():
                for unit, score in units.items():
                    scores[system][unit][snr] = score.value
    whole = (every, {None})
    return {
        system: {unit: fmean(by_snr.values()) for unit, by_snr in units.items() if by_snr.keys() in whole}
        for system, units in scores.items()
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value

"""The tables that the paper lacks: tests against NMER, realised SNRs, seconds, robustness summaries, unseen noise."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from statistics import fmean

from ..system_names import title_of
from ..tables import AVERAGE, Cell, Row, Table, mark_best, mean_cell
from .multibench import effective_robustness, relative_robustness
from .paper_tables import METRICS, SIGNIFICANCE, Study, comparisons, snr_header
from .significance import Comparison, NoiseLevel, Repetition, Result, scores_of

BASELINE = "late_fusion"
TESTED = ("mean", "from", "to", "p", "Holm", "W", "T", "L")


def table_of_tests(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table:
    """NMER compared with each other system at each noise and SNR."""
    rows = [
        Row.labelled((METRICS[c.metric], c.noise or "", snr_header(c.snr_db), title_of(c.system)), _numbers(c))
        for c in comparisons(study, condition, noises, pooled=False)
    ]
    title, labels = (
        f"NMER less each other system, {_describe(condition)}, {study.name}",
        ("by", "noise", "SNR", "system"),
    )
    return Table.labelled(f"{name}_tests", title, labels, [(c,) for c in TESTED], rows, _notes_of_tests(study))


def table_of_pooled(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table:
    """NMER compared with each other system, averaged over all noises and SNRs."""
    found = comparisons(study, condition, noises, pooled=True)
    every = len(study.select(noises, ["nmer"]).levels(noises))
    rows: list[Row] = []
    for c in found:
        label = title_of(c.system) + (f", {c.levels} of {every}" if c.levels < every else "")
        begins = not rows or rows[-1].labels[0] != METRICS[c.metric]
        rows.append(Row.labelled((METRICS[c.metric], label), [*_numbers(c), Cell(c.test_error)], begins))
    title = (
        f"NMER less each other system, mean over {', '.join(noises)} and all SNRs, {_describe(condition)}, {study.name}"
    )
    notes = [
        *_notes_of_tests(study),
        "SE: the standard error of the difference from one test set to another, at most; seeds do not lessen it.",
    ]
    if any(c.levels < every for c in found):
        notes.append(f"Of {every}: at so many noises and SNRs both were run, and are compared.")
    headers = [(c,) for c in (*TESTED, "SE")]
    return Table.labelled(f"{name}_pooled", title, ("by", "system"), headers, rows, notes)


def _numbers(c: Comparison) -> list[Cell]:
    """The cells below `TESTED`."""
    test = [Cell(number) for number in (c.test.mean, c.test.low, c.test.high, c.test.p)]
    counts = [Cell(n, digits=0) for n in (c.wins, c.ties, c.losses)]
    return [*test, Cell(c.p_holm, best=c.p_holm < SIGNIFICANCE), *counts]


def _notes_of_tests(study: Study) -> list[str]:
    repetitions = {Repetition(row["fold"], row["seed"]) for row in study.rows}
    folds = len({repetition.fold for repetition in repetitions})
    tested = (
        f"{folds} folds, the seeds of each averaged"
        if folds > 1
        else f"{len(repetitions)} seed{'s' * (len(repetitions) > 1)} of one split"
    )
    notes = [
        f"Corrected resampled t-test (Nadeau and Bengio 2003) of {tested}, n_test / n_train {study.ratio:.3f}. "
        f"From, to: 95 % interval. Holm: p after Holm's correction over this table, bold below {SIGNIFICANCE:g}. "
        "W, T, L: pairs of fold and seed in which NMER is better, as good, worse."
    ]
    if folds == 1:
        notes.append("On one split it speaks of the chance of training, with a margin, not of other test sets.")
    if folds == 2 or (folds == 1 and len(repetitions) < 3):
        notes.append("So few can hardly show anything.")
    return notes


def _describe(condition: str) -> str:
    return "average over the incomplete conditions" if condition == AVERAGE else f"{condition} clean"


def table_of_snr(study: Study, name: str) -> Table:
    """The SNR that the noise really had on the test split, by modality."""
    realised: dict[NoiseLevel, dict[Repetition, Result]] = defaultdict(dict)
    for row in study.rows:
        realised[NoiseLevel(row["noise"], row["snr_db"])].setdefault(Repetition(row["fold"], row["seed"]), row)
    rows: list[Row] = []
    for noise in study.noises:
        for i, level in enumerate(study.levels([noise])):
            found = realised[level].values()
            numbers = [[_number(row.get(f"realised_snr_db_{m}")) for row in found] for m in study.modalities]
            cells = [mean_cell(each, digits=2) for each in numbers]
            rows.append(Row.labelled((noise, snr_header(level.snr_db)), cells, begins=i == 0))
    notes = ["dB, measured on the test split's valid elements; asked for are those of the train split's variance."]
    notes += _note_of_convention(study)
    headers = [(m,) for m in study.modalities]
    return Table.labelled(f"{name}_snr", f"Realised SNR, {study.name}", ("noise", "asked for"), headers, rows, notes)


def _note_of_convention(study: Study) -> list[str]:
    """The note that says how much weaker impulses are where an SNR counts the noise's power as 1."""
    configs = [json.loads(row["config"])["noise"] for row in study.rows[:1]]
    if not configs or configs[0]["snr_convention"] != "paper" or "impulse" not in study.noises:
        return []
    p = configs[0]["p"]
    return [
        f"As in the paper, an SNR counts the noise's power as 1. Impulses at p = {p:g} have a power of {p:g}, so "
        f"impulse noise is {-10 * math.log10(p):.1f} dB weaker than its label says."
    ]


def table_of_seconds(study: Study, name: str) -> Table:
    """The seconds that an epoch, the teacher's training and an evaluation took, by system."""
    times: dict[str, dict[str, Result]] = defaultdict(dict)
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
        cells = [mean_cell(epoch, digits=2), mean_cell(teacher, digits=1), mean_cell(evaluated[system], digits=2)]
        rows.append(Row.labelled((title_of(system),), [*cells, Cell(len(runs), digits=0)]))
    headers = [("an epoch",), ("its teacher",), ("an evaluation",), ("runs",)]
    notes = [
        "Seconds, as they passed: other work on the machine counts. What is trained on complete data is trained once."
    ]
    return Table.labelled(f"{name}_seconds", f"Seconds, {study.name}", ("system",), headers, rows, notes)


def table_of_robustness(study: Study, name: str, condition: str, noises: Sequence[str]) -> Table | None:
    """MultiBench's two summaries of each system's curve over the SNRs; None where no noise has two SNRs."""
    noises = [noise for noise in noises if sum(level.snr_db is not None for level in study.levels([noise])) > 1]
    if not noises:
        return None
    curves = {
        (metric, noise, which): _curves(study, metric, noise, which)
        for metric in METRICS
        for noise in noises
        for which in (condition, "all")
    }
    systems, grid = study.systems(), []
    for system in systems:
        cells = []
        for noise in noises:
            both = [[curves[metric, noise, which] for which in (condition, "all")] for metric in METRICS]
            cells += [mean_cell(map(relative_robustness, noisy.get(system, {}).values())) for noisy, _ in both]
            cells += [mean_cell(_effective(noisy, clean, system)) for noisy, clean in both]
        grid.append(cells)
    rows = [Row.labelled((title_of(name),), cells) for name, cells in zip(systems, mark_best(grid), strict=True)]
    headers = [
        (noise, kind, shown) for noise in noises for kind in ("relative", "effective") for shown in METRICS.values()
    ]
    notes = [
        "Relative: the area under the curve over the SNRs, divided by its width. Effective: how much less of its "
        "clean accuracy a system loses than late fusion loses of its own, averaged so (MultiBench, Liang et al. "
        "2021). Systems trained under noise are another model at each SNR."
    ]
    if BASELINE not in systems:
        notes.append(f"Effective robustness needs {BASELINE} among the systems.")
    title = f"Robustness over the SNRs, {_describe(condition)}, {study.name}"
    return Table.labelled(f"{name}_robustness", title, ("system",), headers, rows, notes)


Curves = dict[str, dict[Repetition, dict[float, float]]]
"""Scores by system, fold and seed, and SNR in dB."""


def _curves(study: Study, metric: str, noise: str, condition: str) -> Curves:
    """The curves that have every SNR; a curve that lacks one is left out, for its mean would be over other SNRs."""
    curves: Curves = defaultdict(lambda: defaultdict(dict))
    for system, levels in study.select([noise]).scores(metric, condition).items():
        for level, scores in levels.items():
            for repetition, score in scores.items():
                if level.snr_db is not None:
                    curves[system][repetition][level.snr_db] = score.value
    every = {level.snr_db for level in study.levels([noise])} - {None}
    return {name: {r: c for r, c in own.items() if c.keys() == every} for name, own in curves.items()}


def _effective(noisy: Curves, clean: Curves, system: str) -> list[float]:
    """The effective robustness for each fold and seed that late fusion has, too."""
    own, late_fusion = noisy.get(system, {}), noisy.get(BASELINE, {})
    return [
        effective_robustness(own[r], clean[system][r], late_fusion[r], clean[BASELINE][r])
        for r in own
        if r in late_fusion
    ]


def table_of_unseen(study: Study, trained: str, results: Sequence[Result]) -> Table:
    """Systems trained under one noise, tested under other noises at the same SNR, averaged over the SNRs.

    Args:
        study: the study whose rows are of the noise that the systems were trained under.
        trained: the kind of that noise.
        results: the rows of the evaluations, with a column `trained_snr_db`, which is None for a system that is trained
            on complete data.
    """
    kinds = list(dict.fromkeys(row["noise"] for row in results))
    seen: list[Result] = [{**row, "trained_snr_db": row["snr_db"]} for row in study.rows if row["noise"] == trained]
    systems = [name for name in study.systems() if any(row["system"] == name for row in results)]
    cells: dict[str, list[Cell]] = {system: [] for system in systems}
    for kind in (trained, *kinds):
        of_kind = [row for row in (*seen, *results) if row["noise"] == kind]
        for metric in METRICS:
            means = _means_over_snrs(of_kind, metric, {row["snr_db"] for row in seen})
            for system in systems:
                cells[system].append(mean_cell(means.get(system, {}).values()))
    grid = mark_best(list(cells.values()))
    rows = [Row.labelled((title_of(system),), marked) for system, marked in zip(systems, grid, strict=True)]
    headers = [
        (f"{kind}, seen" if kind == trained else kind, shown)
        for kind in (trained, *kinds)
        for shown in METRICS.values()
    ]
    notes = [
        f"Trained under {trained} noise at each SNR, tested at the same; average over SNRs and incomplete conditions. "
        "What is trained on complete data has seen none of them. Missing: zeros, whatever the SNR trained at. "
        "unseen_results.csv has every condition and SNR.",
        *_note_of_convention(study.select([trained, *kinds])),
    ]
    return Table.labelled("unseen", f"Noise unseen in training, {study.name}", ("system",), headers, rows, notes)


def _means_over_snrs(
    results: Sequence[Result], metric: str, every: AbstractSet[float | None]
) -> dict[str, dict[Repetition, float]]:
    """Mean scores by system, fold and seed, over the SNRs that were trained at.

    A system that is trained on complete data is averaged over the SNRs that it was tested at. A fold and seed that
    lacks one of the SNRs in `every` is left out, except where missing modalities were tested and training had no SNR.
    """
    by_snr: dict[float | None, list[Result]] = defaultdict(list)
    for row in results:
        by_snr[row["snr_db"] if row["trained_snr_db"] is None else row["trained_snr_db"]].append(row)
    scores: dict[str, dict[Repetition, dict[float | None, float]]] = defaultdict(lambda: defaultdict(dict))
    for snr, together in by_snr.items():
        for system, levels in scores_of(together, metric).items():
            for found in levels.values():
                for repetition, score in found.items():
                    scores[system][repetition][snr] = score.value
    whole = (every, {None})
    return {
        system: {r: fmean(own.values()) for r, own in repetitions.items() if own.keys() in whole}
        for system, repetitions in scores.items()
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value

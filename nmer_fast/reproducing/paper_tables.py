"""The paper's five tables, in its layout, from a sweep's rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..system_names import title_of
from ..tables import AVERAGE, Cell, Row, Table, mark_best, mean_cell
from .published import PAPER_NAMES, Corpus, lookup
from .significance import Comparison, NoiseLevel, Result, Scores, compare, scores_of

if TYPE_CHECKING:
    from ..data import FeatureSet

METRICS = {"wa": "WA", "ua": "UA"}
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Study:
    """The rows that tables are made of, and what is known of the data.

    Attributes:
        name: the name of the data set.
        corpus: the paper's data set that the data is, or None.
        modalities: the names of the data's modalities.
        ratio: test samples for each training sample.
        rows: the sweep's rows of the runs that were asked for.
        noises: the kinds of noise that were asked for; a table of a single kind shows the first.
    """

    name: str
    corpus: Corpus | None
    modalities: tuple[str, ...]
    ratio: float
    rows: Sequence[Result]
    noises: tuple[str, ...]

    def scores(self, metric: str, condition: str = AVERAGE) -> Scores:
        """Each run's score at each noise level (see `scores_of`)."""
        return scores_of(self.rows, metric, condition)

    def levels(self, noises: Sequence[str]) -> list[NoiseLevel]:
        """The noise levels of these kinds that the rows have: the weakest first, missing modalities last."""
        found = {NoiseLevel(row["noise"], row["snr_db"]) for row in self.rows if row["noise"] in noises}
        return sorted(found, key=lambda c: (math.inf if c.snr_db is None else -c.snr_db, noises.index(c.noise)))

    def systems(self) -> list[str]:
        """The systems that the rows have: the paper's in its order, unimodal ones by modality, then all others."""
        found = dict.fromkeys(row["system"] for row in self.rows)
        known = [*PAPER_NAMES, *(f"unimodal.{name}" for name in self.modalities)]
        return [name for name in known if name in found] + [name for name in found if name not in known]

    def select(self, noises: Sequence[str], systems: Sequence[str] | None = None) -> Study:
        """The study of these noises, and of these systems, alone."""
        kept = [r for r in self.rows if r["noise"] in noises and (systems is None or r["system"] in systems)]
        return replace(self, rows=kept, noises=tuple(noises))


def snr_header(snr_db: float | None) -> str:
    """An SNR as it is written in a table."""
    return "no SNR" if snr_db is None else f"{snr_db + 0.0:g} dB"


def table1(sets: Mapping[int | None, FeatureSet], corpus: Corpus | None, conditions: int) -> Table:
    """The number of samples of each class and split, fold by fold, beside the paper's Table 1.

    Args:
        sets: the data set by fold.
        corpus: the paper's data set that the data is, or None.
        conditions: the number of incomplete conditions that each test sample is evaluated under.
    """
    first = next(iter(sets.values()))
    splits = [split for split in ("train", "val", "test") if any(split in data.splits for data in sets.values())]
    rows: list[Row] = []
    for fold, data in sets.items():
        name = data.name if fold is None else f"{data.name}, fold {fold}"
        counts = {split: _by_class(data, split) for split in data.splits}
        for i, label in enumerate([*data.class_names, "all"]):
            numbers = {split: [*by, sum(by)][i] for split, by in counts.items()}
            theirs = _table1_of(corpus, label)
            cells = [Cell(sum(numbers.values()), published=theirs.get("samples", math.nan), digits=0)]
            cells += [Cell(numbers.get(split, 0), published=theirs.get(split, math.nan), digits=0) for split in splits]
            rows.append(Row.labelled((name, label), cells, begins=i == 0))
    titles = {"train": "train set", "val": "validation set", "test": "test set"}
    tests = sum(_by_class(first, "test"))
    notes = [f"Each test sample is evaluated under {conditions} incomplete conditions, {tests * conditions} in all."]
    if corpus and corpus.name == "IEMOCAP":
        notes[0] += " The paper prints such a product, 3342, beside its 557 test samples."
    return Table.labelled(
        "table1", f"Table 1: classes and splits of {first.name}", ("data set", "label"),
        [("samples",), *((titles[split],) for split in splits)], rows, notes,
    )  # fmt: skip


def _by_class(data: FeatureSet, split: str) -> list[int]:
    counts: list[int] = data.labels[data.splits[split]].bincount(minlength=len(data.class_names)).tolist()
    return counts


def _table1_of(corpus: Corpus | None, label: str) -> dict[str, float]:
    """The numbers of the paper's Table 1 for a class, or for all classes together."""
    if corpus is None:
        return {}
    if label == "all":
        return {"samples": sum(corpus.samples.values()), "train": corpus.train, "test": corpus.test}
    return {"samples": corpus.samples[label.lower()]} if label.lower() in corpus.samples else {}


def table2(study: Study, conditions: int) -> Table:
    """Every system, averaged over the incomplete conditions, at each noise and SNR."""
    title = f"Table 2: average over the {conditions} incomplete conditions, {study.name}"
    return _table_of_systems(study, "table2", title, 2, AVERAGE, AVERAGE, study.noises)


def table5(study: Study) -> Table:
    """Every system with no modality clean, under one kind of noise."""
    title = f"Table 5: no modality clean, {study.noises[0]} noise, {study.name}"
    return _table_of_systems(study, "table5", title, 5, "none", "none clean", study.noises[:1])


def _table_of_systems(
    study: Study, name: str, title: str, number: int, condition: str, published_condition: str, noises: Sequence[str]
) -> Table:
    """A row for each system and columns for each noise level and metric, with marks for what differs from NMER."""
    systems, levels = study.systems(), study.levels(noises)
    by_metric = {metric: study.scores(metric, condition) for metric in METRICS}
    found = {(c.system, c.metric, c.noise, c.snr_db): c for c in comparisons(study, condition, noises, pooled=False)}
    grid = []
    for system in systems:
        cells = []
        for level in levels:
            published = lookup(number, study.corpus, system, *level, published_condition)
            for metric, paper in zip(METRICS, published, strict=True):
                comparison = found.get((system, metric, *level))
                cell = mean_cell(_values(by_metric[metric], system, level), paper)
                cells.append(replace(cell, mark="*" if comparison and comparison.p_holm < SIGNIFICANCE else ""))
        grid.append(cells)
    others = [i for i, system in enumerate(systems) if system not in PAPER_NAMES]
    rows = [
        Row.labelled((study.name, title_of(system)), cells, begins=i in (0, *others[:1]))
        for i, (system, cells) in enumerate(zip(systems, mark_best(grid), strict=True))
    ]
    several = len(noises) > 1
    headers = [
        (snr_header(level.snr_db), *([level.noise] if several else []), shown)
        for level in levels
        for shown in METRICS.values()
    ]
    notes = [_note_of_runs(by_metric["wa"], systems, levels), "Bold: the best of a column."]
    significant = f"p < {SIGNIFICANCE:g} after Holm's correction over the table ({name}_tests)."
    if any(c.p_holm < SIGNIFICANCE for c in found.values()):
        notes.append(f"*: differs from NMER, {significant}")
    elif found:
        notes.append(f"Nothing differs from NMER with {significant}")
    return Table.labelled(name, title, ("data set", "system"), headers, rows, notes + _note_of_corpus(study))


def comparisons(study: Study, condition: str, noises: Sequence[str], pooled: bool) -> list[Comparison]:
    """NMER compared with each other system at these noises, in the tables' order; none where NMER was not run."""
    part, order = study.select(noises, study.systems()), study.systems()
    if "nmer" not in order:
        return []
    found = compare(part.rows, ratio=study.ratio, metrics=tuple(METRICS), condition=condition, pooled=pooled)
    levels = part.levels(noises)

    def place(c: Comparison) -> tuple[int, int, int]:
        level = -1 if c.noise is None else levels.index(NoiseLevel(c.noise, c.snr_db))
        return list(METRICS).index(c.metric), level, order.index(c.system)

    return sorted(found, key=place)


def table3(study: Study) -> Table:
    """NMER by condition, under one kind of noise."""
    part = study.select(study.noises[:1], ["nmer"])
    levels = part.levels(part.noises)
    known = dict.fromkeys(row["condition"] for row in part.rows)
    conditions = [*(name for name in known if name not in ("none", "all")), AVERAGE]
    scores = {(metric, name): part.scores(metric, name) for metric in METRICS for name in conditions}
    rows: list[Row] = []
    for level in levels:
        cells = [
            mean_cell(_values(scores[metric, name], "nmer", level), paper)
            for name in conditions
            for metric, paper in zip(METRICS, lookup(3, study.corpus, "nmer", *level, name), strict=True)
        ]
        rows.append(Row.labelled((study.name, snr_header(level.snr_db)), cells, begins=not rows))
    title = f"Table 3: NMER by condition (which modalities are clean), {part.noises[0]} noise, {study.name}"
    headers = [(name, metric) for name in conditions for metric in METRICS.values()]
    notes = [_note_of_runs(scores["wa", AVERAGE], ["nmer"], levels)]
    return Table.labelled("table3", title, ("data set", "intensity"), headers, rows, notes + _note_of_corpus(study))


def table4(study: Study) -> Table:
    """A classifier of each modality, trained on clean data, tested on clean data and under one kind of noise."""
    noise, systems = study.noises[0], {name: f"unimodal.{name}" for name in study.modalities}
    part = study.select([noise], list(systems.values()))
    levels = part.levels([noise])
    noisy = {metric: part.scores(metric, "none") for metric in METRICS}
    clean = {metric: part.scores(metric, "all") for metric in METRICS}
    rows = []
    lines = [("clean", clean, level) for level in levels[:1]]
    lines += [(snr_header(level.snr_db), noisy, level) for level in levels]
    for intensity, scores, level in lines:
        asked = 0.0 if intensity == "clean" else level.snr_db
        cells = [
            mean_cell(_values(scores[metric], system, level), paper)
            for name, system in systems.items()
            for metric, paper in zip(
                METRICS, lookup(4, study.corpus, "unimodal", noise, asked, f"{name} only"), strict=True
            )
        ]
        rows.append(Row.labelled((intensity,), cells))
    headers = [(name, metric) for name in study.modalities for metric in METRICS.values()]
    notes = [
        _note_of_runs(noisy["wa"], list(systems.values()), levels),
        "The paper's row of 0 dB reads like clean data; it stands beside both, clean data and noise at 0 dB.",
    ]
    title = f"Table 4: one modality alone, {noise} noise, {study.name}"
    return Table.labelled("table4", title, ("intensity",), headers, rows, notes + _note_of_corpus(study))


def _values(scores: Scores, system: str, level: NoiseLevel) -> Iterable[float]:
    return [score.value for score in scores.get(system, {}).get(level, {}).values()]


def _note_of_runs(scores: Scores, systems: Sequence[str], levels: Sequence[NoiseLevel]) -> str:
    """The number of runs that a value is the mean of, and the number of results that are missing."""
    counts = [len(list(_values(scores, system, level))) for system in systems for level in levels]
    most = max(counts, default=0)
    text = f"Mean and standard deviation of {most} runs (folds x seeds)." if most > 1 else "Each value is of one run."
    lacking = sum(most - count for count in counts)
    return text + (f" {lacking} of {most * len(counts)} results are missing." if lacking else "")


def _note_of_corpus(study: Study) -> list[str]:
    """The note that explains the published values."""
    if study.corpus is None:
        return []
    return [
        f"Published: the paper's value for {study.corpus.name} (arXiv 2311.16114; empty where it cannot be read); "
        "difference: ours less that. Features and folds may be others than the paper's."
    ]

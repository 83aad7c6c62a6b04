"""The paper's five tables, in its layout, from a sweep's rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .published import AVERAGE, SYSTEMS, Corpus, lookup
from .significance import INCOMPLETE, Cell, Comparison, Row, Scores, collect, compare
from .tables import Row as Line
from .tables import Table, Value, mark_best, value_of

if TYPE_CHECKING:
    from ..data import FeatureSet

METRICS = {"wa": "WA", "ua": "UA"}
LABELS = {
    **SYSTEMS,
    "nmer_no_inv": "NMER w/o L_inv",
    "nmer_no_sampling": "NMER w/o sampling",
    "late_fusion": "late fusion",
}
LEVEL = 0.05


@dataclass(frozen=True)
class Study:
    """What the tables are made of.

    Attributes:
        name: of the data set.
        corpus: of the paper's, if it is one of them.
        modalities: of the data.
        ratio: test samples for each training sample.
        rows: of the runs asked for.
        noises: kinds, as asked for; where a table has one, it is the first.
    """

    name: str
    corpus: Corpus | None
    modalities: tuple[str, ...]
    ratio: float
    rows: Sequence[Row]
    noises: tuple[str, ...]

    def scores(self, metric: str, condition: str = INCOMPLETE) -> Scores:
        """See `collect`."""
        return collect(self.rows, metric, condition)

    def cells(self, noises: Sequence[str]) -> list[Cell]:
        """Those of these noises that the rows have: weakest first, missing modalities last."""
        there = {Cell(row["noise"], row["snr_db"]) for row in self.rows if row["noise"] in noises}
        return sorted(there, key=lambda c: (math.inf if c.snr_db is None else -c.snr_db, noises.index(c.noise)))

    def systems(self) -> list[str]:
        """Of the rows: the paper's in its order, with unimodal ones in that of the modalities, then others."""
        there = dict.fromkeys(row["system"] for row in self.rows)
        known = [*SYSTEMS, *(f"unimodal.{name}" for name in self.modalities)]
        return [name for name in known if name in there] + [name for name in there if name not in known]

    def of(self, noises: Sequence[str], systems: Sequence[str] | None = None) -> Study:
        """Of some of its rows alone."""
        return replace(
            self,
            rows=[r for r in self.rows if r["noise"] in noises and (systems is None or r["system"] in systems)],
            noises=tuple(noises),
        )


def strength(snr_db: float | None) -> str:
    """An SNR in a header."""
    return "no SNR" if snr_db is None else f"{snr_db + 0.0:g} dB"


def label_of(system: str) -> str:
    """What a system is called in a table."""
    name, dot, modality = system.partition(".")
    return f"{modality} alone" if dot else LABELS.get(name, name)


def table1(sets: Mapping[int | None, FeatureSet], corpus: Corpus | None, conditions: int) -> Table:
    """How many samples each class and split has, fold by fold, beside the paper's Table 1.

    Args:
        sets: by fold.
        corpus: of the paper's, if it is one of them.
        conditions: incomplete ones that a test sample is evaluated under.
    """
    first = next(iter(sets.values()))
    splits = [split for split in ("train", "val", "test") if any(split in data.splits for data in sets.values())]
    rows: list[Line] = []
    for fold, data in sets.items():
        name = data.name if fold is None else f"{data.name}, fold {fold}"
        counts = {split: _by_class(data, split) for split in data.splits}
        for i, label in enumerate([*data.class_names, "all"]):
            numbers = {split: [*by, sum(by)][i] for split, by in counts.items()}
            theirs = _table1_of(corpus, label)
            values = [Value(sum(numbers.values()), published=theirs.get("samples", math.nan), digits=0)]
            values += [
                Value(numbers.get(split, 0), published=theirs.get(split, math.nan), digits=0) for split in splits
            ]
            rows.append(Line((name, label), values, begins=i == 0))
    titles = {"train": "train set", "val": "validation set", "test": "test set"}
    tests = sum(_by_class(first, "test"))
    notes = [f"Each test sample is evaluated under {conditions} incomplete conditions, {tests * conditions} in all."]
    if corpus and corpus.name == "IEMOCAP":
        notes[0] += " The paper prints such a product, 3342, beside its 557 test samples."
    return Table(
        "table1", f"Table 1: classes and splits of {first.name}", ("data set", "label"),
        [("samples",), *((titles[split],) for split in splits)], rows, notes,
    )  # fmt: skip


def _by_class(data: FeatureSet, split: str) -> list[int]:
    counts: list[int] = data.labels[data.splits[split]].bincount(minlength=len(data.class_names)).tolist()
    return counts


def _table1_of(corpus: Corpus | None, label: str) -> dict[str, float]:
    """What the paper's Table 1 says of a class, or of all."""
    if corpus is None:
        return {}
    if label == "all":
        return {"samples": sum(corpus.samples.values()), "train": corpus.train, "test": corpus.test}
    return {"samples": corpus.samples[label.lower()]} if label.lower() in corpus.samples else {}


def table2(study: Study, conditions: int) -> Table:
    """Every system, averaged over the incomplete conditions, at each noise and SNR."""
    title = f"Table 2: average over the {conditions} incomplete conditions, {study.name}"
    return _of_systems(study, "table2", title, 2, INCOMPLETE, AVERAGE, study.noises)


def table5(study: Study) -> Table:
    """Systems with no modality clean, one noise."""
    title = f"Table 5: no modality clean, {study.noises[0]} noise, {study.name}"
    return _of_systems(study, "table5", title, 5, "none", "none clean", study.noises[:1])


def _of_systems(
    study: Study, name: str, title: str, number: int, condition: str, theirs: str, noises: Sequence[str]
) -> Table:
    """A row for each system, columns for each cell and metric; the best is marked, and what differs from NMER."""
    systems, cells = study.systems(), study.cells(noises)
    by_metric = {metric: study.scores(metric, condition) for metric in METRICS}
    found = {(c.system, c.metric, c.noise, c.snr_db): c for c in comparisons(study, condition, noises, pooled=False)}
    rows: list[Line] = []
    for system in systems:
        values = []
        for cell in cells:
            published = lookup(number, study.corpus, system, *cell, theirs)
            for metric, paper in zip(METRICS, published, strict=True):
                comparison = found.get((system, metric, *cell))
                value = value_of(_values(by_metric[metric], system, cell), paper)
                values.append(replace(value, mark="*" if comparison and comparison.p_holm < LEVEL else ""))
        other = system not in SYSTEMS and bool(rows) and not any(row.begins for row in rows[1:])
        rows.append(Line((study.name, label_of(system)), values, begins=not rows or other))
    several = len(noises) > 1
    columns = [
        (strength(cell.snr_db), *([cell.noise] if several else []), shown)
        for cell in cells
        for shown in METRICS.values()
    ]
    notes = [_of_runs(by_metric["wa"], systems, cells), "Bold: the best of a column."]
    if any(c.p_holm < LEVEL for c in found.values()):
        notes.append(f"*: differs from NMER, p < {LEVEL:g} after Holm's correction over the table ({name}_tests).")
    elif found:
        notes.append(
            f"Nothing differs from NMER with p < {LEVEL:g} after Holm's correction over the table ({name}_tests)."
        )
    return Table(name, title, ("data set", "system"), columns, mark_best(rows), notes + _about_corpus(study))


def comparisons(study: Study, condition: str, noises: Sequence[str], pooled: bool) -> list[Comparison]:
    """NMER against each other system at these noises, in the tables' order; none where NMER was not run."""
    part, order = study.of(noises, study.systems()), study.systems()
    if "nmer" not in order:
        return []
    found = compare(part.rows, ratio=study.ratio, metrics=tuple(METRICS), condition=condition, pooled=pooled)
    cells = part.cells(noises)

    def place(c: Comparison) -> tuple[int, int, int]:
        cell = -1 if c.noise is None else cells.index(Cell(c.noise, c.snr_db))
        return list(METRICS).index(c.metric), cell, order.index(c.system)

    return sorted(found, key=place)


def table3(study: Study) -> Table:
    """NMER condition by condition, one noise."""
    part = study.of(study.noises[:1], ["nmer"])
    cells = part.cells(part.noises)
    there = dict.fromkeys(row["condition"] for row in part.rows)
    conditions = [name for name in there if name not in ("none", "all")]
    shown = {name: (name, name) for name in conditions} | {INCOMPLETE: ("average", AVERAGE)}
    scores = {(metric, name): part.scores(metric, name) for metric in METRICS for name in shown}
    rows: list[Line] = []
    for cell in cells:
        values = [
            value_of(_values(scores[metric, name], "nmer", cell), paper)
            for name, (_, theirs) in shown.items()
            for metric, paper in zip(METRICS, lookup(3, study.corpus, "nmer", *cell, theirs), strict=True)
        ]
        rows.append(Line((study.name, strength(cell.snr_db)), values, begins=not rows))
    title = f"Table 3: NMER by condition (which modalities are clean), {part.noises[0]} noise, {study.name}"
    columns = [(head, metric) for head, _ in shown.values() for metric in METRICS.values()]
    notes = [_of_runs(scores["wa", INCOMPLETE], ["nmer"], cells)]
    return Table("table3", title, ("data set", "intensity"), columns, rows, notes + _about_corpus(study))


def table4(study: Study) -> Table:
    """A classifier of each modality, trained on clean data: on clean data, and under one noise."""
    noise, systems = study.noises[0], [f"unimodal.{name}" for name in study.modalities]
    part = study.of([noise], systems)
    cells = part.cells([noise])
    noisy = {metric: part.scores(metric, "none") for metric in METRICS}
    clean = {metric: part.scores(metric, "all") for metric in METRICS}
    rows = []
    lines = [("clean", clean, cell) for cell in cells[:1]] + [(strength(cell.snr_db), noisy, cell) for cell in cells]
    for intensity, scores, cell in lines:
        asked = 0.0 if intensity == "clean" else cell.snr_db
        values = [
            value_of(_values(scores[metric], system, cell), paper)
            for system in systems
            for metric, paper in zip(
                METRICS,
                lookup(4, study.corpus, "unimodal", noise, asked, f"{system.partition('.')[2]} only"),
                strict=True,
            )
        ]
        rows.append(Line((intensity,), values))
    columns = [(name, metric) for name in study.modalities for metric in METRICS.values()]
    notes = [
        _of_runs(noisy["wa"], systems, cells),
        "The paper's row of 0 dB reads like clean data; it stands beside both, clean data and noise at 0 dB.",
    ]
    title = f"Table 4: one modality alone, {noise} noise, {study.name}"
    return Table("table4", title, ("intensity",), columns, rows, notes + _about_corpus(study))


def _values(scores: Scores, system: str, cell: Cell) -> Iterable[float]:
    return [score.value for score in scores.get(system, {}).get(cell, {}).values()]


def _of_runs(scores: Scores, systems: Sequence[str], cells: Sequence[Cell]) -> str:
    """How many runs a value is of, and whether some are missing."""
    counts = [len(list(_values(scores, system, cell))) for system in systems for cell in cells]
    most = max(counts, default=0)
    text = f"Mean and standard deviation of {most} runs (folds x seeds)." if most > 1 else "Each value is of one run."
    lacking = sum(most - count for count in counts)
    return text + (f" {lacking} of {most * len(counts)} results are missing." if lacking else "")


def _about_corpus(study: Study) -> list[str]:
    """What stands beside ours."""
    if study.corpus is None:
        return []
    return [
        f"Published: the paper's value for {study.corpus.name} (arXiv 2311.16114; empty where it cannot be read); "
        "difference: ours less that. Features and folds may be others than the paper's."
    ]

"""The report's tables, cell by cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from .collection import AVERAGE, Collection, Noise
from .figures import NAMES, spread

SCORE_COLUMNS = ("run", "system", "noise", "snr_db", "fold", "seed", "condition", "wa", "ua", "f1", "n")
DESCRIBED = ("versions", "config")
"""Columns of a sweep's table that hold JSON: the page has them as a table of settings."""
SECONDS = "seconds_"


@dataclass(frozen=True)
class Cell:
    """What a cell shows.

    Attributes:
        text: as it is read.
        value: as it was written and as it sorts, where that is more than the text.
        deviation: beside the text.
        best: of those that it is compared with.
    """

    text: str
    value: str | None = None
    deviation: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column."""

    label: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table that sorts.

    Attributes:
        name: for tests and links.
        caption: what it shows.
        columns: the first names the row.
        rows: a cell for each column.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def averages(of: Collection, metric: str) -> Table:
    """A row for each system, a column for each noise: the average of the incomplete conditions."""
    found = {n: {s: of.scores(s, n, AVERAGE, metric) for s in of.systems} for n in of.noises}
    best = {n: _best(values) for n, values in found.items()}
    rows = [
        [Cell(system), *(_mean(found[n][system], system in best[n]) for n in of.noises), _runs(of, system)]
        for system in of.systems
    ]
    columns = [Column("system", False), *(Column(str(n)) for n in of.noises), Column("runs")]
    caption = f"{NAMES[metric]} in percent, average of the {len(of.incomplete)} incomplete conditions"
    return Table(f"averages-{metric}", caption, columns, rows)


def by_condition(of: Collection, metric: str) -> Table:
    """A row for each system and noise, a column for each condition."""
    names = _names(of)
    rows = []
    for noise in of.noises:
        found = {name: {s: of.scores(s, noise, name, metric) for s in of.systems} for name in names}
        for system in of.systems:
            if count := len(of.of(system, noise)):
                scores = [_mean(values[system], system in _best(values)) for values in found.values()]
                rows.append([Cell(system), *_strength(noise), *scores, Cell(str(count))])
    columns = [Column("system", False), Column("noise", False), Column("dB"), *map(Column, names), Column("runs")]
    return Table(f"conditions-{metric}", f"{NAMES[metric]} in percent; a column names what is clean", columns, rows)


def of_one(of: Collection, noise: Noise) -> Table:
    """One run under one noise: a row for each condition, a column for each metric."""
    (_, e), *_ = of.of(of.systems[0], noise)
    rows = []
    for name in _names(of):
        found = [of.scores(of.systems[0], noise, name, metric) for metric in NAMES]
        if all(found):
            count = Cell(str(e.conditions[name]["n"])) if name in e.conditions else Cell("")
            rows.append([Cell(name), *(_mean(values, False) for values in found), count])
    columns = [Column("clean", False), *(Column(f"{name} %") for name in NAMES.values()), Column("n")]
    return Table("run", f"Scores under {noise.phrase}; a row names what is clean", columns, rows)


def _names(of: Collection) -> list[str]:
    """The conditions that are shown, and their average behind the incomplete ones."""
    incomplete = [name for name in of.shown if name in of.incomplete]
    return [*incomplete, AVERAGE, *(name for name in of.shown if name not in of.incomplete)]


def _mean(values: Sequence[float], best: bool) -> Cell:
    """Mean and standard deviation, in percent."""
    if not values:
        return Cell("")
    deviation = f"{spread(values):.2f}" if len(values) > 1 else ""
    return Cell(f"{fmean(values):.2f}", f"{fmean(values):.6f}", deviation, best)


def _best(found: Mapping[str, Sequence[float]]) -> set[str]:
    """The systems whose mean is the highest as it is shown; nobody where there is nothing to compare."""
    means = {system: f"{fmean(values):.2f}" for system, values in found.items() if values}
    top = max(means.values(), key=float, default="")
    return {system for system, mean in means.items() if mean == top} if len(means) > 1 else set()


def _runs(of: Collection, system: str) -> Cell:
    return Cell(str(sum(run.system == system for run in of.runs)))


def _strength(noise: Noise) -> list[Cell]:
    return [Cell(noise.curve), Cell("") if noise.snr_db is None else _number(noise.snr_db, "{:g}")]


def scores(of: Collection) -> Table:
    """Every row of a sweep's table, or what one would be of a run: its scores."""
    formats: dict[str, Callable[[Any], Cell]] = {
        "snr_db": lambda value: _number(value, "{:g}"),
        **{metric: lambda value: Cell(f"{100 * value:.2f}", str(value)) for metric in NAMES},
    }
    rows = [[_cell(row[name], formats.get(name)) for name in SCORE_COLUMNS] for run in of.runs for row in run.rows()]
    labels = {"snr_db": "dB", "condition": "clean", **{metric: f"{name} %" for metric, name in NAMES.items()}}
    columns = [
        Column(labels.get(name, name), name not in ("run", "system", "noise", "condition")) for name in SCORE_COLUMNS
    ]
    return Table("scores", "Scores of every run, noise and condition", columns, rows)


def runs(of: Collection) -> Table:
    """A row for each run and noise: all else that the sweep's table has."""
    first = [next(iter(group)) for group in _by_noise(of)]
    names = list(dict.fromkeys(name for row in first for name in row if name not in DESCRIBED))
    names = [name for name in names if name not in ("condition", "wa", "ua", "f1", "n")]
    formats = {
        name: (lambda value: _number(value, "{:.2f}")) for name in names if name.startswith(("realised", SECONDS))
    }
    formats["snr_db"] = lambda value: _number(value, "{:g}")
    rows = [[_cell(row.get(name), formats.get(name)) for name in names] for row in first]
    words = {"snr_db": "dB", "epoch": "epoch kept"}
    labels = {name: name.replace("realised_snr_db_", "realised dB, ").replace(SECONDS, "s, ") for name in names}
    columns = [Column(words.get(n, labels[n]), n not in ("run", "system", "noise", "revision")) for n in names]
    return Table(
        "runs",
        "Every run and noise: the SNR that the noise really had, seconds by phase, the epoch kept",
        columns,
        rows,
    )


def _by_noise(of: Collection) -> Iterable[list[dict[str, Any]]]:
    """Rows of each run and noise, which differ in condition and scores alone."""
    for run in of.runs:
        rows = list(run.rows())
        for e in run.evaluated:
            yield rows[: len(e.conditions)]
            rows = rows[len(e.conditions) :]


def _cell(value: Any, form: Callable[[Any], Cell] | None) -> Cell:
    if value is None:
        return Cell("")
    return Cell(str(value)) if form is None else form(value)


def _number(value: float, form: str) -> Cell:
    """With a real minus sign; the value as it was written, where the text is not the same."""
    text = form.format(value)
    return Cell(text.replace("-", "\N{MINUS SIGN}"), None if text == str(value) else str(value))


def settings(of: Collection) -> Table:
    """Every field of the runs' configs, with all the values that it has, and the versions."""
    rows = []
    configs = [asdict(run.config) for run in of.runs]
    for section, fields in configs[0].items():
        rows += [[Cell(f"{section}.{name}"), _values(c[section][name] for c in configs)] for name in fields]
    versions = [run.results["versions"] for run in of.runs]
    rows += [[Cell(name), _values(v.get(name) for v in versions)] for name in versions[0]]
    return Table("settings", "Settings and versions", [Column("field", False), Column("value", False)], rows)


def _values(values: Iterable[Any]) -> Cell:
    texts = dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in values)
    return Cell(", ".join("none" if text == "null" else text for text in texts))

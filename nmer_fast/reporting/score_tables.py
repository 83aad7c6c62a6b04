"""The tables of the report: scores, and every row and setting behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ..tables import AVERAGE, Cell, Column, Row, Table, mark_best, mean_cell
from .collection import Collection, Noise
from .figures import NAMES

SCORE_COLUMNS = ("run", "system", "noise", "snr_db", "fold", "seed", "condition", "wa", "ua", "f1", "n")
JSON_COLUMNS = ("versions", "config")
"""Columns of a sweep's table that hold JSON: the page shows them as a table of settings."""
SECONDS = "seconds_"


def averages(collection: Collection, metric: str) -> Table:
    """A row for each system, a column for each noise: the average over the incomplete conditions, in percent."""
    systems, noises = collection.systems, collection.noises
    grid = [[_percent(collection.scores(s, n, AVERAGE, metric)) for n in noises] for s in systems]
    rows = [
        Row([Cell(system), *cells, _count(sum(run.system == system for run in collection.runs))])
        for system, cells in zip(systems, mark_best(grid), strict=True)
    ]
    columns = [_text("system"), *(_number(str(noise)) for noise in noises), _number("runs")]
    title = f"{NAMES[metric]} in percent, average of the {len(collection.incomplete)} incomplete conditions"
    return Table(f"averages-{metric}", title, columns, rows)


def by_condition(collection: Collection, metric: str) -> Table:
    """A row for each system and noise, a column for each condition, in percent; systems are compared noise by noise."""
    conditions = _conditions(collection)
    rows = []
    for noise in collection.noises:
        systems = [name for name in collection.systems if collection.evaluations(name, noise)]
        grid = [[_percent(collection.scores(s, noise, c, metric)) for c in conditions] for s in systems]
        for system, cells in zip(systems, mark_best(grid), strict=True):
            count = _count(len(collection.evaluations(system, noise)))
            rows.append(Row([Cell(system), Cell(noise.curve), _decibels(noise.snr_db), *cells, count]))
    columns = [_text("system"), _text("noise"), _number("dB"), *map(_number, conditions), _number("runs")]
    return Table(f"conditions-{metric}", f"{NAMES[metric]} in percent; a column names what is clean", columns, rows)


def of_one_run(collection: Collection, noise: Noise) -> Table:
    """One run under one noise: a row for each condition, a column for each metric, in percent."""
    system = collection.systems[0]
    (_, evaluation), *_ = collection.evaluations(system, noise)
    rows = []
    for name in _conditions(collection):
        found = [collection.scores(system, noise, name, metric) for metric in NAMES]
        if all(found):
            count = _count(evaluation.conditions[name]["n"]) if name in evaluation.conditions else Cell()
            rows.append(Row([Cell(name), *map(_percent, found), count]))
    columns = [_text("clean"), *(_number(f"{name} %") for name in NAMES.values()), _number("n")]
    return Table("run", f"Scores under {noise.phrase}; a row names what is clean", columns, rows)


def _conditions(collection: Collection) -> list[str]:
    """The conditions that are shown, with the average of the incomplete ones behind them."""
    incomplete = [name for name in collection.shown if name in collection.incomplete]
    return [*incomplete, AVERAGE, *(name for name in collection.shown if name not in collection.incomplete)]


def _text(header: str) -> Column:
    return Column((header,), numeric=False)


def _number(header: str) -> Column:
    return Column((header,))


def _percent(values: Sequence[float]) -> Cell:
    return mean_cell(values, digits=2)


def _count(number: int) -> Cell:
    return Cell(number, digits=0)


def _decibels(snr_db: float | str | None) -> Cell:
    """An SNR in dB; a text where the modalities' SNRs differ, empty where there is none."""
    return Cell(snr_db, digits=None, source=str(snr_db)) if isinstance(snr_db, int | float) else Cell(snr_db or "")


def scores(collection: Collection) -> Table:
    """The scores of every run, noise and condition, as the rows of a sweep's table hold them."""
    cells: dict[str, Callable[[Any], Cell]] = {
        "snr_db": _decibels,
        **{metric: lambda value: Cell(100 * value, digits=2, source=str(value)) for metric in NAMES},
    }
    rows = [
        Row([cells.get(name, _as_written)(row[name]) for name in SCORE_COLUMNS])
        for run in collection.runs
        for row in run.rows()
    ]
    labels = {"snr_db": "dB", "condition": "clean", **{metric: f"{name} %" for metric, name in NAMES.items()}}
    texts = ("run", "system", "noise", "condition")
    columns = [Column((labels.get(name, name),), name not in texts) for name in SCORE_COLUMNS]
    return Table("scores", "Scores of every run, noise and condition", columns, rows)


def runs(collection: Collection) -> Table:
    """A row for each run and noise, with the columns of a sweep's table that are the same under every condition."""
    first = [rows[0] for rows in _rows_by_noise(collection)]
    left_out = (*JSON_COLUMNS, "condition", *NAMES, "n")
    names = [name for name in dict.fromkeys(name for row in first for name in row) if name not in left_out]
    cells: dict[str, Callable[[Any], Cell]] = {
        name: _two_digits for name in names if name.startswith(("realised", SECONDS))
    }
    cells["snr_db"] = _decibels
    rows = [Row([cells.get(name, _as_written)(row.get(name)) for name in names]) for row in first]
    words = {"snr_db": "dB", "epoch": "epoch kept"}
    labels = {name: name.replace("realised_snr_db_", "realised dB, ").replace(SECONDS, "s, ") for name in names}
    texts = ("run", "system", "noise", "revision")
    columns = [Column((words.get(name, labels[name]),), name not in texts) for name in names]
    title = "Every run and noise: the SNR that the noise really had, seconds by phase, the epoch kept"
    return Table("runs", title, columns, rows)


def _rows_by_noise(collection: Collection) -> Iterable[list[dict[str, Any]]]:
    """The rows of each run and noise, which differ in condition and scores alone."""
    for run in collection.runs:
        rows = list(run.rows())
        for evaluation in run.evaluations:
            yield rows[: len(evaluation.conditions)]
            rows = rows[len(evaluation.conditions) :]


def _as_written(value: Any) -> Cell:
    return _count(value) if isinstance(value, int) else Cell("" if value is None else str(value))


def _two_digits(value: float | None) -> Cell:
    return Cell() if value is None else Cell(value, digits=2, source=str(value))


def settings(collection: Collection) -> Table:
    """A row for each field of the runs' configs with all of its values, and for each version."""
    rows = []
    configs = [asdict(run.config) for run in collection.runs]
    for section in configs[0]:
        for name in dict.fromkeys(name for config in configs for name in config[section]):  # systems have their own
            values = (config[section][name] for config in configs if name in config[section])
            rows.append(Row([Cell(f"{section}.{name}"), _values(values)]))
    versions = [run.results["versions"] for run in collection.runs]
    rows += [Row([Cell(name), _values(v.get(name) for v in versions)]) for name in versions[0]]
    return Table("settings", "Settings and versions", [_text("field"), _text("value")], rows)


def _values(values: Iterable[Any]) -> Cell:
    texts = dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in values)
    return Cell(", ".join("none" if text == "null" else text for text in texts))

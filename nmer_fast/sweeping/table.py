"""One tidy table of a sweep, as CSV and as SQLite: a row for each run, noise and condition.

The runs' folders are the truth. Both files are made from them and replaced as a whole, so they can be read at any time.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from ..engine.checkpoint import write_json
from ..engine.evaluation import METRICS
from ..files import write_atomically
from ..models.registry import system_class
from .work import Failure, read_evaluations, read_json, read_results

FAILED = "failed.json"
TYPES = {"fold": "INTEGER", "seed": "INTEGER", "n": "INTEGER", "epoch": "INTEGER"}
"""SQLite's, of columns that are neither text nor, as scores and seconds are, real."""
PHASES = ("teacher", "compile", "train", "evaluate")
Row = dict[str, Any]


class Results:
    """The rows of every finished run under a folder, and which runs failed; those of earlier grids too.

    Args:
        folder: of the sweep; its runs are in `runs`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {path.name: rows_of(path) for path in (folder / "runs").iterdir() if path.is_dir()}
        self.failed: dict[str, Any] = read_json(folder / FAILED) or {}

    def __str__(self) -> str:
        return f"{self.folder / 'results'}.csv and .sqlite"

    def add(self, run: str) -> None:
        """Read a run that has just finished, and write both files."""
        self.rows[run] = rows_of(self.folder / "runs" / run)
        self.write()
        if self.failed.pop(run, None):
            write_json(self.folder / FAILED, self.failed)

    def fail(self, run: str, failure: Failure) -> None:
        """Record that a run failed, until it is finished by another try."""
        self.failed[run] = asdict(failure)
        write_json(self.folder / FAILED, self.failed)

    def describe(self, run: str) -> str:
        """A finished run in a few words: mean scores over its noises and incomplete conditions, and its time."""
        rows = [row for row in self.rows[run] if row["condition"] != "all"]
        partial = [row for row in rows if row["condition"] != "none"] or rows
        scores = [f"{metric.upper()} {100 * fmean(row[metric] for row in partial):.2f} %" for metric in METRICS[:2]]
        shared = sum(rows[0][f"seconds_{phase}"] or 0 for phase in PHASES[:-1])
        evaluations = {(row["noise"], row["snr_db"]): row["seconds_evaluate"] for row in rows}
        return "  ".join([*scores, f"{shared + sum(evaluations.values()):.1f} s"])

    def write(self) -> None:
        """Write both files."""
        rows = sorted((row for rows in self.rows.values() for row in rows), key=_order)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            write_atomically(self.folder / "results.csv", _as_csv(columns, rows))
            write_atomically(self.folder / "results.sqlite", _as_sqlite(columns, rows))


def rows_of(folder: Path) -> list[Row]:
    """A run's rows; none before it has finished. Scores are fractions, SNRs in dB, times in seconds.

    Of a run that was trained on complete data, a row's noise is that of an evaluation; `config` is the training's.
    """
    results = read_results(folder)
    if results is None:
        return []
    config = results["config"]
    own = {"noise": config["noise"], "seconds": results["times"]["evaluate"], **results}
    complete = system_class(config["model"]["system"]).complete
    return [
        row
        for e in (read_evaluations(folder) if complete else [own])
        for row in evaluation_rows(folder.name, results, e)
    ]


def evaluation_rows(run: str, results: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterable[Row]:
    """A row for each condition of an evaluation."""
    config, noise = results["config"], evaluation["noise"]
    times = {**results["times"], "evaluate": evaluation["seconds"]}
    versions = {name: version for name, version in results["versions"].items() if name != "revision"}
    for condition, scores in evaluation["conditions"].items():
        yield {
            "run": run,
            "system": config["model"]["system"],
            "noise": noise["kind"],
            "snr_db": noise["snr_db"],
            "fold": config["data"]["fold"],
            "seed": config["training"]["seed"],
            "condition": condition,
            **{metric: scores[metric] for metric in METRICS},
            "n": scores["n"],
            **{f"realised_snr_db_{name}": snr for name, snr in evaluation["snr_db"].items()},
            **{f"seconds_{phase}": times.get(phase) for phase in PHASES},
            "epoch": results["epoch"],
            "revision": results["versions"]["revision"],
            "versions": json.dumps(versions),
            "config": json.dumps(config),
        }


def _order(row: Row) -> tuple[Any, ...]:
    """By axes, strongest noise last; conditions stay as they come, for sorting is stable."""
    snr = float("inf") if row["snr_db"] is None else -row["snr_db"]
    return row["system"], row["noise"], snr, row["fold"] or 0, row["seed"]


def _as_csv(columns: list[str], rows: list[Row]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _as_sqlite(columns: list[str], rows: list[Row]) -> bytes:
    """A database of one table, `results`."""
    text = {name for name, value in rows[0].items() if isinstance(value, str)}
    types = [f"{_quoted(name)} {'TEXT' if name in text else TYPES.get(name, 'REAL')}" for name in columns]
    with sqlite3.connect(":memory:") as database:
        database.execute(f"CREATE TABLE results ({', '.join(types)})")
        marks = ", ".join("?" * len(columns))
        values = ([row.get(name) for name in columns] for row in rows)
        database.executemany(f"INSERT INTO results VALUES ({marks})", values)
    content = database.serialize()
    database.close()
    return content


def _quoted(name: str) -> str:
    """A column's name, whatever a modality is called."""
    return '"' + name.replace('"', '""') + '"'

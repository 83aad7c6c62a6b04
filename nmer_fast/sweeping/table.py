"""The results of a sweep as one tidy table, in CSV and SQLite: a row for each run, noise and condition.

Both files are generated from the runs' folders and replaced atomically, so they can be read at any time.
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

from ..config import model_config, snr_column
from ..engine.evaluation import METRICS
from ..files import read_json, write_atomically, write_json
from ..models import system_class
from .work import Failure, read_evaluations, read_results

FAILED = "failed.json"
TYPES = {"fold": "INTEGER", "seed": "INTEGER", "n": "INTEGER", "epoch": "INTEGER"}
"""The SQLite types of the integer columns; all other columns are TEXT or REAL."""
PHASES = ("teacher", "compile", "train", "evaluate")
Row = dict[str, Any]


class Results:
    """The rows of all finished runs of a sweep, and its failed runs, including those of earlier grids in the folder.

    Args:
        folder: the folder of the sweep; its runs are in the sub-folder `runs`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {path.name: rows_of(path) for path in (folder / "runs").iterdir() if path.is_dir()}
        self.failed: dict[str, Any] = read_json(folder / FAILED) or {}

    def __str__(self) -> str:
        return f"{self.folder / 'results'}.csv and .sqlite"

    def add(self, run: str) -> None:
        """Read the results of a run that has just finished, and write both files."""
        self.rows[run] = rows_of(self.folder / "runs" / run)
        self.write()
        if self.failed.pop(run, None):
            write_json(self.folder / FAILED, self.failed)

    def fail(self, run: str, failure: Failure) -> None:
        """Record that a run failed; the record is removed if the run finishes later."""
        self.failed[run] = asdict(failure)
        write_json(self.folder / FAILED, self.failed)

    def describe(self, run: str) -> str:
        """Return a short text about a finished run: mean WA and UA over noises and incomplete conditions, and time."""
        rows = [row for row in self.rows[run] if row["condition"] != "all"]
        partial = [row for row in rows if row["condition"] != "none"] or rows
        scores = [f"{metric.upper()} {100 * fmean(row[metric] for row in partial):.2f} %" for metric in METRICS[:2]]
        shared = sum(rows[0][f"seconds_{phase}"] or 0 for phase in PHASES[:-1])
        evaluations = {(row["noise"], row["snr_db"]): row["seconds_evaluate"] for row in rows}
        return "  ".join([*scores, f"{shared + sum(evaluations.values()):.1f} s"])

    def tidy(self) -> list[Row]:
        """Return all rows, sorted by the axes of the grid, as in the files."""
        return sorted((row for rows in self.rows.values() for row in rows), key=_order)

    def write(self) -> None:
        """Write both files."""
        rows = self.tidy()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            write_atomically(self.folder / "results.csv", as_csv(columns, rows))
            write_atomically(self.folder / "results.sqlite", _as_sqlite(columns, rows))


def rows_of(folder: Path) -> list[Row]:
    """Return the rows of a run, or none if it has not finished. Scores are fractions, SNRs in dB, times in seconds.

    For a run that was trained on complete data, `noise` is the noise of an evaluation and `config` that of training.
    """
    results = read_results(folder)
    if results is None:
        return []
    config = results["config"]
    own = {"noise": config["noise"], "seconds": results["times"]["evaluate"], **results}
    complete = system_class(config["model"]["system"]).trains_on_complete_data
    evaluations = read_evaluations(folder) if complete else [own]
    return [row for e in evaluations for row in rows_of_evaluation(folder.name, results, e)]


def rows_of_evaluation(run: str, results: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterable[Row]:
    """Yield a row for each condition of an evaluation of a run."""
    config, noise = results["config"], evaluation["noise"]
    times = {**results["times"], "evaluate": evaluation["seconds"]}
    versions = {name: version for name, version in results["versions"].items() if name != "revision"}
    for condition, scores in evaluation["conditions"].items():
        yield {
            "run": run,
            "system": model_config(config["model"]).label,
            "noise": noise["kind"],
            "snr_db": snr_column(noise["snr_db"]),
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
    """Return a row's sort key: the axes, the strongest noise last. Sorting is stable: conditions keep their order."""
    snr = -row["snr_db"] if isinstance(row["snr_db"], float) else float("inf")
    return row["system"], row["noise"], snr, row["fold"] or 0, row["seed"]


def as_csv(columns: list[str], rows: list[Row]) -> bytes:
    """Return the rows as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _as_sqlite(columns: list[str], rows: list[Row]) -> bytes:
    """Return the rows as a SQLite database with one table, `results`."""
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
    """Quote a column's name for SQL; it may contain any modality's name."""
    return '"' + name.replace('"', '""') + '"'

"""The scores of a model under several noises, as a table, a CSV file and a JSON file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..config import NoiseConfig, describe_snr, snr_column
from ..errors import UserError
from ..files import write_atomically, write_json
from .evaluation import METRICS, Evaluation

COLUMNS = 9  # the number of columns that fit beside each other; three modalities have eight conditions and an average


@dataclass(frozen=True)
class Point:
    """One noise and the scores under it.

    Attributes:
        noise: the noise settings.
        evaluation: the scores by condition.
    """

    noise: NoiseConfig
    evaluation: Evaluation


@dataclass(frozen=True)
class Robustness:
    """The scores of a model under several noises; `print` shows their table.

    Attributes:
        title: the table's title.
        points: the noises with their scores, in the order in which they were requested.
    """

    title: str
    points: list[Point]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each noise and condition; metrics are fractions, SNRs are in dB."""
        out = []
        for point in self.points:
            noise = point.noise
            steps = noise.steps if isinstance(noise.steps, str) or noise.steps is None else _pairs(noise.steps.items())
            realised = {f"realised_snr_db_{name}": snr for name, snr in point.evaluation.snr_db.items()}
            for condition, scores in point.evaluation.conditions.items():
                out.append(
                    {
                        "noise": noise.kind,
                        "p": noise.p if noise.kind == "impulse" else None,
                        "snr_db": snr_column(noise.snr_db),
                        "steps": steps,
                        "clean": condition,
                        **{metric: getattr(scores, metric) for metric in METRICS},
                        "n": scores.n,
                        **realised,
                    }
                )
        return out

    def write(self, path: Path, about: dict[str, Any] | None = None) -> tuple[Path, Path]:
        """Write all results to path.json and the rows to path.csv.

        Args:
            path: the path of the files, with or without one of the two suffixes.
            about: additional top-level entries of the JSON file.

        Returns:
            the paths of the JSON and the CSV file.
        """
        table, rows = io.StringIO(), self.rows()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        results = [{"noise": asdict(point.noise), **point.evaluation.as_dict()} for point in self.points]
        as_json, as_csv = outputs(path)
        write_json(as_json, {**(about or {}), "results": results})
        write_atomically(as_csv, table.getvalue().encode())
        return as_json, as_csv

    def table(self) -> Table:
        """Return a table with a row for each noise and a column for each condition; a cell shows WA above UA.

        With too many conditions, only the average and the conditions "none" and "all" are shown.
        """
        conditions = list(self.points[0].evaluation.conditions)
        shown = conditions if len(conditions) <= COLUMNS else [name for name in conditions if name in ("none", "all")]
        averaged = bool(self.points[0].evaluation.average)
        table = Table(title=self.title, title_justify="left", caption_justify="left", show_lines=True)
        for column in ("noise", "dB", *shown, *(["average"] if averaged else [])):
            table.add_column(column, justify="left" if column == "noise" else "right", no_wrap=True)
        for point in self.points:
            noise, scores = point.noise, point.evaluation.conditions
            averages = [point.evaluation.average] if averaged else []
            cells = [_cell(one) for one in (*(vars(scores[name]) for name in shown), *averages)]
            strength = "T" if noise.steps else "" if noise.snr_db is None else describe_snr(noise.snr_db)
            table.add_row(noise.kind, strength, *cells)
        table.caption = "each cell: WA % over UA %; a column names what is clean; average: of the incomplete ones"
        if errors := [
            abs(snr - point.noise.snr_db)
            for point in self.points
            if isinstance(point.noise.snr_db, float)
            for snr in point.evaluation.snr_db.values()
            if math.isfinite(snr)  # it is NaN if no sample has the modality
        ]:
            table.caption += (
                f"\nrealised SNR: within {max(errors):.2f} dB of what was asked for (CSV and JSON have each)"
            )
        if shown != conditions:
            table.caption += f"\nthe CSV has all {len(conditions)} conditions"
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()


def outputs(path: Path) -> tuple[Path, Path]:
    """Return the paths of the JSON and the CSV file for a path that may end with either suffix."""
    stem = path.name.removesuffix(".json").removesuffix(".csv")
    return path.with_name(f"{stem}.json"), path.with_name(f"{stem}.csv")


def check_outputs(path: Path) -> None:
    """Refuse a path, before any work is done, that is a folder or would overwrite a file of a run."""
    if not path.name:
        raise UserError(f"out: expected a file's name, got {path}")
    for file in outputs(path):
        if file.is_dir():
            raise UserError(f"out: expected a file, got {file}, which is a folder")
        if file.stem in ("checkpoint", "config", "results", "resume") and (file.parent / "config.json").exists():
            raise UserError(f"out: expected a name that no file of the run has, got {file}")


def _cell(metrics: dict[str, Any]) -> str:
    return f"{100 * metrics['wa']:.2f}\n{100 * metrics['ua']:.2f}"


def _pairs(items: Iterable[tuple[str, Any]]) -> str:
    return " ".join(f"{name}={value}" for name, value in items)

"""A figure of the training bench, and what is shown of all of them: a table, a CSV file, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import torch
from measure import BASELINE, LINE, OURS
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One thing measured: its median and 20th and 80th percentile, which are equal where it was measured once."""

    section: str
    what: str
    who: str
    unit: str
    p20: float
    p50: float
    p80: float


def figure(section: str, what: str, who: str, unit: str, values: Sequence[float]) -> Figure:
    """The percentiles of the values."""
    return Figure(section, what, who, unit, *measure.percentiles(values))


def title() -> str:
    """The machine of a table and a picture."""
    return f"Training and evaluating, {torch.get_num_threads()} threads; {measure.machine()}"


def show(figures: list[Figure]) -> None:
    """A table of medians, percentiles, and how many times as much the baseline takes."""
    table = Table(title=title(), title_justify="left")
    for column in ("", "what", "who", "median", "20 %", "80 %", "unit", "baseline / this"):
        table.add_column(column, justify="left" if column in ("", "what", "who", "unit") else "right")
    previous = None
    for f in figures:
        if previous is not None and previous.section != f.section:
            table.add_section()
        new = previous is None or previous.section != f.section
        cells = (f.section if new else "", f.what if new or previous.what != f.what else "")
        base = next((o.p50 for o in figures if (o.section, o.what, o.who) == (f.section, f.what, BASELINE)), None)
        timed_or_counted = f.unit in ("s", "operations") and f.who != BASELINE and f.p50 > 0
        ratio = "" if base is None or not timed_or_counted else f"{base / f.p50:.2f}x"
        table.add_row(*cells, f.who, f"{f.p50:.4g}", f"{f.p20:.4g}", f"{f.p80:.4g}", f.unit, ratio)
        previous = f
    Console(width=140).print(table)


def write(path: Path, figures: list[Figure]) -> None:
    """Every figure with what it depends on."""
    facts = {"threads": torch.get_num_threads(), **measure.about()}
    measure.write_csv(path, [{**asdict(f), **facts} for f in figures])


def plot(path: Path, figures: list[Figure]) -> None:
    """Step, epoch and operations as bars, a step's parts as stacks, and the two lines of growth."""
    canvas, axes = measure.canvas(2, 3, (13, 6.5))
    of = {section: [f for f in figures if f.section == section] for section in {f.section for f in figures}}
    _bars(axes[0, 0], of.get("step", []), "a training step, s")
    _bars(axes[0, 1], [f for f in of.get("epoch", []) if f.what == "both"], "epoch and evaluation, s")
    _bars(axes[0, 2], of["operations"], "operations a step")
    axes[0, 2].set(xscale="log", xlim=(1, 20 * max(f.p80 for f in of["operations"])))
    _stack(axes[1, 0], of["parts"], "where a step's time goes, s")
    for ax, what in zip(axes[1, 1:], ("utterances", "modalities"), strict=True):
        _line(ax, of[what], what)
    measure.save(canvas, path, title())


def _errors(figures: list[Figure]) -> list[list[float]]:
    return [[f.p50 - f.p20 for f in figures], [f.p80 - f.p50 for f in figures]]


def _bars(ax: Any, figures: list[Figure], title: str) -> None:
    measure.bars(ax, title, {f.who: f.p50 for f in figures}, _errors(figures))
    ax.margins(x=0.15)


def _stack(ax: Any, figures: list[Figure], title: str) -> None:
    left = dict.fromkeys((OURS, BASELINE), 0.0)
    parts = list(dict.fromkeys(f.what for f in figures))
    for part in parts:
        widths = {f.who: f.p50 for f in figures if f.what == part}
        ax.barh(list(left), [widths[who] for who in left], left=list(left.values()), label=part)
        left = {who: start + widths[who] for who, start in left.items()}
    ax.legend(fontsize=7, ncols=len(parts), loc="upper center", bbox_to_anchor=(0.5, -0.08), handlelength=0.8)
    ax.set_title(title, fontsize=9)


def _line(ax: Any, figures: list[Figure], what: str) -> None:
    points = [f for f in figures if f.what.isdigit()]
    slope, intercept, residual = (f.p50 for f in figures if not f.what.isdigit())
    x = [int(f.what) for f in points]
    ax.errorbar(x, [f.p50 for f in points], _errors(points), fmt="o")
    ax.plot(x, [slope * n + intercept for n in x], color=LINE)
    if what == "utterances":
        ax.set(xscale="log", yscale="log")
    ax.set_title(f"small shapes: s an epoch against {what}\nresiduals to {residual:.1%}", fontsize=9)

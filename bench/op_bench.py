"""The benches of ops: ours and its rivals timed in processes of chosen threads and memory, as table, CSV and picture.

Memory has two regimes. "default": an output is fresh memory, as a user's call makes it, and touching its pages is part
of the time. "recycled": the C library keeps what was freed, so everybody's outputs are resident already.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import torch
from measure import DEVICE
from rich.console import Console
from rich.table import Table

RECYCLED = {"MALLOC_MMAP_THRESHOLD_": str(2**40), "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
REPEATS = 20


@dataclass(frozen=True)
class Row:
    """One thing that is timed.

    Attributes:
        task: the computation; the rows of a task stand beside each other.
        who: ours, or what a user would do instead.
        elements: the number of elements that a call makes.
        moved: the bytes that a call reads and writes at least.
        call: computes it once.
        claimed: whether the documentation has a figure of it; such a row is timed in full, however slow it is.
    """

    task: str
    who: str
    elements: int
    moved: int
    call: Callable[[], Any]
    claimed: bool = False


@dataclass(frozen=True)
class Measured:
    """A row's percentiles in nanoseconds an element, and where they were taken."""

    task: str
    who: str
    regime: str
    threads: int
    elements: int
    p20: float
    p50: float
    p80: float
    gb_per_s: float


def time_rows(rows: Sequence[Row], regime: str, quick: bool, nvtx: bool) -> list[Measured]:
    """Each row's times; the rows of a task are timed in turn."""
    ranges = nvtx_ranges() if nvtx else lambda name: nullcontext()
    measured = []
    for task in dict.fromkeys(row.task for row in rows):
        rivals = [row for row in rows if row.task == task]
        times = measure.in_turn(
            {row.who: lambda turn, row=row: row.call() for row in rivals},
            measure.ENOUGH if quick else REPEATS,
            impatient={row.who for row in rivals if not row.claimed},
            mark=lambda who, task=task: ranges(f"{task}, {who}"),
        )
        for row in rivals:
            p20, p50, p80 = (1e9 * value / row.elements for value in measure.percentiles(times[row.who]))
            speed = row.moved / row.elements / p50
            measured.append(
                Measured(task, row.who, regime, torch.get_num_threads(), row.elements, p20, p50, p80, speed)
            )
    return measured


def nvtx_ranges() -> Callable[[str], AbstractContextManager]:
    """Ranges for Nsight; nothing where the package nvtx is not installed."""
    try:
        import nvtx
    except ImportError:
        return lambda name: nullcontext()
    return lambda name: nvtx.annotate(name, domain="nmer_fast")


def replayed(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph, which takes one launch whatever it holds."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()  # compiles
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def run(name: str, make_rows: Callable[[bool], list[Row]], title: str, description: str | None) -> None:
    """The whole bench: a process for each regime and number of threads, then table, CSV and picture."""
    parser = measure.parser(description, "small sizes and five repeats, written to build/bench")
    parser.add_argument("--nvtx", action="store_true", help="mark each row as an NVTX range, for Nsight Systems")
    parser.add_argument("--measure", metavar="REGIME", help=argparse.SUPPRESS)  # a process that only measures
    options = parser.parse_args()
    if options.measure:
        measured = time_rows(make_rows(options.quick), options.measure, options.quick, options.nvtx)
        json.dump([asdict(m) for m in measured], sys.stdout)
        return
    measured = []
    for regime, threads in settings():
        memory = RECYCLED if regime == "recycled" else {}
        command = [sys.executable, *sys.argv, "--measure", regime]
        measured += [Measured(**row) for row in measure.answer(command, OMP_NUM_THREADS=str(threads), **memory)]
    show(measured, title)
    name = name if DEVICE.type == "cpu" else f"{name}_{DEVICE.type}"
    stem = measure.results(options.quick) / name
    write(stem.with_suffix(".csv"), measured)
    plot(stem.with_suffix(".png"), measured, title)


def settings() -> list[tuple[str, int]]:
    """Regimes and threads. On a GPU torch's allocator recycles memory, and one thread launches."""
    if DEVICE.type == "cuda":
        return [("recycled", 1)]
    return [(regime, threads) for regime in ("recycled", "default") for threads in (1, 2)[: os.cpu_count() or 1]]


def beside(measured: Sequence[Measured], m: Measured, who: str) -> float | None:
    """The median of who's row of the same task, regime and threads as m, if there is one."""
    place = (m.task, m.regime, m.threads, who)
    return next((o.p50 for o in measured if (o.task, o.regime, o.threads, o.who) == place), None)


def show(measured: list[Measured], title: str) -> None:
    """Times, and how many times longer than a copy and than ours each takes in the same process."""
    table = Table(title=f"{title}; {measure.machine()}", title_justify="left")
    for column in ("", "regime", "threads", "who", "ns/element", "GB/s", "of copy", "of ours"):
        table.add_column(column, justify="left" if column in ("", "regime", "who") else "right")
    previous, tasks = None, list(dict.fromkeys(m.task for m in measured))
    for m in sorted(measured, key=lambda m: (tasks.index(m.task), m.regime, m.threads)):
        group = (m.task, m.regime, m.threads)
        if previous not in (None, group):
            table.add_section()
        ratios = [beside(measured, m, who) for who in ("copy", "ours")]
        cells = (m.task, m.regime, str(m.threads)) if previous != group else ("", "", "")
        shown = ("" if base is None else f"{m.p50 / base:.2f}x" for base in ratios)
        table.add_row(*cells, m.who, f"{m.p50:.2f}", f"{m.gb_per_s:.2f}", *shown)
        previous = group
    Console(width=120).print(table)


def write(path: Path, measured: list[Measured]) -> None:
    """Every row, with its ratio to a copy and with what its times depend on."""
    facts = measure.about()
    copies = [beside(measured, m, "copy") for m in measured]
    rows = [
        {**asdict(m), "of_copy": None if copy is None else m.p50 / copy, **facts}
        for m, copy in zip(measured, copies, strict=True)
    ]
    measure.write_csv(path, rows)


def plot(path: Path, measured: list[Measured], title: str) -> None:
    """Nanoseconds an element: a panel for each task, with the most threads and recycled memory."""
    threads = max(m.threads for m in measured)
    shown = [m for m in measured if m.threads == threads and m.regime == "recycled"]
    tasks = list(dict.fromkeys(m.task for m in shown))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = measure.canvas(lines, columns, (3.2 * columns, 1.9 * lines))
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        medians = {m.who: m.p50 for m in shown if m.task == task}
        measure.bars(ax, task, medians, size=7)
        ax.set(xscale="log", xlim=(min(medians.values()) / 2, 4 * max(medians.values())))
        ax.tick_params(labelsize=7)
        ax.xaxis.set_tick_params(which="both", bottom=False, labelbottom=False)  # the bars carry their numbers
    measure.save(figure, path, f"{title}: ns an element, {threads} threads, resident memory; {measure.machine()}")

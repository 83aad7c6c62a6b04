"""What the benches share: rows timed in turn, in processes of chosen threads and memory, as table and CSV.

Two regimes of memory. "default": an output is fresh memory, as a user's call makes it, and touching its pages is part
of the time. "recycled": the C library keeps what was freed, so that everybody's outputs are resident already.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RECYCLED = {"MALLOC_MMAP_THRESHOLD_": str(2**40), "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REPEATS, ENOUGH, PATIENCE_S = 20, 5, 4.0  # a slow row that nothing is claimed of is timed less often
BRIEF_S = 0.2  # a call before the timed one costs little


@dataclass(frozen=True)
class Row:
    """One thing that is timed.

    Attributes:
        task: what it computes; rows of a task stand beside each other.
        who: ours, or what a user would do instead.
        elements: that it makes.
        moved: bytes read and written, at least.
        call: does it once.
        claimed: whether a figure of the documentation is made of it, so that it is timed in full.
    """

    task: str
    who: str
    elements: int
    moved: int
    call: Callable[[], Any]
    claimed: bool = False


@dataclass(frozen=True)
class Measured:
    """A row's times in nanoseconds for each element, and where they were taken."""

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
    """Each row's times; all rows of a task in turn, so that a slow minute strikes all of them."""
    ranges = _nvtx_ranges() if nvtx else lambda _: nullcontext()
    repeats = ENOUGH if quick else REPEATS
    measured = []
    for task in dict.fromkeys(row.task for row in rows):
        rivals = [row for row in rows if row.task == task]
        times: dict[str, list[float]] = {row.who: [] for row in rivals}
        spent = dict.fromkeys(times, 0.0)
        for turn in range(repeats + 2):
            for row in rivals:
                if not row.claimed and len(times[row.who]) >= ENOUGH and spent[row.who] > PATIENCE_S:
                    continue
                if times[row.who] and times[row.who][-1] < BRIEF_S:
                    row.call()  # a virtual machine's host takes back what was free for seconds, and gives it slowly
                with ranges(f"{task}, {row.who}"):
                    seconds = _seconds(row.call)
                spent[row.who] += seconds
                if turn >= 2:  # the first two compile and warm up
                    times[row.who].append(seconds)
        for row in rivals:
            p20, p50, p80 = (1e9 * quantiles(times[row.who], n=10)[i] / row.elements for i in (1, 4, 7))
            speed = row.moved / row.elements / p50
            measured.append(
                Measured(task, row.who, regime, torch.get_num_threads(), row.elements, p20, p50, p80, speed)
            )
    return measured


def _nvtx_ranges() -> Callable[[str], AbstractContextManager]:
    """Ranges for Nsight; nothing where the package nvtx is not installed."""
    try:
        import nvtx
    except ImportError:
        return lambda _: nullcontext()
    return lambda name: nvtx.annotate(name, domain="nmer_fast")


def _seconds(call: Callable[[], Any]) -> float:
    """Of one call; of short ones, the mean of as many as take a millisecond."""
    calls = 1
    while True:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed > 1e-3 or calls >= 1024:
            return elapsed / calls
        calls *= 4


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


def run(name: str, make_rows: Callable[[bool], list[Row]], title: str) -> None:
    """The whole bench: a process for each regime and number of threads, then table, CSV and plot."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="a glance: small sizes, five repeats")
    parser.add_argument("--nvtx", action="store_true", help="an NVTX range for each row, for Nsight Systems")
    parser.add_argument("--measure", metavar="REGIME", help=argparse.SUPPRESS)  # a process that only measures
    options = parser.parse_args()
    if options.measure:
        measured = time_rows(make_rows(options.quick), options.measure, options.quick, options.nvtx)
        json.dump([asdict(m) for m in measured], sys.stdout)
        return
    measured = []
    for regime, threads in _settings():
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **(RECYCLED if regime == "recycled" else {})}
        command = [sys.executable, *sys.argv, "--measure", regime]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        measured += [Measured(**row) for row in json.loads(done.stdout)]
    _print(measured, title)
    folder = Path("build") / "bench" if options.quick else Path("bench") / "results"
    folder.mkdir(parents=True, exist_ok=True)
    name = name if DEVICE.type == "cpu" else f"{name}_{DEVICE.type}"
    _write(folder / f"{name}.csv", measured)
    _plot(folder / f"{name}.png", measured, title)


def _settings() -> list[tuple[str, int]]:
    """Regimes and threads; on a GPU torch's allocator recycles memory, and there is one."""
    if DEVICE.type == "cuda":
        return [("recycled", 1)]
    return [(regime, threads) for regime in ("recycled", "default") for threads in (1, 2)[: os.cpu_count() or 1]]


def _of(measured: Sequence[Measured], m: Measured, who: str) -> float | None:
    """The median of who's row beside m, if there is one."""
    place = (m.task, m.regime, m.threads, who)
    return next((o.p50 for o in measured if (o.task, o.regime, o.threads, o.who) == place), None)


def _print(measured: list[Measured], title: str) -> None:
    """Ratios beside times: how many times longer each rival takes than ours, in the same process."""
    table = Table(title=f"{title}; {_machine()}", title_justify="left")
    for column in ("", "regime", "threads", "who", "ns/element", "GB/s", "of copy", "of ours"):
        table.add_column(column, justify="left" if column in ("", "regime", "who") else "right")
    previous, tasks = None, list(dict.fromkeys(m.task for m in measured))
    for m in sorted(measured, key=lambda m: (tasks.index(m.task), m.regime, m.threads)):
        group = (m.task, m.regime, m.threads)
        if previous not in (None, group):
            table.add_section()
        ratios = [_of(measured, m, who) for who in ("copy", "ours")]
        cells = (m.task, m.regime, str(m.threads)) if previous != group else ("", "", "")
        shown = ("" if base is None else f"{m.p50 / base:.2f}x" for base in ratios)
        table.add_row(*cells, m.who, f"{m.p50:.2f}", f"{m.gb_per_s:.2f}", *shown)
        previous = group
    Console(width=120).print(table)


def _machine() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    model = next((line.partition(": ")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def about() -> dict[str, str | None]:
    """What a time depends on."""
    from nmer_fast.ops._library import isa

    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "isa": isa() if DEVICE.type == "cpu" else "cuda",
        "commit": described.stdout.strip(),
        "machine": _machine(),
    }


def _write(path: Path, measured: list[Measured]) -> None:
    """Every row with what its times depend on."""
    rows, facts = [], about()
    for m in measured:
        copy = _of(measured, m, "copy")
        rows.append({**asdict(m), "of_copy": None if copy is None else m.p50 / copy, **facts})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    print(f"written: {path}")


def _plot(path: Path, measured: list[Measured], title: str) -> None:
    """Bars of ns per element: a panel for each task of the most threads, resident memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = max(m.threads for m in measured)
    shown = [m for m in measured if m.threads == threads and m.regime == "recycled"]
    tasks = list(dict.fromkeys(m.task for m in shown))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 1.9 * lines), squeeze=False, layout="constrained"
    )
    colours = {"ours": "#0072B2", "copy": "#999999"}
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    for ax, task in zip(axes.flat, tasks, strict=False):
        bars = [m for m in shown if m.task == task][::-1]
        ax.barh([m.who for m in bars], [m.p50 for m in bars], color=[colours.get(m.who, "#E69F00") for m in bars])
        for i, m in enumerate(bars):
            ax.text(m.p50, i, f" {m.p50:.3g}", va="center", fontsize=7)
        ax.set(xscale="log", xlim=(min(m.p50 for m in bars) / 2, 4 * max(m.p50 for m in bars)))
        ax.set_title(task, fontsize=8)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_tick_params(which="both", bottom=False, labelbottom=False)  # the bars carry their numbers
    figure.suptitle(f"{title}: ns an element, {threads} threads, resident memory; {_machine()}", fontsize=9)
    figure.savefig(path, dpi=110)
    print(f"written: {path}")

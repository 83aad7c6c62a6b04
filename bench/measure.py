"""What the benches share: rows timed in turn, in processes of chosen threads and memory, as table and CSV.

Two regimes of memory. "default": an output is fresh memory, as a user's call makes it, and touching its pages is part
of the time. "recycled": the C library keeps what was freed, so that everybody's outputs are resident already.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import nvtx
import torch
from rich.console import Console
from rich.table import Table

RECYCLED = {"MALLOC_MMAP_THRESHOLD_": str(2**40), "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
HIDDEN = "--measure"  # the first argument of a process that only measures


@dataclass(frozen=True)
class Row:
    """One thing that is timed.

    Attributes:
        task: what it computes; rows of a task stand beside each other.
        who: ours, or what a user would do instead.
        elements: that it makes.
        moved: bytes read and written, at least.
        call: does it once.
    """

    task: str
    who: str
    elements: int
    moved: int
    call: Callable[[], Any]


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


def time_rows(rows: Sequence[Row], regime: str, repeats: int) -> list[Measured]:
    """Each row's times; all rows of a task in turn, so that a slow minute strikes all of them."""
    measured = []
    for task in dict.fromkeys(row.task for row in rows):
        rivals = [row for row in rows if row.task == task]
        times: dict[str, list[float]] = {row.who: [] for row in rivals}
        for turn in range(repeats + 2):
            for row in rivals:
                with nvtx.annotate(f"{task}, {row.who}", domain="nmer_fast"):
                    seconds = _seconds(row.call)
                if turn >= 2:  # the first two compile and warm up
                    times[row.who].append(seconds)
        for row in rivals:
            p20, p50, p80 = (1e9 * quantiles(times[row.who], n=10)[i] / row.elements for i in (1, 4, 7))
            speed = row.moved / row.elements / p50
            measured.append(
                Measured(task, row.who, regime, torch.get_num_threads(), row.elements, p20, p50, p80, speed)
            )
    return measured


def _seconds(call: Callable[[], Any]) -> float:
    """Of one call; of short ones, the mean of as many as take a millisecond."""
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed > 1e-3 or calls >= 1024:
            return elapsed / calls
        calls *= 4


def run(name: str, make_rows: Callable[[bool], list[Row]], title: str) -> None:
    """The whole bench: a process for each regime and number of threads, then table and CSV; --quick for a glance."""
    quick = "--quick" in sys.argv
    if sys.argv[1:2] == [HIDDEN]:
        json.dump([asdict(m) for m in time_rows(make_rows(quick), sys.argv[2], 5 if quick else 20)], sys.stdout)
        return
    if unknown := [argument for argument in sys.argv[1:] if argument not in ("--quick", "--help")]:
        sys.exit(f"error: expected --quick or nothing, got {' '.join(unknown)}")
    if "--help" in sys.argv:
        print(f"python bench/{name}.py [--quick]: {title}")
        return
    measured = []
    for regime in ("recycled", "default"):
        for threads in (1, 2)[: os.cpu_count() or 1]:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **(RECYCLED if regime == "recycled" else {})}
            command = [sys.executable, sys.argv[0], HIDDEN, regime, *(["--quick"] if quick else [])]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            measured += [Measured(**row) for row in json.loads(done.stdout)]
    _print(measured, title)
    _write(Path("bench") / "results" / f"{name}.csv", measured)


def _print(measured: list[Measured], title: str) -> None:
    """Ratios beside times: how many times faster ours is than each rival, in the same process."""
    table = Table(title=f"{title}; {_machine()}", title_justify="left")
    for column in ("", "regime", "threads", "who", "ns/element", "GB/s", "ours is"):
        table.add_column(column, justify="left" if column in ("", "regime", "who") else "right")
    previous = None
    for m in sorted(measured, key=lambda m: (m.task, m.regime, m.threads)):
        group = (m.task, m.regime, m.threads)
        if previous not in (None, group):
            table.add_section()
        ours = next(o.p50 for o in measured if (o.task, o.regime, o.threads, o.who) == (*group, "ours"))
        ratio = "" if m.who == "ours" else f"{m.p50 / ours:.2f}x"
        cells = (m.task, m.regime, str(m.threads)) if previous != group else ("", "", "")
        table.add_row(*cells, m.who, f"{m.p50:.2f}", f"{m.gb_per_s:.2f}", ratio)
        previous = group
    Console(width=110).print(table)


def _machine() -> str:
    model = next((line.partition(": ")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _write(path: Path, measured: list[Measured]) -> None:
    """Every row with what its times depend on."""
    from nmer_fast.ops._library import isa

    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    about = {"torch": torch.__version__, "isa": isa(), "commit": described.stdout.strip(), "machine": _machine()}
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(measured[0]), *about], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(m), **about} for m in measured)
    print(f"written: {path}")

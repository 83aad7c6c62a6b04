"""Strong and weak scaling of training under torchrun: steps of NMER on the embedded data, one thread a process.

Strong: the same batches of 128 in one process and in two. Weak: 64 samples for each process. The runs are taken in
turn, so that other work on the machine slows all of them. CPU time is the first process's own. Takes 2 minutes on two
cores, with --quick 40 s. Writes scaling.csv.

    python bench/scaling.py [--rounds 3] [--epochs 5] [--out bench/results/scaling.csv]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import measure
import torch
from rich.console import Console
from rich.table import Table

RUNS = {("strong", 1): 128, ("strong", 2): 128, ("weak", 1): 64, ("weak", 2): 128}  # samples of a whole batch


def worker(batch_size: int, epochs: int) -> None:
    """One of the processes; the first prints wall and CPU seconds of each step after the first epoch."""
    import torch.distributed as dist
    from library import join_ranks  # here: the process that launches needs no engine

    torch.set_num_threads(1)
    ranks = join_ranks(torch.device("cpu"))
    samples, marks = train(batch_size, epochs, ranks)
    if ranks.is_main:
        print(json.dumps({"samples": samples, "steps": [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]}))
    if ranks.size > 1:
        gc.collect()  # torch may hang where the parallel model outlives its process group
        dist.destroy_process_group()


def train(batch_size: int, epochs: int, ranks: Any) -> tuple[float, list[tuple[float, float]]]:
    """Samples of a batch, and wall and CPU seconds at the end of each step from the first epoch's last step on."""
    from library import Config, TrainingConfig
    from training.systems import Ours

    from nmer_fast.data import Standardiser, synthetic

    raw, marks = synthetic(), []
    ours = Ours(Standardiser.fit(raw)(raw), Config(training=TrainingConfig(batch_size=batch_size)), ranks=ranks)
    ours.fit.after_step = lambda: marks.append((time.perf_counter(), time.process_time()))
    for _ in range(epochs + 1):
        ours.epoch()
    return len(ours.fit.rows) / ours.fit.steps, marks[ours.fit.steps - 1 :]


def launch(processes: int, batch_size: int, epochs: int) -> dict:
    """The answer of so many workers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    return measure.answer([*command, "--worker", str(batch_size), "--epochs", str(epochs)], OMP_NUM_THREADS="1")


def rows(measured: dict[tuple[str, int], list[dict]]) -> list[dict]:
    """Samples a second and CPU milliseconds a sample of each run, with the efficiency against one process."""
    out = []
    for (mode, processes), parts in measured.items():
        samples, steps = parts[0]["samples"], [step for part in parts for step in part["steps"]]
        p20, p50, p80 = measure.percentiles([samples / wall for wall, _ in steps])
        cpu = 1000 * mean(cpu for _, cpu in steps) * processes / samples
        one = p50 if processes == 1 else next(r for r in out if (r["mode"], r["processes"]) == (mode, 1))["p50"]
        out.append(
            {
                "mode": mode, "processes": processes, "batch": round(samples, 1), "steps": len(steps),
                "p20": round(p20, 1), "p50": round(p50, 1), "p80": round(p80, 1),
                "efficiency": round(p50 / one / processes, 3), "cpu_ms_a_sample": round(cpu, 3),
                "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(), "torch": torch.__version__,
                "machine": platform.machine(),
            }
        )  # fmt: skip
    return out


def main() -> None:
    """Time, print a table, write CSV."""
    parser = measure.parser(__doc__, "one round of one epoch, written to build/bench")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is taken (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of a run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the CSV file (default: bench/results/scaling.csv)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.epochs)
        return
    rounds, epochs = (1, 1) if options.quick else (options.rounds, options.epochs)
    measured: dict[tuple[str, int], list[dict]] = {run: [] for run in RUNS}
    for _ in range(rounds):
        for run, batch_size in RUNS.items():
            measured[run].append(launch(run[1], batch_size, epochs))
    table, result = Table(title="samples a second", title_justify="left"), rows(measured)
    shown = ("mode", "processes", "batch", "p20", "p50", "p80", "efficiency", "cpu_ms_a_sample")
    for column in shown:
        table.add_column(column, justify="right")
    for row in result:
        table.add_row(*(str(row[column]) for column in shown))
    Console(width=100).print(table)
    measure.write_csv(options.out or measure.results(options.quick) / "scaling.csv", result)


if __name__ == "__main__":
    main()

"""Strong and weak scaling of training under torchrun: steps of NMER on the embedded data, one thread a process.

    python bench/scaling.py [--rounds 3] [--epochs 5] [--out bench/results/scaling.csv]

Strong: the same batches of 128 in one process and in two. Weak: 64 samples for each process. Runs are taken in turn, so
that what else the machine does falls on all of them; CPU time is the first process's own.
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
from itertools import pairwise
from pathlib import Path
from statistics import mean, quantiles

import torch
from rich.console import Console
from rich.table import Table

RUNS = {("strong", 1): 128, ("strong", 2): 128, ("weak", 1): 64, ("weak", 2): 128}  # samples of a whole batch


def worker(batch_size: int, epochs: int) -> None:
    """One of the processes; the first prints wall and CPU seconds of each step after the first epoch."""
    import torch.distributed as dist

    from nmer_fast.config import Config, TrainingConfig
    from nmer_fast.data import Standardiser, synthetic
    from nmer_fast.engine.batches import Batches
    from nmer_fast.engine.console import Report
    from nmer_fast.engine.distributed import join
    from nmer_fast.engine.fit import Fit
    from nmer_fast.engine.run import make_scheduler
    from nmer_fast.engine.trainer import noisy_step, teacher_targets
    from nmer_fast.models import NMER, Teacher

    torch.set_num_threads(1)
    device, ranks = torch.device("cpu"), join(torch.device("cpu"))
    config, raw = Config(training=TrainingConfig(batch_size=batch_size, epochs=epochs + 1)), synthetic()
    standardiser = Standardiser.fit(raw)
    data = standardiser(raw)
    batches = Batches(data, device, batch_size, ranks=ranks)
    torch.manual_seed(0)
    teacher, model = Teacher(data.dims, 4, config.model, 0.01), NMER(data.dims, 4, config.model)
    step = noisy_step(model, make_scheduler(standardiser.variances, config.noise, 0), config, device)
    targets = teacher_targets(teacher, batches)  # of no use, but of the right shape
    fit = Fit("nmer", model, step, batches, config.training, epochs=epochs + 1, lr=1e-4, clip=None, targets=targets)
    marks = []
    fit.after_step = lambda: marks.append((time.perf_counter(), time.process_time()))
    fit.run(Report(quiet=True))
    if ranks.first:
        kept = marks[fit.steps - 1 :]
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(kept)]
        print(json.dumps({"samples": len(fit.rows) / fit.steps, "steps": steps}))
    if ranks.size > 1:
        dist.destroy_process_group()


def launch(processes: int, batch_size: int, epochs: int) -> dict:
    """Run the workers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "--worker", str(batch_size), "--epochs", str(epochs)],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(ended.stdout)


def rows(measured: dict[tuple[str, int], list[dict]]) -> list[dict]:
    """Of each run: samples a second, and CPU milliseconds a sample, with efficiency against one process."""
    out = []
    for (mode, processes), parts in measured.items():
        samples, steps = parts[0]["samples"], [step for part in parts for step in part["steps"]]
        speeds = sorted(samples / wall for wall, _ in steps)
        p20, p50, p80 = (quantiles(speeds, n=10)[i] for i in (1, 4, 7))
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scaling.csv")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.epochs)
        return
    measured: dict[tuple[str, int], list[dict]] = {run: [] for run in RUNS}
    for _ in range(options.rounds):
        for run, batch_size in RUNS.items():
            measured[run].append(launch(run[1], batch_size, options.epochs))
    table, result = Table(title="samples a second", title_justify="left"), rows(measured)
    shown = ("mode", "processes", "batch", "p20", "p50", "p80", "efficiency", "cpu_ms_a_sample")
    for column in shown:
        table.add_column(column, justify="right")
    for row in result:
        table.add_row(*(str(row[column]) for column in shown))
    Console(width=100).print(table)
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(result[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(result)


if __name__ == "__main__":
    main()

"""What all benches share: timing, percentiles, the environment of a measurement, CSV files and pictures.

A bench compares what it times in one process and in turn, so its ratios can be compared and its times cannot.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from nmer_fast.colours import LIGHT

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2  # turns that are not counted: they compile and warm up
ENOUGH, PATIENCE_S = 5, 4.0  # repeats and seconds, after which a call of which no figure is published is timed no more
BRIEF_S = 0.2  # a call that is short enough to be made once more before it is timed

OURS, COMPILED, ONE, BASELINE = "ours", "ours, one token, compiled", "ours, one token", "baseline"
RIVAL, LINE = LIGHT["orange"], LIGHT["grey"]
COLOURS = {OURS: LIGHT["blue"], COMPILED: LIGHT["sky"], ONE: LIGHT["green"], "copy": LIGHT["grey"]}  # others are rivals
WITHIN, BEYOND, GATE = LIGHT["blue"], LIGHT["vermillion"], LIGHT["black"]  # a limit kept, one exceeded, a gate


# ---------------------------------------------------------------- time


def timed(call: Callable[[], Any], calls: int = 1) -> float:
    """Seconds of a call, the mean of so many in a row; a GPU's work is waited for before and after."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of a call; a short one is made as often in a row as fills a millisecond."""
    calls = 1
    while (mean := timed(call, calls)) * calls <= 1e-3 and calls < 1024:
        calls *= 4
    return mean


def in_turn(
    calls: Mapping[str, Callable[[int], Any]],
    repeats: int,
    *,
    again: bool = True,
    impatient: Collection[str] = (),
    mark: Callable[[str], AbstractContextManager] = lambda who: nullcontext(),
) -> dict[str, list[float]]:
    """Seconds of each call by name, all calls in turn, so that a slow minute of the machine strikes all of them.

    Args:
        calls: the timed functions by name; each call is given the number of the turn, from 0.
        repeats: the counted turns, which follow the turns of the warm-up.
        again: whether a brief call is made once more, untimed, before the timed one. The host of a virtual machine
            takes back memory that was free for seconds and returns it slowly, which is not the call's time.
        impatient: the calls that are timed less often where they are slow.
        mark: a context around each timed call.
    """
    times: dict[str, list[float]] = {who: [] for who in calls}
    spent = dict.fromkeys(calls, 0.0)
    for turn in range(WARM_UP + repeats):
        for who, call in calls.items():
            counted = times[who]
            if who in impatient and len(counted) >= ENOUGH and spent[who] > PATIENCE_S:
                continue
            if again and counted and counted[-1] < BRIEF_S:
                call(turn)
            with mark(who):
                took = seconds(lambda call=call, turn=turn: call(turn))
            spent[who] += took
            if turn >= WARM_UP:
                counted.append(took)
    return times


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile; of a single value, the value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    deciles = quantiles(values, n=10, method="inclusive")
    return deciles[1], deciles[4], deciles[7]


def answer(command: Sequence[str], **environment: str) -> Any:
    """What a process of its own prints as JSON; the environment's variables are added to this process's."""
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


# ---------------------------------------------------------------- the command line and the files


def parser(description: str | None, quick: str | None = None) -> argparse.ArgumentParser:
    """A bench's options: its docstring as --help, and --quick, which is the glance that `quick` describes."""
    out = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        out.add_argument("--quick", action="store_true", help=f"take a glance: {quick}")
    return out


def results(quick: bool) -> Path:
    """The folder of the published results, or the one of a glance."""
    folder = ROOT / "build" / "bench" if quick else ROOT / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def machine() -> str:
    """The processor's or GPU's name."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.partition(": ")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def about() -> dict[str, str | None]:
    """What a time depends on besides what is timed."""
    from library import isa, revision  # here, so that to time an op imports no more than the op

    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "isa": isa() if DEVICE.type == "cpu" else "cuda",
        "commit": revision(),
        "machine": machine(),
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], digits: int = 6) -> None:
    """A table with the first row's columns; floats have so many significant digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in row.items()})
    print(f"written: {os.path.relpath(path)}")


# ---------------------------------------------------------------- pictures


def canvas(lines: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of so many panels, in inches, and its axes [lines, columns]."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")


def bars(ax: Any, title: str, medians: Mapping[str, float], errors: Any = None, size: int = 8) -> None:
    """Horizontal bars, the first on top, each with its number.

    `errors` are the distances from the medians to the other percentiles, [2][n].
    """
    names, values = list(medians)[::-1], list(medians.values())[::-1]
    beyond = [0.0] * len(values) if errors is None else errors[1][::-1]
    around = None if errors is None else [side[::-1] for side in errors]
    ax.barh(names, values, xerr=around, color=[COLOURS.get(name, RIVAL) for name in names])
    for i, (value, error) in enumerate(zip(values, beyond, strict=True)):
        ax.text(value + error, i, f" {value:.3g}", va="center", fontsize=size)
    ax.set_title(title, fontsize=size + 1)


def save(figure: Any, path: Path, title: str | None = None) -> None:
    """The picture as a file, with its title."""
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    print(f"written: {os.path.relpath(path)}")

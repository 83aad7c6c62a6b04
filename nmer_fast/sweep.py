"""python -m nmer_fast.sweep: train a grid of runs (systems x noises x SNRs x folds x seeds) into one results table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .command import run_command
from .flags import GridOptions, Kinds, option

if TYPE_CHECKING:
    from .sweeping.sweep import Summary


@dataclass(frozen=True)
class Options(GridOptions):
    """Train and evaluate every run of a grid; after a stop or a crash, repeat the command to do the remaining runs.

    Attributes:
        out: the folder of the sweep: a new folder, or the folder of a sweep that differs in its axes (systems, noise,
            snr, folds, seeds) at most.
        systems: one or more systems (docs/training.md); write unimodal with its modality, such as unimodal.a.
        noise: one or more kinds of noise.
        snr: one or more signal-to-noise ratios in dB.
    """

    out: Path
    systems: tuple[str, ...] = ("nmer",)
    noise: Kinds = ()
    snr: option(tuple[float, ...], default="the preset's") = ()  # type: ignore[valid-type]


def run(options: Options, *, quiet: bool = False) -> Summary:
    """Do the remaining runs of a grid, and write the results table after every run.

    Raises:
        UserError: one line that names the wrong option or input, before any run starts.
        Stopped: Ctrl-C or SIGTERM stopped the sweep.
    """
    # The slow imports come after the command line is read, so that a wrong option is refused at once.
    from .engine.console import Report
    from .sweeping.grid import Grid
    from .sweeping.sweep import run_sweep
    from .sweeping.workers import workers_of

    workers = workers_of(options.ray, options.address, options.cpus_per_run)
    grid = Grid(options.systems, options.noise, options.snr, **options.shared())
    return run_sweep(grid, options.out, Report(quiet=quiet), workers)


def main() -> int:
    """Run the command and return its exit status, which is 1 if a run failed."""
    failed: list[str] = []
    status = run_command("sweep", Options, lambda options: failed.extend(run(options).failed))
    return status or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

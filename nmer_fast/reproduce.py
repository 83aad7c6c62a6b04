"""python -m nmer_fast.reproduce: the paper's tables on data of one's own, and what they lack, from one command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from .command import run_command
from .contract import KINDS
from .errors import UserError
from .flags import GridOptions, choices, option
from .reproducing import TableName

if TYPE_CHECKING:
    from .sweeping.work import Failure


@dataclass(frozen=True)
class Options(GridOptions):
    """Do the runs that the paper's tables need, and write the tables; after a stop, repeat the command to go on.

    Attributes:
        table: the table: table1 to table5; all of them; or unseen, which trains under the first noise and tests under
            all others.
        out: the folder of the tables; the runs, which all tables share, are in its sweep/.
        systems: the systems of tables 2 and 5 and of unseen.
        noise: one or more kinds of noise; tables 3 to 5 use the first, as the paper does.
        snr: one or more signal-to-noise ratios in dB.
        corpus: the corpus whose published values are shown beside the results; none shows none; auto recognises the
            corpus by the data's name, classes and modalities.
    """

    table: tyro.conf.Positional[TableName]
    out: Path
    systems: option(tuple[str, ...], default="the paper's, and late_fusion") = ()  # type: ignore[valid-type]
    noise: option(tuple[str, ...], default="gaussian impulse", metavar=f"[{choices(KINDS)} ...]") = (  # type: ignore[valid-type]
        "gaussian",
        "impulse",
    )
    snr: tuple[float, ...] = (-10.0, -20.0, -30.0, -40.0)
    corpus: Literal["IEMOCAP", "CMU-MOSEI", "none", "auto"] = "auto"


def run(options: Options, *, quiet: bool = False) -> dict[str, Failure]:
    """Do the runs that are not finished, then write the tables.

    Returns:
        the runs that failed; the tables are made from the other runs.

    Raises:
        UserError: one line that names what is wrong, before any run begins.
        Stopped: Ctrl-C or SIGTERM stopped the runs.
    """
    check(options)
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .engine.console import Report
    from .reproducing.reproduction import Request, reproduce
    from .sweeping.grid import Grid
    from .sweeping.workers import workers_of

    workers = workers_of(options.ray, options.address, options.cpus_per_run)
    grid = Grid(options.systems, options.noise, options.snr, **options.shared())
    return reproduce(Request(options.table, options.out, grid, options.corpus), Report(quiet=quiet), workers)


def check(options: Options) -> None:
    """Refuse options that contradict each other, and what is not installed."""
    if find_spec("scipy") is None:
        raise UserError("reproduce: expected SciPy, which is not installed: pip install 'nmer_fast[report]'")
    for axis in ("noise", "snr"):
        if not getattr(options, axis):
            raise UserError(f"{axis}: expected one or more, got none")
    if options.table == "unseen" and options.noise[0] == "missing":
        raise UserError("noise: expected one with an SNR first, to train unseen under, got missing")
    if alone := [name for name in options.systems if name.partition(".")[0] == "unimodal"]:
        raise UserError(f"systems: expected systems of all modalities, got {alone[0]}, which is table4's")


def main() -> int:
    """The command; status 1 if a run failed."""
    failed: dict[str, Failure] = {}
    status = run_command("reproduce", Options, lambda options: failed.update(run(options)))
    return status or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

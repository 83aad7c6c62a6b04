"""python -m nmer_fast.sweep: a grid of runs, systems x noises x SNRs x folds x seeds, and one table of its results."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import make_folder, run_command
from .config import Config, from_dict, load_config
from .errors import Stopped, UserError
from .train import Flag, Set

if TYPE_CHECKING:
    from .engine.console import Report
    from .sweeping.grid import Job
    from .sweeping.table import Results
    from .sweeping.work import Failure
    from .sweeping.workers import Workers


@dataclass(frozen=True)
class Options:
    """Train and evaluate every run of a grid; the same command after a stop or a crash does what is left.

    Attributes:
        out: a folder for the sweep: a new one, or one that the same sweep, maybe of other axes, has begun.
        systems: one or more of those that train knows (docs/training.md); unimodal with its modality, as unimodal.a.
        noise: one or more of gaussian, impulse, uniform, laplace, missing; by default the preset's.
        snr: one or more signal-to-noise ratios in dB; by default the preset's.
        folds: one or more of the file's folds, from 1.
        seeds: one or more.
        preset: paper, recommended or released; by default paper.
        settings: any field of every run's config, such as --set training.lr=2e-4; may be given again.
        data: as for train.
        epochs: of each run; by default the preset's.
        device: cpu, cuda, or auto.
        ray: do the runs side by side, on a Ray of its own on this machine.
        address: or on a Ray cluster that is running, such as 10.0.0.1:6379, or auto for this machine's; data and out
            are paths that all its machines share.
        cpus_per_run: on Ray; by default 1.
    """

    out: Path
    systems: tuple[str, ...] = ("nmer",)
    noise: tuple[str, ...] = ()
    snr: tuple[float, ...] = ()
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    preset: str | None = None
    settings: Set = ()
    data: str | None = None
    epochs: int | None = None
    device: str = "auto"
    ray: Flag = False
    address: str | None = None
    cpus_per_run: int | None = None


@dataclass(frozen=True)
class Summary:
    """How the runs of a grid ended, by name.

    Attributes:
        finished: now.
        before: finished before, and left alone.
        failed: twice, with what they failed of.
    """

    finished: list[str]
    before: list[str]
    failed: dict[str, Failure]


def run(options: Options, *, quiet: bool = False) -> Summary:
    """Do what is left of a grid, and write its table after every run.

    Raises:
        UserError: one line that names what is wrong, before any run begins.
        Stopped: by Ctrl-C or SIGTERM.
    """
    check(options)
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .engine.checkpoint import locked
    from .engine.console import Report
    from .engine.run import pick_device
    from .sweeping.table import Results
    from .sweeping.work import is_finished
    from .sweeping.workers import InProcess, OnRay

    pick_device(options.device)
    out, report, jobs = options.out.resolve(), Report(quiet=quiet), jobs_of(options)
    known = read_definition(out)
    check_same(out, known, jobs)
    todo = [job for job in jobs if not is_finished(job)]
    fingerprints = check_data(todo, known.get("fingerprints", {}), report)
    make_folder(out)
    with locked(out):
        write_definition(out, jobs[0].config, fingerprints)
        (out / "runs").mkdir(exist_ok=True)
        results = Results(out)
        results.write()
        summary = Summary([], [job.name for job in jobs if job not in todo], {})
        report.line(f"{len(jobs)} runs, {len(summary.before)} of them finished before; written after each: {results}")
        if todo:
            workers = OnRay(options.cpus_per_run or 1, options.address) if on_ray(options) else InProcess()
            try:
                do(todo, workers, results, summary, report)
            except (KeyboardInterrupt, Stopped) as stop:
                number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
                raise Stopped(None, number, "the same command goes on") from None
            finally:
                workers.close()
    for name, failure in summary.failed.items():
        report.line(f"{name} failed: {failure.message}")
    report.line(
        f"{len(summary.finished)} runs finished, {len(summary.before)} before, {len(summary.failed)} failed"
        + (f" ({out / 'failed.json'} has the tracebacks)" if summary.failed else "")
    )
    return summary


def check(options: Options) -> None:
    """Refuse options that contradict each other."""
    if not options.systems:
        raise UserError("systems: expected one or more, got none")
    if options.ray and options.address is not None:
        raise UserError(f"ray, address: expected one of the two, got --ray and {options.address}")
    if options.cpus_per_run is not None and not on_ray(options):
        raise UserError(f"cpus-per-run: expected with --ray or --address alone, got {options.cpus_per_run}")
    if options.cpus_per_run is not None and options.cpus_per_run < 1:
        raise UserError(f"cpus-per-run: expected 1 or more, got {options.cpus_per_run}")
    if on_ray(options) and find_spec("ray") is None:
        raise UserError("ray: expected Ray, which is not installed: pip install 'nmer_fast[sweep]'")


def on_ray(options: Options) -> bool:
    """Whether runs are Ray's tasks."""
    return options.ray or options.address is not None


def jobs_of(options: Options) -> list[Job]:
    """Every run of the grid, done or not.

    Raises:
        UserError: one line that names what is wrong.
    """
    from .sweeping.grid import make_jobs

    data = options.data if options.data in (None, "synthetic") else str(Path(options.data).resolve())
    base = {
        "preset": options.preset, "settings": options.settings, "data": data, "epochs": options.epochs,
        "device": options.device,
    }  # fmt: skip
    axes = (options.systems, options.noise, options.snr, options.folds, options.seeds)
    return make_jobs(base, options.out.resolve() / "runs", *axes)


def read_definition(out: Path) -> dict[str, Any]:
    """What the sweep in a folder is, as `write_definition` wrote it; empty where there is none yet.

    Raises:
        UserError: the folder holds something else.
    """
    from .sweeping.grid import DEFINITION

    expected = f"out: expected a new folder, or one of a sweep, got {out}"
    if not out.exists():
        return {}
    if not out.is_dir():
        raise UserError(f"{expected}, which is a file")
    if not (out / DEFINITION).exists():
        if other := sorted(path.name for path in out.iterdir()):
            raise UserError(f"{expected}, which holds {other[0]} and no {DEFINITION}")
        return {}
    try:
        content = json.loads((out / DEFINITION).read_text())
        return {"config": from_dict(content["config"]), "fingerprints": dict(content["fingerprints"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{expected}, whose {DEFINITION} is no sweep's: {error}") from None


def write_definition(out: Path, config: Config, fingerprints: Mapping[str, str]) -> None:
    """Any of its runs' configs, which are the same but for the axes, and the data's fingerprint by fold."""
    from .engine.checkpoint import write_json
    from .sweeping.grid import DEFINITION

    write_json(out / DEFINITION, {"config": asdict(config), "fingerprints": fingerprints})


def check_same(out: Path, known: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Refuse a folder whose runs differ from these in more than the axes, or one of which has another config."""
    from .sweeping.grid import difference

    if known and (what := difference(known["config"], jobs[0].config)):
        raise UserError(f"out: expected a folder of the same sweep, got {out}, of {what}")
    for job in jobs:
        path = job.folder / "config.json"
        if path.exists() and load_config(path) != job.config:
            raise UserError(f"out: expected a folder of the same sweep, got {out}, where {path} is of another config")


def check_data(jobs: Sequence[Job], known: Mapping[str, str], report: Report) -> dict[str, str]:
    """Refuse, before any run begins, what data and configs make impossible, and data that has changed.

    Returns:
        the fingerprints by fold, those known before too.
    """
    from .data import Standardiser
    from .engine.run import check_fits, load_data, make_scheduler

    seen = dict(known)
    for data in dict.fromkeys(job.config.data for job in jobs):
        raw, group = load_data(data, report.line), [job for job in jobs if job.config.data == data]
        fingerprint = raw.fingerprint()
        if seen.setdefault(str(data.fold), fingerprint) != fingerprint:
            raise UserError(f"data: expected what the sweep began with, got other contents of {data.source}")
        for config in {job.config.model: job.config for job in group}.values():
            check_fits(raw, config)
        variances = Standardiser.fit(raw).variances
        for job in group:
            for noise in (job.config.noise, *job.noises):
                make_scheduler(variances, noise, job.config.training.seed)
    return seen


def do(todo: Sequence[Job], workers: Workers, results: Results, summary: Summary, report: Report) -> None:
    """Do the runs, each a second time if it fails, and keep results and summary up to date."""
    failed_once: set[str] = set()
    for job in todo:
        workers.submit(job)
    with progress(report, len(todo)) as advance:
        while len(summary.finished) + len(summary.failed) < len(todo):
            job, failure = workers.next()
            if failure is None:
                summary.finished.append(job.name)
                results.add(job.name)
                advance(f"{job.name}  {results.describe(job.name)}")
            elif job.name in failed_once:
                summary.failed[job.name] = failure
                results.fail(job.name, failure)
                advance(f"{job.name} failed again")
            else:
                failed_once.add(job.name)
                workers.submit(job)
                report.line(f"{job.name} failed, is tried once more: {failure.message}")


@contextmanager
def progress(report: Report, total: int) -> Iterator[Callable[[str], None]]:
    """A bar of runs on a terminal; a line for each, with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    start, done, terminal = time.perf_counter(), 0, report.console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=report.console, disable=not terminal)
    task = bar.add_task("runs", total=total)

    def advance(line: str) -> None:
        nonlocal done
        done += 1
        left = (time.perf_counter() - start) / done * (total - done)
        report.line(f"{done}/{total}  {line}  {describe_seconds(left)} left")
        bar.advance(task)

    with bar:
        yield advance


def describe_seconds(seconds: float) -> str:
    """In the units that matter."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def main() -> int:
    """The command; status 1 if a run failed."""
    failed: list[str] = []
    status = run_command("sweep", Options, lambda options: failed.extend(run(options).failed))
    return status or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

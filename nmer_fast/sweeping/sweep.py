"""A sweep: it does the remaining runs of a grid, and writes one table of all results after every run."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import from_dict, load_config
from ..data import Standardiser
from ..engine.console import Report
from ..engine.inputs import check_fits, load_data, make_scheduler, pick_device
from ..errors import Stopped, UserError
from ..files import LOCK, locked, make_folder, write_json
from .grid import DEFINITION, Grid, Job, difference, make_jobs
from .table import Results
from .work import Failure, is_finished
from .workers import InProcess, Workers


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep; runs are listed by name.

    Attributes:
        finished: the runs that this call finished.
        before: the runs that were finished already and were skipped.
        failed: the runs that failed twice, with the reason.
    """

    finished: list[str]
    before: list[str]
    failed: dict[str, Failure]


def run_sweep(
    grid: Grid, out: Path, report: Report | None = None, make_workers: Callable[[], Workers] = InProcess
) -> Summary:
    """Do the remaining runs of a grid, and write the results table after every run.

    Args:
        grid: the grid of runs.
        out: the folder of the sweep: a new folder, or the folder of a sweep that differs in its axes at most.
        report: the printer of progress lines; by default nothing is printed.
        make_workers: the function that starts the workers; it is called only if there are runs to do.

    Raises:
        UserError: one line that names the wrong input, before any run starts.
        Stopped: Ctrl-C or SIGTERM stopped the sweep.
    """
    pick_device(grid.device)
    out, report = out.resolve(), report or Report(quiet=True)
    jobs = make_jobs(grid, out / "runs")
    known = read_definition(out)
    check_same(out, known, jobs)
    todo = [job for job in jobs if not is_finished(job)]
    fingerprints = check_data(todo, known.get("fingerprints", {}), report)
    make_folder(out)
    with locked(out):
        write_json(out / DEFINITION, {"config": asdict(jobs[0].config), "fingerprints": fingerprints})
        (out / "runs").mkdir(exist_ok=True)
        results = Results(out)
        results.write()
        summary = Summary([], [job.name for job in jobs if job not in todo], {})
        report.line(f"{len(jobs)} runs, {len(summary.before)} of them finished before; written after each: {results}")
        if todo:
            _do_all(todo, make_workers(), results, summary, report)
    for name, failure in summary.failed.items():
        report.line(f"{name} failed: {failure.message}")
    report.line(
        f"{len(summary.finished)} runs finished, {len(summary.before)} before, {len(summary.failed)} failed"
        + (f" ({out / 'failed.json'} has the tracebacks)" if summary.failed else "")
    )
    return summary


def read_definition(out: Path) -> dict[str, Any]:
    """Read the definition of the sweep in a folder: a config of its runs and the data's fingerprints by fold.

    Returns:
        the definition; an empty dictionary if the folder is new.

    Raises:
        UserError: the folder holds something other than a sweep.
    """
    expected = f"out: expected a new folder, or one of a sweep, got {out}"
    if not out.exists():
        return {}
    if not out.is_dir():
        raise UserError(f"{expected}, which is a file")
    if not (out / DEFINITION).exists():
        if other := sorted(path.name for path in out.iterdir() if path.name != LOCK):
            raise UserError(f"{expected}, which holds {other[0]} and no {DEFINITION}")
        return {}
    try:
        content = json.loads((out / DEFINITION).read_text())
        return {"config": from_dict(content["config"]), "fingerprints": dict(content["fingerprints"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{expected}, whose {DEFINITION} is no sweep's: {error}") from None


def check_same(out: Path, known: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Refuse a folder whose sweep differs from these runs in more than the axes, or in the config of a run."""
    if known and (what := difference(known["config"], jobs[0].config)):
        raise UserError(f"out: expected a folder of the same sweep, got {out}, of {what}")
    for job in jobs:
        path = job.folder / "config.json"
        if path.exists() and load_config(path) != job.config:
            raise UserError(f"out: expected a folder of the same sweep, got {out}, where {path} is of another config")


def check_data(jobs: Sequence[Job], known: Mapping[str, str], report: Report) -> dict[str, str]:
    """Refuse configs that do not fit the data, and data that have changed since the sweep started.

    Args:
        jobs: the runs to do.
        known: the fingerprints of the data by fold, as saved when the sweep started.
        report: the printer of remarks on the data.

    Returns:
        the known and the new fingerprints by fold.
    """
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


def _do_all(todo: Sequence[Job], workers: Workers, results: Results, summary: Summary, report: Report) -> None:
    """Do the runs, and close the workers.

    Raises:
        Stopped: Ctrl-C or SIGTERM stopped the sweep; the exception says how to continue.
    """
    try:
        _do(todo, workers, results, summary, report)
    except (KeyboardInterrupt, Stopped) as stop:
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        raise Stopped(None, number, "the same command goes on") from None
    finally:
        workers.close()


def _do(todo: Sequence[Job], workers: Workers, results: Results, summary: Summary, report: Report) -> None:
    """Do the runs, retry each failed run once, and keep results and summary up to date."""
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
    """Show the progress over the runs: a line for each run, with the time left, and a bar on a terminal."""
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
    """Format a duration in seconds below two minutes, otherwise in hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

"""One run of a grid: what is left of it to do, and doing that. A finished one is left alone, a stopped one goes on."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import evaluate, train
from ..config import NoiseConfig
from ..engine.checkpoint import RESUME, load_newest, write_json
from ..errors import Stopped, UserError
from .grid import Job

RESULTS, EVALUATIONS = "results.json", "evaluations.json"


@dataclass(frozen=True)
class Failure:
    """What a run failed of: one line, and where."""

    message: str
    traceback: str


def attempt(job: Job) -> Failure | None:
    """Do what is left of a run; what went wrong, if something did.

    Raises:
        Stopped: by Ctrl-C or SIGTERM; the run's state is saved if it has one.
    """
    try:
        with alone(job.folder.parent / f".{job.name}.lock"):
            _do(job)
    except Stopped:
        raise
    except Exception as error:
        line = str(error).partition("\n")[0]
        message = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
        return Failure(message, traceback.format_exc())
    return None


def _do(job: Job) -> None:
    if read_results(job.folder) is None:
        (job.folder / RESULTS).unlink(missing_ok=True)  # damaged, if there
        if _state_is_whole(job.folder):
            train.run(train.Options(resume=job.folder, device=job.options.device), quiet=True)
        else:
            if job.folder.exists():  # of a run that ended before it saved anything
                shutil.rmtree(job.folder)
            train.run(job.options, quiet=True)
    if noises := _not_evaluated(job):
        _evaluate(job, noises)


def is_finished(job: Job) -> bool:
    """Whether nothing of it is left to do."""
    return read_results(job.folder) is not None and not _not_evaluated(job)


def read_results(folder: Path) -> dict[str, Any] | None:
    """The results of a run, if it has finished."""
    results = read_json(folder / RESULTS)
    parts = {"conditions", "snr_db", "epoch", "config", "versions", "times"}
    return results if isinstance(results, dict) and parts <= results.keys() else None


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run that was trained on complete data, each with its noise, scores and seconds."""
    content = read_json(folder / EVALUATIONS)
    return content["evaluations"] if isinstance(content, dict) and "evaluations" in content else []


def read_json(path: Path) -> Any:
    """JSON, or None where there is none that is whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _state_is_whole(folder: Path) -> bool:
    try:
        load_newest(folder, RESUME, lambda text: None)
    except UserError:
        return False
    return True


def _not_evaluated(job: Job) -> list[NoiseConfig]:
    """The noises that are left."""
    done = [NoiseConfig(**entry["noise"]) for entry in read_evaluations(job.folder)]
    return [noise for noise in job.noises if noise not in done]


def _evaluate(job: Job, noises: Sequence[NoiseConfig]) -> None:
    """Evaluate a trained run under these noises too; the data is read once for each kind."""
    entries = read_evaluations(job.folder)
    for kind, group in groupby(noises, key=lambda noise: noise.kind):
        wanted, start = list(group), time.perf_counter()
        ratios = tuple(noise.snr_db for noise in wanted if isinstance(noise.snr_db, float))
        options = evaluate.Options(
            job.folder, noise=(kind,), snr=ratios, allow_leak=job.config.training.allow_leak, device=job.options.device
        )
        points = evaluate.run(options, quiet=True).points
        assert [point.noise for point in points] == wanted
        seconds = (time.perf_counter() - start) / len(points)  # each one's share
        entries += [{"noise": asdict(p.noise), **p.evaluation.as_dict(), "seconds": seconds} for p in points]
    write_json(job.folder / EVALUATIONS, {"evaluations": entries})


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside, nobody else holds this file's lock; a process that is lost to Ray but not yet dead is waited for."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

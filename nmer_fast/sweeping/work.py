"""Doing one run of a grid: a finished run is skipped, a stopped run is resumed, any other run is started."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..config import NoiseConfig
from ..engine.checkpoint import RESUME, load_newest
from ..engine.inputs import data_to_evaluate, pick_device
from ..engine.robustness import robustness_of_run
from ..engine.run import resume, run
from ..engine.trained_model import load_model
from ..errors import Stopped, UserError
from ..files import read_json, write_json
from .grid import Job

RESULTS, EVALUATIONS = "results.json", "evaluations.json"


@dataclass(frozen=True)
class Failure:
    """The reason why a run failed.

    Attributes:
        message: the error in one line.
        traceback: the traceback.
    """

    message: str
    traceback: str


def attempt(job: Job) -> Failure | None:
    """Do the remaining work of a run; return the failure, or None if the run finished.

    Raises:
        Stopped: Ctrl-C or SIGTERM stopped the run; its state is saved if training had started.
    """
    try:
        with FileLock(job.folder.parent / f".{job.name}.lock"):  # waits for a process that Ray lost but that still runs
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
        (job.folder / RESULTS).unlink(missing_ok=True)  # a file that exists is damaged
        if _state_is_whole(job.folder):
            resume(job.folder, device=job.device)
        else:
            if job.folder.exists():  # left by a run that ended before it saved a state
                shutil.rmtree(job.folder)
            run(job.config, out=job.folder, device=job.device)
    if noises := _not_evaluated(job):
        _evaluate(job, noises)


def is_finished(job: Job) -> bool:
    """Whether a run is trained and evaluated under all its noises."""
    return read_results(job.folder) is not None and not _not_evaluated(job)


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return the contents of a run's results.json, or None if the run has not finished."""
    results = read_json(folder / RESULTS)
    parts = {"conditions", "snr_db", "epoch", "config", "versions", "times"}
    return results if isinstance(results, dict) and parts <= results.keys() else None


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run that was trained on complete data, each with noise, scores and seconds."""
    content = read_json(folder / EVALUATIONS)
    return content["evaluations"] if isinstance(content, dict) and "evaluations" in content else []


def _state_is_whole(folder: Path) -> bool:
    try:
        load_newest(folder, RESUME, lambda text: None)
    except UserError:
        return False
    return True


def _not_evaluated(job: Job) -> list[NoiseConfig]:
    """Return the noises that a run still has to be evaluated under."""
    done = [NoiseConfig(**entry["noise"]) for entry in read_evaluations(job.folder)]
    return [noise for noise in job.noises if noise not in done]


def _evaluate(job: Job, noises: Sequence[NoiseConfig]) -> None:
    """Evaluate a trained run under some noises, and add the scores to its file of evaluations."""
    start, device = time.perf_counter(), pick_device(job.device)
    trained = load_model(job.folder, device)
    where, own = data_to_evaluate(trained.config)
    leak = job.config.training.allow_leak
    points = robustness_of_run(trained, trained.data(where, own=own), noises, device, allow_leak=leak).points
    seconds = (time.perf_counter() - start) / len(points)  # the mean of an evaluation
    entries = [{"noise": asdict(p.noise), **p.evaluation.as_dict(), "seconds": seconds} for p in points]
    write_json(job.folder / EVALUATIONS, {"evaluations": read_evaluations(job.folder) + entries})

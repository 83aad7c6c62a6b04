"""One run, from a validated Config to a folder with a trained and evaluated model.

The commands `train`, `sweep` and `reproduce` call `run`, and so can any Python program.

How resuming works: `resume` reads the config and the newest undamaged state of a stopped run
(`checkpoint.load_newest`) and continues with the same code as `run`. `trainer.train` restores the state (`Fit.load`,
the random generators) and continues after the step at which the state was taken. `Fit.snapshot` takes a state.
`saving.Saver` writes it once a minute, when the teacher is trained, and when a signal asks to stop (`stopping`).
`checkpoint` makes each write atomic.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from ..config import Config, from_dict, load_config
from ..data import FeatureSet, Standardiser
from ..errors import Stopped, UserError, resume_hint, say
from ..files import locked, make_folder, write_json
from ..noise import NoiseScheduler
from . import memory
from .batches import Batches
from .checkpoint import RESUME, load_newest, remove_checkpoint
from .console import Report
from .distributed import Ranks, is_peer_failure, join_ranks, own_device, ranks_of_torchrun
from .evaluation import Evaluation, evaluate
from .inputs import check_fits, load_data, make_scheduler, pick_device, unchanged_torch_state
from .log import Log
from .stopping import stop_on_signals
from .trained_model import save_model, versions
from .trainer import Saved, Trained, train


@dataclass(frozen=True)
class FinishedRun:
    """The outcome of a run.

    Attributes:
        folder: the run's folder.
        results: the contents of results.json.
        evaluation: the scores on the test split, by condition.
    """

    folder: Path
    results: dict[str, Any]
    evaluation: Evaluation


def run(
    config: Config,
    *,
    out: Path | None = None,
    device: str = "auto",
    log_every: int = 10,
    torch_profile: Path | None = None,
    report: Report | None = None,
) -> FinishedRun | None:
    """Train a system, evaluate it on the test split, and write the run's folder.

    Under torchrun this process is one of several ranks. The caller's random generators, default dtype and number of
    threads are restored afterwards.

    Args:
        config: the complete configuration of the run.
        out: the new folder of the run; by default a folder under runs/.
        device: "cpu", "cuda", or "auto".
        log_every: the number of steps between two TensorBoard entries of a loss.
        torch_profile: the folder for a trace of three training steps; by default no trace is made.
        report: the printer of progress lines and the results table; by default nothing is printed.

    Returns:
        the finished run; None in every rank but rank 0.

    Raises:
        UserError: one line that names the wrong input.
        Stopped: Ctrl-C or SIGTERM stopped the run; its state is saved.
    """
    return _run(config, lambda name: new_folder(out, name), None, device, log_every, torch_profile, report)


def resume(
    folder: Path,
    *,
    device: str = "auto",
    log_every: int = 10,
    torch_profile: Path | None = None,
    report: Report | None = None,
) -> FinishedRun | None:
    """Continue a stopped or killed run; its results have the same bits as those of an uninterrupted run.

    Args:
        folder: the run's folder.
        device: "cpu", "cuda", or "auto".
        log_every: the number of steps between two TensorBoard entries of a loss.
        torch_profile: the folder for a trace of three training steps; by default no trace is made.
        report: the printer of progress lines and the results table; by default nothing is printed.

    Returns:
        the finished run; None in every rank but rank 0.

    Raises:
        UserError: one line that names the wrong input, such as a folder without a stopped run.
        Stopped: Ctrl-C or SIGTERM stopped the run again; its state is saved.
    """
    saved = load_stopped(folder)
    config = from_dict(saved[1]["config"], f"{folder}: ") if saved else load_config(folder / "config.json")
    return _run(config, lambda name: folder, saved, device, log_every, torch_profile, report)


def _run(
    config: Config,
    folder_of: Callable[[str], Path],
    saved: Saved | None,
    device_name: str,
    log_every: int,
    torch_profile: Path | None,
    report: Report | None,
) -> FinishedRun | None:
    """Start or resume a run; `folder_of` returns the run's folder, given the data set's name."""
    if log_every < 1:
        raise UserError(f"log-every: expected 1 or more steps, got {log_every}")
    device = own_device(pick_device(device_name))
    with unchanged_torch_state(device), ExitStack() as held:
        task = _Task.of(config, device, report if report and ranks_of_torchrun().is_main else Report(quiet=True))
        if saved and saved[1]["fingerprint"] != task.state["fingerprint"]:
            source = config.data.source
            raise UserError(f"resume: expected the data that the run began with, got other contents of {source}")

        def begin() -> Path:
            """Create and lock the run's folder, and write its config."""
            folder = folder_of(task.data.name)
            held.enter_context(locked(folder))
            if not saved:
                write_json(folder / "config.json", task.state["config"])
            return folder

        folder = task.ranks.main_does(begin)
        log = Log(folder / "tensorboard" if task.ranks.is_main else None, log_every)
        with _ends_in_words(folder):
            trained = task.train(folder, log, saved, torch_profile)
            if not task.ranks.is_main:
                return None
            return task.finish(folder, log, trained)


@dataclass(frozen=True)
class _Task:
    """A run whose data are loaded and whose config is known to fit them.

    Attributes:
        config: the run's config.
        device: the device of the training.
        report: the printer of progress lines and the results table.
        data: the standardised samples.
        standardiser: the mean and the standard deviation that standardise the samples.
        scheduler: the noise, on the device.
        ranks: the processes that train together.
        state: the JSON that is part of every saved state: the config, and the data's fingerprint.
    """

    config: Config
    device: torch.device
    report: Report
    data: FeatureSet
    standardiser: Standardiser
    scheduler: NoiseScheduler
    ranks: Ranks
    state: dict[str, Any]

    @classmethod
    def of(cls, config: Config, device: torch.device, report: Report) -> _Task:
        """Load the data and check that data, config and memory fit together, before any folder is created.

        Raises:
            UserError: one line that names the input that does not fit.
        """
        raw, config = load_data(config.data, report.line), replace(config, data=config.data.absolute)
        standardiser = Standardiser.fit(raw)
        memory.check_context(raw, config.data.context)
        data = standardiser(raw).with_context(config.data.context)
        scheduler = make_scheduler(standardiser.variances, config.noise, config.training.seed).to(device)
        model = check_fits(data, config)
        memory.check_training(data, config, device)
        ranks = join_ranks(device)
        ranks.check(config, len(data.splits["train"]), model.depends_on_batch)
        state = {"config": asdict(config), "fingerprint": data.fingerprint()}
        return cls(config, device, report, data, standardiser, scheduler, ranks, state)

    def train(self, folder: Path, log: Log, saved: Saved | None, torch_profile: Path | None) -> Trained:
        """Train from the beginning or from a saved state; Ctrl-C or SIGTERM stops it after the current step."""
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in self.data.splits.items())
        dims = ", ".join(f"{name} {dim}-d" for name, dim in self.data.dims.items())
        self.report.line(f"{self.data.name}: {counts}; {dims}")
        with stop_on_signals(quiet=not self.ranks.is_main) as request:
            return train(
                self.data, self.scheduler, self.config, self.device, self.report, folder=folder, log=log,
                request=request, state=self.state, saved=saved, torch_profile=torch_profile, ranks=self.ranks,
            )  # fmt: skip

    def finish(self, folder: Path, log: Log, trained: Trained) -> FinishedRun:
        """Write the checkpoint, evaluate, write the results, and remove the saved states."""
        training, report = self.config.training, self.report
        checkpoint = save_model(folder, trained, self.data, self.standardiser, self.state)
        start = time.perf_counter()
        batches = Batches(self.data, self.device, training.batch_size, padding=self.config.noise.padding)
        evaluation = evaluate(
            trained.model, batches, self.data.splits["test"], self.scheduler, training.seed,
            allow_leak=training.allow_leak,
        )  # fmt: skip
        trained.seconds["evaluate"] = time.perf_counter() - start
        with log.at(self.config.model.system, trained.steps) as writer:
            writer.evaluation("test", evaluation, trained.steps)
        results = {
            "system": self.config.model.system,
            **evaluation.as_dict(),
            "epoch": trained.epoch,
            "losses": trained.losses,
            "config": self.state["config"],
            "versions": versions(),
            "times": trained.seconds,
        }
        write_json(folder / "results.json", results)
        remove_checkpoint(folder, RESUME)
        what = f"{self.config.model.system} on {self.data.name}, test, {self.config.noise.title}"
        report.table(f"{what}, epoch {trained.epoch}", evaluation)
        times = ", ".join(f"{name} {value:.1f} s" for name, value in trained.seconds.items())
        report.line(f"{times}\nwritten: {folder / 'results.json'}, {checkpoint}")
        return FinishedRun(folder, results, evaluation)


@contextmanager
def _ends_in_words(folder: Path) -> Iterator[None]:
    """Turn an interruption, a full disk or a lost process into an error message that says how to resume the run."""
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:  # may also come in the middle of a step
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        raise Stopped(folder if (folder / f"{RESUME}.json").exists() else None, number) from None
    except OSError as error:  # most often a full disk
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise UserError(f"{what}; what was saved before is whole, {resume_hint(folder)}") from None
    except RuntimeError as error:
        if not is_peer_failure(error):
            raise
        words = "torchrun: another process ended; what was saved is whole"
        raise UserError(f"{words}, {resume_hint(folder)}") from None


def load_stopped(folder: Path) -> Saved | None:
    """Load the newest undamaged state of a stopped run; None if no state was saved yet, so that the run starts again.

    Raises:
        UserError: the folder holds no stopped run, or all its saved states are damaged.
    """
    expected = f"resume: expected the folder of a run that was stopped, got {folder}"
    if not (folder / "config.json").exists():
        raise UserError(f"{expected}, where no state is saved")
    if (folder / "results.json").exists():
        remove_checkpoint(folder, RESUME)  # the run was killed just before this removal
        raise UserError(f"{expected}, which is finished")
    if not any(folder.glob(f"{RESUME}*.json")):
        say("resume: no state is saved yet; the run begins anew")
        return None
    tensors, state = load_newest(folder, RESUME, lambda text: say(f"resume: {text}"))
    fit, missing = state.get("fit"), {"config", "fingerprint", "fit"} - state.keys()
    if missing or not isinstance(fit, dict) or {"name", "epoch", "step_in_epoch", "history", "best"} - fit.keys():
        raise UserError(f"resume: expected a whole state of this run, got one without all of it: {folder}")
    return tensors, state


def new_folder(out: Path | None, name: str) -> Path:
    """Create and return the folder `out`, or by default a folder under runs/ with an unused name.

    Raises:
        UserError: the folder holds a run already, or cannot be written to.
    """
    if out is None:
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        candidates = (Path("runs") / f"{stem}{suffix}" for suffix in chain([""], map("-{}".format, count(2))))
        out = next(path for path in candidates if not path.exists())
    if (out / "config.json").exists():
        raise UserError(f"out: expected a new folder, got {out}, which holds a run")
    return make_folder(out)

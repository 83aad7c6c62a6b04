"""python -m nmer_fast.train: train a system under noisy modalities and evaluate it under every condition."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import tyro

from .command import describe_noise, how_to_go_on, make_folder, parse_steps, run_command, say
from .config import PRESETS, Config, from_dict, load_config, override, parse_settings
from .errors import Stopped, UserError

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Set = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="SECTION.FIELD=VALUE")]


@dataclass(frozen=True)
class Options:
    """Train a system under noisy modalities, then evaluate it under every condition.

    Attributes:
        system: nmer, or one that it is compared with (docs/training.md lists them); by default nmer.
        preset: paper; recommended, which is more accurate; or released, the settings of the authors' released code
            (docs/training.md). By default paper.
        config: or else a config.json that a run wrote: repeats the run.
        settings: any field of it, such as --set training.lr=2e-4; may be given again.
        data: "synthetic", the embedded default, or a file or folder of features (docs/formats.md).
        fold: which of the source's folds, from 1.
        context: join each utterance with up to this many before it in its group and split.
        size: utterances of the synthetic data; by default 850.
        difficulty: of the synthetic data: 2 is hard, 0.5 easy.
        noise: gaussian, impulse, uniform, laplace or missing: what is added to the unclean modalities.
        snr: signal-to-noise ratio in dB on every modality; by default -10.
        steps: instead of --snr, the paper's T of each modality, as a=140 v=60 l=5; or random.
        p: the share of impulses, for --noise impulse; by default 0.3.
        snr_convention: exact counts the noise's own power, paper takes it as 1.
        epochs: of the system; by default 60.
        seed: of weights, order, dropout, noise and conditions.
        select: best or last: which epoch is kept; by default the best on the val split, where there is one.
        compile: compile the training step as one graph.
        amp: train under bfloat16 autocast.
        allow_leak: evaluate although model.tokens=batch lets a prediction depend on its batch mates.
        device: cpu, cuda, or auto.
        out: a new folder for the run; by default one under runs/.
        resume: the folder of a run that was stopped or killed: go on, to the bits that it would have given.
        log_every: steps between two TensorBoard entries of a loss.
        torch_profile: a folder for a trace of three training steps, for ui.perfetto.dev (docs/profiling.md).
    """

    system: str | None = None
    preset: str | None = None
    config: Path | None = None
    settings: Set = ()
    data: str | None = None
    fold: int | None = None
    context: int | None = None
    size: int | None = None
    difficulty: float | None = None
    noise: str | None = None
    snr: float | None = None
    steps: tuple[str, ...] = ()
    p: float | None = None
    snr_convention: str | None = None
    epochs: int | None = None
    seed: int | None = None
    select: str | None = None
    compile: Flag = False
    amp: Flag = False
    allow_leak: Flag = False
    device: str = "auto"
    out: Path | None = None
    resume: Path | None = None
    log_every: int = 10
    torch_profile: Path | None = None


FIELDS = {
    "system": "model.system",
    "data": "data.source",
    "fold": "data.fold",
    "context": "data.context",
    "size": "data.size",
    "difficulty": "data.difficulty",
    "noise": "noise.kind",
    "snr": "noise.snr_db",
    "p": "noise.p",
    "snr_convention": "noise.snr_convention",
    "epochs": "training.epochs",
    "seed": "training.seed",
    "select": "training.select",
    "compile": "training.compile",
    "amp": "training.amp",
    "allow_leak": "training.allow_leak",
}
"""The config's field of each option that is one."""


def run(options: Options, *, quiet: bool = False) -> dict[str, Any]:
    """Train, evaluate, write the run's folder; under torchrun, one of the processes that do so together.

    Returns:
        what results.json holds; nothing in a process that is not the first.

    Raises:
        UserError: one line that names what is wrong.
        Stopped: by Ctrl-C or SIGTERM, with the state saved.
    """
    if options.log_every < 1:
        raise UserError(f"log-every: expected 1 or more steps, got {options.log_every}")
    saved = load_stopped(options) if options.resume else None
    config = from_dict(saved[1]["config"], f"{options.resume}: ") if saved else config_of(options)
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .data import Standardiser
    from .engine import memory
    from .engine.batches import Batches
    from .engine.checkpoint import RESUME, locked, remove_checkpoint, write_json
    from .engine.console import Report
    from .engine.distributed import join, lost_another, own_device, place
    from .engine.evaluation import evaluate
    from .engine.log import Log
    from .engine.run import check_fits, load_data, make_scheduler, pick_device, save_run, versions
    from .engine.stopping import stop_on_signals
    from .engine.trainer import train

    report, device = Report(quiet=quiet or not place().first), own_device(pick_device(options.device))
    raw, config = load_data(config.data, report.line), from_anywhere(config)
    standardiser = Standardiser.fit(raw)
    memory.check_context(raw, config.data.context)
    data = standardiser(raw).with_context(config.data.context)
    scheduler = make_scheduler(standardiser.variances, config.noise, config.training.seed).to(device)
    check_fits(data, config)
    memory.check_training(data, config, device)
    state = {"config": asdict(config), "fingerprint": data.fingerprint()}
    if saved and saved[1]["fingerprint"] != state["fingerprint"]:
        raise UserError(
            f"resume: expected the data that the run began with, got other contents of {config.data.source}"
        )
    ranks, held = join(device), ExitStack()
    ranks.check(config, len(data.splits["train"]))

    def begin() -> Path:
        """The run's folder, locked, with its config in it."""
        folder = options.resume or new_folder(options.out, data.name)
        held.enter_context(locked(folder))
        if not saved:
            write_json(folder / "config.json", asdict(config))
        return folder

    training = config.training
    with held:
        folder = ranks.first_does(begin)
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
        report.line(f"{data.name}: {counts}; " + ", ".join(f"{name} {dim}-d" for name, dim in data.dims.items()))
        log = Log(folder / "tensorboard" if ranks.first else None, options.log_every)
        try:
            with stop_on_signals(quiet=not ranks.first) as request:
                trained = train(
                    data, scheduler, config, device, report, folder=folder, log=log, request=request, state=state,
                    saved=saved, torch_profile=options.torch_profile, ranks=ranks,
                )  # fmt: skip
            if not ranks.first:
                return {}
            checkpoint = save_run(folder, trained, data, standardiser, state)
            start = time.perf_counter()
            batches = Batches(data, device, training.batch_size, padding=config.noise.padding)
            evaluation = evaluate(
                trained.model, batches, data.splits["test"], scheduler, training.seed, allow_leak=training.allow_leak
            )
            trained.seconds["evaluate"] = time.perf_counter() - start
            with log.at(config.model.system, trained.steps) as writer:
                writer.evaluation("test", evaluation, trained.steps)
            results = {
                "system": config.model.system,
                **evaluation.as_dict(),
                "epoch": trained.epoch,
                "losses": trained.losses,
                "config": asdict(config),
                "versions": versions(),
                "times": trained.seconds,
            }
            write_json(folder / "results.json", results)
            remove_checkpoint(folder, RESUME)
        except (KeyboardInterrupt, Stopped) as stop:  # at a moment that is no step's end, too
            number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
            raise Stopped(folder if (folder / f"{RESUME}.json").exists() else None, number) from None
        except OSError as error:  # a full disk, above all
            what = f"{error.filename or folder}: {error.strerror or error}"
            raise UserError(f"{what}; what was saved before is whole, {how_to_go_on(folder)}") from None
        except RuntimeError as error:
            if not lost_another(error):
                raise
            raise UserError(
                f"torchrun: another process ended; what was saved is whole, {how_to_go_on(folder)}"
            ) from None
    what = f"{config.model.system} on {data.name}, test, {describe_noise(config.noise)}"
    report.table(f"{what}, epoch {trained.epoch}", evaluation)
    times = ", ".join(f"{name} {value:.1f} s" for name, value in trained.seconds.items())
    report.line(f"{times}\nwritten: {folder / 'results.json'}, {checkpoint}")
    return results


def config_of(options: Options) -> Config:
    """The preset or file, changed by the options and by --set; of a run killed before its first state, its own."""
    if options.resume:
        return load_config(options.resume / "config.json")
    if options.preset and options.config:
        raise UserError(f"preset, config: expected one of the two, got {options.preset} and {options.config}")
    changes = parse_settings(options.settings)
    given = {name: getattr(options, name) for name in FIELDS}
    flags = {FIELDS[name]: value for name, value in given.items() if value is not None and value is not False}
    if options.steps:
        flags["noise.steps"] = parse_steps(options.steps)
    if twice := sorted(flags.keys() & changes.keys()):
        raise UserError(f"set: {twice[0]} is given by --set and by an option of its own; expected one of the two")
    preset = options.preset or "paper"
    if preset not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    base = load_config(options.config) if options.config else PRESETS[preset]
    config = override(base, {**flags, **changes})
    if "noise.p" in flags and config.noise.kind != "impulse":
        raise UserError(f"p: expected with impulse noise alone, got {options.p} with {config.noise.kind}")
    return config


def from_anywhere(config: Config) -> Config:
    """The config with its data's path made absolute, to be written."""
    if config.data.source == "synthetic":
        return config
    return replace(config, data=replace(config.data, source=str(Path(config.data.source).resolve())))


def load_stopped(options: Options) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The state of the run that is taken up, whose config no other option may change; None where none is saved yet."""
    from .engine.checkpoint import RESUME, load_newest, remove_checkpoint

    for field in fields(options):
        if field.name not in ("resume", "device", "log_every") and getattr(options, field.name) != field.default:
            flag = "set" if field.name == "settings" else field.name.replace("_", "-")
            raise UserError(f"resume: expected no --{flag} beside it: the run has its own")
    folder = options.resume
    assert folder is not None
    if not (folder / "config.json").exists():
        raise UserError(f"resume: expected the folder of a run that was stopped, got {folder}, where no state is saved")
    if (folder / "results.json").exists():
        remove_checkpoint(folder, RESUME)  # killed in between
        raise UserError(f"resume: expected the folder of a run that was stopped, got {folder}, which is finished")
    if not any(folder.glob(f"{RESUME}*.json")):
        say("resume: no state is saved yet; the run begins anew")
        return None
    tensors, state = load_newest(folder, RESUME, lambda text: say(f"resume: {text}"))
    fit, missing = state.get("fit"), {"config", "fingerprint", "fit"} - state.keys()
    if missing or not isinstance(fit, dict) or {"name", "epoch", "step_in_epoch", "history", "best"} - fit.keys():
        raise UserError(f"resume: expected a whole state of this run, got one without all of it: {folder}")
    return tensors, state


def new_folder(out: Path | None, name: str) -> Path:
    """The folder that --out names, or one under runs/ that no other run has."""
    if out is None:
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        candidates = (Path("runs") / f"{stem}{suffix}" for suffix in chain([""], map("-{}".format, count(2))))
        out = next(path for path in candidates if not path.exists())
    if (out / "config.json").exists():
        raise UserError(f"out: expected a new folder, got {out}, which holds a run")
    return make_folder(out)


def main() -> int:
    """The command."""
    return run_command("train", Options, run)


if __name__ == "__main__":
    sys.exit(main())

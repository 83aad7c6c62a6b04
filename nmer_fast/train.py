"""python -m nmer_fast.train: train a system under noisy modalities and evaluate it under every condition."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .command import run_command
from .config import Config, join_changes, make_config
from .errors import UserError
from .flags import PresetName, Settings, config_options, given_flags, option

WITH_RESUME = ("resume", "device", "log_every")
"""The options that are accepted beside --resume; all others are part of the stopped run's config."""


@dataclass(frozen=True)
class Options(config_options()):  # type: ignore[misc]
    """Train a system under noisy modalities, then evaluate it under every condition.

    Attributes:
        preset: the preset to start from: the paper's settings; recommended settings, which are more accurate; or the
            settings of the authors' released code (docs/training.md).
        config: the config.json of an earlier run, to repeat that run; replaces the preset.
        settings: the new value of any configuration field, such as --set training.lr=2e-4.
        device: the device: cpu, cuda, or auto, which means cuda if a GPU is available and cpu otherwise.
        out: the new folder of the run.
        resume: the folder of a stopped or killed run to continue; the results have the same bits as without the stop.
        log_every: the number of training steps between two TensorBoard entries of a loss.
        torch_profile: the folder for a trace of three training steps, for ui.perfetto.dev (docs/profiling.md).
    """

    preset: PresetName = None
    config: option(Path | None, default="none") = None  # type: ignore[valid-type]
    settings: Settings = ()
    device: str = "auto"
    out: option(Path | None, default="a folder under runs/") = None  # type: ignore[valid-type]
    resume: option(Path | None, default="none") = None  # type: ignore[valid-type]
    log_every: int = 10
    torch_profile: option(Path | None, default="none") = None  # type: ignore[valid-type]


def run(options: Options, *, quiet: bool = False) -> dict[str, Any]:
    """Train a system, evaluate it, and write the run's folder. Under torchrun this process is one of several ranks.

    Returns:
        the contents of results.json; an empty dictionary in every rank but rank 0.

    Raises:
        UserError: one line that names the wrong option or input.
        Stopped: Ctrl-C or SIGTERM stopped the run; its state is saved.
    """
    check_resume_options(options)
    config = None if options.resume else config_of(options)
    # The slow imports come after the command line is validated, so that --help is quick.
    from .engine import run as engine
    from .engine.console import Report

    around = {
        "device": options.device, "log_every": options.log_every, "torch_profile": options.torch_profile,
        "report": Report(quiet=quiet),
    }  # fmt: skip
    if config is None:
        finished = engine.resume(options.resume, **around)
    else:
        finished = engine.run(config, out=options.out, **around)
    return finished.results if finished else {}


def check_resume_options(options: Options) -> None:
    """Refuse options that contradict --resume: the stopped run's config already has a value for them."""
    if options.resume is None:
        return
    for field in fields(options):
        if field.name not in WITH_RESUME and getattr(options, field.name) != field.default:
            flag = "set" if field.name == "settings" else field.name.replace("_", "-")
            raise UserError(f"resume: expected no --{flag} beside it: the run has its own")


def config_of(options: Options) -> Config:
    """Return the preset or the config file, with the changes of the options and of --set.

    Raises:
        UserError: one line that names the wrong option.
    """
    flags = given_flags(options)
    config = make_config(join_changes(options.settings, flags), preset=options.preset, file=options.config)
    if "noise.p" in flags and config.noise.kind != "impulse":
        raise UserError(f"p: expected with impulse noise alone, got {options.p} with {config.noise.kind}")
    return config


def main() -> int:
    """Run the command and return its exit status."""
    return run_command("train", Options, run)


if __name__ == "__main__":
    sys.exit(main())

"""python -m nmer_fast.evaluate: evaluate a trained checkpoint under noise of any kind and strength."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from .command import run_command
from .config import Config, override, parse_steps
from .contract import KINDS
from .errors import UserError
from .files import make_folder
from .flags import Switch, choices, option

if TYPE_CHECKING:
    from .engine.robustness import robustness as robustness
    from .engine.robustness_table import Robustness


def __getattr__(name: str) -> Any:
    """Import `robustness`, which evaluates any user's model, on first use, so that --help is quick."""
    if name == "robustness":
        from .engine.robustness import robustness

        return robustness
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Options:
    """Evaluate a checkpoint on the test split, for every given noise, SNR and condition.

    Attributes:
        checkpoint: the run's folder, or its checkpoint.json.
        data: the file or folder of features (docs/formats.md), or synthetic.
        fold: the fold of the data's cross-validation, counted from 1.
        noise: one or more kinds of noise.
        snr: one or more signal-to-noise ratios in dB.
        steps: the number of diffusion steps T of each modality (the paper's T) instead of --snr, such as
            a=140 v=60 l=5; or random.
        p: the probability of an impulse, for impulse noise only.
        conditions: one or more conditions; a condition is named by its clean modalities, such as a av none all.
        allow_leak: evaluate even if predictions depend on the other samples of the batch (model.tokens=batch).
        device: the device: cpu, cuda, or auto, which means cuda if a GPU is available and cpu otherwise.
        out: the file name of the results, which are written both as .json and as .csv.
    """

    checkpoint: tyro.conf.Positional[Path]
    data: option(str | None, default="what the checkpoint was trained on") = None  # type: ignore[valid-type]
    fold: option(int | None, default="the first") = None  # type: ignore[valid-type]
    noise: option(tuple[str, ...], default="the training's", metavar=f"[{choices(KINDS)} ...]") = ()  # type: ignore[valid-type]
    snr: option(tuple[float, ...], default="the training's") = ()  # type: ignore[valid-type]
    steps: option(tuple[str, ...], default="none") = ()  # type: ignore[valid-type]
    p: option(float | None, default="the training's") = None  # type: ignore[valid-type]
    conditions: option(tuple[str, ...], default="all conditions") = ()  # type: ignore[valid-type]
    allow_leak: Switch = False
    device: str = "auto"
    out: option(Path | None, default="none") = None  # type: ignore[valid-type]


def run(options: Options, *, quiet: bool = False) -> Robustness:
    """Evaluate the checkpoint and print one table.

    Returns:
        the scores under each noise.

    Raises:
        UserError: one line that names the wrong option or input.
    """
    from .engine.console import Report
    from .engine.inputs import data_to_evaluate, pick_device
    from .engine.robustness import robustness_of_run
    from .engine.robustness_table import check_outputs
    from .engine.trained_model import load_model

    _check(options)
    if options.out:
        check_outputs(options.out)
        make_folder(options.out.parent)
    report, device = Report(quiet=quiet), pick_device(options.device)
    trained = load_model(options.checkpoint, device)
    noises = [override(trained.config, change).noise for change in _changes(options, trained.config)]
    where, own = data_to_evaluate(trained.config, options.data, options.fold)
    data = trained.data(where, own=own, say=report.line)
    result = robustness_of_run(
        trained, data, noises, device, conditions=options.conditions or None, allow_leak=options.allow_leak
    )
    if len(noises) == 1:
        what, _, epoch = result.title.rpartition(", ")
        report.table(f"{what}, {noises[0].title}, {epoch}", result.points[0].evaluation)
    else:
        report.print(result.table())
    if options.out:
        about = {"checkpoint": str(options.checkpoint), "data": asdict(where)}
        report.line("written: " + ", ".join(map(str, result.write(options.out, about))))
    return result


def _check(options: Options) -> None:
    """Refuse options that contradict each other."""
    if options.snr and options.steps:
        raise UserError(f"snr, steps: expected one of the two, got {options.snr} and {' '.join(options.steps)}")
    if options.noise == ("missing",) and options.snr:
        raise UserError(f"snr: expected none with missing modalities alone, where nothing is left, got {options.snr}")
    if options.fold is not None and options.data is None:
        raise UserError(f"fold: expected --data beside it, whose fold it is, got {options.fold} alone")


def _changes(options: Options, config: Config) -> list[dict[str, Any]]:
    """Return the fields in which each evaluated noise differs from the training's noise, by section.field."""
    from .engine.robustness import noise_changes

    changes = noise_changes(config.noise, options.noise, options.snr)
    kinds = [change["noise.kind"] for change in changes]
    if options.p is not None and "impulse" not in kinds:
        raise UserError(f"p: expected with impulse noise alone, got {options.p} with {', '.join(dict.fromkeys(kinds))}")
    common: dict[str, Any] = {} if options.p is None else {"noise.p": options.p}
    if options.steps:
        common["noise.steps"] = parse_steps(options.steps)
    return [{**change, **common} for change in changes]


def main() -> int:
    """Run the command and return its exit status."""
    return run_command("evaluate", Options, run)


if __name__ == "__main__":
    sys.exit(main())

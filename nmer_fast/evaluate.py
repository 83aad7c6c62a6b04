"""python -m nmer_fast.evaluate: a trained checkpoint, or any model, under noise of any kind and strength."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .command import describe_noise, make_folder, parse_steps, run_command
from .config import Config, DataConfig, NoiseConfig, override
from .errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from .data import FeatureSet
    from .engine.robustness import Robustness


@dataclass(frozen=True)
class Options:
    """Evaluate a checkpoint on the test split, for every noise, SNR and condition named.

    Attributes:
        checkpoint: a run's folder, or its checkpoint.json.
        data: as for train; by default what the checkpoint was trained on.
        fold: which of that file's folds, from 1.
        noise: one or more of gaussian, impulse, uniform, laplace, missing; by default the training's.
        snr: one or more signal-to-noise ratios in dB; by default the training's.
        steps: instead of --snr, the paper's T of each modality, as a=140 v=60 l=5; or random.
        p: the share of impulses; by default the training's.
        conditions: which modalities are clean, such as a av none all; by default all conditions.
        allow_leak: evaluate although model.tokens=batch lets a prediction depend on its batch mates.
        device: cpu, cuda, or auto.
        out: a file name for the results, which are written as .json and as .csv.
    """

    checkpoint: tyro.conf.Positional[Path]
    data: str | None = None
    fold: int | None = None
    noise: tuple[str, ...] = ()
    snr: tuple[float, ...] = ()
    steps: tuple[str, ...] = ()
    p: float | None = None
    conditions: tuple[str, ...] = ()
    allow_leak: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    device: str = "auto"
    out: Path | None = None


def run(options: Options, *, quiet: bool = False) -> Robustness:
    """Evaluate, and print one table.

    Returns:
        the points of the sweep.

    Raises:
        UserError: one line that names what is wrong.
    """
    from .engine.batches import Batches
    from .engine.console import Report
    from .engine.evaluation import evaluate
    from .engine.robustness import Point, Robustness, check_outputs
    from .engine.run import load_run, make_scheduler, pick_device, prepare

    _check(options)
    if options.out:
        check_outputs(options.out)
        make_folder(options.out.parent)
    report, device = Report(quiet=quiet), pick_device(options.device)
    model, standardiser, config, state = load_run(options.checkpoint, device)
    noises = [override(config, change).noise for change in _changes(options, config)]
    where, own = _data_of(options, config)
    data = prepare(where, standardiser, state, own=own, say=report.line)
    batches = Batches(data, device, config.training.batch_size, padding=config.noise.padding)
    points, seed = [], config.training.seed
    for noise in noises:
        scheduler = make_scheduler(standardiser.variances, noise, seed).to(device)
        evaluation = evaluate(
            model, batches, data.splits["test"], scheduler, seed,
            conditions=options.conditions or None, allow_leak=options.allow_leak,
        )  # fmt: skip
        points.append(Point(noise, evaluation))
    what, epoch = f"{config.model.system} on {data.name}, test", f"epoch {state['epoch']}"
    result = Robustness(f"{what}, {epoch}", points)
    if len(points) == 1:
        report.table(f"{what}, {describe_noise(noises[0])}, {epoch}", points[0].evaluation)
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


def _data_of(options: Options, config: Config) -> tuple[DataConfig, bool]:
    """Which data to evaluate on, and whether it is the run's own.

    The file that the model was trained on keeps its fold: other folds' test samples were trained on.
    """
    own = config.data
    if options.data is None:
        return own, True
    if options.data == own.source or (own.source != "synthetic" and Path(options.data).resolve() == Path(own.source)):
        if options.fold not in (None, own.fold or 1):
            raise UserError(
                f"fold: expected {own.fold or 1}, which the model was trained on, got {options.fold}, "
                "whose test samples it has seen"
            )
        return own, True
    change = {"data.source": options.data, "data.fold": options.fold, "data.size": None, "data.difficulty": 1.0}
    return override(config, change).data, False


def _changes(options: Options, config: Config) -> list[dict[str, Any]]:
    """What each point of the sweep changes of the training's noise."""
    changes = _grid(config.noise, options.noise, options.snr)
    kinds = [change["noise.kind"] for change in changes]
    if options.p is not None and "impulse" not in kinds:
        raise UserError(f"p: expected with impulse noise alone, got {options.p} with {', '.join(dict.fromkeys(kinds))}")
    common: dict[str, Any] = {} if options.p is None else {"noise.p": options.p}
    if options.steps:
        common["noise.steps"] = parse_steps(options.steps)
    return [{**change, **common} for change in changes]


def _grid(base: NoiseConfig, kinds: Sequence[str], ratios: Sequence[float]) -> list[dict[str, Any]]:
    """The fields that change at each point of kinds x SNRs; missing modalities have no SNR and one point."""
    out: list[dict[str, Any]] = []
    for kind in kinds or (base.kind,):
        if kind == "missing":
            out.append({"noise.kind": kind})
        else:
            out += [{"noise.kind": kind, "noise.snr_db": snr} for snr in ratios] or [{"noise.kind": kind}]
    return out


def robustness(
    model: Callable[..., Tensor],
    dataset: FeatureSet,
    *,
    noise: str | Sequence[str] = ("gaussian",),
    snr_db: float | Sequence[float] = (-10.0, -20.0, -30.0, -40.0),
    conditions: str | Sequence[str] | None = None,
    p: float = 0.3,
    snr_convention: str = "exact",
    with_lengths: bool = False,
    split: str = "test",
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Robustness:
    """Anybody's model under every noise, SNR and condition, with the same noise for a sample in all conditions.

    Args:
        model: from noisy features, a dict of [B, T, D] tensors by modality, 0 beyond a sample's length, to logits
            [B, classes]. A module is put into eval mode for the while.
        dataset: as `nmer_fast.data.load_npz` gives it, features scaled as the model wants them.
        noise: one or more of "gaussian", "impulse", "uniform", "laplace", "missing".
        snr_db: one or more signal-to-noise ratios in dB, against each modality's variance on the train split
            (without one, on the split evaluated).
        conditions: one or more names of clean modalities, such as ["av", "none"]; by default all.
        p: the share of impulses.
        snr_convention: "exact" counts the noise's own power, "paper" takes it as 1.
        with_lengths: call model(features, lengths), lengths a dict of int64 [B] by modality.
        split: of the dataset.
        batch_size: samples.
        seed: of the noise.
        device: where features go.

    Returns:
        the points: print it, or take `.rows()`, `.write(path)`, `.points`.

    Raises:
        UserError: one line that names what is wrong.
    """
    import torch

    from .engine.batches import Batches
    from .engine.evaluation import measure
    from .engine.robustness import Point, Robustness
    from .engine.run import make_scheduler
    from .noise import variance

    if split not in dataset.splits:
        raise UserError(f"split: expected one of {', '.join(dataset.splits)}, got {split!r}")
    settings = {"noise.p": p, "noise.snr_convention": snr_convention}
    settings |= {"training.batch_size": batch_size, "training.seed": seed}
    base = override(Config(), settings)
    kinds, ratios, names = _several(noise), _several(snr_db), None if conditions is None else _several(conditions)
    measured = dataset.splits.get("train", dataset.splits[split])
    variances = {name: variance(ragged.take(measured).values) for name, ragged in dataset.modalities.items()}
    batches, points = Batches(dataset, torch.device(device), batch_size), []

    def predict(batch: Any, noisy: dict[str, Tensor], is_noisy: Tensor) -> Tensor:
        logits = []
        for row in is_noisy.tolist():
            chosen = {m: noisy[m] if bad else batch.features[m] for m, bad in zip(noisy, row, strict=True)}
            logits.append(model(chosen, batch.lengths) if with_lengths else model(chosen))
        return torch.stack(logits)

    was_training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        for change in _grid(base.noise, kinds, ratios):
            config = override(base, change)
            scheduler = make_scheduler(variances, config.noise, seed).to(batches.device)
            evaluation = measure(predict, batches, dataset.splits[split], scheduler, seed, names)
            points.append(Point(config.noise, evaluation))
    finally:
        if isinstance(model, torch.nn.Module):
            model.train(was_training)
    return Robustness(f"{dataset.name}, {split}", points)


def _several(given: Any) -> tuple[Any, ...]:
    """One or more, as a tuple."""
    return (given,) if isinstance(given, (str, int, float)) else tuple(given)


def main() -> int:
    """The command."""
    return run_command("evaluate", Options, run)


if __name__ == "__main__":
    sys.exit(main())

"""python -m nmer_fast.train: train NMER under noisy modalities and evaluate it under every condition."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .command import describe_noise, fail_in_one_line, make_folder, parse_steps
from .errors import UserError

DEFAULT_SNR = -10.0


@dataclass(frozen=True)
class Options:
    """Train NMER under noisy modalities, then evaluate it under every incomplete condition.

    Attributes:
        data: "synthetic", the embedded default, or a feature-set file (.npz, docs/formats.md).
        noise: what is added to the unclean modalities.
        snr: signal-to-noise ratio in dB on every modality; -10 unless --steps is given.
        steps: instead of --snr, the paper's T of each modality, as a=140 v=60 l=5.
        p: the share of impulses, for --noise impulse.
        snr_convention: exact counts the noise's own power, paper takes it as 1.
        context: join each utterance with up to this many before it in its group and split.
        epochs: of NMER.
        seed: of weights, order, dropout, noise and conditions.
        compile: compile the training step as one graph.
        device: cpu, cuda, or auto.
        out: folder for the checkpoint and results.json; by default a new one under runs/.
        size: utterances of the synthetic data; by default 850.
        difficulty: of the synthetic data: 2 is hard, 0.5 easy.
    """

    data: str = "synthetic"
    noise: Literal["gaussian", "impulse", "uniform", "laplace", "missing"] = "gaussian"
    snr: float | None = None
    steps: tuple[str, ...] = ()
    p: float = 0.3
    snr_convention: Literal["exact", "paper"] = "exact"
    context: int = 0
    epochs: int = 60
    seed: int = 0
    compile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    device: str = "auto"
    out: Path | None = None
    size: int | None = None
    difficulty: float = 1.0


def run(options: Options, *, quiet: bool = False) -> dict[str, Any]:
    """Train, evaluate, write the checkpoint and results.json.

    Returns:
        what results.json holds.

    Raises:
        UserError: one line that names what is wrong.
    """
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .data import Standardiser
    from .engine.batches import Batches
    from .engine.checkpoint import write_json
    from .engine.console import Report
    from .engine.evaluation import evaluate
    from .engine.run import load_data, make_scheduler, pick_device, save_run, versions
    from .engine.trainer import Recipe, train

    if options.epochs < 1:
        raise UserError(f"epochs: expected 1 or more, got {options.epochs}")
    if not 0 <= options.seed < 2**31:
        raise UserError(f"seed: expected 0 to 2^31-1, got {options.seed}")
    report, device, steps = Report(quiet=quiet), pick_device(options.device), parse_steps(options.steps)
    snr = DEFAULT_SNR if options.snr is None and steps is None and options.noise != "missing" else options.snr
    raw = load_data(options.data, options.size, options.difficulty)
    standardiser = Standardiser.fit(raw)
    data = standardiser(raw).with_context(options.context)
    scheduler = make_scheduler(
        standardiser.variances, noise=options.noise, snr=snr, steps=steps, p=options.p,
        snr_convention=options.snr_convention, seed=options.seed,
    ).to(device)  # fmt: skip
    folder = make_folder(options.out or new_folder(data.name))
    source = options.data if options.data == "synthetic" else str(Path(options.data).resolve())
    stored = {**asdict(options), "data": source, "out": str(folder), "snr": snr}
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
    report.line(f"{data.name}: {counts}; " + ", ".join(f"{name} {dim}-d" for name, dim in data.dims.items()))

    recipe = Recipe(epochs=options.epochs, seed=options.seed, compile=options.compile)
    trained = train(data, scheduler, recipe, device, report)
    checkpoint = save_run(folder, trained, data, standardiser, recipe, stored)
    start = time.perf_counter()
    evaluation = evaluate(
        trained.model, Batches(data, device, recipe.batch_size), data.splits["test"], scheduler, recipe.seed
    )
    trained.seconds["evaluate"] = time.perf_counter() - start

    results = {
        **evaluation.as_dict(),
        "epoch": trained.epoch,
        "losses": trained.losses,
        "config": {**stored, "recipe": asdict(recipe)},
        "versions": versions(),
        "times": trained.seconds,
    }
    write_json(folder / "results.json", results)
    report.table(f"{data.name}, test, {describe_noise(options.noise, snr, steps)}, epoch {trained.epoch}", evaluation)
    times = ", ".join(f"{name} {value:.1f} s" for name, value in trained.seconds.items())
    report.line(f"{times}\nwritten: {folder / 'results.json'}, {checkpoint}")
    return results


def new_folder(name: str) -> Path:
    """A folder under runs/ that no other run has."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    return next(
        p for p in (Path("runs") / f"{stem}{suffix}" for suffix in ("", *map("-{}".format, count(2)))) if not p.exists()
    )


def main() -> int:
    """The command."""
    options = tyro.cli(
        Options,
        prog="python -m nmer_fast.train",
        description="Train NMER under noisy modalities, then evaluate it under every condition.",
    )
    return fail_in_one_line(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

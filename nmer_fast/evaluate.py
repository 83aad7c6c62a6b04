"""python -m nmer_fast.evaluate: a trained checkpoint under noise of any kind and strength, in every condition."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from .command import describe_noise, fail_in_one_line, make_folder, parse_steps
from .errors import UserError


@dataclass(frozen=True)
class Options:
    """Evaluate a checkpoint on the test split under every incomplete condition.

    Attributes:
        checkpoint: a run's folder, or its checkpoint.json.
        data: as for train; by default what the checkpoint was trained on.
        noise: what is added to the unclean modalities; by default the training's.
        snr: one or more signal-to-noise ratios in dB; by default the training's.
        steps: instead of --snr, the paper's T of each modality, as a=140 v=60 l=5.
        p: the share of impulses; by default the training's.
        device: cpu, cuda, or auto.
        out: a file for the results as JSON, one entry for each SNR.
    """

    checkpoint: tyro.conf.Positional[Path]
    data: str | None = None
    noise: Literal["gaussian", "impulse", "uniform", "laplace", "missing"] | None = None
    snr: tuple[float, ...] = ()
    steps: tuple[str, ...] = ()
    p: float | None = None
    device: str = "auto"
    out: Path | None = None


def run(options: Options, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Evaluate, and print a table for each SNR.

    Returns:
        for each SNR what train's results.json holds of the evaluation.

    Raises:
        UserError: one line that names what is wrong.
    """
    from .engine.batches import Batches
    from .engine.checkpoint import write_json
    from .engine.console import Report
    from .engine.evaluation import evaluate
    from .engine.run import load_data, load_run, make_scheduler, pick_device

    if options.snr and options.steps:
        raise UserError(f"snr, steps: expected one of the two, got {options.snr} and {' '.join(options.steps)}")
    if options.out:
        make_folder(options.out.parent)
    report, device = Report(quiet=quiet), pick_device(options.device)
    model, standardiser, state = load_run(options.checkpoint, device)
    trained = state["options"]
    source = options.data or trained["data"]
    raw = load_data(source, trained["size"], trained["difficulty"])
    classes = state["data"]["class_names"]
    unnamed = raw.class_names == [str(i) for i in range(len(raw.class_names))] and len(raw.class_names) <= len(classes)
    if raw.class_names != classes and not unnamed:
        raise UserError(f"{raw.name}: expected the classes {classes}, got {raw.class_names}")
    data = standardiser(replace(raw, class_names=classes)).with_context(trained["context"])
    noise = options.noise or trained["noise"]
    steps = parse_steps(options.steps or (() if options.snr else tuple(trained["steps"])))
    p = trained["p"] if options.p is None else options.p
    ratios: tuple[float | None, ...] = (None,) if steps else options.snr or (trained["snr"],)
    batches = Batches(data, device, state["recipe"]["batch_size"])
    results = []
    for snr in ratios:
        scheduler = make_scheduler(
            standardiser.variances, noise=noise, snr=snr, steps=steps, p=p,
            snr_convention=trained["snr_convention"], seed=trained["seed"],
        ).to(device)  # fmt: skip
        evaluation = evaluate(model, batches, data.splits["test"], scheduler, trained["seed"])
        report.table(f"{data.name}, test, {describe_noise(noise, snr, steps)}, epoch {state['epoch']}", evaluation)
        results.append({"noise": noise, "snr": snr, "steps": steps, **evaluation.as_dict()})
    if options.out:
        write_json(options.out, {"checkpoint": str(options.checkpoint), "data": source, "results": results})
    return results


def main() -> int:
    """The command."""
    options = tyro.cli(
        Options,
        prog="python -m nmer_fast.evaluate",
        description="Evaluate a checkpoint on the test split under every condition.",
    )
    return fail_in_one_line(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

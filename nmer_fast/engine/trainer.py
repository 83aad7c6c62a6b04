"""Training: the teacher, where a system has one, on complete data; its targets once; then the system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..data import FeatureSet
from ..models import Batch, Output, System, Targets, Teaching, system_class
from ..noise import NoiseScheduler
from ..profiling import span, trace
from .batches import Batches, add_noise
from .console import Report
from .distributed import Ranks
from .evaluation import evaluate
from .fit import Fit, part
from .log import Log
from .saving import Saver
from .stopping import StopRequest

Saved = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors and JSON of a run's state."""


@dataclass
class Trained:
    """What training leaves: the model at the kept epoch, which one that was, losses by epoch, seconds by phase.

    `steps` is how many the model took in all.
    """

    model: System
    epoch: int
    losses: list[dict[str, float]]
    seconds: dict[str, float]
    steps: int


def train(
    data: FeatureSet,
    scheduler: NoiseScheduler,
    config: Config,
    device: torch.device,
    report: Report,
    *,
    folder: Path | None = None,
    log: Log | None = None,
    request: StopRequest | None = None,
    state: Mapping[str, Any] | None = None,
    saved: Saved | None = None,
    torch_profile: Path | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Train the config's system on a standardised set.

    Args:
        data: standardised.
        scheduler: of the noise, on the device.
        config: model and training.
        device: to train on.
        report: prints progress.
        folder: where the whole state is saved now and then; nowhere by default.
        log: of scalars.
        request: set from outside to stop after the step at hand.
        state: JSON that is saved with the state.
        saved: a state to go on from, to the bits that an uninterrupted run gives.
        torch_profile: a folder for a trace of three of the system's steps.
        ranks: which of several processes this is; only the first has the epoch's weights that are kept.

    Raises:
        UserError: a loss is no longer finite, or the config does not fit the data.
        Stopped: on request.
    """
    training = config.training
    torch.manual_seed(training.seed)
    classes = len(data.class_names)
    ranks = ranks or Ranks()
    batches = Batches(
        data, device, training.batch_size, padding=config.noise.padding, buckets=training.buckets, ranks=ranks
    )
    saver = Saver(folder, StopRequest() if request is None else request, state or {}, device, ranks)
    if saved and saved[1].get("ranks", 1) != ranks.size:
        report.line(f"resume: {ranks.size} processes now, {saved[1].get('ranks', 1)} before: bits may differ")
    name, seconds, targets = config.model.system, {}, None
    kind = system_class(name)
    past_teacher = saved is not None and saved[1]["fit"]["name"] == name

    teacher = kind.teacher(data.dims, classes, config.model, training.teacher_lambda_cmd)
    ranks.seed_generators(training.seed)
    if teacher is not None:
        fit = teacher_fit(teacher.to(device), batches, config)
        if saved and past_teacher:
            teacher.load_state_dict(part(saved[0], "teacher."))
            fit.seconds = saved[1]["teacher_seconds"]
        else:
            if saved:
                fit.load(*_of_fit(saved))
                saver.restore_generators(saved[0])
            fit.run(report, log, saver)
        start = time.perf_counter()
        targets = teacher_targets(teacher, batches)
        seconds["teacher"] = fit.seconds + time.perf_counter() - start
        saver.others = {f"teacher.{name}": t for name, t in teacher.state_dict().items()}
        saver.state = {**saver.state, "teacher_seconds": seconds["teacher"]}

    model = kind(data.dims, classes, config.model).to(device)
    if teacher is not None:
        model.start_from(teacher)
    step = complete_step(model, config, device) if kind.complete else noisy_step(model, scheduler, config, device)
    if training.compile:
        step = compiled(step)
        seconds["compile"] = _warm_up(step, model, batches, targets, training.seed)
        report.line(f"compiled the step as one graph in {seconds['compile']:.1f} s")
    fit = Fit(
        name, model, step, batches, training, epochs=training.epochs, lr=training.lr, clip=training.clip,
        targets=targets, validate=_validator(model, batches, scheduler, config) if ranks.first else None,
        realised_snr_db=None if kind.complete else scheduler.realised_snr_db,
    )  # fmt: skip
    if saved and past_teacher:
        fit.load(*_of_fit(saved))
        saver.restore_generators(saved[0])
    else:
        saver.save(fit)
    with trace(torch_profile if ranks.first else None) as fit.after_step:
        fit.run(report, log, saver)
    seconds["train"] = fit.seconds
    return Trained(model, fit.kept, fit.history, seconds, fit.epochs * fit.steps)


def _of_fit(saved: Saved) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    return saved[0], saved[1]["fit"]


def complete_step(model: System, config: Config, device: torch.device) -> Callable[[Batch], Output]:
    """From clean batches to losses, for what is trained on complete data."""

    def step(batch: Batch) -> Output:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.amp):
            return model(batch)

    return step


def noisy_step(
    model: System, scheduler: NoiseScheduler, config: Config, device: torch.device
) -> Callable[[Batch], Output]:
    """From clean batches to losses: noise of the batch's seed and draw, then the model."""

    def step(batch: Batch) -> Output:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.amp):
            with span("noise", len(batch.labels)):
                noised = add_noise(scheduler, batch, batch.rng)
            noisy = scheduler.noisy_of_condition[noised.condition]
            output = model(replace(batch, features=noised.features, noisy=noisy, clean=batch.features))
        assert noised.stats is not None
        return Output(output.logits, output.losses, {**output.watched, "noise_stats": noised.stats})

    return step


def _validator(model: System, batches: Batches, scheduler: NoiseScheduler, config: Config) -> Callable[[], Any] | None:
    """Evaluation on the val split, if there is one."""
    rows = batches.data.splits.get("val")
    if rows is None:
        return None
    training = config.training
    return lambda: evaluate(model, batches, rows, scheduler, training.seed, allow_leak=training.allow_leak)


def compiled(step: Callable[[Batch], Output]) -> Callable[[Batch], Output]:
    """The step as one graph for every batch size and length, if its first batch is `all_sizes_differ`'s."""
    torch.compiler.reset()  # an earlier run's graphs are dead, but would count towards the recompile limit
    graph = torch.compile(step, fullgraph=True)

    def call(batch: Batch) -> Output:
        mark_dynamic(batch)
        return graph(batch)

    return call


def mark_dynamic(batch: Batch) -> None:
    """The batch size and every modality's padded length vary from batch to batch."""
    for x in batch.features.values():
        torch._dynamo.maybe_mark_dynamic(x, [0, 1])
    rows = [batch.labels, batch.sample_ids]
    for lengths in (batch.lengths, batch.real_lengths, batch.whole_lengths):
        rows += (lengths or {}).values()
    if batch.targets is not None:
        rows += [batch.targets.joint, batch.targets.invariant]
    for t in rows:
        torch._dynamo.maybe_mark_dynamic(t, 0)


def all_sizes_differ(batch: Batch) -> Batch:
    """The batch with every modality padded to a length of its own: Dynamo takes sizes that are equal for the same."""
    taken, features = {len(batch.labels), batch.whole}, {}
    for name, x in batch.features.items():
        steps = next(t for t in count(x.shape[1], 8) if t not in taken)
        taken.add(steps)
        features[name] = F.pad(x, (0, 0, 0, steps - x.shape[1]))
    return replace(batch, features=features)


def _warm_up(
    step: Callable[[Batch], Output], model: System, batches: Batches, targets: Targets | None, seed: int
) -> float:
    """Compile forward and backward on one batch, changing nothing; the seconds that took."""
    start = time.perf_counter()
    model.train()
    rows = batches.data.splits["train"]
    batch = all_sizes_differ(next(batches.shuffled(rows, seed, 0, targets)))
    buffers = {name: t.clone() for name, t in model.named_buffers()}  # BatchNorm's statistics
    with torch.random.fork_rng():
        step(batch).losses["total"].backward()
    model.zero_grad(set_to_none=True)
    model.load_state_dict(buffers, strict=False)
    return time.perf_counter() - start


def teacher_fit(teacher: Teaching, batches: Batches, config: Config) -> Fit:
    """The teacher's training, on complete data."""
    training = config.training
    teacher.whole_batch = batches.ranks.whole_batch
    return Fit(
        "teacher", teacher, complete_step(teacher, config, batches.device), batches, training,
        epochs=training.teacher_epochs, lr=training.teacher_lr, clip=training.teacher_clip,
    )  # fmt: skip


def teacher_targets(teacher: Teaching, batches: Batches) -> Targets:
    """The trained teacher's targets of every row of the set, made once."""
    teacher.eval()
    parts = [teacher.targets(batch) for batch in batches.in_order(torch.arange(len(batches.data)))]
    return Targets(torch.cat([t.joint for t in parts]), torch.cat([t.invariant for t in parts]))

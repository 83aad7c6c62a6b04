"""Training of a run: first the teacher on complete data, if the system has one; then its targets; then the system."""

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
from ..models import Batch, Output, System, Targets, TeacherSystem, system_class
from ..noise import NoiseScheduler
from ..profiling import span, trace
from .batches import Batches, add_noise
from .console import Report
from .distributed import Ranks
from .evaluation import evaluate
from .fit import Fit, select_prefix
from .inputs import seed_generators
from .log import Log
from .saving import Saver
from .stopping import StopRequest

Saved = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""A saved training state: its tensors and its JSON."""


@dataclass
class Trained:
    """The result of training.

    Attributes:
        model: the trained system, with the weights of the kept epoch.
        epoch: the kept epoch, from 1.
        losses: the mean losses of each epoch, by name.
        seconds: the time in seconds of each phase: teacher, compile, train.
        steps: the total number of training steps of the system.
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
    """Train the config's system on a standardised data set.

    Args:
        data: the standardised samples.
        scheduler: the noise, on the device.
        config: the run's config.
        device: the device of the training.
        report: the printer of progress lines.
        folder: the folder in which the training state is saved; by default nothing is saved.
        log: the TensorBoard log; by default nothing is logged.
        request: the request to stop, which another thread or a signal handler sets; training stops after the current
            step.
        state: the JSON that is saved with every training state.
        saved: the state to resume from; the result has the same bits as that of an uninterrupted run.
        torch_profile: the folder for a trace of three of the system's training steps; by default no trace is made.
        ranks: the processes that train together; only rank 0 ends with the weights of the kept epoch.

    Raises:
        UserError: a loss or a gradient norm is NaN or infinite, or the config does not fit the data.
        Stopped: the request to stop was set; the state is saved.
    """
    training = config.training
    seed_generators(training.seed, device)
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
    if not ranks.is_main:
        seed_generators(ranks.dropout_seed(training.seed), device)
    if teacher is not None:
        fit = teacher_fit(teacher.to(device), batches, config)
        if saved and past_teacher:
            teacher.load_state_dict(select_prefix(saved[0], "teacher."))
            fit.seconds = saved[1]["teacher_seconds"]
        else:
            if saved:
                fit.load(*_of_fit(saved))
                saver.restore_generators(saved[0])
            fit.run(report, log, saver)
        start = time.perf_counter()
        targets = teacher_targets(teacher, batches)
        seconds["teacher"] = fit.seconds + time.perf_counter() - start
        saver.teacher_tensors = {f"teacher.{name}": t for name, t in teacher.state_dict().items()}
        saver.state = {**saver.state, "teacher_seconds": seconds["teacher"]}

    model = kind(data.dims, classes, config.model).to(device)
    if teacher is not None:
        model.start_from_teacher(teacher)
    step = (
        complete_step(model, config, device)
        if kind.trains_on_complete_data
        else noisy_step(model, scheduler, config, device)
    )
    if training.compile:
        step = compiled(step)
        seconds["compile"] = _warm_up(step, model, batches, targets, training.seed)
        report.line(f"compiled the step as one graph in {seconds['compile']:.1f} s")
    fit = Fit(
        name, model, step, batches, training, epochs=training.epochs, lr=training.lr, clip=training.clip,
        targets=targets, validate=_validator(model, batches, scheduler, config) if ranks.is_main else None,
        realised_snr_db=None if kind.trains_on_complete_data else scheduler.realised_snr_db,
    )  # fmt: skip
    if saved and past_teacher:
        fit.load(*_of_fit(saved))
        saver.restore_generators(saved[0])
    else:
        saver.save(fit.snapshot())
    with trace(torch_profile if ranks.is_main else None) as fit.profile_step:
        fit.run(report, log, saver)
    seconds["train"] = fit.seconds
    return Trained(model, fit.kept, fit.history, seconds, fit.epochs * fit.steps)


def _of_fit(saved: Saved) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    return saved[0], saved[1]["fit"]


def complete_step(model: System, config: Config, device: torch.device) -> Callable[[Batch], Output]:
    """Return the training step on complete data: a function from a clean batch to logits and losses."""

    def step(batch: Batch) -> Output:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.amp):
            return model(batch)

    return step


def noisy_step(
    model: System, scheduler: NoiseScheduler, config: Config, device: torch.device
) -> Callable[[Batch], Output]:
    """Return the training step under noise: a function from a clean batch to logits and losses.

    It adds the noise of the batch's (seed, draw) and then calls the model.
    """

    def step(batch: Batch) -> Output:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.amp):
            with span("noise", len(batch.labels)):
                noised = add_noise(scheduler, batch, batch.rng)
            noisy = scheduler.noisy_of_condition[noised.condition]
            output = model(replace(batch, features=noised.features, noisy=noisy, clean=batch.features))
        assert noised.stats is not None
        return Output(output.logits, output.losses, {**output.logged, "noise_stats": noised.stats})

    return step


def _validator(model: System, batches: Batches, scheduler: NoiseScheduler, config: Config) -> Callable[[], Any] | None:
    """Return a function that evaluates the model on the val split, or None without a val split."""
    rows = batches.data.splits.get("val")
    if rows is None:
        return None
    training = config.training
    return lambda: evaluate(model, batches, rows, scheduler, training.seed, allow_leak=training.allow_leak)


def compiled(step: Callable[[Batch], Output]) -> Callable[[Batch], Output]:
    """Compile a training step into one graph for all batch sizes and lengths.

    Its first batch must come from `all_sizes_differ`; otherwise Dynamo would specialise on equal sizes.
    """
    torch.compiler.reset()  # the graphs of an earlier run are unused, but would count towards the recompile limit
    graph = torch.compile(step, fullgraph=True)

    def call(batch: Batch) -> Output:
        mark_dynamic(batch)
        return graph(batch)

    return call


def mark_dynamic(batch: Batch) -> None:
    """Mark the batch size and every modality's padded length as dynamic for Dynamo."""
    for x in batch.features.values():
        torch._dynamo.maybe_mark_dynamic(x, [0, 1])
    rows = [batch.labels, batch.sample_ids]
    for lengths in (batch.lengths, batch.real_lengths, batch.all_ranks_lengths):
        rows += (lengths or {}).values()
    if batch.targets is not None:
        rows += [batch.targets.joint, batch.targets.invariant]
    for t in rows:
        torch._dynamo.maybe_mark_dynamic(t, 0)


def all_sizes_differ(batch: Batch) -> Batch:
    """Pad every modality to a different length, because Dynamo assumes that equal sizes are always equal."""
    taken, features = {len(batch.labels), batch.global_size}, {}
    for name, x in batch.features.items():
        steps = next(t for t in count(x.shape[1], 8) if t not in taken)
        taken.add(steps)
        features[name] = F.pad(x, (0, 0, 0, steps - x.shape[1]))
    return replace(batch, features=features)


def _warm_up(
    step: Callable[[Batch], Output], model: System, batches: Batches, targets: Targets | None, seed: int
) -> float:
    """Compile forward and backward on one batch without changing the model, and return the time in seconds."""
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


def teacher_fit(teacher: TeacherSystem, batches: Batches, config: Config) -> Fit:
    """Return the training loop of the teacher, on complete data."""
    training = config.training
    teacher.gather_batch = batches.ranks.gather_batch
    return Fit(
        "teacher", teacher, complete_step(teacher, config, batches.device), batches, training,
        epochs=training.teacher_epochs, lr=training.teacher_lr, clip=training.teacher_clip,
    )  # fmt: skip


def teacher_targets(teacher: TeacherSystem, batches: Batches) -> Targets:
    """Compute the trained teacher's targets of every row of the set."""
    teacher.eval()
    parts = [teacher.targets(batch) for batch in batches.sequential(torch.arange(len(batches.data)))]
    return Targets(torch.cat([t.joint for t in parts]), torch.cat([t.invariant for t in parts]))

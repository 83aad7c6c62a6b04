"""Training: the teacher on complete data, its targets once, then NMER on noisy data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import FeatureSet
from ..errors import UserError
from ..models import NMER, Batch, NMERConfig, Output, Targets, Teacher
from ..noise import NoiseScheduler
from .batches import Batches
from .console import Report
from .evaluation import Evaluation, evaluate


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's (section 3.3), the teacher's those of the released code.

    Attributes:
        epochs: of NMER.
        batch_size: samples.
        lr: of AdamW; constant for half of the epochs, then linear to 0.
        teacher_epochs: on complete data, half at teacher_lr and half on the way to 0.
        teacher_lr: of AdamW.
        teacher_clip: largest gradient norm of the teacher.
        teacher_lambda_cmd: weight of the distance between its modalities' invariant features.
        seed: of weights, order, dropout, noise and conditions.
        compile: compile the step as one graph.
        model: NMER's sizes and loss weights.
    """

    epochs: int = 60
    batch_size: int = 128
    lr: float = 1e-4
    teacher_epochs: int = 20
    teacher_lr: float = 2e-4
    teacher_clip: float = 0.5
    teacher_lambda_cmd: float = 0.01
    seed: int = 0
    compile: bool = False
    model: NMERConfig = field(default_factory=NMERConfig)


@dataclass
class Trained:
    """What training leaves: the model at the kept epoch, which one that was, losses by epoch, seconds by phase."""

    model: NMER
    epoch: int
    losses: list[dict[str, float]]
    seconds: dict[str, float]


def train(data: FeatureSet, scheduler: NoiseScheduler, recipe: Recipe, device: torch.device, report: Report) -> Trained:
    """Train NMER on a standardised set.

    With a val split the epoch of best average UA on it is kept, without one the last.

    Raises:
        UserError: the loss is no longer finite.
    """
    torch.manual_seed(recipe.seed)
    classes, batches = len(data.class_names), Batches(data, device, recipe.batch_size)
    start = time.perf_counter()
    teacher = train_teacher(
        Teacher(data.dims, classes, recipe.model.dropout, recipe.teacher_lambda_cmd).to(device),
        batches,
        recipe,
        report,
    )
    targets = teacher_targets(teacher, batches)
    seconds = {"teacher": time.perf_counter() - start}
    model = NMER(data.dims, classes, recipe.model).to(device)
    model.encoders.load_state_dict(teacher.encoders.state_dict())  # as in the released code; the paper does not say

    def plain(batch: Batch) -> Output:
        noised = scheduler(batch.features, lengths=batch.lengths, sample_ids=batch.sample_ids, rng=batch.rng)
        noisy = Batch(noised.features, batch.lengths, batch.labels, batch.sample_ids, batch.targets, batch.rng)
        return model(noisy)

    step = compiled(plain) if recipe.compile else plain
    if recipe.compile:
        seconds["compile"] = _warm_up(step, model, batches, targets, recipe)
        report.line(f"compiled the step as one graph in {seconds['compile']:.1f} s")
    start = time.perf_counter()
    epoch, losses = _epochs(step, model, batches, targets, scheduler, recipe, report)
    seconds["train"] = time.perf_counter() - start
    return Trained(model, epoch, losses, seconds)


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
    rows = [*batch.lengths.values(), batch.labels, batch.sample_ids]
    if batch.targets is not None:
        rows += [batch.targets.joint, batch.targets.invariant]
    for t in rows:
        torch._dynamo.maybe_mark_dynamic(t, 0)


def all_sizes_differ(batch: Batch) -> Batch:
    """The batch with every modality padded to a length of its own: Dynamo takes sizes that are equal for the same."""
    taken, features = {len(batch.labels)}, {}
    for name, x in batch.features.items():
        steps = next(t for t in count(x.shape[1], 8) if t not in taken)
        taken.add(steps)
        features[name] = F.pad(x, (0, 0, 0, steps - x.shape[1]))
    return replace(batch, features=features)


def _warm_up(step: Callable[[Batch], Output], model: NMER, batches: Batches, targets: Targets, recipe: Recipe) -> float:
    """Compile forward and backward on one batch, changing nothing; the seconds that took."""
    start = time.perf_counter()
    model.train()
    rows = batches.data.splits["train"]
    batch = all_sizes_differ(next(batches.shuffled(rows, recipe.seed, 0, targets)))
    with torch.random.fork_rng():
        step(batch).losses["total"].backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def train_teacher(teacher: Teacher, batches: Batches, recipe: Recipe, report: Report) -> Teacher:
    """Train on complete data, then freeze."""
    rows = batches.data.splits["train"]
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=recipe.teacher_lr, fused=True)
    schedule = half_then_linear(optimizer, recipe.teacher_epochs)
    with report.epochs("teacher", recipe.teacher_epochs) as advance:
        for epoch in range(recipe.teacher_epochs):
            teacher.train()
            total = torch.zeros((), device=batches.device)
            for batch in batches.shuffled(rows, recipe.seed, epoch):
                optimizer.zero_grad(set_to_none=True)
                loss = teacher(batch).losses["total"]
                loss.backward()
                nn.utils.clip_grad_norm_(teacher.parameters(), recipe.teacher_clip)
                optimizer.step()
                total += loss.detach()
            schedule.step()
            mean = check_finite("teacher", epoch, {"total": total / batches.count(rows)})
            advance(len(rows), f"loss {mean['total']:.3f}")
    return teacher.eval().requires_grad_(False)


def teacher_targets(teacher: Teacher, batches: Batches) -> Targets:
    """The teacher's targets of every row of the set, made once."""
    parts = [teacher.targets(batch) for batch in batches.in_order(torch.arange(len(batches.data)))]
    return Targets(torch.cat([t.joint for t in parts]), torch.cat([t.invariant for t in parts]))


def _epochs(
    step: Callable[[Batch], Output],
    model: NMER,
    batches: Batches,
    targets: Targets,
    scheduler: NoiseScheduler,
    recipe: Recipe,
    report: Report,
) -> tuple[int, list[dict[str, float]]]:
    """All epochs; leaves the kept epoch's weights in the model, and returns its number (from 1) and all losses."""
    splits = batches.data.splits
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, fused=True)
    schedule = half_then_linear(optimizer, recipe.epochs)
    best, kept, weights, history = -1.0, recipe.epochs, None, []
    with report.epochs("nmer", recipe.epochs) as advance:
        for epoch in range(recipe.epochs):
            model.train()
            totals: dict[str, Tensor] = {}
            for batch in batches.shuffled(splits["train"], recipe.seed, epoch, targets):
                optimizer.zero_grad(set_to_none=True)
                losses = step(batch).losses
                losses["total"].backward()
                optimizer.step()
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value.detach()
            schedule.step()
            steps = batches.count(splits["train"])
            history.append(check_finite("nmer", epoch, {name: value / steps for name, value in totals.items()}))
            note = f"loss {history[-1]['total']:.3f}"
            if "val" in splits:
                result: Evaluation = evaluate(model, batches, splits["val"], scheduler, recipe.seed)
                note += f"  val UA {100 * result.average['ua']:.2f} %"
                if result.average["ua"] > best:
                    best, kept = result.average["ua"], epoch + 1
                    weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
            advance(len(splits["train"]), note)
    if weights is not None:
        model.load_state_dict(weights)
    return kept, history


def half_then_linear(optimizer: torch.optim.Optimizer, epochs: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate's factor: 1 for the first half of the epochs, then linear to 0."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, 2 * (1 - epoch / epochs)))


def check_finite(what: str, epoch: int, losses: dict[str, Tensor]) -> dict[str, float]:
    """Losses as floats; read once an epoch, so that no step waits for the device."""
    values = {name: value.item() for name, value in losses.items()}
    for name, value in values.items():
        if value != value or abs(value) == float("inf"):
            raise UserError(f"{what}: the loss '{name}' became {value} in epoch {epoch + 1}; expected a finite number")
    return values

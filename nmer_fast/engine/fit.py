"""One model's training, epoch by epoch; from its state, saved after any step, it goes on to the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from ..errors import UserError
from ..models import Batch, Output, Targets
from ..profiling import span
from .batches import Batches
from .console import Report
from .evaluation import Evaluation
from .log import Log, Writer
from .saving import Saver
from .stopping import StopRequest


class Fit:
    """Trains a model on the train split.

    Args:
        name: "teacher", or the system's.
        model: whose parameters are trained.
        step: from a batch to losses, the model's forward under noise.
        batches: of the data set.
        training: seed, optimizer, clipping, selection.
        epochs: how many.
        lr: constant for half of them, then linear to 0.
        clip: largest gradient norm, or None.
        targets: the teacher's, for the batches.
        validate: evaluates the model on the val split, if there is one.
        realised_snr_db: from the step's noise statistics to decibels by modality.

    Attributes:
        epoch: epochs that are over.
        step_in_epoch: steps that are over in the present one.
        history: mean losses by epoch.
        kept: the epoch whose weights `run` leaves, from 1.
        seconds: that training took.
        after_step: called after every step.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        step: Callable[[Batch], Output],
        batches: Batches,
        training: TrainingConfig,
        *,
        epochs: int,
        lr: float,
        clip: float | None,
        targets: Targets | None = None,
        validate: Callable[[], Evaluation] | None = None,
        realised_snr_db: Callable[[Tensor], dict[str, float]] | None = None,
    ) -> None:
        self.name, self.model, self.batches, self.training = name, model, batches, training
        self.epochs, self.lr, self.clip, self.targets = epochs, lr, clip, targets
        self.ranks = batches.ranks
        self.step = self.ranks.parallel(model, step)
        self.validate, self.realised_snr_db = validate, realised_snr_db
        kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(model.parameters(), lr=lr, betas=(training.beta1, 0.999), fused=True)
        self.rows = batches.data.splits["train"]
        self.steps = batches.count(self.rows)
        self.epoch, self.step_in_epoch, self.seconds = 0, 0, 0.0
        self.records: dict[str, list[Tensor]] = {}  # of the present epoch, an entry each step, on the device
        self.merged = 0  # of these entries, those that are of the whole batch, not of this process's rows alone
        self.shares: list[float] = []  # of the batch, in each of the others
        self.history: list[dict[str, float]] = []
        self.kept, self.best = epochs, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self.after_step: Callable[[], None] = lambda: None

    def run(self, report: Report, log: Log | None = None, saver: Saver | None = None) -> None:
        """Train to the end; without log and saver nothing is logged or saved.

        Raises:
            UserError: a loss or gradient is no longer finite; what was saved before stays.
            Stopped: asked to, with the state saved.
        """
        log, saver = log or Log(None), saver or Saver(None, StopRequest(), {}, self.batches.device)
        with (
            report.epochs(self.name, self.epochs, self.epoch) as advance,
            log.at(self.name, self.epoch * self.steps + self.step_in_epoch) as writer,
        ):
            while self.epoch < self.epochs:
                start, first = time.perf_counter(), self.step_in_epoch
                self._steps(saver)
                self.check_finite()  # which waits for the device
                duration = time.perf_counter() - start
                self.seconds += duration
                samples = len(self.rows) * (self.steps - first) // self.steps
                advance(len(self.rows), self._close_epoch(writer, samples / duration))
                saver.after_epoch(self)
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)

    def _steps(self, saver: Saver) -> None:
        """The rest of the present epoch. Nothing here waits for the device."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor(self.epoch, self.epochs)
        seed, first = self.training.seed, self.step_in_epoch
        for batch in self.batches.shuffled(self.rows, seed, self.epoch, self.targets, first=first):
            samples = len(batch.labels)
            self.optimizer.zero_grad(set_to_none=True)
            with span("forward", samples):
                output = self.step(batch)
            with span("backward", samples):
                self.ranks.objective(output.losses["total"], batch).backward()
            with span("optimizer", samples):
                norm = self._clip()
                self.optimizer.step()
            for name, value in {**output.losses, "grad_norm": norm, **output.watched}.items():
                self.records.setdefault(name, []).append(value.detach())
            self.shares.append(samples / batch.whole)
            self.step_in_epoch += 1
            self.after_step()
            if self.step_in_epoch < self.steps:
                saver.after_step(self)

    def _clip(self) -> Tensor:
        """The gradient's norm over all parameters, before they are clipped."""
        if self.clip is None:
            return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        parts = self.model.parts() if self.training.clip_each else [self.model]  # type: ignore[operator]
        norms = [nn.utils.clip_grad_norm_(part.parameters(), self.clip) for part in parts]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _close_epoch(self, writer: Writer, speed: float) -> str:
        """Read what the epoch's steps left, log and validate; a note for the progress line."""
        records = {name: torch.stack(values) for name, values in self.records.items()}
        scalars = {name: values for name, values in records.items() if values.dim() == 1}
        self.history.append({name: fmean(v.tolist()) for name, v in scalars.items() if name != "grad_norm"})
        first, last = self.epoch * self.steps, (self.epoch + 1) * self.steps - 1
        tags = {name if name == "grad_norm" else f"loss/{name}": values for name, values in scalars.items()}
        writer.steps(first, tags)
        writer.scalar("lr", self.optimizer.param_groups[0]["lr"], last)
        writer.scalar("samples_per_second", speed, last)
        if "kl_per_latent" in records:
            writer.latent(records["kl_per_latent"].mean(0), last)
        if self.realised_snr_db is not None:
            for name, snr in self.realised_snr_db(records["noise_stats"].sum(0)).items():
                writer.scalar(f"realised_snr_db/{name}", snr, last)
        self.epoch, self.step_in_epoch, self.records, self.merged = self.epoch + 1, 0, {}, 0
        note = f"loss {self.history[-1]['total']:.3f}"
        if self.validate is not None:
            result = self.validate()
            writer.evaluation("val", result, last)
            note += f"  val UA {100 * result.average['ua']:.2f} %"
            if self.training.select != "last" and result.average["ua"] > self.best:
                self.best, self.kept = result.average["ua"], self.epoch
                self.best_weights = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        writer.flush()
        return note

    def _merge(self) -> None:
        """Make what this process recorded of its rows what all recorded of the whole batches: means, and sums."""
        names = sorted(self.records) if self.shares else []  # in one order everywhere, also after a load
        new = {name: torch.stack(self.records[name][self.merged :]) for name in names}
        if self.ranks.size > 1 and new:
            shares = torch.tensor(self.shares, dtype=torch.float64)
            weights = [torch.ones_like(shares) if name == "noise_stats" else shares for name in new]
            for name, column in zip(new, self.ranks.mean(list(new.values()), weights), strict=True):
                self.records[name][self.merged :] = column.unbind()
        self.merged, self.shares = self.step_in_epoch, []

    def check_finite(self) -> None:
        """Read the present epoch's losses and gradient norms; the first that is not finite ends the run."""
        self._merge()
        scalars = {name: torch.stack(v).tolist() for name, v in self.records.items() if v[0].dim() == 0}
        names = sorted(scalars, key=lambda name: (name == "grad_norm", name == "total"))  # the cause before its sum
        for step in range(self.step_in_epoch):
            for name in names:
                value = scalars[name][step]
                if value != value or abs(value) == float("inf"):
                    what = "gradient norm" if name == "grad_norm" else f"loss '{name}'"
                    raise UserError(
                        f"{self.name}: the {what} became {value} at step {step + 1} of epoch {self.epoch + 1}; "
                        "expected a finite number"
                    )

    def progress(self) -> dict[str, Any]:
        """The state that is no tensor."""
        return {
            "name": self.name,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "history": self.history,
            "kept": self.kept,
            "best": self.best,
            "seconds": self.seconds,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The state that is tensors, random generators aside."""
        out = {f"fit.model.{name}": t for name, t in self.model.state_dict().items()}
        out |= {f"fit.best.{name}": t for name, t in self.best_weights.items()}
        out |= {f"fit.records.{name}": torch.stack(values) for name, values in self.records.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            out |= {f"fit.optimizer.{i}.{name}": t for name, t in state.items()}
        return out

    def load(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        for name in ("epoch", "step_in_epoch", "history", "kept", "best", "seconds"):
            setattr(self, name, progress[name])
        if not (0 <= self.epoch <= self.epochs and 0 <= self.step_in_epoch < self.steps):
            at = f"epoch {self.epoch}, step {self.step_in_epoch}"
            raise UserError(f"resume: expected a whole state of this run, got {at} of {self.epochs} epochs")
        device = self.batches.device
        self.model.load_state_dict(part(tensors, "fit.model."))
        self.best_weights = {name: t.to(device) for name, t in part(tensors, "fit.best.").items()}
        self.records = {name: list(t.to(device).unbind()) for name, t in part(tensors, "fit.records.").items()}
        self.merged = self.step_in_epoch
        states: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.model.parameters())
        for name, t in part(tensors, "fit.optimizer.").items():
            i, _, key = name.partition(".")
            p = parameters[int(i)]  # whose strides its moments need: fused optimizers go by place in memory
            states.setdefault(int(i), {})[key] = torch.empty_like(p, requires_grad=False).copy_(t) if t.dim() else t
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def lr_factor(epoch: int, epochs: int) -> float:
    """Of the learning rate: 1 for the first half of the epochs, then linear to 0."""
    return min(1.0, 2 * (1 - epoch / epochs))

"""The training loop of one model; it can be resumed after any step and then gives the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Snapshot:
    """The training state between two steps; `Fit.load` resumes from it and gives the same bits.

    Attributes:
        tensors: the weights, the optimizer's moments, the best epoch's weights and the records of the current epoch.
        progress: all other state, as JSON: the epoch, the step in the epoch, the losses of earlier epochs.
    """

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


class Observer(Protocol):
    """An object whose methods are called after every step and epoch of the training.

    It may take a snapshot of the state, and may stop the training by raising an exception.
    """

    def after_step(self, snapshot: Callable[[], Snapshot]) -> None:
        """Called after every step of an epoch except the last."""

    def after_epoch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Called at the end of every epoch."""


class Fit:
    """The training loop of one model on the train split.

    Args:
        name: "teacher", or the system's name.
        model: the model whose parameters are trained.
        step: the function from a batch to its losses: noise, if any, and the model's forward pass.
        batches: the data loader.
        training: the settings of seed, optimizer, gradient clipping and the selection of the kept epoch.
        epochs: the number of epochs.
        lr: the learning rate; its schedule is constant for half of the epochs, then decays linearly to 0.
        clip: the maximum gradient norm; None means no gradient clipping.
        targets: the teacher's targets of all samples of the set.
        validate: the function that evaluates the model on the val split; None without a val split.
        realised_snr_db: the function from the summed noise statistics to the realised SNR in dB by modality.

    Attributes:
        epoch: the number of completed epochs.
        step_in_epoch: the number of completed steps in the current epoch.
        history: the mean losses of each completed epoch.
        kept: the epoch, from 1, whose weights the model has after `run`.
        seconds: the time in seconds that training took.
        profile_step: the function that is called after every step, for profiling.
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
        # The current epoch's losses and statistics by name, one tensor for each step, on the device.
        self.records: dict[str, list[Tensor]] = {}
        self.merged = 0  # the number of leading records that hold values of the global batch, not of this rank alone
        self.shares: list[float] = []  # this rank's share of the samples in each step that is not merged yet
        self.history: list[dict[str, float]] = []
        self.kept, self.best = epochs, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self.profile_step: Callable[[], None] = lambda: None

    def run(self, report: Report, log: Log | None = None, observer: Observer | None = None) -> None:
        """Train until the last epoch; the model then has the weights of the kept epoch.

        Args:
            report: the printer of progress lines.
            log: the TensorBoard log; by default nothing is logged.
            observer: the object that is called after every step and epoch, to save the state.

        Raises:
            UserError: a loss or a gradient norm is NaN or infinite; states that were saved before stay usable.
        """
        log = log or Log(None)
        with (
            report.epochs(self.name, self.epochs, self.epoch) as advance,
            log.at(self.name, self.epoch * self.steps + self.step_in_epoch) as writer,
        ):
            while self.epoch < self.epochs:
                start, first = time.perf_counter(), self.step_in_epoch
                self._steps(observer)
                self.check_finite()  # this waits for the device
                duration = time.perf_counter() - start
                self.seconds += duration
                samples = len(self.rows) * (self.steps - first) // self.steps
                advance(len(self.rows), self._close_epoch(writer, samples / duration))
                if observer is not None:
                    observer.after_epoch(self.snapshot)
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)

    def _steps(self, observer: Observer | None) -> None:
        """Train the remaining steps of the current epoch, without waiting for the device."""
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
                self.ranks.scale_loss(output.losses["total"], batch).backward()
            with span("optimizer", samples):
                norm = self._clip()
                self.optimizer.step()
            for name, value in {**output.losses, "grad_norm": norm, **output.logged}.items():
                self.records.setdefault(name, []).append(value.detach())
            self.shares.append(samples / batch.global_size)
            self.step_in_epoch += 1
            self.profile_step()
            if observer is not None and self.step_in_epoch < self.steps:
                observer.after_step(self.snapshot)

    def _clip(self) -> Tensor:
        """Clip the gradients, and return their norm over all parameters before clipping."""
        if self.clip is None:
            return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        parts = self.model.clip_groups() if self.training.clip_each else [self.model]  # type: ignore[operator]
        norms = [nn.utils.clip_grad_norm_(part.parameters(), self.clip) for part in parts]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _close_epoch(self, writer: Writer, speed: float) -> str:
        """End the epoch: log its records, validate, and return a note for the progress line."""
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
        """Combine this rank's records with those of the other ranks: means of losses, sums of noise statistics."""
        names = sorted(self.records) if self.shares else []  # the same order in every rank, also after `load`
        new = {name: torch.stack(self.records[name][self.merged :]) for name in names}
        if self.ranks.size > 1 and new:
            shares = torch.tensor(self.shares, dtype=torch.float64)
            weights = [torch.ones_like(shares) if name == "noise_stats" else shares for name in new]
            for name, column in zip(new, self.ranks.mean(list(new.values()), weights), strict=True):
                self.records[name][self.merged :] = column.unbind()
        self.merged, self.shares = self.step_in_epoch, []

    def check_finite(self) -> None:
        """Check the current epoch's losses and gradient norms.

        Raises:
            UserError: a value is NaN or infinite; the message names the first one.
        """
        self._merge()
        scalars = {name: torch.stack(v).tolist() for name, v in self.records.items() if v[0].dim() == 0}
        names = sorted(scalars, key=lambda name: (name == "grad_norm", name == "total"))  # terms before the total
        for step in range(self.step_in_epoch):
            for name in names:
                value = scalars[name][step]
                if value != value or abs(value) == float("inf"):
                    what = "gradient norm" if name == "grad_norm" else f"loss '{name}'"
                    raise UserError(
                        f"{self.name}: the {what} became {value} at step {step + 1} of epoch {self.epoch + 1}; "
                        "expected a finite number"
                    )

    def snapshot(self) -> Snapshot:
        """Return the training state after the last completed step.

        Raises:
            UserError: a loss or a gradient norm of the current epoch is NaN or infinite, so that the state is useless.
        """
        self.check_finite()
        return Snapshot(self._tensors(), self._progress())

    def _progress(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "history": self.history,
            "kept": self.kept,
            "best": self.best,
            "seconds": self.seconds,
        }

    def _tensors(self) -> dict[str, Tensor]:
        out = {f"fit.model.{name}": t for name, t in self.model.state_dict().items()}
        out |= {f"fit.best.{name}": t for name, t in self.best_weights.items()}
        out |= {f"fit.records.{name}": torch.stack(values) for name, values in self.records.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            out |= {f"fit.optimizer.{i}.{name}": t for name, t in state.items()}
        return out

    def load(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Restore a saved state: the contents of a `Snapshot`."""
        for name in ("epoch", "step_in_epoch", "history", "kept", "best", "seconds"):
            setattr(self, name, progress[name])
        if not (0 <= self.epoch <= self.epochs and 0 <= self.step_in_epoch < self.steps):
            at = f"epoch {self.epoch}, step {self.step_in_epoch}"
            raise UserError(f"resume: expected a whole state of this run, got {at} of {self.epochs} epochs")
        device = self.batches.device
        self.model.load_state_dict(select_prefix(tensors, "fit.model."))
        self.best_weights = {name: t.to(device) for name, t in select_prefix(tensors, "fit.best.").items()}
        self.records = {name: list(t.to(device).unbind()) for name, t in select_prefix(tensors, "fit.records.").items()}
        self.merged = self.step_in_epoch
        states: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.model.parameters())
        for name, t in select_prefix(tensors, "fit.optimizer.").items():
            i, _, key = name.partition(".")
            p = parameters[int(i)]  # fused optimizers need moments with the same strides as the parameter
            states.setdefault(int(i), {})[key] = torch.empty_like(p, requires_grad=False).copy_(t) if t.dim() else t
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, under their names without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def lr_factor(epoch: int, epochs: int) -> float:
    """Return the learning-rate schedule's factor in an epoch: 1 in the first half, then decaying linearly to 0."""
    return min(1.0, 2 * (1 - epoch / epochs))

"""When a run's whole state is saved: once a minute, when it is asked to stop, and when the teacher is ready."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Stopped
from .checkpoint import RESUME, save_checkpoint
from .distributed import Ranks
from .memory import give_back
from .stopping import StopRequest

if TYPE_CHECKING:
    from .fit import Fit

SECONDS = 60.0  # an epoch may end more often than that, but a state of some 100 MB need not be written so often


class Saver:
    """Saves a Fit with all that it depends on.

    Args:
        folder: of the run; without one nothing is saved, and nobody can ask to stop.
        request: looked at after every step.
        state: JSON that goes with it: the run's config and its data's fingerprint.
        device: whose random generator is saved beside the CPU's.
        ranks: that save and stop together, the first for all.

    Attributes:
        others: tensors that go with it: the teacher, once it is trained.
    """

    def __init__(
        self,
        folder: Path | None,
        request: StopRequest,
        state: Mapping[str, Any],
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.folder, self.request, self.state, self.device = folder, request, state, device
        self.others: dict[str, Tensor] = {}
        self.last = time.monotonic()

    def save(self, fit: Fit) -> None:
        """Save now; what training has freed goes back to the system."""
        if self.folder is None:
            return
        generators = {"rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {**self.others, **fit.tensors(), **self.ranks.gather(generators)}
        state = {**self.state, "ranks": self.ranks.size, "fit": fit.progress()}
        folder = self.folder
        self.ranks.first_does(lambda: save_checkpoint(folder, RESUME, tensors, state, keep_before=True))
        give_back()
        self.last = time.monotonic()

    def restore_generators(self, tensors: Mapping[str, Tensor]) -> None:
        """This process's random generators as they were when these were saved, if it was there."""
        own = "" if self.ranks.first else f".{self.ranks.rank}"
        if f"rng.cpu{own}" in tensors:
            torch.set_rng_state(tensors[f"rng.cpu{own}"])
        if f"rng.cuda{own}" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"rng.cuda{own}"], self.device)

    def after_step(self, fit: Fit) -> None:
        """Inside an epoch: save and stop if one process was asked to, all after the same step."""
        if self.folder is None:
            return
        (number,) = self.ranks.agree(self._asked())
        if number:
            fit.check_finite()
            self._stop(fit, self.folder, number)

    def after_epoch(self, fit: Fit) -> None:
        """Between epochs: save now and then; stop if asked to."""
        if self.folder is None:
            return
        due = int(self.ranks.first and time.monotonic() - self.last >= SECONDS)
        number, due = self.ranks.agree(self._asked(), due)
        if number:
            self._stop(fit, self.folder, number)
        if due:
            self.save(fit)

    def _asked(self) -> int:
        """The signal that asked this process to stop, or 0."""
        return self.request.signal or 0 if self.request else 0

    def _stop(self, fit: Fit, folder: Path, number: int) -> None:
        self.save(fit)
        raise Stopped(folder, number)

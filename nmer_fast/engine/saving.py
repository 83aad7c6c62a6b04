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

    Attributes:
        others: tensors that go with it: the teacher, once it is trained.
    """

    def __init__(
        self, folder: Path | None, request: StopRequest, state: Mapping[str, Any], device: torch.device
    ) -> None:
        self.folder, self.request, self.state, self.device = folder, request, state, device
        self.others: dict[str, Tensor] = {}
        self.last = time.monotonic()

    def save(self, fit: Fit) -> None:
        """Save now."""
        if self.folder is None:
            return
        tensors = {**self.others, **fit.tensors(), "rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.folder, RESUME, tensors, {**self.state, "fit": fit.progress()}, keep_before=True)
        self.last = time.monotonic()

    def restore_generators(self, tensors: Mapping[str, Tensor]) -> None:
        """The random generators as they were when these were saved."""
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)

    def after_step(self, fit: Fit) -> None:
        """Inside an epoch: save and stop if asked to."""
        if self.request and self.folder is not None:
            fit.check_finite()
            self._stop(fit, self.folder)

    def after_epoch(self, fit: Fit) -> None:
        """Between epochs: save now and then; stop if asked to."""
        if self.request and self.folder is not None:
            self._stop(fit, self.folder)
        if time.monotonic() - self.last >= SECONDS:
            self.save(fit)

    def _stop(self, fit: Fit, folder: Path) -> None:
        self.save(fit)
        assert self.request.signal is not None
        raise Stopped(folder, self.request.signal)

"""Saving of the training state: once a minute, when a signal asks to stop, and when the teacher is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Stopped
from .checkpoint import RESUME, save_checkpoint
from .distributed import Ranks
from .fit import Snapshot
from .memory import release_freed_memory
from .stopping import StopRequest

SAVE_INTERVAL_S = 60.0  # the least time between two saves; epochs may be shorter, but a state has some 100 MB


class Saver:
    """The observer of `Fit` that saves snapshots, together with the other state of the run.

    Args:
        folder: the run's folder; with None nothing is saved, and requests to stop are ignored.
        request: the request to stop, which is checked after every step.
        state: the JSON that is saved with every snapshot: the run's config and its data's fingerprint.
        device: the device whose random generator is saved in addition to the CPU's.
        ranks: the processes that save and stop together; rank 0 writes for all.

    Attributes:
        teacher_tensors: the tensors that are saved with every snapshot: the teacher's weights, once it is trained.
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
        self.teacher_tensors: dict[str, Tensor] = {}
        self.last = time.monotonic()

    def save(self, snapshot: Snapshot) -> None:
        """Save a snapshot now, and return memory that training has freed to the system."""
        if self.folder is None:
            return
        generators = {"rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {**self.teacher_tensors, **snapshot.tensors, **self.ranks.gather(generators)}
        state = {**self.state, "ranks": self.ranks.size, "fit": snapshot.progress}
        folder = self.folder
        self.ranks.main_does(lambda: save_checkpoint(folder, RESUME, tensors, state, keep_before=True))
        release_freed_memory()
        self.last = time.monotonic()

    def restore_generators(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore this rank's random generators from saved tensors, if the saved state has this rank."""
        own = "" if self.ranks.is_main else f".{self.ranks.rank}"
        if f"rng.cpu{own}" in tensors:
            torch.set_rng_state(tensors[f"rng.cpu{own}"])
        if f"rng.cuda{own}" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"rng.cuda{own}"], self.device)

    def after_step(self, snapshot: Callable[[], Snapshot]) -> None:
        """Save and stop if any rank has received a signal to stop; all ranks stop after the same step.

        Raises:
            Stopped: a rank received a signal to stop; the state is saved.
        """
        if self.folder is None:
            return
        (number,) = self.ranks.all_max(self._asked())
        if number:
            self._stop(snapshot, self.folder, number)

    def after_epoch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Save if the last save is a minute old; save and stop if any rank has received a signal to stop.

        Raises:
            Stopped: a rank received a signal to stop; the state is saved.
        """
        if self.folder is None:
            return
        due = int(self.ranks.is_main and time.monotonic() - self.last >= SAVE_INTERVAL_S)
        number, due = self.ranks.all_max(self._asked(), due)
        if number:
            self._stop(snapshot, self.folder, number)
        if due:
            self.save(snapshot())

    def _asked(self) -> int:
        """Return the number of the signal that asked this process to stop, or 0."""
        return self.request.signal or 0 if self.request else 0

    def _stop(self, snapshot: Callable[[], Snapshot], folder: Path, number: int) -> None:
        self.save(snapshot())
        raise Stopped(folder, number)

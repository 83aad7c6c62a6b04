"""TensorBoard logs of a run: teacher and system are two TensorBoard runs, with scalars by step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .evaluation import Evaluation

ACTIVE = 0.01  # nats; a latent dimension with a lower KL counts as inactive


class Log:
    """The TensorBoard log of a run.

    Args:
        folder: the folder of the event files; None writes nothing.
        every: the number of steps between two entries of a loss.
    """

    def __init__(self, folder: Path | None, every: int = 10) -> None:
        self.folder, self.every = folder, every

    def at(self, name: str, step: int) -> Writer:
        """Return the writer of teacher or system, starting at a step; older entries from that step on are discarded."""
        return Writer(None if self.folder is None else self.folder / name, self.every, step)


class Writer:
    """The writer of one model's scalars; see Log."""

    def __init__(self, folder: Path | None, every: int, first_step: int) -> None:
        self.every, self.writer = every, None
        self.others_hook = threading.excepthook
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            threading.excepthook = self._thread_failed
            self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()  # if it raises, TensorBoard's thread is still about to fail
            threading.excepthook = self.others_hook

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of an OSError (a full disk, say) in TensorBoard's thread: the next entry raises it."""
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
            self.others_hook(args)

    def steps(self, first: int, values: Mapping[str, Tensor]) -> None:
        """Write one entry every `every` steps.

        Args:
            first: the step of the first value.
            values: the values by tag, [steps] each.
        """
        for tag, column in values.items():
            for step, value in enumerate(column.tolist(), first):
                if step % self.every == 0:
                    self.scalar(tag, value, step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Write one entry."""
        if self.writer is not None:
            self.writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Write all entries to the file, before a training state is saved that assumes that they are there."""
        if self.writer is not None:
            self.writer.flush()

    def latent(self, kl: Tensor, step: int) -> None:
        """Write the KL of each latent dimension, and the number of active dimensions; it shows posterior collapse."""
        for dimension, value in enumerate(kl.tolist()):
            self.scalar(f"kl_per_latent/{dimension:03d}", value, step)
        self.scalar("kl_per_latent/active", float((kl > ACTIVE).sum()), step)

    def evaluation(self, split: str, evaluation: Evaluation, step: int) -> None:
        """Write WA and UA of every condition."""
        for name, scores in evaluation.conditions.items():
            self.scalar(f"{split}_wa/{name}", scores.wa, step)
            self.scalar(f"{split}_ua/{name}", scores.ua, step)

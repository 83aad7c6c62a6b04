"""TensorBoard scalars of a run: one TensorBoard run each for teacher and system, by step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .evaluation import Evaluation

ACTIVE = 0.01  # nats; a latent dimension below it says next to nothing

_other_threads_failed = threading.excepthook


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands its error, of a full disk say, to the next entry; a traceback would say it twice."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        _other_threads_failed(args)


class Log:
    """Writes event files under a folder; without a folder it writes nothing.

    Args:
        folder: of the event files.
        every: steps between two entries of a loss.
    """

    def __init__(self, folder: Path | None, every: int = 10) -> None:
        self.folder, self.every = folder, every

    def at(self, name: str, step: int) -> Writer:
        """The writer of teacher or system, which begins at a step: what an earlier run wrote from there on is void."""
        return Writer(None if self.folder is None else self.folder / name, self.every, step)


class Writer:
    """Scalars of one model's training; see Log."""

    def __init__(self, folder: Path | None, every: int, first_step: int) -> None:
        self.every, self.writer = every, None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            threading.excepthook = _thread_failed
            self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def steps(self, first: int, values: Mapping[str, Tensor]) -> None:
        """An entry every so many steps; values by tag, [steps] each."""
        for tag, column in values.items():
            for step, value in enumerate(column.tolist(), first):
                if step % self.every == 0:
                    self.scalar(tag, value, step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One entry."""
        if self.writer is not None:
            self.writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """All entries so far to the file, before a state is saved that counts on them."""
        if self.writer is not None:
            self.writer.flush()

    def latent(self, kl: Tensor, step: int) -> None:
        """KL of each latent dimension, and how many are active: a collapsed posterior shows."""
        for dimension, value in enumerate(kl.tolist()):
            self.scalar(f"kl_per_latent/{dimension:03d}", value, step)
        self.scalar("kl_per_latent/active", float((kl > ACTIVE).sum()), step)

    def evaluation(self, split: str, evaluation: Evaluation, step: int) -> None:
        """WA and UA of every condition."""
        for name, scores in evaluation.conditions.items():
            self.scalar(f"{split}_wa/{name}", scores.wa, step)
            self.scalar(f"{split}_ua/{name}", scores.ua, step)

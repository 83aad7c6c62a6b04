"""The exceptions that end a command early, and the line that is printed on stderr for them."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class UserError(ValueError):
    """An invalid input; the message is one line that names the input and the expected values. Exit status 2."""


class Stopped(Exception):  # noqa: N818 (a stop on request is not an error)
    """A command stopped because Ctrl-C or SIGTERM asked it to.

    Attributes:
        folder: the folder of the run that can be resumed; None if no state was saved.
        signal: the number of the received signal.
        how: a sentence on how to continue, if that is something other than resuming the run in `folder`.
    """

    def __init__(self, folder: Path | None, signal: int, how: str | None = None) -> None:
        super().__init__(folder)
        self.folder, self.signal, self.how = folder, signal, how


def say(text: str) -> None:
    """Print one line on stderr. Under torchrun every process calls this; only the first one of each machine prints."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)


def resume_hint(folder: Path) -> str:
    """Return the command that resumes a run from its saved state, with the same number of processes as now."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = "python" if processes == "1" else f"torchrun --nproc-per-node {processes}"
    return f"go on with: {start} -m nmer_fast.train --resume {folder}"

"""What ends a command before its work is done."""

from pathlib import Path


class UserError(ValueError):
    """Something given is wrong; the message is one line that names it and what was expected. Exit status 2."""


class Stopped(Exception):  # noqa: N818 (no error)
    """Training stopped because it was asked to, and its state is saved.

    Attributes:
        folder: where it goes on from.
        signal: that asked.
    """

    def __init__(self, folder: Path, signal: int) -> None:
        super().__init__(folder)
        self.folder, self.signal = folder, signal

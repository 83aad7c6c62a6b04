"""What ends a command before its work is done."""

from pathlib import Path


class UserError(ValueError):
    """Something given is wrong; the message is one line that names it and what was expected. Exit status 2."""


class Stopped(Exception):  # noqa: N818 (no error)
    """A command stopped because it was asked to.

    Attributes:
        folder: of a run whose saved state goes on from there; None where nothing is saved.
        signal: that asked.
        how: to go on, where that is not by resuming the run in `folder`.
    """

    def __init__(self, folder: Path | None, signal: int, how: str | None = None) -> None:
        super().__init__(folder)
        self.folder, self.signal, self.how = folder, signal, how

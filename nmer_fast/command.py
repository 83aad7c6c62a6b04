"""What the commands share: how they fail, and how they read and describe noise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError


def fail_in_one_line(run: Callable[[], Any]) -> int:
    """Run a command; a user's error is one line on stderr and exit status 2."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_steps(pairs: tuple[str, ...]) -> dict[str, int] | None:
    """a=140 v=60 l=5 as a mapping; nothing as None."""
    steps = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value.isdigit() or int(value) < 1:
            raise UserError(f"steps: expected modality=T with a whole T above 0, such as a=140, got {pair!r}")
        steps[name] = int(value)
    return steps or None


def describe_noise(noise: str, snr: float | None, steps: Mapping[str, int] | None) -> str:
    """For a table's title."""
    if steps:
        return f"{noise} noise of T " + ", ".join(f"{name} {t}" for name, t in steps.items())
    return f"{noise} noise at {snr:g} dB" if snr is not None else noise


def make_folder(folder: Path) -> Path:
    """The output folder, before any work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"out: expected a folder that can be written, got {folder}: {error.strerror}") from None
    return folder

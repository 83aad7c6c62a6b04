"""What the commands share: how they read options, how they end, and how they describe noise."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from itertools import dropwhile, takewhile
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import tyro

from .config import NoiseConfig, describe_ratio
from .errors import Stopped, UserError

Options = TypeVar("Options")


def run_command(command: str, options: type[Options], run: Callable[[Options], Any]) -> int:
    """Read the command line and run; see `fail_in_one_line`."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Stopped(None, number)

    signal.signal(signal.SIGTERM, terminate)
    return fail_in_one_line(lambda: run(parse(command, options)))


def parse(command: str, options: type[Options]) -> Options:
    """The command line as a dataclass; what tyro finds wrong becomes one line."""
    about = (options.__doc__ or "").partition("\n")[0]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, prog=f"python -m nmer_fast.{command}", description=about)
    except SystemExit as end:
        if not end.code:
            raise
    raise UserError(f"{_tyros_complaint(errors.getvalue())} (--help lists the options)")


def _tyros_complaint(box: str) -> str:
    """The first paragraph under the title that tyro prints, boxed or underlined, in this project's words."""
    lines = [line.strip("│─- ") for line in box.splitlines()]
    paragraph = takewhile(bool, dropwhile(lambda line: not line, lines[1:]))
    text = " ".join(paragraph).replace("{None}|", "")
    flag, _, complaint = text.removeprefix("Error parsing ").partition(": ")
    if found := re.match(r"no type matching (\S+) .* from \[(.*?)\]|.* valid parse for arguments: \[(.*)\]", complaint):
        kind, one, several = found.groups()
        return f"{flag}: expected {kind}, got {one}" if kind else f"{flag}: expected other values, got {several}"
    return text


def fail_in_one_line(run: Callable[[], Any]) -> int:
    """Run a command and return its exit status.

    A user's error, or the file system's, is one line on stderr and 2; a stop that was asked for says how to go on, and
    is 0 for SIGTERM and 130 for Ctrl-C.
    """
    try:
        run()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        return 2
    except Stopped as stop:
        return say_stopped(stop)
    except KeyboardInterrupt:
        return say_stopped(Stopped(None, signal.SIGINT))
    return 0


def say(text: str) -> None:
    """One line on stderr; of torchrun's processes, which all come to it, from each machine's first alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)


def how_to_go_on(folder: Path) -> str:
    """With a run whose state is saved, in as many processes as here are now."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = "python" if processes == "1" else f"torchrun --nproc-per-node {processes}"
    return f"go on with: {start} -m nmer_fast.train --resume {folder}"


def say_stopped(stop: Stopped) -> int:
    """How to go on, and the exit status."""
    how = stop.how or ("nothing is saved" if stop.folder is None else how_to_go_on(stop.folder))
    say(f"stopped; {how}")
    return 0 if stop.signal == signal.SIGTERM else 130


def parse_steps(pairs: tuple[str, ...]) -> dict[str, int] | Literal["random"] | None:
    """a=140 v=60 l=5 as a mapping; random as it is; nothing as None."""
    if pairs == ("random",):
        return "random"
    steps = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not re.fullmatch("[0-9]+", value) or int(value) < 1:
            raise UserError(f"steps: expected modality=T with a whole T above 0, such as a=140, got {pair!r}")
        if name in steps:
            raise UserError(f"steps: expected one T for {name}, got two")
        steps[name] = int(value)
    return steps or None


def describe_noise(noise: NoiseConfig) -> str:
    """For a table's title."""
    if noise.kind == "missing":
        return "missing modalities"
    if noise.steps == "random":
        return f"{noise.kind} noise of random T up to {noise.length}"
    if noise.steps is not None:
        return f"{noise.kind} noise of T " + ", ".join(f"{name} {t}" for name, t in dict(noise.steps).items())
    assert noise.snr_db is not None
    return f"{noise.kind} noise at {describe_ratio(noise.snr_db)} dB"


def make_folder(folder: Path) -> Path:
    """The output folder, before any work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"out: expected a folder that can be written, got {folder}: {error.strerror}") from None
    return folder

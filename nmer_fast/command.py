"""The code that all commands share: reading the command line, and reporting how a command ended."""

from __future__ import annotations

import contextlib
import io
import re
import signal
from collections.abc import Callable
from dataclasses import fields
from itertools import dropwhile, takewhile
from types import FrameType
from typing import Any, TypeVar

import tyro

from .errors import Stopped, UserError, resume_hint, say

Options = TypeVar("Options")


def run_command(command: str, options: type[Options], run: Callable[[Options], Any]) -> int:
    """Parse the command line and run the command; return the exit status of `fail_in_one_line`."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Stopped(None, number)

    signal.signal(signal.SIGTERM, terminate)
    return fail_in_one_line(lambda: run(parse(command, options)))


def parse(command: str, options: type[Options]) -> Options:
    """Parse the command line into an `options` dataclass.

    Raises:
        UserError: one line with tyro's complaint, if tyro rejects the command line.
        SystemExit: after --help.
    """
    about = (options.__doc__ or "").partition("\n")[0]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, prog=f"python -m nmer_fast.{command}", description=about)
    except SystemExit as end:
        if not end.code:
            if "settings" in {f.name for f in fields(options)}:  # type: ignore[arg-type]
                from .flags import list_fields_asked

                print(list_fields_asked())
            raise
    raise UserError(f"{_tyros_complaint(errors.getvalue())} (--help lists the options)")


def _tyros_complaint(box: str) -> str:
    """Return tyro's error message as one line in this project's style.

    tyro prints a title and the message below it, in a box or under a line; the first paragraph holds the message.
    """
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

    A UserError or an OSError is printed as one line on stderr and gives status 2. After Ctrl-C or SIGTERM, one line
    says how to resume; the status is 130 for Ctrl-C and 0 for SIGTERM.
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


def say_stopped(stop: Stopped) -> int:
    """Print how to resume, and return the exit status: 0 for SIGTERM, 130 for Ctrl-C."""
    how = stop.how or ("nothing is saved" if stop.folder is None else resume_hint(stop.folder))
    say(f"stopped; {how}")
    return 0 if stop.signal == signal.SIGTERM else 130

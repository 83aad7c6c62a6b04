"""Handling of Ctrl-C and SIGTERM: training finishes the current step, saves its state and stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A request to stop; it is true once a signal has been received.

    Attributes:
        signal: the number of the received signal; None if there was none.
    """

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals(*, quiet: bool = False) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C raises KeyboardInterrupt at once.

    The request is announced on stderr, unless `quiet` is set because another process announces it. Outside the main
    thread, where Python allows no signal handlers, signals keep their previous effect.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request and not quiet:  # os.write, since the signal may have interrupted Python's buffers
            os.write(2, b"stopping after this step; Ctrl-C again stops at once and loses it\n")
        request.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

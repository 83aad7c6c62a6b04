"""Ctrl-C and SIGTERM: asked to stop, training ends after the step at hand and leaves its state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked to stop, and by which signal."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals(*, quiet: bool = False) -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C or SIGTERM is a request; a second Ctrl-C interrupts at once, as ever.

    It is said on stderr, unless `quiet`, where another process says it.
    Outside the main thread, where Python allows no handlers, signals do what they did.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request and not quiet:  # past Python's buffers, which the signal may have interrupted
            os.write(2, b"stopping after this step; Ctrl-C again stops at once and loses it\n")
        request.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

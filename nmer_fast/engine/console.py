"""What a run prints: progress bars on a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .evaluation import Evaluation

Advance = Callable[[int, str], None]
"""Called with samples done and a note; once each epoch."""


class Report:
    """Prints to one stream; `quiet` prints nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        width = None if sys.stdout.isatty() else 100
        self.console = Console(file=sys.stdout, quiet=quiet, highlight=False, width=width, soft_wrap=True)

    def line(self, text: str) -> None:
        """One line of text, as it is."""
        self.console.print(text, markup=False)

    @contextmanager
    def epochs(self, title: str, total: int) -> Iterator[Advance]:
        """Progress over epochs with loss, speed and time left."""
        start, done, samples = time.perf_counter(), 0, 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        task = bar.add_task(title, total=total, note="")

        def advance(count: int, note: str) -> None:
            nonlocal done, samples
            done, samples = done + 1, samples + count
            elapsed = time.perf_counter() - start
            text = f"{note}  {samples / elapsed:,.0f} samples/s"
            bar.update(task, advance=1, note=text)
            if not self.console.is_terminal and (done == total or done % max(total // 10, 1) == 0):
                left = elapsed / done * (total - done)
                self.line(f"{title} {done}/{total}  {text}  {left:.0f} s left")

        with bar:
            yield advance

    def table(self, title: str, evaluation: Evaluation) -> None:
        """WA, UA and F1 in percent by condition, the average, and the realised SNR."""
        table = Table(title=title, title_justify="left", caption_justify="left")
        for column in ("clean", "WA %", "UA %", "F1 %", "n"):
            table.add_column(column, justify="left" if column == "clean" else "right")
        conditions = evaluation.conditions
        for name, s in conditions.items():
            if name == "none":
                average = evaluation.average
                cells = (f"{100 * average[metric]:.2f}" for metric in ("wa", "ua", "f1"))
                table.add_section()
                table.add_row(f"average of {len(conditions) - 2 or 1}", *cells, "")
                table.add_section()
            table.add_row(name, *(f"{100 * value:.2f}" for value in (s.wa, s.ua, s.f1)), str(s.n))
        realised = "  ".join(f"{name} {snr:.2f}" for name, snr in evaluation.snr_db.items())
        table.caption = f"realised SNR, dB: {realised}"
        self.console.print(table)

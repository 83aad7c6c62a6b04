"""What a run prints: progress bars on a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .evaluation import METRICS, Evaluation

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

    def print(self, table: Table) -> None:
        """A table."""
        self.console.print(table)

    @contextmanager
    def epochs(self, title: str, total: int, first: int = 0) -> Iterator[Advance]:
        """Progress over epochs, from the first on, with loss, speed and time left."""
        start, done, samples = time.perf_counter(), first, 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        task = bar.add_task(title, total=total, completed=first, note="")

        def advance(count: int, note: str) -> None:
            nonlocal done, samples
            done, samples = done + 1, samples + count
            elapsed = time.perf_counter() - start
            text = f"{note}  {samples / elapsed:,.0f} samples/s"
            bar.update(task, advance=1, note=text)
            if not self.console.is_terminal and (done == total or done % max(total // 10, 1) == 0):
                left = elapsed / (done - first) * (total - done)
                self.line(f"{title} {done}/{total}  {text}  {left:.0f} s left")

        with bar:
            yield advance

    def table(self, title: str, evaluation: Evaluation) -> None:
        """WA, UA and F1 in percent by condition, the average, and the realised SNR."""
        table = Table(title=title, title_justify="left", caption_justify="left")
        for column in ("clean", "WA %", "UA %", "F1 %", "n"):
            table.add_column(column, justify="left" if column == "clean" else "right")
        complete = [name for name in ("none", "all") if name in evaluation.conditions]
        partial = [name for name in evaluation.conditions if name not in complete]

        def add(name: str, metrics: Mapping[str, float], n: str) -> None:
            table.add_row(name, *(f"{100 * metrics[metric]:.2f}" for metric in METRICS), n)

        for name in partial:
            add(name, vars(evaluation.conditions[name]), str(evaluation.conditions[name].n))
        if evaluation.average:
            table.add_section()
            add(f"average of {len(partial) or 1}", evaluation.average, "")
            table.add_section()
        for name in complete:
            add(name, vars(evaluation.conditions[name]), str(evaluation.conditions[name].n))
        realised = "  ".join(f"{name} {snr:.2f}" for name, snr in evaluation.snr_db.items())
        table.caption = f"realised SNR, dB: {realised}"
        self.console.print(table)

"""The console output of a run: progress bars on a terminal, plain lines elsewhere, and the table at the end."""

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
"""The callback at the end of an epoch; it takes the epoch's number of samples and a note, such as the loss."""


class Report:
    """The printer of a run's output, to stdout; with `quiet` it prints nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        width = None if sys.stdout.isatty() else 100
        self.console = Console(file=sys.stdout, quiet=quiet, highlight=False, width=width, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print one line of text without interpreting markup."""
        self.console.print(text, markup=False)

    def print(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    @contextmanager
    def epochs(self, title: str, total: int, first: int = 0) -> Iterator[Advance]:
        """Show the progress over the epochs, with loss, samples per second and time left.

        Args:
            title: the title of the bar or line.
            total: the number of epochs.
            first: the number of epochs that were done before, by a resumed run.
        """
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
        """Print WA, UA and F1 of each condition in percent, their average, and the realised SNR."""
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

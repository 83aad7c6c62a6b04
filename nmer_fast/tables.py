"""The tables of `reproduce` and of `report`: numbers and texts, before they become CSV, Markdown, LaTeX or HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

AVERAGE = "average"
"""The average over the incomplete conditions, wherever the name of a condition is expected."""
NAN = math.nan


@dataclass(frozen=True)
class Cell:
    """A number with its deviation and its published counterpart, or a text.

    Attributes:
        value: the number, NaN where there is none; or the text.
        std: the standard deviation over runs, NaN where there is none.
        published: the paper's number, NaN where there is none.
        best: whether the number is the best of those that it is compared with.
        mark: a sign behind the number, such as "*".
        digits: the decimals that are shown; None shows the number as `{:g}` does.
        source: the number as the results hold it, where the cell shows another unit or fewer decimals.
    """

    value: float | str = NAN
    std: float = NAN
    published: float = NAN
    best: bool = False
    mark: str = ""
    digits: int | None = 4
    source: str = ""

    @property
    def number(self) -> float:
        """The value; NaN if it is a text."""
        return NAN if isinstance(self.value, str) else self.value

    @property
    def difference(self) -> float:
        """The number minus the published one."""
        return self.number - self.published

    @property
    def text(self) -> str:
        """The value as it is shown, without its mark; empty for NaN."""
        return self.value if isinstance(self.value, str) else self.shown(self.value)

    def shown(self, number: float, sign: str = "") -> str:
        """Any number with the cell's decimals; `sign` is "+" if a plus is to be shown."""
        if math.isnan(number):
            return ""
        return f"{number:{sign}g}" if self.digits is None else f"{number:{sign}.{self.digits}f}"


@dataclass(frozen=True)
class Column:
    """A column's header.

    Attributes:
        header: lines from the top down; neighbours whose first lines are equal form a group.
        numeric: whether the column holds numbers; the other columns hold texts.
    """

    header: tuple[str, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: one cell for each column.
        begins: whether a part of the table begins with this row.
    """

    cells: Sequence[Cell]
    begins: bool = False

    @classmethod
    def labelled(cls, labels: Iterable[str], numbers: Iterable[Cell], begins: bool = False) -> Row:
        """A row whose texts stand in front."""
        return cls([*map(Cell, labels), *numbers], begins)

    @property
    def labels(self) -> tuple[str, ...]:
        """The texts."""
        return tuple(cell.value for cell in self.cells if isinstance(cell.value, str))

    @property
    def numbers(self) -> list[Cell]:
        """The cells that hold numbers."""
        return [cell for cell in self.cells if not isinstance(cell.value, str)]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: the stem of its CSV file, or its id in a page.
        title: one line that says what the table shows.
        columns: the headers from left to right.
        rows: the lines from the top down.
        notes: remarks that stand below, each of a sentence or two.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @classmethod
    def labelled(
        cls,
        name: str,
        title: str,
        labels: Iterable[str],
        headers: Iterable[tuple[str, ...]],
        rows: Sequence[Row],
        notes: Sequence[str],
    ) -> Table:
        """A table whose columns of text stand in front of those of numbers."""
        columns = [*(Column((label,), numeric=False) for label in labels), *map(Column, headers)]
        return cls(name, title, columns, rows, notes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The last header line of each column of text."""
        return tuple(column.header[-1] for column in self.columns if not column.numeric)

    @property
    def headers(self) -> list[tuple[str, ...]]:
        """The headers of the columns of numbers."""
        return [column.header for column in self.columns if column.numeric]


def mean_cell(numbers: Iterable[float], published: float = NAN, digits: int = 4) -> Cell:
    """The mean and the sample standard deviation of the numbers that are not NaN."""
    known = [number for number in numbers if not math.isnan(number)]
    mean, std = fmean(known) if known else NAN, stdev(known) if len(known) > 1 else NAN
    return Cell(mean, std, published, digits=digits)


def mark_best(grid: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """The same lines of cells, with the largest number of each column marked as best.

    Numbers are compared as they are shown: those that read the same are tied, and every one of them is marked. A column
    with fewer than two numbers has nothing to compare and gets no mark.
    """
    marked = [list(line) for line in grid]
    for column in range(len(grid[0]) if grid else 0):
        shown = [float(line[column].text) for line in grid if not math.isnan(line[column].number)]
        for line in marked if len(shown) > 1 else ():
            if not math.isnan(line[column].number):
                line[column] = replace(line[column], best=float(line[column].text) == max(shown))
    return marked

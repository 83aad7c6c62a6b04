"""A table of numbers, whatever it will be written as."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

NAN = math.nan


@dataclass(frozen=True)
class Value:
    """One number and what belongs to it; nan is what is not there.

    Attributes:
        mean: the number.
        std: its standard deviation over runs.
        published: the paper's.
        best: of its column.
        mark: behind it, such as "*".
        digits: behind the point.
    """

    mean: float = NAN
    std: float = NAN
    published: float = NAN
    best: bool = False
    mark: str = ""
    digits: int = 4

    @property
    def difference(self) -> float:
        """From the paper's."""
        return self.mean - self.published


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        labels: one for each of the table's.
        values: one for each column.
        begins: a part of the table begins here.
    """

    labels: tuple[str, ...]
    values: list[Value]
    begins: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its CSV.
        title: in one line.
        labels: headers of the text in front.
        columns: headers of the numbers, each from the top down; alike beside each other at the top, they are one group.
        rows: from the top down.
        notes: below, a sentence or two each.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    columns: Sequence[tuple[str, ...]]
    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class Line:
    """What is printed of a row below each other: the numbers, then what belongs to them.

    Attributes:
        labels: the row's, or what this line is.
        cells: texts.
        bold: which of them are.
        begins: a part of the table begins here.
        main: it holds the numbers themselves.
    """

    labels: tuple[str, ...]
    cells: list[str]
    bold: list[bool]
    begins: bool = False
    main: bool = True


def lines_of(table: Table) -> list[Line]:
    """Of each row a line of means; of their standard deviations, published values and differences, if there is one.

    What the labels but the last repeat from the row above is left out.
    """
    lines: list[Line] = []
    for i, row in enumerate(table.rows):
        labels = list(row.labels)
        if i and not row.begins:
            for k, above in enumerate(table.rows[i - 1].labels[:-1]):
                if labels[k] != above:
                    break
                labels[k] = ""
        lines += _lines_of_row(replace(row, labels=tuple(labels)))
    return lines


def _lines_of_row(row: Row) -> list[Line]:
    main = [_text(v.mean, v.digits) + (v.mark if not math.isnan(v.mean) else "") for v in row.values]
    lines = [Line(row.labels, main, [v.best for v in row.values], row.begins)]
    parts = {
        "± std": [_text(v.std, v.digits) for v in row.values],
        "published": [_text(v.published, v.digits) for v in row.values],
        "difference": [_text(v.difference, v.digits, "+") for v in row.values],
    }
    for name, cells in parts.items():
        if any(cells):
            lines.append(Line(("",) * (len(row.labels) - 1) + (name,), cells, [False] * len(cells), main=False))
    return lines


def _text(number: float, digits: int, sign: str = "") -> str:
    return "" if math.isnan(number) else f"{number:{sign}.{digits}f}"


def value_of(numbers: Iterable[float], published: float = NAN, digits: int = 4) -> Value:
    """The mean and standard deviation of those that are numbers."""
    there = [number for number in numbers if not math.isnan(number)]
    mean, std = fmean(there) if there else NAN, stdev(there) if len(there) > 1 else NAN
    return Value(mean, std, published, digits=digits)


def mark_best(rows: Sequence[Row]) -> list[Row]:
    """The same rows, with the largest mean of each column marked as best; of one number none is."""
    marked = [list(row.values) for row in rows]
    for c in range(len(rows[0].values) if rows else 0):
        means = [values[c].mean for values in marked if not math.isnan(values[c].mean)]
        for values in marked if len(means) > 1 else ():
            values[c] = replace(values[c], best=values[c].mean >= max(means) - 1e-9)
    return [replace(row, values=values) for row, values in zip(rows, marked, strict=True)]

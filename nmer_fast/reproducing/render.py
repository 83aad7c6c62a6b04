"""Tables rendered for a terminal, as Markdown, as CSV and as LaTeX (booktabs); columns of text stand in front."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

from rich.table import Table as RichTable
from rich.text import Text

from ..tables import Cell, Row, Table

ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "±": r"$\pm$", "*": r"$^{*}$", '"': "''",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A printed line; a row is printed as several lines below each other: its numbers, then what belongs to them.

    Attributes:
        labels: the texts in front, which name the row or say what this line holds.
        numbers: the texts of the columns of numbers.
        bold: whether each of `numbers` is bold.
        begins: whether a part of the table begins here.
        main: whether the line holds the row's numbers themselves.
    """

    labels: tuple[str, ...]
    numbers: list[str]
    bold: list[bool]
    begins: bool = False
    main: bool = True


def lines_of(table: Table) -> list[Line]:
    """The lines of every row: its numbers; then standard deviations, published values and differences, if it has any.

    A label that repeats the one above is left empty, except for the last label of a row.
    """
    lines: list[Line] = []
    for i, row in enumerate(table.rows):
        labels = list(row.labels)
        if i and not row.begins:
            for k, above in enumerate(table.rows[i - 1].labels[:-1]):
                if labels[k] != above:
                    break
                labels[k] = ""
        lines += _lines_of_row(row, tuple(labels))
    return lines


def _lines_of_row(row: Row, labels: tuple[str, ...]) -> list[Line]:
    cells = row.numbers
    main = [cell.text + (cell.mark if cell.text else "") for cell in cells]
    lines = [Line(labels, main, [cell.best for cell in cells], row.begins)]
    parts = {
        "± std": [cell.shown(cell.std) for cell in cells],
        "published": [cell.shown(cell.published) for cell in cells],
        "difference": [cell.shown(cell.difference, "+") for cell in cells],
    }
    for name, texts in parts.items():
        if any(texts):
            lines.append(Line(("",) * (len(labels) - 1) + (name,), texts, [False] * len(texts), main=False))
    return lines


def for_terminal(table: Table, width: int) -> Iterable[RichTable | Text]:
    """The title, the groups of columns, as many beside each other as fit into `width` characters, and the notes."""
    yield Text(f"\n{table.title}", "bold")
    for part in _split(table, width):
        shown = RichTable()
        for label in part.labels:
            shown.add_column(Text(label), vertical="bottom", no_wrap=True)
        for header in part.headers:
            shown.add_column(Text("\n".join(header)), justify="right", no_wrap=True)
        for line in lines_of(part):
            if line.begins and shown.rows:
                shown.add_section()
            cells = [Text(c, "bold" if b else "") for c, b in zip(line.numbers, line.bold, strict=True)]
            shown.add_row(*map(Text, line.labels), *cells, style=None if line.main else "dim")
        yield shown
    for note in table.notes:
        yield Text("\n".join(wrap(note, width)), "dim")


def _split(table: Table, width: int) -> Iterable[Table]:
    """The table cut between groups of columns into parts that are narrow enough; a group is not cut."""
    lines, headers = lines_of(table), table.headers
    fixed = 1 + sum(3 + max(map(len, (h, *(line.labels[i] for line in lines)))) for i, h in enumerate(table.labels))
    widths = [3 + max(map(len, (*header, *(line.numbers[i] for line in lines)))) for i, header in enumerate(headers)]
    parts: list[list[int]] = [[]]
    for _, group in groupby(range(len(headers)), key=lambda i: headers[i][0]):
        columns = list(group)
        if parts[-1] and fixed + sum(widths[i] for i in parts[-1] + columns) > width:
            parts.append([])
        parts[-1] += columns
    for part in parts:
        rows = [Row.labelled(row.labels, [row.numbers[i] for i in part], row.begins) for row in table.rows]
        yield Table.labelled(table.name, table.title, table.labels, [headers[i] for i in part], rows, table.notes)


def as_markdown(tables: Iterable[Table]) -> str:
    """Markdown of the tables, one below the other, each with its title and its notes."""
    return "\n".join(map(_markdown, tables))


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def plain(text: str) -> str:
        return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)

    header = [*map(plain, table.labels), *(plain(" ".join(header)) for header in table.headers)]
    out = [
        f"### {plain(table.title)}",
        "",
        line(header),
        line(["---"] * len(table.labels) + ["--:"] * len(table.headers)),
    ]
    for part in lines_of(table):
        cells = [f"**{plain(c)}**" if b else plain(c) for c, b in zip(part.numbers, part.bold, strict=True)]
        out.append(line([*map(plain, part.labels), *cells]))
    return "\n".join([*out, "", *(f"- {plain(note)}" for note in table.notes), *([""] if table.notes else [])])


def as_csv(table: Table) -> str:
    """CSV with a line for each row, of numbers that are not rounded.

    A column of numbers is followed by columns of its standard deviations, published values and differences, where any
    row has such a number.
    """
    parts = {"": "number", " std": "std", " published": "published", " difference": "difference"}
    columns = [
        (i, " ".join(header) + suffix, name)
        for i, header in enumerate(table.headers)
        for suffix, name in parts.items()
        if name == "number" or any(not math.isnan(getattr(row.numbers[i], name)) for row in table.rows)
    ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*table.labels, *(header for _, header, _ in columns)])
    for row in table.rows:
        writer.writerow([*row.labels, *(_exact(row.numbers[i], name) for i, _, name in columns)])
    return file.getvalue()


def _exact(cell: Cell, name: str) -> str:
    number = getattr(cell, name)
    return "" if math.isnan(number) else repr(number)


def as_latex(tables: Iterable[Table]) -> str:
    r"""LaTeX with a table environment for each table; it needs \usepackage{booktabs}."""
    return "\n".join(["% \\usepackage{booktabs}", *map(_latex, tables)])


def _latex(table: Table) -> str:
    out = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escaped(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(table.headers)}}}",
        r"\toprule",
        *_latex_header(table),
        r"\midrule",
    ]
    for i, line in enumerate(lines_of(table)):
        out += [r"\midrule"] if line.begins and i else []
        out.append(_latex_line(line))
    out += [r"\bottomrule", r"\end{tabular}"]
    notes = [rf"\par\raggedright {escaped(note)}" for note in table.notes]
    return "\n".join([*out, *notes, r"\end{table*}", ""])


def _latex_header(table: Table) -> list[str]:
    """The header line by line; neighbours that are equal, as are all lines above them, share a cell over a rule."""
    out, first, depth = [], len(table.labels), len(table.headers[0])
    for level in range(depth):
        bottom = level == depth - 1
        cells = [escaped(label) if bottom else "" for label in table.labels]
        rules, place = [], first + 1
        for key, group in groupby(table.headers, key=lambda header: header[: level + 1]):
            n = len(list(group))
            if n > 1 and not bottom:
                cells.append(rf"\multicolumn{{{n}}}{{c}}{{{escaped(key[-1])}}}")
                rules.append(rf"\cmidrule(lr){{{place}-{place + n - 1}}}")
            else:
                cells += [escaped(key[-1])] * n
            place += n
        out.append(" & ".join(cells) + r" \\")
        if rules:
            out.append(" ".join(rules))
    return out


def _latex_line(line: Line) -> str:
    cells = [rf"\textbf{{{escaped(c)}}}" if b else escaped(c) for c, b in zip(line.numbers, line.bold, strict=True)]
    return " & ".join([*map(escaped, line.labels), *cells]) + r" \\"


def escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped; a hyphen in front of a number becomes a minus sign."""
    safe = "".join(ESCAPED.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", safe)

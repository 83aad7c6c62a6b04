"""Tables for a terminal, as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from textwrap import wrap

from rich.table import Table as RichTable
from rich.text import Text

from .tables import Line, Table, Value, lines_of

ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "±": r"$\pm$", "*": r"$^{*}$", '"': "''",
}  # fmt: skip


def for_terminal(table: Table, width: int) -> Iterable[RichTable | Text]:
    """Title, groups of columns, as many beside each other as fit, and notes."""
    yield Text(f"\n{table.title}", "bold")
    for part in _split(table, width):
        shown = RichTable()
        for label in part.labels:
            shown.add_column(Text(label), vertical="bottom", no_wrap=True)
        for column in part.columns:
            shown.add_column(Text("\n".join(column)), justify="right", no_wrap=True)
        for line in lines_of(part):
            if line.begins and shown.rows:
                shown.add_section()
            cells = [Text(c, "bold" if b else "") for c, b in zip(line.cells, line.bold, strict=True)]
            shown.add_row(*map(Text, line.labels), *cells, style=None if line.main else "dim")
        yield shown
    for note in table.notes:
        yield Text("\n".join(wrap(note, width)), "dim")


def _split(table: Table, width: int) -> Iterable[Table]:
    """The table cut between groups of columns into parts that are narrow enough; a group is not cut."""
    lines = lines_of(table)
    fixed = 1 + sum(3 + max(map(len, (h, *(line.labels[i] for line in lines)))) for i, h in enumerate(table.labels))
    widths = [
        3 + max(map(len, (*column, *(line.cells[i] for line in lines)))) for i, column in enumerate(table.columns)
    ]
    parts: list[list[int]] = [[]]
    for _, group in groupby(range(len(table.columns)), key=lambda i: table.columns[i][0]):
        columns = list(group)
        if parts[-1] and fixed + sum(widths[i] for i in parts[-1] + columns) > width:
            parts.append([])
        parts[-1] += columns
    for part in parts:
        rows = [replace(row, values=[row.values[i] for i in part]) for row in table.rows]
        yield replace(table, columns=[table.columns[i] for i in part], rows=rows)


def as_markdown(tables: Iterable[Table]) -> str:
    """One below the other, each with its title and its notes."""
    return "\n".join(map(_markdown, tables))


def _markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def plain(text: str) -> str:
        return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)

    header = [*map(plain, table.labels), *(plain(" ".join(column)) for column in table.columns)]
    out = [
        f"### {plain(table.title)}",
        "",
        line(header),
        line(["---"] * len(table.labels) + ["--:"] * len(table.columns)),
    ]
    for part in lines_of(table):
        cells = [f"**{plain(c)}**" if b else plain(c) for c, b in zip(part.cells, part.bold, strict=True)]
        out.append(line([*map(plain, part.labels), *cells]))
    return "\n".join([*out, "", *(f"- {plain(note)}" for note in table.notes), *([""] if table.notes else [])])


def as_csv(table: Table) -> str:
    """A line for each row; a column for each number, and for what belongs to it where any row has that. Not rounded."""
    parts = {"": "mean", " std": "std", " published": "published", " difference": "difference"}
    columns = [
        (i, " ".join(column) + suffix, name)
        for i, column in enumerate(table.columns)
        for suffix, name in parts.items()
        if name == "mean" or any(not math.isnan(getattr(row.values[i], name)) for row in table.rows)
    ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*table.labels, *(header for _, header, _ in columns)])
    for row in table.rows:
        writer.writerow([*row.labels, *(_number(row.values[i], name) for i, _, name in columns)])
    return file.getvalue()


def _number(value: Value, name: str) -> str:
    number = getattr(value, name)
    return "" if math.isnan(number) else repr(number)


def as_latex(tables: Iterable[Table]) -> str:
    r"""A table environment for each; needs \usepackage{booktabs}."""
    return "\n".join(["% \\usepackage{booktabs}", *map(_latex, tables)])


def _latex(table: Table) -> str:
    out = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escaped(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(table.columns)}}}",
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
    """A line for each level; what is alike beside each other, under the same above, is one cell over a rule."""
    out, first, depth = [], len(table.labels), len(table.columns[0])
    for level in range(depth):
        bottom = level == depth - 1
        cells = [escaped(label) if bottom else "" for label in table.labels]
        rules, place = [], first + 1
        for key, group in groupby(table.columns, key=lambda column: column[: level + 1]):
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
    cells = [rf"\textbf{{{escaped(c)}}}" if b else escaped(c) for c, b in zip(line.cells, line.bold, strict=True)]
    return " & ".join([*map(escaped, line.labels), *cells]) + r" \\"


def escaped(text: str) -> str:
    """Text as LaTeX shows it; a minus before a number as one."""
    safe = "".join(ESCAPED.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", safe)

"""The forms of a table: each holds its numbers, whatever the text around them is."""

import csv
import io
import math
import re

import pytest
from rich.console import Console

from nmer_fast.reproducing.render import as_csv, as_latex, as_markdown, escaped, for_terminal
from nmer_fast.tables import Cell, Row, Table

NASTY = r"a_b & 50% #1 {x} \y ~z ^w $v <u> |t| [s] *r* `q`"
COLUMNS = [(f"-{snr} dB", noise, metric) for snr in (10, 20) for noise in ("g&s", "i_p") for metric in ("WA", "UA")]


def table(columns=COLUMNS, labels=("data set", "system")):
    rows = [
        Row.labelled(
            (NASTY, "MEN")[-len(labels) :],
            [Cell(0.5 + i / 100, 0.01, 0.6, i == 1, "*") for i in range(len(columns))],
            True,
        ),
        Row.labelled(
            (NASTY, "[NMER]")[-len(labels) :], [Cell(-0.25 if i else math.nan, digits=1) for i in range(len(columns))]
        ),
    ]
    return Table.labelled("table_x", f"Of {NASTY}", labels, columns, rows, [f"Note: {NASTY}"])


def cells_of(line):
    """How many columns a LaTeX line of a tabular fills."""
    parts = re.split(r"(?<!\\)&", line)
    spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", part) for part in parts]
    return sum(int(span[1]) if span else 1 for span in spans)


def check_latex(text):
    """Braces, dollars and environments are closed in order; every line of a tabular has its columns; nothing is raw."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    for spec, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S):
        for line in body.splitlines():
            if line.endswith(r"\\"):
                assert cells_of(line) == len(spec), line
            else:
                assert re.fullmatch(r"\\(top|mid|bottom)rule|(\\cmidrule\(lr\)\{\d+-\d+\} ?)+", line), line
    bare = re.sub(r"\{[\[\]]\}", "", bare)
    outside = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", bare, flags=re.S)
    outside = re.sub(r"\\label\{tab:\w+\}|\$[^$]*\$", "", outside)
    assert not re.search(r"[&%#_^~<>|\[\]\"]", outside), outside
    inside = re.sub(r"\$[^$]*\$", "", "".join(re.findall(r"\\midrule.*?\\bottomrule", bare, re.S)))
    assert not re.search(r"[%#_^~<>|\"]", inside)


def test_latex_is_closed_escaped_and_has_its_columns():
    text = as_latex([table(), table([("WA",), ("UA",)], ("system",))])
    check_latex(text)
    assert text.count(r"\begin{tabular}") == 2
    assert r"\multicolumn{4}{c}{$-$10 dB} & \multicolumn{4}{c}{$-$20 dB} \\" in text
    assert r"\cmidrule(lr){3-6} \cmidrule(lr){7-10}" in text
    assert r"\multicolumn{2}{c}{g\&s} & \multicolumn{2}{c}{i\_p} & \multicolumn{2}{c}{g\&s}" in text
    assert r"\cmidrule(lr){3-4} \cmidrule(lr){5-6} \cmidrule(lr){7-8} \cmidrule(lr){9-10}" in text
    assert r"& MEN & 0.5000$^{*}$ & \textbf{0.5100$^{*}$} & 0.5200$^{*}$" in text
    assert r" & {[}NMER{]} &  & $-$0.2 & $-$0.2" in text
    assert r" & published & 0.6000 &" in text


@pytest.mark.parametrize("letter", [*NASTY, '"', "±"])
def test_each_special_letter_is_escaped(letter):
    check_latex("\\caption{" + escaped(f"x{letter}y") + "}")


def test_what_latex_makes_of_letters():
    assert escaped("50% of a_b & {c}") == r"50\% of a\_b \& \{c\}"
    assert escaped("\\") == r"\textbackslash{}"
    assert escaped("-10 dB, 2-0, -.5, w-o") == "$-$10 dB, 2-0, $-$.5, w-o"


def test_csv_holds_the_numbers_as_they_are():
    rows = list(csv.DictReader(io.StringIO(as_csv(table()))))
    assert [row["data set"] for row in rows] == [NASTY, NASTY]
    first, second = rows
    assert float(first["-20 dB i_p UA"]) == 0.5 + 7 / 100
    assert float(first["-20 dB i_p UA std"]) == 0.01
    assert float(first["-20 dB i_p UA published"]) == 0.6
    assert float(first["-20 dB i_p UA difference"]) == 0.5 + 7 / 100 - 0.6
    assert second["-10 dB g&s WA"] == second["-20 dB i_p UA published"] == ""
    assert float(second["-20 dB i_p UA"]) == -0.25


def test_csv_has_no_column_that_is_empty():
    plain = Table.labelled("t", "T", ("x",), [("WA",)], [Row.labelled(("a",), [Cell(0.1 + 0.2)])], [])
    assert as_csv(plain) == "x,WA\na,0.30000000000000004\n"


def test_markdown_has_its_cells_and_escapes():
    lines = as_markdown([table()]).splitlines()
    grid = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(cells) for cells in grid} == {2 + len(COLUMNS)}
    assert [cell.strip() for cell in grid[2]][1:4] == ["MEN", r"0.5000\*", r"**0.5100\***"]
    assert [cells[1].strip() for cells in grid[2:]] == ["MEN", "± std", "published", "difference", r"\[NMER\]"]
    assert grid[5][2].strip() == "-0.1000"
    assert lines[0] == r"### Of a\_b & 50% #1 {x} \\y ~z ^w $v \<u\> \|t\| \[s\] \*r\* \`q\`"


@pytest.mark.parametrize("width", [70, 100, 300])
def test_on_a_terminal_nothing_is_cut(width):
    many = table([("-10 dB", n, m) for n in ("g&s", "i_p") for m in ("WA", "UA")] + COLUMNS[4:], ("system",))
    console = Console(file=io.StringIO(), width=width)
    for part in for_terminal(many, width):
        console.print(part)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for i in range(8):
        assert text.count(f"{0.5 + i / 100:.4f}*") == 1
    assert text.count("┏") == (2 if width == 70 else 1)
    assert NASTY.split()[-1] in text

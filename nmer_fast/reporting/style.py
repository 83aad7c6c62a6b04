"""The style of the report's pictures, and their two forms: SVG inside the page, PNG beside it.

A picture is drawn in the light theme's colours. In the SVG each colour becomes a variable of the page's style sheet.
The variable has a light and a dark value, so one drawing reads well on both grounds. Series differ in colour and in
marker.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ..colours import LIGHT, STRENGTH

VARIABLES = {light: f"var(--{name})" for name, light in LIGHT.items()}
MARKERS = "os^Dv<>*XP"
SYMBOLS = dict(zip(MARKERS, "●■▲◆▼◀▶★✖✚", strict=True))
"""Each marker as a character."""
STRENGTH_MAP = LinearSegmentedColormap.from_list("strength", STRENGTH)
FONT = 10.0  # points; a point is a CSS pixel in the page
DPI = 144
SETTINGS: Any = {
    "svg.fonttype": "none",  # text is kept as text and takes the page's font
    "svg.hashsalt": "nmer_fast",
    "text.parse_math": False,  # because a name may hold a dollar sign
    "axes.unicode_minus": True,
    "font.size": FONT,
    "font.family": ["DejaVu Sans"],  # matplotlib brings it along, so pictures are the same everywhere
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": FONT,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlesize": FONT + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": LIGHT["paper"],
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """One series in a legend.

    Attributes:
        label: the name of the series.
        colour: the colour in the light theme, hexadecimal.
        marker: matplotlib's marker; empty for a line or an area.
        dashed: whether the line is dashed.
        bare: whether the marker stands alone, without a line.
    """

    label: str
    colour: str
    marker: str = ""
    dashed: bool = False
    bare: bool = False

    @property
    def css(self) -> str:
        """The colour as CSS."""
        return _variables(self.colour)

    @property
    def symbol(self) -> str:
        """The marker as a character."""
        return SYMBOLS.get(self.marker, "")

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        style = "none" if self.bare else (0, (4, 2)) if self.dashed else "-"
        return {"color": self.colour, "marker": self.marker, "linestyle": style}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        draw: a function that draws on the axes.
        about: a text that says what the panel shows, for readers who do not see it.
    """

    draw: Callable[[Axes], None]
    about: str


@dataclass(frozen=True)
class Picture:
    """Panels that belong together: an SVG each in the page, which puts as many beside each other as fit, and one PNG.

    Attributes:
        name: the name of the PNG file, without its suffix.
        title: the text above the panels.
        panels: the panels, row by row.
        columns: the number of panels beside each other in the PNG.
        size: the width and the height of a panel, in inches.
        legend: the keys of the series, which all panels share.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    columns: int = 2
    size: tuple[float, float] = (5.0, 3.3)
    legend: Sequence[Key] = ()

    def svgs(self) -> Iterator[str]:
        """Each panel as an SVG for the page."""
        for number, panel in enumerate(self.panels):
            with _drawing():
                figure = Figure(figsize=self.size, layout="constrained")
                panel.draw(figure.subplots())
                file = io.StringIO()
                nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
                figure.savefig(file, format="svg", transparent=True, metadata=nothing)
            yield _for_page(file.getvalue(), f"{self.name}-{number}-", panel.about)

    def png(self) -> bytes:
        """All panels with their title and legend as a PNG on an opaque ground."""
        columns = min(self.columns, len(self.panels))
        rows = -(-len(self.panels) // columns)
        entries = max(1, int(columns * self.size[0] / 1.9))
        head = 0.5 + 0.27 * -(-len(self.legend) // entries)
        width, height = columns * self.size[0], rows * self.size[1] + head
        with _drawing():
            figure = Figure(figsize=(width, height), layout="constrained")
            engine = figure.get_layout_engine()
            assert isinstance(engine, ConstrainedLayoutEngine)
            engine.set(w_pad=0.12, h_pad=0.12, rect=(0, 0, 1, 1 - head / height))
            figure.text(0.16 / width, 1 - 0.16 / height, self.title, va="top", weight="bold", size=FONT + 3)
            axes = [ax for row in figure.subplots(rows, columns, squeeze=False) for ax in row]
            for panel, ax in zip(self.panels, axes, strict=False):
                panel.draw(ax)
            for ax in axes[len(self.panels) :]:
                ax.remove()
            if self.legend:
                handles = [Line2D([], [], label=short(key.label), **key.line) for key in self.legend]
                place = (0.06 / width, 1 - 0.4 / height)
                figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=entries)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        return file.getvalue()


def strength_colours(count: int) -> list[str]:
    """As many colours as noises, from the weakest noise to the strongest."""
    return [to_hex(STRENGTH_MAP(i / (count - 1))) for i in range(count)] if count > 1 else [LIGHT["blue"]] * count


def short(name: str, most: int = 24) -> str:
    """A name as one line of at most `most` characters."""
    line = " ".join(name.split())
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


@contextmanager
def _drawing() -> Iterator[None]:
    """A context with the report's matplotlib settings, without warnings of characters that its font lacks."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph")
        yield


def _variables(text: str) -> str:
    """The text with the light theme's colours replaced by CSS variables."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), text)


def _for_page(svg: str, prefix: str, about: str) -> str:
    """An SVG of matplotlib's as a part of the page: smaller, with CSS colours, unique ids and a label."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    width, height = size.groups()
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], prefix), svg[svg.index(">") + 1 :])
    body = re.sub(r"\s*\n\s*", "", body)
    return f'<svg viewBox="0 0 {width} {height}" style="--width:{width}" role="img" aria-label="{escape(about)}">{body}'


def _tag(tag: str, prefix: str) -> str:
    """One tag of the SVG that `_for_page` makes."""
    tag = re.sub(r' id="(?![mp][0-9a-f]{10}\b)[^"]*"|font-family: [^;]*; | transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r'(id="|"#|url\(#)([mp][0-9a-f]{10}\b)', rf"\g<1>{prefix}\g<2>", tag)
    if "base64" in tag:
        return tag
    tag = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), tag)
    return re.sub(r" ?\n", " ", _variables(tag))

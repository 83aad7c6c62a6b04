"""The report's page: sections of tables, pictures and text in one HTML file that needs no other file."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from jinja2 import Environment

from ..colours import COLOURS
from ..tables import Cell
from .style import Key, Picture


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Attributes:
        legend: the keys of the series in the panels.
        svgs: the panels.
        least: the least width of a panel, in CSS pixels.
        caption: the text below the picture.
        png: the name of the PNG file beside the page.
    """

    legend: Sequence[Key]
    svgs: Sequence[str]
    least: int
    caption: str
    png: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        title: the text above the matrix.
        classes: the names of the classes.
        rows: one row for each true class: its name, and the percent (None without samples) and the count of each
            predicted class.
    """

    title: str
    classes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int | None, int]]]]


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Attributes:
        kind: the form in which `content` is shown.
        content: a Table, a Figure, matrices by system, a paragraph, the name of a PNG file (link), blocks to unfold
            (fold), or blocks by the name of an option (choice).
        label: the label of a fold or a choice.
        note: a text beside a fold's label.
        tall: whether a table scrolls inside the page.
    """

    kind: Literal["table", "figure", "matrices", "text", "link", "fold", "choice"]
    content: Any
    label: str = ""
    note: str = ""
    tall: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a title."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Head:
    """The texts above and below the sections.

    Attributes:
        title: the page's title.
        lead: a sentence or two below the title.
        facts: names and values, for the overview.
        foot: the last line of the page.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    foot: str


class Page:
    """Sections and pictures, from which the page and the PNG files are made.

    Attributes:
        sections: the sections in the page's order.
        files: the contents of the PNG files by name.
    """

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.files: dict[str, bytes] = {}

    def add(self, title: str, *blocks: Block | None) -> None:
        """Add a section of the blocks that are not None, if there are any."""
        there = [block for block in blocks if block is not None]
        if there:
            name = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
            self.sections.append(Section(name, title, there))

    def figure(self, picture: Picture, caption: str) -> Block:
        """The block of a picture, whose PNG is added to the files."""
        name = f"{picture.name}.png"
        self.files[name] = picture.png()
        legend = picture.legend if len(picture.legend) > 1 else ()
        least = round(72 * picture.size[0] * 0.86)
        return Block("figure", Figure(legend, list(picture.svgs()), least, caption, name))

    def html(self, head: Head, missing: Sequence[str]) -> bytes:
        """The whole page. Every text from outside this package is escaped, and only the page's own script may run."""
        here = files(__package__)
        script = here.joinpath("page.js").read_text()
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {"shown": shown, "sort_key": sort_key}
        text = environment.from_string(here.joinpath("page.html").read_text()).render(
            head=head, missing=missing, sections=self.sections,
            css=_colours() + here.joinpath("page.css").read_text(), script=script, script_hash=f"sha256-{digest}",
        )  # fmt: skip
        return _with_classes(text).encode()


def choice(label: str, options: Sequence[tuple[str, Sequence[Block]]]) -> Block | None:
    """A block that shows one of several options; None where there are none."""
    return Block("choice", options, label) if options else None


def shown(cell: Cell) -> str:
    """The text of a cell; a negative number has a real minus sign."""
    return cell.text if isinstance(cell.value, str) else cell.text.replace("-", "\N{MINUS SIGN}")


def sort_key(cell: Cell) -> str:
    """The number that the page sorts a cell by, with more digits than its text; empty where the text serves."""
    if cell.source:
        return "" if cell.source == cell.text else cell.source
    return f"{cell.value:.6f}" if cell.digits and not math.isnan(cell.number) else ""


def _colours() -> str:
    """The colours of both themes as CSS variables."""
    values = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in COLOURS.items())
    return f":root{{{values}}}\n"


def _with_classes(text: str) -> str:
    """The page with the styles of its SVGs, which repeat thousands of times, turned into classes."""
    names: dict[str, str] = {}

    def as_class(style: re.Match[str]) -> str:
        return f' class="{names.setdefault(style[1], f"g{len(names)}")}"'

    def shorter(svg: re.Match[str]) -> str:
        return re.sub(r"<[^>]+>", lambda tag: re.sub(r' style="([^"]*)"', as_class, tag[0]), svg[0])

    text = re.sub(r"<svg .*?</svg>", shorter, text, flags=re.S)
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())
    return text.replace("</style>", f"{rules}</style>", 1)

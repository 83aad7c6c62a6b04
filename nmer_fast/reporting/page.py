"""The report's page: sections of tables, pictures and words, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from jinja2 import Environment

from .style import COLOURS, Key, Picture


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Attributes:
        legend: of the panels.
        svgs: the panels.
        least: CSS pixels that a panel needs, in width.
        caption: what is to be seen.
        png: the file beside the page.
    """

    legend: Sequence[Key]
    svgs: Sequence[str]
    least: int
    caption: str
    png: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: of each true class, percent and count that were predicted as each class."""

    title: str
    classes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[int | None, int]]]]


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Attributes:
        kind: which decides how `content` is shown: a Table, a Figure, matrices by system, a paragraph, a PNG's
            name, blocks to unfold, or blocks by the name of an option.
        content: of that kind.
        label: of a fold or a choice.
        note: beside a fold's label.
        tall: a table that scrolls inside the page.
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
    """What stands above and below the sections.

    Attributes:
        title: of the page.
        lead: a sentence or two.
        facts: names and values.
        foot: the last line.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    foot: str


class Page:
    """Collects sections and pictures, and makes the page and the PNG files of them.

    Attributes:
        sections: in order.
        files: content by name, the PNG files'.
    """

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.files: dict[str, bytes] = {}

    def add(self, title: str, *blocks: Block | None) -> None:
        """A section of the blocks that there are, if there is one."""
        there = [block for block in blocks if block is not None]
        if there:
            name = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
            self.sections.append(Section(name, title, there))

    def figure(self, picture: Picture, caption: str) -> Block:
        """A picture as a block, and its PNG among the files."""
        name = f"{picture.name}.png"
        self.files[name] = picture.png()
        legend = picture.legend if len(picture.legend) > 1 else ()
        least = round(72 * picture.size[0] * 0.86)
        return Block("figure", Figure(legend, list(picture.svgs()), least, caption, name))

    def html(self, head: Head, missing: Sequence[str]) -> bytes:
        """The whole page. All that is not this package's own is escaped, and no script but its own may run."""
        here = files(__package__)
        script = here.joinpath("page.js").read_text()
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(here.joinpath("page.html").read_text()).render(
            head=head, missing=missing, sections=self.sections,
            css=_colours() + here.joinpath("page.css").read_text(), script=script, script_hash=f"sha256-{digest}",
        )  # fmt: skip
        return _with_classes(text).encode()


def choice(label: str, options: Sequence[tuple[str, Sequence[Block]]]) -> Block | None:
    """One of several options is shown; nothing of no option."""
    return Block("choice", options, label) if options else None


def _colours() -> str:
    """The themes' colours as variables."""
    values = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in COLOURS.items())
    return f":root{{{values}}}\n"


def _with_classes(text: str) -> str:
    """The page with the styles of its SVGs' tags, which repeat thousands of times, as classes."""
    names: dict[str, str] = {}

    def as_class(style: re.Match[str]) -> str:
        return f' class="{names.setdefault(style[1], f"g{len(names)}")}"'

    def shorter(svg: re.Match[str]) -> str:
        return re.sub(r"<[^>]+>", lambda tag: re.sub(r' style="([^"]*)"', as_class, tag[0]), svg[0])

    text = re.sub(r"<svg .*?</svg>", shorter, text, flags=re.S)
    rules = "".join(f".{name}{{{style}}}\n" for style, name in names.items())
    return text.replace("</style>", f"{rules}</style>", 1)

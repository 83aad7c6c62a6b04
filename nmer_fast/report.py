"""python -m nmer_fast.report: one self-contained page, and its pictures, of a run or of a sweep."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

from .command import run_command
from .errors import UserError
from .files import make_folder
from .flags import option

PAGE = "index.html"
NEEDED = {"jinja2": "Jinja2", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Options:
    """Make a page of a run or of a sweep, with its tables, curves, confusion matrices, losses and representations.

    Attributes:
        folder: the folder of a run or of a sweep.
        out: the folder of the page, index.html, and of its pictures.
    """

    folder: tyro.conf.Positional[Path]
    out: option(Path | None, default="report, in that folder") = None  # type: ignore[valid-type]


def run(options: Options, *, quiet: bool = False) -> Path:
    """Make the page.

    Returns:
        the path of the page.

    Raises:
        UserError: one line that names what is wrong.
    """
    if lacking := [name for module, name in NEEDED.items() if find_spec(module) is None]:
        raise UserError(f"report: expected {', '.join(lacking)}, not installed: pip install 'nmer_fast[report]'")
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .engine.console import Report
    from .files import write_atomically
    from .reporting.collection import read_collection
    from .reporting.page import Page
    from .reporting.sections import add_sections, make_head

    collection, page = read_collection(options.folder.resolve()), Page()
    out = make_folder(options.out or options.folder / "report")
    add_sections(page, collection)
    for name, content in page.files.items():
        write_atomically(out / name, content)
    path = out / PAGE
    write_atomically(path, page.html(make_head(collection), collection.missing))
    size = path.stat().st_size / 1e6
    Report(quiet=quiet).line(f"written: {path} ({size:.1f} MB) and {len(page.files)} pictures")
    return path


def main() -> int:
    """The command."""
    return run_command("report", Options, run)


if __name__ == "__main__":
    sys.exit(main())

"""python -m nmer_fast.prepare: other people's features into one packed store, which opens in milliseconds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from .command import run_command
from .config import Format, Rule
from .errors import UserError


@dataclass(frozen=True)
class Options:
    """Convert a source of features to a packed store, and say what was found in it.

    Attributes:
        source: a file or folder of one of the formats (docs/formats.md).
        out: the store, a .safetensors file.
        format: of the source; auto tells it from what it finds.
        binarise: which are positive, where the source has scores: ge0 (>= 0, as in the paper), gt0 (> 0), or nonzero (>
            0, and utterances of score 0 left out).
    """

    source: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    format: Format = "auto"
    binarise: Rule = "ge0"


def run(options: Options, *, quiet: bool = False) -> None:
    """Read all folds of the source, write the store, print what was found.

    Raises:
        UserError: one line that names what is wrong; nothing is written then.
    """
    if options.out.suffix != ".safetensors":
        raise UserError(f"out: expected a name that ends in .safetensors, got {options.out}")
    if not options.out.parent.is_dir():
        raise UserError(f"out: expected a name in a folder that exists, got {options.out}")
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .data import load_folds, write_store
    from .engine.console import Report

    report = Report(quiet=quiet)
    sets, findings = load_folds(options.source, format=options.format, binarise=options.binarise)
    for line in findings.told():
        report.line(line)
    write_store(sets, options.out, source=options.source if options.source.is_file() else None)
    folds = f"{len(sets)} folds, " if len(sets) > 1 else ""
    size = options.out.stat().st_size / 2**20
    report.line(f"written: {options.out}: {len(sets[0])} samples, {folds}{size:.1f} MiB")


def main() -> int:
    """The command."""
    return run_command("prepare", Options, run)


if __name__ == "__main__":
    sys.exit(main())

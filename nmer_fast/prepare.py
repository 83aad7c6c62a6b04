"""python -m nmer_fast.prepare: pack features of any format into a store, inspect them, or compute features of wavs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from .command import run_command
from .config import Rule
from .errors import UserError
from .flags import choices, option
from .registry import FORMATS

if TYPE_CHECKING:
    from .engine.console import Report


@dataclass(frozen=True)
class Options:
    """Convert a source of features to a packed store, and print what was found in it.

    Attributes:
        paths: SOURCE, a file or folder of one of the formats (docs/formats.md), and OUT, the .safetensors file to
            write. With --audio-dir, OUT alone; with --inspect, none.
        format: the format of the source; auto recognises it.
        binarise: the scores that are positive, if the source has scores: ge0 (>= 0, as in the paper), gt0 (> 0), or
            nonzero (> 0, and utterances of score 0 are left out).
        inspect: a file or folder whose content is printed; nothing is converted then.
        plot: the .png file to which --inspect also draws what it prints.
        audio_dir: a folder of wavs, whose openSMILE descriptors are written to OUT, an .h5; nothing is converted then.
        workers: the number of processes of --audio-dir.
    """

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    format: Annotated[str, tyro.conf.arg(metavar=choices(["auto", *FORMATS, "package.module:attribute"]))] = "auto"
    binarise: Rule = "ge0"
    inspect: option(Path | None, default="none") = None  # type: ignore[valid-type]
    plot: option(Path | None, default="none") = None  # type: ignore[valid-type]
    audio_dir: option(Path | None, default="none") = None  # type: ignore[valid-type]
    workers: option(int | None, default="one for each core") = None  # type: ignore[valid-type]


def run(options: Options, *, quiet: bool = False) -> None:
    """Convert, inspect or extract, as the options say.

    Raises:
        UserError: one line that names what is wrong; nothing is written then.
        Stopped: extraction was ended by Ctrl-C or SIGTERM; the same command resumes it.
    """
    check(options)
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .engine.console import Report

    report = Report(quiet=quiet)
    if options.inspect is not None:
        look_inside(options.inspect, options, report)
    elif options.audio_dir is not None:
        from .preparing.audio import extract

        extract(options.audio_dir, options.paths[0], workers=options.workers, report=report)
    else:
        convert(options, report)


def check(options: Options) -> None:
    """Refuse options that contradict each other."""
    if options.inspect is not None and options.audio_dir is not None:
        raise UserError("inspect, audio-dir: expected one of the two, got both")
    if options.plot is not None and options.inspect is None:
        raise UserError(f"plot: expected with --inspect alone, got {options.plot}")
    if options.workers is not None and options.audio_dir is None:
        raise UserError(f"workers: expected with --audio-dir alone, got {options.workers}")
    expected, form = (0, "no more than --inspect FILE") if options.inspect else (2, "SOURCE OUT")
    if options.audio_dir is not None:
        expected, form = 1, "--audio-dir WAVS OUT"
    if len(options.paths) != expected:
        raise UserError(f"paths: expected {form}, got {' '.join(map(str, options.paths)) or 'none'}")


def convert(options: Options, report: Report) -> None:
    """Read all folds of the source, write the store, and print what was found."""
    source, out = options.paths
    if out.suffix != ".safetensors":
        raise UserError(f"out: expected a name that ends in .safetensors, got {out}")
    if not out.parent.is_dir():
        raise UserError(f"out: expected a name in a folder that exists, got {out}")
    from .data import load_folds, write_store

    sets, findings = load_folds(source, format=options.format, binarise=options.binarise)
    for line in findings.told():
        report.line(line)
    write_store(sets, out, source=source if source.is_file() else None)
    folds = f"{len(sets)} folds, " if len(sets) > 1 else ""
    size = out.stat().st_size / 2**20
    report.line(f"written: {out}: {len(sets[0])} samples, {folds}{size:.1f} MiB")


def look_inside(source: Path, options: Options, report: Report) -> None:
    """Print the content of a source, including values that training would refuse."""
    from .data import load_folds, tolerant
    from .preparing import picture
    from .preparing.inspect import inspect

    if options.plot is not None:
        picture.check(options.plot)
    with tolerant():
        sets, findings = load_folds(source, format=options.format, binarise=options.binarise)
    for line in findings.told():
        report.line(line)
    inspection = inspect(sets)
    inspection.print(report.console)
    if options.plot is not None:
        picture.draw(inspection, options.plot)
        report.line(f"written: {options.plot}")


def main() -> int:
    """The command."""
    return run_command("prepare", Options, run)


if __name__ == "__main__":
    sys.exit(main())

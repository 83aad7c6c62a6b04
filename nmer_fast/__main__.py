"""nmer-fast, or python -m nmer_fast: lists the commands and runs one; `nmer-fast train` is `-m nmer_fast.train`."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from .command import fail_in_one_line
from .errors import UserError


def commands() -> dict[str, str]:
    """What each command does, by name: the modules of this package whose docstring begins with how they are called."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        called, _, about = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].partition(": ")
        if called == f"python -m nmer_fast.{path.stem}":
            found[path.stem] = about
    return found


def main() -> int:
    """List the commands, or run the one that is named with the rest of the command line."""
    known, words = commands(), sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("usage: nmer-fast COMMAND [OPTIONS]      (nmer-fast COMMAND --help lists a command's options)\n")
        print("\n".join(f"  {name:{width}}  {about}" for name, about in known.items()))
        return 0
    name, sys.argv = words[0], [sys.argv[0], *words[1:]]
    if name not in known:
        return fail_in_one_line(lambda: _refuse(name, known))
    return import_module(f"nmer_fast.{name}").main()


def _refuse(name: str, known: dict[str, str]) -> None:
    raise UserError(f"command: expected one of {', '.join(known)}, got {name!r}")


if __name__ == "__main__":
    sys.exit(main())

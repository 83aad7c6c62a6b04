"""The import graph: no cycle, no import of a higher layer, and the picture in docs/design.md is correct."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nmer_fast"
COMMANDS = ("__main__", "evaluate", "prepare", "report", "reproduce", "sweep", "train")


def modules():
    """Return the source file of every module by name; kernels/ is nmer_fast.kernels."""
    files = {path: path.relative_to(ROOT) for path in PACKAGE.rglob("*.py")}
    files |= {path: Path("nmer_fast") / path.relative_to(ROOT) for path in (ROOT / "kernels").rglob("*.py")}
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): path for path, p in files.items()}


def imports(name, path, known):
    """Return the modules of this package that a module imports: at its top, in functions, and for type checking."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found = [f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source for alias in node.names]
        else:
            continue
        yield from (module for module in found if module in known and module != name)


def graph():
    known = modules()
    return {name: set(imports(name, path, known)) for name, path in known.items()}


def room(name):
    """Return the sub-package or the file that a module belongs to; all commands count as one."""
    part = name.split(".")[1] if "." in name else "nmer_fast"
    return "commands" if part in COMMANDS else part


def rooms():
    """Return the imported rooms (sub-packages and files) of each room."""
    out = {}
    for name, targets in graph().items():
        out.setdefault(room(name), set()).update(map(room, targets))
    return {one: targets - {one, "nmer_fast"} for one, targets in out.items() if one != "nmer_fast"}


def test_no_module_is_in_a_circle():
    """A package's __init__ imports its modules, so importing a name from a package counts as importing its module."""
    found = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in graph().items()}
    assert len(list(TopologicalSorter(found).static_order())) == len(found)


def test_no_room_imports_a_command_and_no_command_another():
    for name, targets in graph().items():
        assert "commands" not in map(room, targets), name


def test_the_picture_in_the_design_is_the_truth():
    """Each line of the picture names a room and all rooms that it imports, which must be in the lines above."""
    (block,) = re.findall(r"```imports\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.S)
    shown = {line.split("<-")[0].strip(): line.partition("<-")[2].split() for line in block.splitlines()}
    assert {one: set(targets) for one, targets in shown.items()} == rooms()
    above = set()
    for one, targets in shown.items():
        assert set(targets) <= above, one
        above.add(one)

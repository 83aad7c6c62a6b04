"""The commands in the documentation work."""

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nmer_fast.command import parse
from nmer_fast.registry import SYSTEMS
from nmer_fast.train import config_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readmes_python_runs():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(code, names)
    assert names["eps"].std() == pytest.approx(1, abs=0.02)
    assert names["noisy"]["audio"].shape == (8, 50, 130)
    assert names["z"].shape == (8, 64)
    assert names["kl"].abs().max() == 0


def test_the_python_of_training_md_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured, trained = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.S)
    exec(measured, {})
    assert "WA % over UA %" in capsys.readouterr().out
    exec(trained, {})
    assert capsys.readouterr().out.startswith("runs/from-python {'wa': ")
    assert (tmp_path / "runs" / "from-python" / "results.json").exists()


def test_the_python_of_ops_md_runs():
    shown = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ops.md").read_text(), re.S)), shown)
    assert [tuple(component.shape) for component in shown["noisy"].unbind()] == [(3, 4), (5, 4)]
    assert all(parameter.grad is not None for parameter in shown["program"].parameters())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_python_shown_imports_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec("\n".join(line for line in block.splitlines() if line.startswith(("import ", "from "))), {})


@pytest.fixture
def documented_system(monkeypatch):
    """The system of adding_a_system.md, in this package and in another, so that commands may name it."""
    module = ModuleType("my_package.gated")
    page = (ROOT / "docs" / "adding_a_system.md").read_text()
    monkeypatch.setitem(sys.modules, "my_package", ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], vars(module))
    monkeypatch.setitem(SYSTEMS.own, "gated", "my_package.gated:Gated")


@pytest.mark.usefixtures("documented_system")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_shown_parse(page, monkeypatch):
    """The command accepts every `python -m nmer_fast.<command>` line of a shell block."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
        for name, arguments in re.findall(r"python -m nmer_fast\.(\w+) ([^#\n]*)", block):
            for variable, value in (("$seed", "0"), ("$mosi", "--data mosi.npz --context 4")):
                arguments = arguments.replace(variable, value)
            monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
            options = parse(name, importlib.import_module(f"nmer_fast.{name}").Options)
            if name == "train" and not options.resume and not options.config:
                config_of(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_make_target_named_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target

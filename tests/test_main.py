"""nmer-fast lists the commands and runs them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nmer_fast import __main__ as program

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["evaluate", "prepare", "report", "reproduce", "sweep", "train"]


def test_it_lists_the_commands_one_line_each(capsys, monkeypatch):
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["nmer-fast", *words])
        assert program.main() == 0
        usage, empty, *lines = capsys.readouterr().out.splitlines()
        assert usage.startswith("usage: nmer-fast COMMAND")
        assert not empty
        assert [line.split()[0] for line in lines] == COMMANDS
        assert all(len(line.split()) > 4 for line in lines)


def test_a_command_is_run_with_its_own_words():
    """The error and the exit status are those of `python -m nmer_fast.evaluate nowhere`."""
    runs = [
        subprocess.run([sys.executable, "-m", *words, "nowhere"], capture_output=True, text=True)
        for words in (["nmer_fast.evaluate"], ["nmer_fast", "evaluate"])
    ]
    assert [run.returncode for run in runs] == [2, 2]
    assert runs[0].stderr == runs[1].stderr
    assert runs[0].stderr.startswith("error: nowhere")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys, monkeypatch):
    """--help shows the actual defaults, and no default as None."""
    monkeypatch.setattr(sys, "argv", ["nmer-fast", name, "--help"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert not end.value.code
    text = capsys.readouterr().out
    assert f"usage: python -m nmer_fast.{name}" in text
    assert "None" not in text


def test_an_unknown_command_is_refused(refused):
    assert refused(program.main, "trian") == f"command: expected one of {', '.join(COMMANDS)}, got 'trian'"


def test_the_console_script_is_this_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"nmer-fast": "nmer_fast.__main__:main"}

"""Shared by all tests."""

import sys
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _fixed_torch_state():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def one_thread():
    """For modules that ask for it by `pytestmark`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command's `main` with some words: status 2, and the one line that it says."""

    def refuse(main, *words):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        assert main() == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith("error: ")
        assert stderr.count("\n") == 1
        return stderr[len("error: ") : -1]

    return refuse


@pytest.fixture(scope="session")
def cmu_mosi() -> Path:
    path = SHARED / "data" / "cmu_mosi" / "cmu_mosi.npz"
    if not path.exists():
        pytest.skip("real features shared/data/cmu_mosi/cmu_mosi.npz are not beside this checkout")
    return path

"""If the C++ library cannot be used, the reference serves, and one warning says why and how to build the library."""

import subprocess
import sys

import pytest

from nmer_fast.ops import _library


def test_a_missing_library(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "COMPILED", tmp_path / "_torch_ops.so")
    with pytest.warns(
        RuntimeWarning, match=r"_torch_ops\.so is not built; plain PyTorch serves.*To build it: pip install"
    ):
        assert not _library.load_compiled()


def test_a_broken_library(monkeypatch, tmp_path):
    broken = tmp_path / "_torch_ops.so"
    broken.write_text("no library")
    monkeypatch.setattr(_library, "COMPILED", broken)
    with pytest.warns(RuntimeWarning, match=r"_torch_ops\.so does not load \(.*\); plain PyTorch serves"):
        assert not _library.load_compiled()


def test_a_library_of_another_version(monkeypatch):
    built, wanted = _library.INTERFACE, _library.INTERFACE + 1
    monkeypatch.setattr(_library, "INTERFACE", wanted)
    with pytest.warns(
        RuntimeWarning, match=rf"is of another version \({built}, expected {wanted}\); plain PyTorch serves"
    ):
        assert not _library.load_compiled()


def test_the_reference_serves_with_one_warning():
    """Nothing is used of a build that has no version number, and everything works."""
    code = """
import sys, types
sys.modules["nmer_fast._native"] = types.ModuleType("nmer_fast._native")
from nmer_fast import ops
import torch
y = ops.add_noise(torch.ones(2, 3, requires_grad=True), 0.5, seed=1)
y.sum().backward()
print(ops.compiled, y.shape)
import runpy
runpy.run_module("nmer_fast.ops.__main__", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False torch.Size([2, 3])")
    assert "CPU       plain PyTorch (the reference)" in done.stdout
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"is of another version (0, expected {_library.INTERFACE})" in done.stderr


def test_importing_twice():
    """A notebook reloads a package in place, or forgets its modules and imports it anew."""
    code = """
import importlib, sys, torch
from nmer_fast import ops
def gradient(ops):
    x = torch.ones(2, 3, requires_grad=True)
    ops.add_noise(x, 0.25, seed=1).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 0.5))
    compiled = torch.compile(lambda x: ops.noise_like(x, seed=1), backend="aot_eager", fullgraph=True)
    return compiled(x)
first = gradient(ops)
assert torch.equal(gradient(importlib.reload(ops)), first)
for _ in range(2):
    for name in [name for name in sys.modules if name.startswith("nmer_fast")]:
        del sys.modules[name]
    torch._dynamo.reset()
    from nmer_fast import ops as again
    assert again is not ops and again.compiled == ops.compiled
    assert torch.equal(gradient(again), first)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)

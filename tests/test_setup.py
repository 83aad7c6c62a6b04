"""Installing from source without a working C++ compiler: one line warns, and plain PyTorch serves."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest
import torch

from nmer_fast import _native

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (Path(_native.__file__).name, "_torch_ops.so")
CONSEQUENCE = "Plain PyTorch serves instead, more slowly. For the kernels, install what is missing"


def program(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def build(tmp_path, *options, source=ROOT, **environment):
    """Build the extensions as pip does, with no compiler on the path: the lines of stderr."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", tmp_path / "temp", *options],
        cwd=source,
        env={**kept, "PATH": str(tmp_path / "bin"), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def earlier(folder):
    """The libraries that an earlier build has left in a folder."""
    folder.mkdir(parents=True)
    for name in LIBRARIES:
        (folder / name).write_text("of an earlier build")
    return folder


def copy_of_the_source(tmp_path):
    """What a build reads, without the libraries."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nmer_fast", "kernels", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return source


def test_no_compiler(tmp_path):
    lib = earlier(tmp_path / "lib" / "nmer_fast")
    (warning,) = build(tmp_path, "--build-lib", tmp_path / "lib")
    expected = (
        "warning: nmer_fast is installed without its C++ kernels: this machine lacks a C++ compiler (g++ or clang++)"
    )
    assert warning.startswith(f"{expected}. {CONSEQUENCE}")
    assert list(lib.iterdir()) == []  # libraries of other sources would be taken for those of this version


def test_a_compiler_that_is_not_there(tmp_path):
    (warning,) = build(tmp_path, "--build-lib", tmp_path / "lib", CXX="no-such-g++ -O2")
    assert f"lacks the C++ compiler that CXX names (no-such-g++). {CONSEQUENCE}" in warning


@pytest.mark.parametrize("by_name", [False, True])
def test_a_compiler_that_fails(tmp_path, by_name):
    """Its last lines are shown, and an install in place removes the libraries that stand in the source."""
    (tmp_path / "bin").mkdir()
    failing = program(tmp_path / "bin", "g++", "#!/bin/sh\necho 'internal compiler error: no memory' >&2\nexit 1\n")
    source = copy_of_the_source(tmp_path)
    for name in LIBRARIES:
        (source / "nmer_fast" / name).write_text("of an earlier build")
    options = ("--build-lib", tmp_path / "lib", "--inplace")
    lines = build(tmp_path, *options, source=source, **({"CXX": failing} if by_name else {}))
    assert any("internal compiler error: no memory" in line for line in lines)
    assert [line for line in lines if line.startswith("warning: ")] == lines[-1:]
    assert f"without its C++ kernels: cmake failed, with the lines above. {CONSEQUENCE}" in lines[-1]
    assert not list(source.glob("nmer_fast/*.so"))


def test_a_build_for_elsewhere_leaves_the_source_alone(tmp_path):
    source = copy_of_the_source(tmp_path)
    kept = source / "nmer_fast" / "_torch_ops.so"
    kept.write_text("in use")
    build(tmp_path, "--build-lib", tmp_path / "lib", source=source)
    assert kept.read_text() == "in use"


@pytest.mark.parametrize("editable", [False, True])
def test_pip_installs_and_plain_pytorch_serves(tmp_path, editable):
    source, site = copy_of_the_source(tmp_path), tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "-v",
    ]
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        [*pip, "--no-index", "--target", site, *(["--editable"] if editable else []), source],
        env={**os.environ, "PATH": str(tmp_path / "bin"), "CXX": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("warning: nmer_fast is installed without its C++ kernels") == 1
    assert not list(tmp_path.rglob("*.so"))
    code = f"""
import site, sys
# The finder of the environment that the tests run in would serve first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in finder.__module__]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
sys.path.insert(0, {str(site)!r})
site.addsitedir({str(site)!r})
import torch
from nmer_fast import ops
print(ops.__file__, ops.compiled, ops.noise((2, 3), seed=1).shape)
try:
    import nmer_fast.numpy
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where = source if editable else site
    first, second = done.stdout.splitlines()
    assert first == f"{where}/nmer_fast/ops/__init__.py False torch.Size([2, 3])"
    assert second.startswith("nmer_fast.numpy: the C++ library _native is not built or does not load (cannot import")
    assert "To build it, with a C++ compiler: pip install" in second
    assert done.stderr.count("RuntimeWarning") == 1
    assert "the C++ library _torch_ops.so is not built; plain PyTorch serves instead" in done.stderr


@pytest.mark.parametrize("source", ["torch_ops.cpp", "native.cpp"])
def test_the_sources_compile_without_linuxs_own_calls(tmp_path, source):
    """As on macOS, whose headers have neither MADV_HUGEPAGE and madvise nor CPU_COUNT and sched_getaffinity."""
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys" / "mman.h").write_text(
        "#include_next <sys/mman.h>\n#undef MADV_HUGEPAGE\n#define madvise refused\n"
    )
    lacking = "#undef CPU_COUNT\n#define sched_getaffinity refused\n"
    (tmp_path / "sched.h").write_text(f"#include_next <sched.h>\n{lacking}")
    torch_headers = Path(torch.__file__).parent / "include"
    headers = [torch_headers, pybind11.get_include(), sysconfig.get_path("include")]
    done = subprocess.run(
        [
            *("g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{tmp_path}"),
            *(f"-isystem{folder}" for folder in headers),
            "-DTORCH_TARGET_VERSION=0x020b000000000000",
            ROOT / "csrc" / source,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

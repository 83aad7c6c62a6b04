"""Builds the C++ libraries through CMake where the machine can, and maps kernels/ to the package nmer_fast.kernels.

Without the libraries nmer_fast installs all the same: one line warns, and plain PyTorch serves.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# CMake and Ninja may be packages of an environment that is not activated.
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
LAST_LINES = 30
AGAIN = "pip install --no-build-isolation --force-reinstall --no-deps nmer_fast"


class NotBuiltError(Exception):
    """Says in a line why there are no C++ libraries."""


def found(program: str) -> bool:
    """Whether this machine has the program."""
    return shutil.which(program, path=PATH) is not None


def check_tools() -> None:
    """Raise NotBuiltError that names everything that a build needs and this machine lacks."""
    chosen = shlex.split(os.environ.get("CXX", ""))[:1]
    compiler = f"the C++ compiler that CXX names ({chosen[0]})" if chosen else "a C++ compiler (g++ or clang++)"
    missing = [] if any(map(found, chosen or ("c++", "g++", "clang++"))) else [compiler]
    missing += [name for name in ("cmake", "ninja") if not found(name)]
    missing += [f"the package {name}" for name in ("pybind11", "torch") if find_spec(name) is None]
    if missing:
        raise NotBuiltError(f"this machine lacks {', '.join(missing)}")


def run(*command: str | Path) -> None:
    """Run a step of the build; where it fails, show its last lines."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PATH": PATH}
        )
    except OSError as error:
        raise NotBuiltError(f"{command[0]} does not start ({error})") from None
    if done.returncode:
        print(*done.stdout.splitlines()[-LAST_LINES:], sep="\n", file=sys.stderr)
        raise NotBuiltError(f"{command[0]} failed, with the lines above")
    print(done.stdout)


class CMakeBuild(build_ext):
    """Each extension is a CMake target of its own name. The package gets all of them or none."""

    def get_ext_filename(self, fullname: str) -> str:
        """The torch ops are no Python module: one binary serves every Python, so its name has no ABI tag."""
        name = super().get_ext_filename(fullname)
        return name if fullname.endswith("_native") else str(Path(name).with_name("_torch_ops.so"))

    def run(self) -> None:
        """Build; where that fails, warn and go on without extensions, those of an earlier build included."""
        inplace = self.inplace
        try:
            super().run()
        except NotBuiltError as reason:
            self.inplace = inplace  # which setuptools resets while it builds
            for ext in self.extensions:
                in_source, built = self._get_inplace_equivalent(self.get_finalized_command("build_py"), ext)
                for stale in (built, in_source) if inplace else (built,):
                    Path(stale).unlink(missing_ok=True)
            self.extensions = []
            print(
                f"warning: nmer_fast is installed without its C++ kernels: {reason}. Plain PyTorch serves instead, "
                "more slowly. For the kernels, install what is missing (a compiler is Debian's g++ or Xcode's clang++; "
                f"pip has the rest), then: {AGAIN}",
                file=sys.stderr,
            )

    def build_extensions(self) -> None:
        """Build all targets; setuptools only says where the results go."""
        check_tools()
        import pybind11
        import torch

        build = Path(self.build_temp).resolve() / "cmake"
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": build / "built",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "TORCH_DIR": Path(torch.__file__).parent,
        }
        defines = [f"-D{key}={value}" for key, value in options.items()]
        run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *defines)
        targets = [ext.name.rpartition(".")[2] for ext in self.extensions]
        run("cmake", "--build", build, "--target", *targets)
        for ext in self.extensions:
            to = Path(self.get_ext_fullpath(ext.name))
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(build / "built" / to.name, to)


SOURCES = ["CMakeLists.txt", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("csrc/**/*.*")))]

setup(
    packages=[*find_packages(include=["nmer_fast", "nmer_fast.*"]), "nmer_fast.kernels"],
    package_dir={"nmer_fast.kernels": "kernels"},
    ext_modules=[Extension(f"nmer_fast.{name}", sources=[], depends=SOURCES) for name in ("_native", "_torch_ops")],
    cmdclass={"build_ext": CMakeBuild},
)

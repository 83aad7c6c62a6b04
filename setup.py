"""Builds the C++ libraries through CMake and maps the folder kernels/ to the package nmer_fast.kernels."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Each extension is a CMake target of its own name, built into the package's folder."""

    def get_ext_filename(self, fullname: str) -> str:
        """The torch ops are no Python module: one binary serves every Python, so its name has no ABI tag."""
        name = super().get_ext_filename(fullname)
        return name if fullname.endswith("_native") else str(Path(name).with_name("_torch_ops.so"))

    def build_extension(self, ext: Extension) -> None:
        """Configure and build; setuptools only says where the result goes."""
        import pybind11
        import torch

        build = Path(self.build_temp).resolve() / "cmake"
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": Path(self.get_ext_fullpath(ext.name)).parent.resolve(),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "TORCH_DIR": Path(torch.__file__).parent,
        }
        defines = [f"-D{key}={value}" for key, value in options.items()]
        subprocess.run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *defines], check=True)
        subprocess.run(["cmake", "--build", build, "--target", ext.name.rpartition(".")[2]], check=True)


setup(
    packages=[*find_packages(include=["nmer_fast", "nmer_fast.*"]), "nmer_fast.kernels"],
    package_dir={"nmer_fast.kernels": "kernels"},
    ext_modules=[Extension("nmer_fast._native", sources=[]), Extension("nmer_fast._torch_ops", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

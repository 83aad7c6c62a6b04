"""`python -m nmer_fast.ops` prints the backend of each device, and the versions that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from . import compiled
from ._library import COMPILED, isa, isas


def cuda() -> str:
    """The backend that serves on a GPU."""
    try:
        return f"Triton {version('triton')}"
    except PackageNotFoundError:
        return "plain PyTorch (the reference)"


rows = {
    "nmer_fast": version("nmer_fast"),
    "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
    "python": f"{platform.python_version()}, {platform.machine()}",
    "CPU": f"C++, {isa()} of {', '.join(isas())} ({COMPILED.name})" if compiled else "plain PyTorch (the reference)",
    "CUDA": f"{cuda()}; {'here' if torch.cuda.is_available() else 'not here'}",
}
for name, value in rows.items():
    print(f"{name:10}{value}")

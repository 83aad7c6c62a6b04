"""Compiles a launch for a GPU that this machine does not have: the same cubin and PTX as Triton's own launch makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from .launch import Launch


class _NoDriver(DriverBase):
    """A driver that only names the GPU to compile for. The device number is the capability: one cache for each."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


@contextmanager
def _compiling_for(capability: int) -> Iterator[None]:
    before = driver._active  # None on a machine without a GPU, where reset_active would fail
    driver.set_active(_NoDriver(capability))
    try:
        yield
    finally:
        driver._active = before


def compiled(launch: Launch, capability: int = 80) -> Any:
    """Compile the launch for sm_80 or sm_90: `.asm["ptx"]`, `.asm["cubin"]`, `.metadata`. Reads no tensor."""
    with _compiling_for(capability):
        grid = (launch.programs,)
        return launch.kernel.warmup(**launch.args, **launch.constants, **launch.options, grid=grid)


def runtime_arguments(launch: Launch, kernel: Any) -> list[Any]:
    """List the arguments that the compiled kernel takes: flat, in order, without the compile-time constants."""
    flat: list[Any] = []

    def take(value: Any, kind: Any) -> None:
        if isinstance(kind, (tuple, list)):
            for v, k in zip(value, kind, strict=True):
                take(v, k)
        elif kind != "constexpr":
            flat.append(value)

    arguments = {**launch.args, **launch.constants}
    for name, kind in kernel.src.signature.items():
        take(arguments[name], kind)
    return flat

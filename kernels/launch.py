"""How kernels are launched. A launch is data: a GPU runs it, and tests compile it and run it without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nmer_fast.profiling import span

WARPS = 4


@dataclass(slots=True)
class Launch:
    """A kernel, its number of programs, and its arguments by name, tensors first. `constants` are compiled in."""

    kernel: Any
    programs: int
    args: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = WARPS
    registers: int = 64  # a thread's limit

    @property
    def options(self) -> dict[str, Any]:
        """Triton's options. Multiplications and additions are fused only where the source says so."""
        return {"num_warps": self.warps, "maxnreg": self.registers, "enable_fp_fusion": False}

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        first = next(iter(self.args.values()))
        return (first[0] if isinstance(first, tuple) else first).device


READY: dict[tuple[Any, ...], tuple[Callable[..., None], Any, Any]] = {}
"""Compiled kernels, each as (launcher, function, metadata); a key holds all that its kernel was compiled for."""


def run(launch: Launch) -> None:
    """Launch on the device of the tensors. A kernel's first launch compiles it; later ones call its launcher directly.

    Triton's own way binds and describes every argument anew, which costs the host several times as long. Its launch
    hooks are called for a kernel's first launch only.
    """
    if launch.programs == 0:
        return
    device = launch.device
    with (
        torch.cuda.device(device) if _elsewhere(device) else nullcontext(),
        span(launch.kernel.__name__.removesuffix("_kernel"), launch.programs),
    ):
        kernel, given = launch.kernel, {**launch.args, **launch.constants}
        key = (kernel.fn, device, launch.warps, launch.registers, *launch.constants.values(), *_traits(launch.args))
        ready = READY.get(key)
        if ready is not None:
            launcher, function, metadata = ready
            values = [given[name] for name in kernel.arg_names]
            launcher(launch.programs, 1, 1, _stream(device), function, metadata, None, None, None, *values)
            return
        compiled = kernel[(launch.programs,)](**given, **launch.options)
        if compiled is not None:  # the interpreter compiles nothing
            READY[key] = compiled.run, compiled.function, compiled.packed_metadata


def _elsewhere(device: torch.device) -> bool:
    """Return whether the current GPU is another one."""
    return device.type == "cuda" and device.index != torch.cuda.current_device()


def _stream(device: torch.device) -> int:
    """Return the handle of the current stream."""
    return torch._C._cuda_getCurrentRawStream(device.index)


def _traits(args: dict[str, Any]) -> list[Any]:
    """List what a kernel is compiled for: which arguments are present, their types, and the alignment of tensors.

    No kernel is compiled for the value of an int, so another batch compiles nothing. Int arguments are
    do_not_specialize; ints in tuples, which Triton would specialize on all the same, are `hidden`.
    """
    traits: list[Any] = []
    for value in args.values():
        for v in value if type(value) is tuple else (value,):
            if v is None or type(v) is float:
                traits.append(type(v))
            elif type(v) is int:
                traits.append(v < 2**31)
            else:
                traits.append(v.dtype)
                traits.append(v.data_ptr() % 16 == 0)
    return traits


def hidden(values: Sequence[int]) -> tuple[int, ...]:
    """Encode ints so that none is 1 or a multiple of 16, on which Triton would specialize. A kernel reads them >> 2."""
    return tuple([4 * value + 2 for value in values])


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """Choose how values are made: float32 by polynomials, 16 bits by the special-function unit, float64 by definition.

    A thread holds 16 bytes of consecutive elements, or one quad of float64: QUADS quads.
    """
    return {"EXACT": dtype == torch.float32, "WIDE": dtype == torch.float64, "QUADS": 2 if dtype.itemsize == 2 else 1}


def tiling(rows: list[int], tensors: list[Tensor]) -> dict[str, int]:
    """Choose BLOCK, the elements of a tile (16 for each thread), and UNIT, which divides every row and address."""
    whole = not any([row % 8 for row in rows]) and not any([t.data_ptr() % 16 for t in tensors])
    return {"UNIT": 8 if whole else 1, "BLOCK": 16 * 32 * WARPS}


def strides(t: Tensor | None, count: int) -> list[int]:
    """Return the strides over samples (and modalities) of an argument; 0 where one value serves all."""
    found = [] if t is None else t.stride()
    return [*found, 0, 0][:count]


def row_of(t: Tensor) -> int:
    """Return the number of elements of one sample."""
    return t.numel() // (t.shape[0] or 1)


def steps_of(t: Tensor) -> tuple[int, int]:
    """Return (steps, elements of a step) of a tensor [B, steps, ...]."""
    steps = t.shape[1] if t.dim() > 1 else 1
    return steps, row_of(t) // (steps or 1)

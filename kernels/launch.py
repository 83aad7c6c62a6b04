"""How kernels are launched: a launch is data, which a GPU runs, and which tests compile and run without one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nmer_fast.profiling import span

WARPS = 4


@dataclass(frozen=True)
class Launch:
    """A kernel, its programs, and its arguments by name; `constants` are compiled in."""

    kernel: Any
    programs: int
    args: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = WARPS
    registers: int = 64  # at most, of a thread

    @property
    def options(self) -> dict[str, Any]:
        """Multiplications and additions are one only where the source says so."""
        return {"num_warps": self.warps, "maxnreg": self.registers, "enable_fp_fusion": False}


def run(launch: Launch) -> None:
    """Launch on the device of the tensors."""
    if launch.programs == 0:
        return
    device = next(t.device for value in launch.args.values() for t in _tensors(value))
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with on_device, span(launch.kernel.__name__.removesuffix("_kernel"), launch.programs):
        launch.kernel[(launch.programs,)](**launch.args, **launch.constants, **launch.options)


def _tensors(value: Any) -> list[Tensor]:
    values = value if isinstance(value, tuple) else (value,)
    return [t for t in values if isinstance(t, Tensor)]


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """float32 by the contract's polynomials, 16 bits by the special-function unit, float64 by its definition.

    A thread holds 16 bytes of consecutive elements, or one quad of float64: QUADS quads.
    """
    return {"EXACT": dtype == torch.float32, "WIDE": dtype == torch.float64, "QUADS": 2 if dtype.itemsize == 2 else 1}


def tiling(rows: list[int], tensors: list[Tensor]) -> dict[str, int]:
    """BLOCK elements a tile, 16 for each thread; UNIT, which every row and address is known to be a multiple of."""
    whole = all(row % 8 == 0 for row in rows) and all(t.data_ptr() % 16 == 0 for t in tensors)
    return {"UNIT": 8 if whole else 1, "BLOCK": 16 * 32 * WARPS}


def strides(t: Tensor | None, count: int) -> list[int]:
    """The first strides of values by sample (and modality); 0 where there is one for all."""
    found = [] if t is None else list(t.stride())
    return (found + [0] * count)[:count]


def row_of(t: Tensor) -> int:
    """Elements of a sample."""
    return t.shape[1:].numel()


def steps_of(t: Tensor) -> tuple[int, int]:
    """(steps, elements of a step) of [B, steps, ...]."""
    steps = t.shape[1] if t.dim() > 1 else 1
    return steps, row_of(t) // steps if steps else 0

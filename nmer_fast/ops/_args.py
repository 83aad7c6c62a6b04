"""Argument checks of the ops' public functions, and the packing of ints and floats into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from struct import pack
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..contract import DTYPES as DTYPE_NAMES
from ..contract import SEED_BITS, check_draw, check_elements, either
from ._library import define

DTYPES = tuple(getattr(torch, name) for name in DTYPE_NAMES)
INT_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Inductor computes with integers in int64, which seeds of 2^63 and more overflow; an op takes them unchanged.
_pack_rng = define(
    "pack_rng(SymInt seed, SymInt draw, Device device) -> Tensor",
    lambda seed, draw, device: torch.tensor([seed, draw], dtype=torch.int64, device=device),
    lambda seed, draw, device: torch.empty(2, dtype=torch.int64, device=device),
)


def describe(value: Any) -> str:
    """Describe an argument in an error message."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
    return f"{value!r} ({type(value).__name__})"


def check_floating(name: str, x: Any) -> None:
    """Raise TypeError or ValueError unless x is a floating tensor [B, ...] whose samples fit the counter."""
    if not isinstance(x, Tensor) or x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected a {either(DTYPE_NAMES)} tensor, got {describe(x)}")
    if x.dim() == 0:
        raise ValueError(f"{name}: expected [B, ...] with a batch dimension, got {describe(x)}")
    check_elements(name, x.shape)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype to which autocast casts matrix products on this device; None outside autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def widest(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors to their widest dtype under autocast, as autocast does for pointwise ops of several tensors."""
    if autocast_dtype(device) is None:
        return tensors
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    return tuple(t.to(dtype) for t in tensors)


def check_same(name: str, t: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors have the same shape, dtype and device."""
    if t.shape != other.shape or t.dtype != other.dtype or t.device != other.device:
        raise ValueError(f"{name}: expected the same as {other_name}, {describe(other)}, got {describe(t)}")


def rng_tensor(seed: int | Tensor | None, draw: int, device: torch.device) -> Tensor:
    """Pack (seed, draw) into the int64 tensor [2] that the ops read.

    Args:
        seed: an int, taken mod 2^64; an int64 tensor [2] = (seed, draw); or None, for a seed from torch's generator.
        draw: an int from 0 to 2^32-1; 0 beside a seed tensor.
        device: the result's device.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.shape != (2,):
            raise ValueError(f"seed: expected an int, None or an int64 tensor [2] = (seed, draw), got {describe(seed)}")
        if draw != 0:
            raise ValueError(f"draw: expected none beside a seed tensor, which holds it, got {draw!r}")
        return seed.to(device)
    if not torch.compiler.is_compiling():
        seed, draw = plain_int(seed), plain_int(draw)
    check_draw(draw)
    if seed is None:
        drawn = torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device)
        return torch.cat([drawn, torch.zeros_like(drawn) + draw])
    if not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, None or an int64 tensor [2] = (seed, draw), got {describe(seed)}")
    if not -(2**63) <= seed < 2**63:
        seed = seed % 2**SEED_BITS
        if seed >= 2**63:
            seed = seed - 2**SEED_BITS
    if torch.compiler.is_compiling():
        return _pack_rng(seed, draw, device)
    if device.type == "cpu" and torch._C._len_torch_dispatch_stack() == 0:  # fake tensors do not mix with real ones
        return torch.frombuffer(bytearray(pack("=qq", seed, draw)), dtype=torch.int64)  # a third of torch.tensor's time
    rng = torch.full((2,), draw, dtype=torch.int64, device=device)  # by kernels: torch.tensor's copy waits for a GPU
    rng.select(0, 0).fill_(seed)
    return rng


def plain_int(value: Any) -> Any:
    """Turn any integer type, such as NumPy's, into an int; other values stay, and are refused later."""
    return value if type(value) is int or not isinstance(value, Integral) else int(value)


def float_tensor(name: str, value: float, device: torch.device) -> Tensor:
    """Turn a number from 0 to 1 into a float64 tensor []."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {describe(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    if torch.compiler.is_compiling():
        # Arithmetic is the only way to make a tensor from a float that Dynamo does not specialise on.
        return torch.zeros((), dtype=torch.float64, device=device) + value
    return torch.scalar_tensor(value, dtype=torch.float64, device=device)


def alpha_bar_tensor(name: str, value: float | Tensor, shapes: Sequence[tuple[int, ...]], like: Tensor) -> Tensor:
    """Turn alpha_bar into a float64 tensor of one of the shapes, on x's device; refuse one that has a gradient."""
    if not isinstance(value, Tensor):
        return float_tensor(name, value, like.device)
    if not value.dtype.is_floating_point or tuple(value.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name}: expected a float or a floating tensor of shape {expected}, got {describe(value)}")
    if value.requires_grad or (not torch.compiler.is_compiling() and fwAD.unpack_dual(value).tangent is not None):
        raise ValueError(f"{name}: expected no gradient: it is a constant of the noise, got one that has")
    return value.to(like.device, torch.float64)


def p_tensor(kind: str, p: float, device: torch.device) -> Tensor | None:
    """p as a float64 tensor [] for impulse noise; None for the other kinds, which do not read it."""
    return float_tensor("p", p, device) if kind == "impulse" else None


def rows_tensor(name: str, value: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Check integers or flags (`noisy`) of the given shape; integers become int64, flags stay bool."""
    if value is None:
        return None
    dtypes = (torch.bool,) if name == "noisy" else INT_DTYPES
    if not isinstance(value, Tensor) or value.dtype not in dtypes or tuple(value.shape) != shape:
        what = "a bool" if name == "noisy" else "an integer"
        raise ValueError(f"{name}: expected {what} tensor of shape {list(shape)}, got {describe(value)}")
    return value.to(device) if name == "noisy" else value.to(device, torch.int64)


def lengths_tensor(value: Tensor | None, x: Tensor) -> Tensor | None:
    """Check lengths [B], which count valid steps along x's dim 1; they become int64."""
    if value is not None and x.dim() < 2:
        raise ValueError(f"lengths: expected x of two or more dims, whose dim 1 they count, got {describe(x)}")
    return rows_tensor("lengths", value, (x.shape[0],), x.device)


def check_sequences(x: Any) -> None:
    """Raise TypeError or ValueError unless x is a floating tensor [B, T, D]."""
    check_floating("x", x)
    if x.dim() != 3:
        raise ValueError(f"x: expected [B, T, D], got {describe(x)}")


def steps_tensor(value: Tensor | None, x: Tensor) -> Tensor:
    """Check lengths [B] that must be given; they become int64."""
    if value is None:
        raise ValueError(f"lengths: expected an integer tensor of shape [{x.shape[0]}], got None")
    valid = rows_tensor("lengths", value, (x.shape[0],), x.device)
    assert valid is not None
    return valid


def distinct(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Replace repeated tensors by views under compile: Dynamo refuses one tensor as two arguments of a Function."""
    if not torch.compiler.is_compiling():
        return tensors
    out: list[Tensor | None] = []
    for t in tensors:
        out.append(t.view_as(t) if t is not None and any(t is other for other in out) else t)
    return tuple(out)

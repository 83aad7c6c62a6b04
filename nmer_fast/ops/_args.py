"""Argument checks of the ops' public functions, and the packing of numbers into the tensors that the ops read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from struct import pack
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..contract import (
    DRAW_BITS,
    MAX_ELEMENTS,
    MAX_STREAM,
    SEED_BITS,
    check_draw,
    check_elements,
    check_stream,
    either,
    integer,
    real,
)
from ..contract import DTYPES as DTYPE_NAMES
from ..processes import warn_shared_noise
from ._library import define
from .reference import has_float64, wide_dtype

DTYPES = frozenset(getattr(torch, name) for name in DTYPE_NAMES)
INT_DTYPES = frozenset((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8))
INTEGERS = {"seed": "an int, None or an int64 tensor [2] = (seed, draw)"}
INFRA_MODES = ("FAKE", "PROXY", "FUNCTIONAL")

# Inductor computes with integers in int64, which seeds of 2^63 and more overflow; an op takes them unchanged.
_pack_rng = define(
    "pack_rng(SymInt seed, SymInt draw, Device device) -> Tensor",
    lambda *words_and_device: torch.cat(
        [torch.full((1,), word, dtype=torch.int64, device=words_and_device[2]) for word in words_and_device[:2]]
    ),
    lambda seed, draw, device: torch.empty(2, dtype=torch.int64, device=device),
)


def describe(value: Any) -> str:
    """Describe an argument in an error message."""
    if isinstance(value, Tensor):
        layout = "" if value.layout is torch.strided else f" of layout {value.layout}"
        shape = "nested" if value.is_nested else f"of shape {tuple(value.shape)}"
        return f"{value.dtype} {shape} on {value.device}{layout}"
    return f"{value!r} ({type(value).__name__})"


def check_floating(name: str, x: Any) -> None:
    """Raise TypeError or ValueError unless x is a dense floating tensor [B, ...] whose samples fit the counter."""
    if not isinstance(x, Tensor) or x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected a {either(DTYPE_NAMES)} tensor, got {describe(x)}")
    check_dense(name, x)
    if x.dim() == 0:
        raise ValueError(f"{name}: expected [B, ...] with a batch dimension, got {describe(x)}")
    if x.numel() > MAX_ELEMENTS:
        check_elements(name, x.shape)


def check_dense(name: str, t: Tensor) -> None:
    """Raise ValueError for sparse and other layouts that have no strides, and for nested tensors of torch.strided."""
    if t.layout is torch.strided and not t.is_nested:
        return
    if t.layout is torch.jagged:
        raise ValueError(
            f"{name}: expected a dense tensor in compiled code, got a nested one: pad it with "
            "torch.nested.to_padded_tensor and pass lengths"
        )
    remedy = "layout=torch.jagged" if t.is_nested else ".to_dense()"
    raise ValueError(f"{name}: expected a dense tensor ({remedy} makes one that is taken), got {describe(t)}")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype to which autocast casts matrix products on this device; None outside autocast."""
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return None
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which autocast casts nothing on this device, which may have none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else contextlib.nullcontext()


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


# ---------------------------------------------------------------- numbers


def in_memory(device: torch.device) -> bool:
    """Whether a tensor may be made of bytes on this device: on a CPU, where no program is traced or transformed."""
    if torch.compiler.is_compiling() or device.type != "cpu" or torch._C._are_functorch_transforms_active():
        return False
    if not torch._C._len_torch_dispatch_stack():
        return True
    keys = torch._C._TorchDispatchModeKey
    return all(torch._C._get_dispatch_mode(getattr(keys, name)) is None for name in INFRA_MODES)


def rng_tensor(seed: int | Tensor | None, draw: int | Tensor, device: torch.device) -> Tensor:
    """Pack (seed, draw) into the int64 tensor [2] that the ops read.

    Args:
        seed: an integer of any type, taken mod 2^64, an integer tensor [] included; an int64 tensor [2] = (seed, draw);
            or None, for a seed from torch's generator.
        draw: an integer of any type from 0 to 2^32-1, an integer tensor [] included; 0 beside a seed tensor [2].
        device: the result's device.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    if (
        in_memory(device)
        and type(seed) is int
        and type(draw) is int
        and draw >> DRAW_BITS == 0
        and -1 <= seed >> 63 < 1
    ):
        return torch.frombuffer(bytearray(pack("=qq", seed, draw)), dtype=torch.int64)  # a third of torch.tensor's time
    if isinstance(seed, Tensor) and seed.dim() > 0:
        if seed.dtype != torch.int64 or seed.shape != (2,):
            raise ValueError(f"seed: expected an int, None or an int64 tensor [2] = (seed, draw), got {describe(seed)}")
        if type(draw) is not int or draw != 0:
            raise ValueError(f"draw: expected none beside a seed tensor, which holds it, got {draw!r}")
        return seed.to(device)
    if seed is None:
        seed = torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device)
    seed, draw = whole_or_tensor("seed", seed), whole_or_tensor("draw", draw)
    if not isinstance(draw, Tensor):
        check_draw(draw)
    if not isinstance(seed, Tensor) and not -(2**63) <= seed < 2**63:
        seed = seed % 2**SEED_BITS
        if seed >= 2**63:
            seed = seed - 2**SEED_BITS
    if isinstance(seed, Tensor) or isinstance(draw, Tensor):
        words = (w if isinstance(w, Tensor) else _pack_rng(w, 0, device).select(0, 0) for w in (seed, draw))
        return torch.stack([w.to(device, torch.int64) for w in words])
    if torch.compiler.is_compiling():
        return _pack_rng(seed, draw, device)
    rng = torch.full((2,), draw, dtype=torch.int64, device=device)  # by kernels: torch.tensor's copy waits for a GPU
    rng.select(0, 0).fill_(seed)
    return rng


def whole_or_tensor(name: str, value: Any) -> Any:
    """An int, or an integer tensor [], which stays one: reading it would wait for its device."""
    if type(value) is int:
        return value
    if torch.compiler.is_compiling() and not isinstance(value, (int, float, str)):
        value = torch.as_tensor(value)  # Dynamo holds NumPy's numbers as arrays
    if not isinstance(value, Tensor) and getattr(value, "ndim", 0) == 0:
        try:
            return integer(name, value)
        except TypeError:
            pass
    if not isinstance(value, Tensor) or value.dim() > 0 or value.dtype not in INT_DTYPES:
        raise TypeError(f"{name}: expected {INTEGERS.get(name, 'an int')}, got {describe(value)}")
    return value


def whole_number(name: str, value: Any) -> int:
    """Return an int of 0 or more from an integer of any type; raise TypeError or ValueError otherwise."""
    value = whole_or_tensor(name, value)
    if isinstance(value, Tensor):
        value = int(value)
        if torch.compiler.is_compiling():
            torch._check(value >= 0)
            return value
    if value < 0:
        raise ValueError(f"{name}: expected 0 or more, got {value}")
    return value


def stream_number(stream: Any) -> int:
    """Return the number of a stream; raise TypeError or ValueError unless it is an integer that fits its bits."""
    if type(stream) is not int:
        stream = whole_or_tensor("stream", stream)
    if isinstance(stream, Tensor):
        stream = int(stream)
        if torch.compiler.is_compiling():
            torch._check(stream >= 0)
            torch._check(stream <= MAX_STREAM)
            return stream
    check_stream(stream)
    return stream


def float_tensor(name: str, value: Any, device: torch.device) -> Tensor:
    """Turn a number from 0 to 1 of any type into a float64 tensor of one element; of a tensor [], read no value."""
    if type(value) is float and 0 <= value <= 1 and in_memory(device):
        return _kept_float(value)
    if torch.compiler.is_compiling() and not isinstance(value, (int, float, Tensor, str)):
        value = torch.as_tensor(value)  # Dynamo holds NumPy's numbers as arrays
    if isinstance(value, Tensor):
        if value.dim() > 0 or value.is_complex():
            raise TypeError(f"{name}: expected a number from 0 to 1, got {describe(value)}")
        return value.to(device, wide_dtype(device))
    if not isinstance(value, (int, float)):
        value = real(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    if not has_float64(device):  # a number without dims on the CPU mixes with tensors of every device
        return torch.full((), value, dtype=torch.float64, device="cpu")
    if torch.compiler.is_compiling():
        # Arithmetic is the only way to make a tensor from a float that Dynamo does not specialise on.
        return torch.zeros((), dtype=torch.float64, device=device) + value
    return _kept_float(float(value)) if in_memory(device) else torch.full((), value, dtype=torch.float64, device=device)


@lru_cache(maxsize=256)
def _kept_float(value: float) -> Tensor:
    """A float64 tensor [1], which nobody changes. Making it would cost a tenth of a call on 1,000 elements."""
    with torch.inference_mode(False):
        return torch.frombuffer(bytearray(pack("=d", value)), dtype=torch.float64)


def alpha_bar_tensor(name: str, value: Any, shapes: Sequence[tuple[int, ...]], like: Tensor) -> Tensor:
    """Turn alpha_bar into a float64 tensor of one of the shapes, on x's device; refuse one that has a gradient."""
    if type(value) is float or not isinstance(value, Tensor):
        return float_tensor(name, value, like.device)
    if value.is_complex() or value.dtype == torch.bool or tuple(value.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name}: expected a float or a floating tensor of shape {expected}, got {describe(value)}")
    check_dense(name, value)
    if value.requires_grad or (not torch.compiler.is_compiling() and fwAD.unpack_dual(value).tangent is not None):
        raise ValueError(f"{name}: expected no gradient: it is a constant of the noise, got one that has")
    return value.to(like.device, wide_dtype(like.device))


def p_tensor(kind: str, p: Any, device: torch.device) -> Tensor | None:
    """p as a float64 tensor of one element for impulse noise; None for the other kinds, which do not read it."""
    return float_tensor("p", p, device) if kind == "impulse" else None


# ---------------------------------------------------------------- values for each sample


def rows_tensor(name: str, value: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Check integers or flags (`noisy`) of the given shape; integers become int64, flags stay bool."""
    if value is None:
        return None
    flags = name == "noisy"
    right = isinstance(value, Tensor) and (value.dtype == torch.bool if flags else value.dtype in INT_DTYPES)
    if not right or tuple(value.shape) != shape:
        what = "a bool" if flags else "an integer"
        raise ValueError(f"{name}: expected {what} tensor of shape {list(shape)}, got {describe(value)}")
    check_dense(name, value)
    return value.to(device) if flags else value.to(device, torch.int64)


def ids_tensor(sample_ids: Tensor | None, seed: Any, batch: int, device: torch.device) -> Tensor | None:
    """Check sample ids [B]; warn where their default, 0..B-1, gives several processes or items the same noise."""
    if sample_ids is None and seed is not None and not torch.compiler.is_compiling():
        warn_shared_noise()
    return rows_tensor("sample_ids", sample_ids, (batch,), device)


def lengths_tensor(value: Tensor | None, x: Tensor) -> Tensor | None:
    """Check lengths [B], which count valid steps along x's dim 1; they become int64."""
    if value is None:
        return None
    if x.dim() < 2:
        raise ValueError(f"lengths: expected x of two or more dims, whose dim 1 they count, got {describe(x)}")
    steps = rows_tensor("lengths", value, (x.shape[0],), x.device)
    assert steps is not None
    check_steps(value, x.shape)
    return steps


def check_steps(lengths: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError for lengths that dim 1 of [B, T, ...] does not have, or that count something else.

    Values are read on the CPU alone, and in eager code alone. Elsewhere a length is clamped to 0..T.
    """
    if not in_memory(lengths.device) or lengths.numel() == 0:
        return
    least, most = (int(end) for end in lengths.detach().aminmax())
    if least < 0 or most > shape[1]:
        wrong = least if least < 0 else most
        raise ValueError(f"lengths: expected 0 to T = {shape[1]} valid steps along dim 1, got {wrong}")
    if len(shape) == 2 and most == 1 and shape[1] > 1:
        raise ValueError(
            f"lengths: expected steps along dim 1 of x [B, T, ...], got at most 1 for shape {tuple(shape)}: "
            f"one step of {shape[1]} features is x[:, None]"
        )


def check_sequences(x: Any) -> None:
    """Raise TypeError or ValueError unless x is a floating tensor [B, T, D]."""
    check_floating("x", x)
    if x.dim() != 3:
        raise ValueError(f"x: expected [B, T, D], got {describe(x)}")


def steps_tensor(value: Tensor | None, x: Tensor) -> Tensor:
    """Check lengths [B] that must be given; they become int64."""
    if value is None:
        raise ValueError(f"lengths: expected an integer tensor of shape [{x.shape[0]}], got None")
    valid = lengths_tensor(value, x)
    assert valid is not None
    return valid

"""Checks of the arguments of a NoiseScheduler's call: each is right, or is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..contract import DTYPES, check_draw, either, integer
from .conditions import Conditions

FLOATING = tuple(getattr(torch, name) for name in DTYPES)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def describe(value: Any) -> str:
    """Describe an argument in one line."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{type(value).__name__}, {value.dtype} of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"


def is_plain() -> bool:
    """Whether eager code runs without a transform, so that a tensor made here is a real one."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def is_readable(value: Any) -> bool:
    """Whether a tensor's values may be read: not while tracing, not on a GPU, where the host would wait for them."""
    return is_plain() and type(value) is Tensor and value.device.type == "cpu"


def check_features(features: Any, modalities: Sequence[str], one_dtype: bool) -> list[Tensor]:
    """Return the features in the modalities' order: floating tensors of one batch size and device."""
    if not isinstance(features, Mapping):
        raise TypeError(f"features: expected a mapping from modality to tensor, got {type(features).__name__}")
    _check_names("features", "", features, modalities)
    xs = [features[name] for name in modalities]
    for name, x in zip(modalities, xs, strict=True):
        if not isinstance(x, Tensor) or x.dtype not in FLOATING:
            raise TypeError(f"features[{name!r}]: expected a {either(DTYPES)} tensor, got {describe(x)}")
        if x.dim() == 0:
            raise ValueError(f"features[{name!r}]: expected [B, ...] with a batch dimension, got {describe(x)}")
        same = x.shape[0] == xs[0].shape[0] and x.device == xs[0].device
        if not same or (one_dtype and x.dtype != xs[0].dtype and not _autocasts(x.device)):
            what = "batch, dtype and device" if one_dtype else "batch and device"
            raise ValueError(
                f"features[{name!r}]: expected the {what} of {modalities[0]}, {describe(xs[0])}, got {describe(x)}"
            )
    return xs


def _autocasts(device: torch.device) -> bool:
    """Whether autocast is on, under which the op casts all modalities to the widest dtype."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _check_names(argument: str, remark: str, given: Mapping[str, Any], modalities: Sequence[str]) -> None:
    missing = [name for name in modalities if name not in given]
    if missing:
        raise ValueError(
            f"{argument}: expected {', '.join(modalities)}{remark}, got {', '.join(map(str, given)) or 'none'}: "
            f"{', '.join(missing)} is missing"
        )


def check_lengths(lengths: Any, modalities: Sequence[str]) -> list[Tensor | None] | None:
    """Return the lengths in the modalities' order; the ops check each."""
    if lengths is None:
        return None
    if not isinstance(lengths, Mapping):
        raise TypeError(f"lengths: expected a mapping from modality to lengths [B] or None, got {describe(lengths)}")
    _check_names("lengths", " (None where all steps are valid)", lengths, modalities)
    return [lengths[name] for name in modalities]


def check_sample_ids(ids: Any, batch: int, device: torch.device) -> Tensor:
    """Return the ids as int64 [B] on the device; 0..B-1 if there are none."""
    if ids is None:
        return torch.arange(batch, device=device)
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGERS or ids.shape != (batch,):
        raise ValueError(f"sample_ids: expected an integer tensor of shape [{batch}], got {describe(ids)}")
    return ids.to(device, torch.int64)


def check_rng(rng: Any, device: torch.device) -> Tensor:
    """Return (seed, draw) on the device."""
    if not isinstance(rng, Tensor) or rng.dtype != torch.int64 or rng.shape != (2,):
        raise ValueError(f"rng: expected an int64 tensor [2] = (seed, draw), got {describe(rng)}")
    return rng.to(device)


def check_draw_number(draw: Any, device: torch.device) -> int | Tensor:
    """Return the draw as an int; a tensor that cannot be read without a wait stays a tensor, int64 [] on the device."""
    if torch.compiler.is_compiling():
        if isinstance(draw, int):
            check_draw(draw)
            return draw  # may be symbolic, which operator.index would fix to one value
        draw = torch.as_tensor(draw)  # how Dynamo takes NumPy's integers
    if isinstance(draw, Tensor) and not is_readable(draw):
        if draw.dtype not in INTEGERS or draw.dim() != 0:
            raise TypeError(f"draw: expected an int, got {describe(draw)}")
        return draw.to(device, torch.int64)
    draw = integer("draw", draw)
    check_draw(draw)
    return draw


def check_condition(condition: Any, conditions: Conditions, batch: int, device: torch.device) -> Tensor:
    """Return the condition of each sample, an index into `conditions.names`, int64 [B] on the device."""
    count = len(conditions.names)
    if isinstance(condition, Tensor) and condition.dtype in INTEGERS and condition.shape in ((), (batch,)):
        if is_readable(condition) and not ((condition >= 0) & (condition < count)).all():
            raise ValueError(
                f"condition: expected indices from 0 to {count - 1}, "
                f"got {condition.min().item()} to {condition.max().item()}"
            )
        return condition.to(device, torch.int64).expand(batch)
    if isinstance(condition, Tensor):
        raise ValueError(f"condition: expected an integer tensor of shape [{batch}], got {describe(condition)}")
    if isinstance(condition, str):
        index = conditions.index(condition)
    elif isinstance(condition, bool) or not (isinstance(condition, Integral) or getattr(condition, "ndim", None) == 0):
        raise TypeError(f"condition: expected a name, an index or an integer tensor, got {describe(condition)}")
    else:
        index = integer("condition", condition)
        if not 0 <= index < count:
            raise ValueError(f"condition: expected an index from 0 to {count - 1}, got {index}")
    return torch.full((batch,), index, dtype=torch.int64, device=device)

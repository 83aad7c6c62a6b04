"""What the ops' public functions have in common: tensor subclasses, nested tensors, DTensors and FX's proxies."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None), int, float, bool, str, tuple, torch.Size, torch.dtype))
"""Types that every function takes as they are."""


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Let a tensor's own type have the call, as torch's functions do: __torch_function__ is asked first."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_compiling() or PLAIN.issuperset(map(type, args)):
            return function(*args, **options)
        tensors = tuple(_leaves(args)) + tuple(options.values())
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *args, **options)
        return function(*args, **options)

    return call


def _leaves(args: Any) -> Any:
    for a in args:
        if isinstance(a, (list, tuple)):
            yield from _leaves(a)
        else:
            yield a

"""The Triton kernels as the ops' CUDA backend. Triton is imported at the first CUDA call."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from ._library import LIBRARY


def files() -> dict[str, str]:
    """{op: module of `nmer_fast.kernels`}: the op's kernel is the function of its name in that module.

    The module's name is the op's or begins it: `lstm` has `lstm_states`, and `mix_noise` has `mix_noise_backward`. The
    longest such name counts. An op without a reference is a part of a CPU kernel, and has no kernel on CUDA.
    """
    modules = [module.name for module in pkgutil.iter_modules(import_module("nmer_fast.kernels").__path__)]
    found = {}
    for registration in torch._C._dispatch_get_registrations_for_dispatch_key("CompositeExplicitAutograd"):
        library, _, op = registration.partition("::")
        named = [module for module in modules if f"{op}_".startswith(f"{module}_")]
        if library == "nmer_fast" and named:
            found[op] = max(named, key=len)
    return found


@cache
def register() -> bool:
    """Plug the kernels in; without Triton (it is for Linux) the reference serves on CUDA too."""
    if find_spec("triton") is None:
        return False
    for op, file in files().items():
        LIBRARY.impl(op, _at_first_call(file, op), "CUDA")
    return True


def _at_first_call(file: str, name: str) -> Callable[..., Any]:
    @cache
    def kernel() -> Callable[..., Any]:
        return getattr(import_module(f"nmer_fast.kernels.{file}"), name)

    def call(*args: Any) -> Any:
        return kernel()(*args)

    return call

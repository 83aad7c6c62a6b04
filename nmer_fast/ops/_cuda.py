"""The Triton kernels as the ops' CUDA backend. Triton is imported at the first CUDA call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ._library import LIBRARY

FILES = {
    "philox": "philox",
    "noise": "noise",
    "add_noise": "add_noise",
    "add_noise_multimodal": "add_noise_multimodal",
    "mix_noise": "mix_noise",
    "mix_noise_backward": "mix_noise",
    "reparameterize_kl": "reparameterize_kl",
    "reparameterize_kl_backward": "reparameterize_kl",
    "lstm_max_pool": "lstm",
    "lstm_states": "lstm",
    "lstm_backward": "lstm",
}


def register() -> bool:
    """Plug the kernels in; without Triton (it is for Linux) the reference serves on CUDA too."""
    if find_spec("triton") is None:
        return False
    for name, file in FILES.items():
        LIBRARY.impl(name, _at_first_call(file, name), "CUDA")
    return True


def _at_first_call(file: str, name: str) -> Callable[..., Any]:
    @cache
    def kernel() -> Callable[..., Any]:
        return getattr(import_module(f"nmer_fast.kernels.{file}"), name)

    def call(*args: Any) -> Any:
        return kernel()(*args)

    return call

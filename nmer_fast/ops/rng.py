"""ops.rng_next: a (seed, draw) buffer that moves on by one draw, also in a compiled step and a replayed CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ._args import describe
from ._library import define


def _next(rng: Tensor) -> Tensor:
    snapshot = rng.clone()
    rng.select(0, 1).add_(1)
    return snapshot


_rng_next = define("rng_next(Tensor(a!) rng) -> Tensor", _next, torch.empty_like)


def rng_next(rng: Tensor) -> Tensor:
    """The state that a step uses; the buffer moves on to the next draw, without the host.

    One call for each step, outside of what activation checkpointing runs again: the ops of the step share the snapshot,
    and their backward regenerates noise from it. A module buffer keeps its address, so CUDA graphs replay it.

    Args:
        rng: int64 [2] = (seed, draw); changed in place: draw + 1.

    Returns:
        int64 [2], rng as it was, for the ops' `seed`.

    Raises:
        ValueError: one line that says what was expected.
    """
    if not isinstance(rng, Tensor) or rng.dtype != torch.int64 or rng.shape != (2,):
        raise ValueError(f"rng: expected an int64 tensor [2] = (seed, draw), got {describe(rng)}")
    return _rng_next(rng)

"""ops.rng_next advances a (seed, draw) buffer by one draw, also in a compiled step and in a replayed CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ._args import describe
from ._library import define
from ._public import public


def _next(rng: Tensor) -> Tensor:
    # Here, not in the public function: a compiled block that is run again calls the op alone.
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "draw, rng: expected one of them where a backward pass runs, since activation checkpointing would see "
            "other noise when it runs the forward again: take rng = scheduler.next_rng(), or ops.rng_next(buffer), "
            "outside the checkpointed function and pass rng=rng (seed=rng to an op), or pass draw="
        )
    snapshot = rng.clone()
    rng.select(-1, 1).add_(1)
    return snapshot


_rng_next = define("rng_next(Tensor(a!) rng) -> Tensor", _next, torch.empty_like)


@public()
def rng_next(rng: Tensor) -> Tensor:
    """Return a snapshot of a (seed, draw) buffer and advance the buffer by one draw, without a host sync.

    Call it once a step, outside of the code that activation checkpointing runs again. The ops of the step share the
    snapshot, and their backward regenerates noise from it. A module's buffer keeps its address, so CUDA graphs replay
    the call.

    Args:
        rng: the buffer, int64 [2] = (seed, draw); its draw increases by 1 in place.

    Returns:
        The buffer's values before the call, int64 [2], for the ops' `seed`.

    Raises:
        ValueError: one line that names the argument, what it was and what was expected.
        RuntimeError: a backward pass runs, which is how activation checkpointing runs a forward again.
    """
    if not isinstance(rng, Tensor) or rng.dtype != torch.int64 or rng.shape != (2,):
        raise ValueError(f"rng: expected an int64 tensor [2] = (seed, draw), got {describe(rng)}")
    return _rng_next(rng)

"""How many tensor operations a step dispatches, and how many floating-point operations its products take."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from measure import BASELINE, ONE, OURS, WARM_UP, timed
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from nmer_fast.data import FeatureSet

from .figures import Figure, figure
from .systems import Plan, System, rows_of

aten, library_ops = torch.ops.aten, torch.ops.nmer_fast  # importing nmer_fast.data registered the library's ops


# ---------------------------------------------------------------- operations

# Views and fresh memory: no kernel runs.
FREE = {
    "alias", "as_strided", "chunk", "contiguous", "cudnn_is_acceptable", "detach", "detach_", "diagonal", "expand",
    "expand_as", "flatten", "narrow", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "to",
    "type_as", "unflatten", "view_as",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "lift_fresh",
    "as_strided_", "broadcast_tensors", "dropout", "scalar_tensor",
    "result_type", "resolve_conj", "resolve_neg", "is_nonzero", "item", "_local_scalar_dense",
}  # fmt: skip


def launches(call: Callable[[], Any]) -> int:
    """Tensor operations that would each be a kernel on a GPU: those that dispatch no such operation themselves.

    Views, allocations and reads by the host are not counted; a `_foreach_` operation is one, as on a GPU.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()

    def count(event: Any) -> int:
        if "cpp_fused" in event.name:  # Inductor's
            return 1
        space, _, name = event.name.partition("::")
        if name.startswith("_foreach_"):
            return 1
        inside = sum(count(child) for child in event.cpu_children)
        return inside or int(space in ("aten", "nmer_fast") and name not in FREE)

    return sum(count(event) for event in profiler.events() if event.cpu_parent is None)


def dispatched(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """Operations of a step of each system."""
    rows, out = rows_of(plan, data, 0), []
    for who, system in systems.items():
        batch = system.batch(rows)
        system.step(batch)  # the first step makes the optimizer's state
        out.append(figure("operations", "a step", who, "operations", [launches(lambda s=system, b=batch: s.step(b))]))
    return out


# ---------------------------------------------------------------- arithmetic: what FlopCounterMode does not know


def lstm_flop(steps: int, dim: int, gates: int, width: int, *, backward: bool = False, need_x: bool = False) -> int:
    """W x and U h of so many steps; backward both weights' gradients, h's, and x's where it is asked for."""
    columns = dim + width
    if backward:
        columns += width + (dim if need_x else 0)
    return 2 * steps * gates * columns


@register_flop_formula(aten.mkldnn_rnn_layer)
def _onednn_lstm(x, weight_ih, weight_hh, *args, out_shape=None, **kwargs) -> int:
    return lstm_flop(x[0] * x[1], x[2], *weight_hh)


@register_flop_formula(aten.mkldnn_rnn_layer_backward)
def _onednn_lstm_backward(x, weight_ih, weight_hh, *args, out_shape=None, **kwargs) -> int:
    """Without x's gradient, which oneDNN computes though nobody asks for it."""
    return lstm_flop(x[0] * x[1], x[2], *weight_hh, backward=True)


@register_flop_formula([library_ops.lstm_max_pool, library_ops.lstm_states], get_raw=True)
def _our_lstm(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, *, out_val: Any) -> int:
    encoders, gates, width = weight_hh.shape
    return lstm_flop(_valid(x, lengths), x.shape[2], encoders * gates, width)


@register_flop_formula(library_ops.lstm_backward, get_raw=True)
def _our_lstm_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, hidden: Tensor, cell: Tensor,
    gates: Tensor, need_x: bool, argmax: Tensor | None = None, *, out_val: Any,
) -> int:  # fmt: skip
    encoders, rows, width = weight_hh.shape
    return lstm_flop(_valid(x, lengths), x.shape[2], encoders * rows, width, backward=True, need_x=need_x)


@register_flop_formula(library_ops.conv_max_pool, get_raw=True)
def _our_convolution(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor], *, out_val: Any) -> int:
    """Every window of each kernel; a sample shorter than the kernel has one."""
    lengths = lengths.clamp(0, x.shape[1])
    lengths = lengths[lengths > 0]
    return sum(2 * t.numel() * int((lengths - t.shape[2] + 1).clamp(min=1).sum()) for t in taps)


@register_flop_formula(library_ops.conv_max_pool_backward, get_raw=True)
def _our_convolution_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool, *, out_val: Any
) -> int:
    """The window that won, of each sample and filter: the gradient of a maximum is no other window's."""
    return sum(2 * t.numel() * int((lengths > 0).sum()) * (2 if need_x else 1) for t in taps)


def _valid(x: Tensor, lengths: Tensor) -> int:
    return int(lengths.clamp(0, x.shape[1]).sum())


def arithmetic(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and LSTMs of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def limit(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """The machine's own time for the products of a step: at the speed of torch's product of two large matrices."""
    a, b = torch.randn(2, plan.gemm, plan.gemm).unbind()
    speeds = [2 * plan.gemm**3 / timed(lambda: a @ b) for _ in range(WARM_UP + plan.turns)][WARM_UP:]
    out = [figure("limit", "matrix product", "torch", "GFLOP/s", [s / 1e9 for s in speeds])]
    batches = [rows_of(plan, data, turn + WARM_UP) for turn in range(plan.turns)]  # those of the timed steps
    for who in (BASELINE, OURS, ONE):
        system = systems[who]
        work = [arithmetic(lambda s=system, rows=rows: s.step(s.batch(rows))) for rows in batches]
        out.append(figure("limit", "arithmetic of a step", who, "GFLOP", [w / 1e9 for w in work]))
        out.append(figure("limit", "its time at that speed", who, "s", [w / median(speeds) for w in work]))
    return out

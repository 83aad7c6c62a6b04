"""ops.conv_max_pool: convolutions over time, ReLU and the max over valid windows, as one registered op.

The gradient of a max is that of the one window that won, so the weights' takes a twentieth of the dense arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import reference
from ._args import autocast_dtype, check_same, check_sequences, describe, steps_tensor
from ._function import refuse_compiled_transform
from ._library import LIBRARY, define

LONGEST = 5  # of the C++ library's kernels, kLongestKernel in csrc/kernels.h


def _fake_forward(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], taps[0].shape[0], sum(t.shape[1] for t in taps))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _fake_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    return x.new_empty(x.shape if need_x else (0,)), [x.new_empty(t.shape) for t in taps]


_conv_max_pool = define(
    "conv_max_pool(Tensor x, Tensor lengths, Tensor[] taps, Tensor[] biases) -> (Tensor pooled, Tensor argmax)",
    reference.conv_max_pool,
    _fake_forward,
)
_conv_max_pool_backward = define(
    "conv_max_pool_backward(Tensor grad, Tensor x, Tensor lengths, Tensor[] taps, Tensor argmax, bool need_x) "
    "-> (Tensor, Tensor[])",
    reference.conv_max_pool_backward,
    _fake_backward,
)
# Parts that the C++ library alone has, on packed_steps.
LIBRARY.define("windows_max(Tensor inputs, Tensor lengths, Tensor[] taps, Tensor biases) -> (Tensor, Tensor)")
LIBRARY.define("winning_windows(Tensor inputs, Tensor lengths, int[] sizes, Tensor grad, Tensor argmax) -> Tensor[]")


def register_compiled() -> None:
    """The CPU kernels of float32, whole vectors of filters and kernels of up to five steps."""
    LIBRARY.impl("conv_max_pool", _cpu, "CPU")
    LIBRARY.impl("conv_max_pool_backward", _cpu_backward, "CPU")


def _served(x: Tensor, taps: list[Tensor]) -> bool:
    encoders, filters = taps[0].shape[:2]
    return (
        x.dtype == torch.float32
        and encoders * filters % 16 == 0
        and all(t.shape[1] == filters and t.shape[2] <= LONGEST for t in taps)
    )


def _packed(x: Tensor, lengths: Tensor, taps: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Valid steps end to end, each sample as long as the longest kernel at least."""
    lengths, sizes = lengths.clamp(0, x.shape[1]).contiguous(), [t.shape[2] for t in taps]
    return torch.ops.nmer_fast.packed_steps(x, lengths, 0, max(sizes)), lengths, sizes


def _cpu(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    if not _served(x, taps):
        return reference.conv_max_pool(x, lengths, taps, biases)
    inputs, lengths, _ = _packed(x, lengths, taps)
    return torch.ops.nmer_fast.windows_max(inputs, lengths, taps, torch.stack(biases))


def _cpu_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    if need_x or not _served(x, taps):
        return reference.conv_max_pool_backward(grad, x, lengths, taps, argmax, need_x)
    inputs, lengths, sizes = _packed(x, lengths, taps)
    return x.new_empty(0), torch.ops.nmer_fast.winning_windows(inputs, lengths, sizes, grad.contiguous(), argmax)


class ConvMaxPool(torch.autograd.Function):
    """Differentiable once, in x, weights and biases. Arguments: x, lengths, the taps of each kernel, its biases."""

    @staticmethod
    def forward(x: Tensor, lengths: Tensor, *weights: Tensor) -> Any:
        """The registered op."""
        count = len(weights) // 2
        return _conv_max_pool(x, lengths, list(weights[:count]), list(weights[count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the inputs, the maxima and the windows that they are of."""
        x, lengths, *weights = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, lengths, *weights[: len(weights) // 2], *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        """Nothing where ReLU cut; else to the window that won."""
        x, lengths, *taps, pooled, argmax = ctx.saved_tensors
        if grad is None:
            return (None,) * (2 + 2 * len(taps))
        grad = torch.where(pooled <= 0, 0.0, grad)  # what is no number stays seen
        need_x = ctx.needs_input_grad[0]
        with torch.autocast(x.device.type, enabled=False):
            grad_x, grad_taps = _conv_max_pool_backward(grad, x, lengths, taps, argmax, need_x)
        grad_biases = grad.sum(0).split([t.shape[1] for t in taps], dim=1)
        return grad_x if need_x else None, None, *grad_taps, *grad_biases


def conv_max_pool(x: Tensor, lengths: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Convolutions over time, ReLU, and the max over each sample's valid windows (Kim 2014, TextCNN).

    A window counts if it lies inside the sample; a sample shorter than a kernel has one, padded with zeros.

    Args:
        x: [B, T, D], float32, float64, bfloat16 or float16; what stands beyond the lengths is never read.
        lengths: integers [B], valid steps.
        weights: of each kernel [F, D, k], as in nn.Conv1d; or [E, F, D, k], of E encoders that read the same input.
        biases: of each kernel [F] or [E, F].

    Returns:
        [B, F of all kernels], or [B, E, F of all kernels], of x's dtype; zeros for a sample of length 0. Equal to
        nn.Conv1d, ReLU and a max within 1e-5, in float32 and float64. Differentiable once. Under autocast all is
        cast to its dtype.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
        RuntimeError: in backward, a second derivative is asked for.
    """
    check_sequences(x)
    low = autocast_dtype(x.device)
    if low is not None and x.dtype != torch.float64:
        x, weights, biases = x.to(low), [w.to(low) for w in weights], [b.to(low) for b in biases]
    if not weights or len(weights) != len(biases):
        raise ValueError(f"biases: expected one for each of 1 or more weights, got {len(biases)} for {len(weights)}")
    encoders = tuple(weights[0].shape[:-3])
    for weight, bias in zip(weights, biases, strict=True):
        expected = (*encoders, *weight.shape[-3:-2], x.shape[2], *weight.shape[-1:])
        if weight.dim() not in (3, 4) or tuple(weight.shape) != expected or weight.shape[-1] < 1:
            raise ValueError(f"weights: expected [F, D, k] or [E, F, D, k] for x {describe(x)}, got {describe(weight)}")
        check_same("weights", weight, "x's dtype and device", torch.empty(expected, dtype=x.dtype, device=x.device))
        check_same("biases", bias, "its weight's filters", weight.new_empty(expected[:-2]))
    valid = steps_tensor(lengths, x)
    refuse_compiled_transform("conv_max_pool")
    taps, shifts = [w.mT for w in weights], list(biases)  # [..., F, k, D]
    if encoders:
        return ConvMaxPool.apply(x, valid, *taps, *shifts)[0]
    return ConvMaxPool.apply(x, valid, *(t[None] for t in taps), *(b[None] for b in shifts))[0][:, 0]

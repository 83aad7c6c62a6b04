"""ops.conv_max_pool: convolutions over time, ReLU and the max over valid windows, as one registered op.

A max passes its gradient to one window alone, so the gradient of the weights takes a twentieth of the dense arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._args import autocast_dtype, check_same, check_sequences, describe, steps_tensor, without_autocast
from ._library import LIBRARY, cpu_kernel, define
from ._public import public
from ._transforms import Derivative

LONGEST = 5  # steps of the longest kernel that the C++ library serves: kLongestKernel in csrc/kernels.h


def _fake_forward(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], taps[0].shape[0], sum(t.shape[1] for t in taps))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _fake_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    return x.new_empty(x.shape if need_x else (0,)), [x.new_empty(t.shape) for t in taps]


class WinningWindow(Derivative):
    """The gradient passes to the winning window; there is no tangent, and no second derivative."""

    wrt = ("x", "taps", "biases")
    constants = (1,)

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the inputs, the maxima and the indices of their windows."""
        return (args.x, args.lengths, *args.taps, *outputs), None

    @staticmethod
    def backward(saved: Any, value: Any, needed: Any, *grads: Any) -> Any:
        """Pass the gradient to the winning window, unless ReLU set it to 0."""
        x, lengths, *taps, pooled, argmax = saved
        grad = torch.where(pooled <= 0, 0.0, grads[0])  # NaN propagates
        with without_autocast(x.device):
            grad_x, grad_taps = _conv_max_pool_backward(grad, x, lengths, taps, argmax, needed[0])
        grad_biases = grad.sum(0).split([t.shape[1] for t in taps], dim=1)
        return grad_x if needed[0] else None, list(grad_taps), list(grad_biases)


_conv_max_pool = define(
    "conv_max_pool(Tensor x, Tensor lengths, Tensor[] taps, Tensor[] biases) -> (Tensor pooled, Tensor argmax)",
    reference.conv_max_pool,
    _fake_forward,
    derivative=WinningWindow,
)
_conv_max_pool_backward = define(
    "conv_max_pool_backward(Tensor grad, Tensor x, Tensor lengths, Tensor[] taps, Tensor argmax, bool need_x) "
    "-> (Tensor, Tensor[])",
    reference.conv_max_pool_backward,
    _fake_backward,
)
# Parts of the CPU kernels, on the rows of packed_steps; the C++ library alone has them.
LIBRARY.define("windows_max(Tensor inputs, Tensor lengths, Tensor[] taps, Tensor biases) -> (Tensor, Tensor)")
LIBRARY.define("winning_windows(Tensor inputs, Tensor lengths, int[] sizes, Tensor grad, Tensor argmax) -> Tensor[]")


def _served(x: Tensor, taps: list[Tensor]) -> bool:
    """Whether the C++ kernels serve: float32, whole vectors of filters, and no kernel longer than theirs."""
    encoders, filters = taps[0].shape[:2]
    return (
        x.dtype == torch.float32
        and encoders * filters % 16 == 0
        and all(t.shape[1] == filters and t.shape[2] <= LONGEST for t in taps)
    )


def _packed(x: Tensor, lengths: Tensor, taps: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Pack valid steps end to end, with at least as many rows for each sample as the longest kernel has steps."""
    lengths, sizes = lengths.clamp(0, x.shape[1]).contiguous(), [t.shape[2] for t in taps]
    return torch.ops.nmer_fast.packed_steps(x, lengths, 0, max(sizes)), lengths, sizes


@cpu_kernel("conv_max_pool")
def _cpu(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    if not _served(x, taps):
        return reference.conv_max_pool(x, lengths, taps, biases)
    inputs, lengths, _ = _packed(x, lengths, taps)
    return torch.ops.nmer_fast.windows_max(inputs, lengths, taps, torch.stack(biases))


@cpu_kernel("conv_max_pool_backward")
def _cpu_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    if need_x or not _served(x, taps):
        return reference.conv_max_pool_backward(grad, x, lengths, taps, argmax, need_x)
    inputs, lengths, sizes = _packed(x, lengths, taps)
    return x.new_empty(0), torch.ops.nmer_fast.winning_windows(inputs, lengths, sizes, grad.contiguous(), argmax)


@public()
def conv_max_pool(x: Tensor, lengths: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Convolve over time, apply ReLU, and take the max over each sample's valid windows (Kim 2014, TextCNN).

    A window is valid if it lies inside the sample. A sample shorter than a kernel is padded with zeros to one window.

    Args:
        x: the sequences [B, T, D], float32, float64, bfloat16 or float16; values beyond the lengths change nothing,
            NaN included.
        lengths: the valid steps of each sample, integers [B].
        weights: a tensor for each kernel, [F, D, k] as in nn.Conv1d, or [E, F, D, k] for E encoders of the same input.
        biases: a tensor for each kernel, [F] or [E, F].

    Returns:
        The maxima [B, F of all kernels] or [B, E, F of all kernels], of x's dtype; zeros for a sample of length 0. They
        equal those of nn.Conv1d, ReLU and a max within 1e-5, in float32 and float64. They are differentiable once, in
        x, weights and biases. Under autocast x, weights and biases are cast to autocast's dtype.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
        RuntimeError: backward is asked for a second derivative.
        NotImplementedError: forward mode is asked for.
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
    taps, shifts = [w.mT for w in weights], list(biases)  # [..., F, k, D]
    if encoders:
        return _conv_max_pool(x, valid, taps, shifts)[0]
    one_encoder = ([t.unsqueeze(0) for t in taps], [b.unsqueeze(0) for b in shifts])
    return _conv_max_pool(x, valid, *one_encoder)[0].squeeze(1)

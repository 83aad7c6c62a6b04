"""ops.lstm_max_pool: a one-layer LSTM and the max of its hidden states over valid steps, as one registered op.

torch.compile refuses nn.LSTM; this compiles, takes lengths, and is equal to nn.LSTM on valid steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._args import autocast_dtype, check_floating, check_same, describe, rows_tensor
from ._function import inside_transform
from ._library import define


def _fake_forward(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (batch, steps, _), hidden = x.shape, weight_hh.shape[1]
    return (
        x.new_empty(batch, hidden),
        x.new_empty(batch, hidden, dtype=torch.int64),
        x.new_empty(steps, batch, hidden),
        x.new_empty(steps, batch, hidden, dtype=reference.kl_dtype(x.dtype)),
        x.new_empty(steps, batch, 4 * hidden),
    )


def _fake_backward(grad: Tensor, x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, *rest: Any) -> Any:
    need_x = rest[-1]
    return (
        x.new_empty(x.shape if need_x else (0,)),
        x.new_empty(weight_ih.shape),
        x.new_empty(weight_hh.shape),
        x.new_empty(weight_ih.shape[0]),
    )


_lstm_max_pool = define(
    "lstm_max_pool(Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias) "
    "-> (Tensor pooled, Tensor argmax, Tensor hidden, Tensor cell, Tensor gates)",
    reference.lstm_max_pool,
    _fake_forward,
)
_lstm_max_pool_backward = define(
    "lstm_max_pool_backward(Tensor grad, Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, "
    "Tensor argmax, Tensor hidden, Tensor cell, Tensor gates, bool need_x) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.lstm_max_pool_backward,
    _fake_backward,
)


class LSTMMaxPool(torch.autograd.Function):
    """Differentiable once, in x and the weights."""

    @staticmethod
    def forward(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
        """The registered op."""
        return _lstm_max_pool(x, lengths, weight_ih, weight_hh, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the inputs, hidden states, cells and gates."""
        x, lengths, weight_ih, weight_hh, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, lengths, weight_ih, weight_hh, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        """Back through time."""
        need_x = ctx.needs_input_grad[0]
        grad_x, grad_ih, grad_hh, grad_bias = _lstm_max_pool_backward(grad, *ctx.saved_tensors, need_x)
        return grad_x if need_x else None, None, grad_ih, grad_hh, grad_bias


def lstm_max_pool(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """One-layer, one-direction LSTM from a zero state, then the max over each sample's valid steps.

    Args:
        x: [B, T, D], float32, float64 or bfloat16 (with a float32 cell); what stands beyond the lengths is never
            read, NaN included.
        lengths: integers [B], valid steps.
        weight_ih: [4H, D], gates in the order i, f, g, o, as in nn.LSTM.
        weight_hh: [4H, H].
        bias: [4H], the sum of nn.LSTM's two.

    Returns:
        [B, H], of x's dtype; zeros for a sample of length 0. Equal to nn.LSTM and a max within 1e-5. Differentiable
        once, in x and the weights. Under autocast x and the weights are cast to its dtype, as for nn.LSTM.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_floating("x", x)
    if x.dim() != 3:
        raise ValueError(f"x: expected [B, T, D], got {describe(x)}")
    low = autocast_dtype(x.device)
    if low is not None and x.dtype != torch.float64:
        x, weight_ih, weight_hh, bias = (t.to(low) for t in (x, weight_ih, weight_hh, bias))
    hidden = weight_hh.shape[-1]
    shapes = {"weight_ih": (4 * hidden, x.shape[2]), "weight_hh": (4 * hidden, hidden), "bias": (4 * hidden,)}
    for (name, shape), weight in zip(shapes.items(), (weight_ih, weight_hh, bias), strict=True):
        if tuple(weight.shape) != shape:
            raise ValueError(f"{name}: expected {list(shape)} for x {describe(x)}, got {describe(weight)}")
        check_same(name, weight, "x's dtype and device", torch.empty(shape, dtype=x.dtype, device=x.device))
    valid = rows_tensor("lengths", lengths, (x.shape[0],), x.device)
    if valid is None:
        raise ValueError(f"lengths: expected an integer tensor of shape [{x.shape[0]}], got None")
    if torch.compiler.is_compiling() and inside_transform():
        raise NotImplementedError("lstm_max_pool: a torch.func transform inside compiled code would lose its gradient")
    return LSTMMaxPool.apply(x, valid, weight_ih, weight_hh, bias)[0]

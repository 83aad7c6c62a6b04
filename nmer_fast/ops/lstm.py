"""ops.lstm_max_pool: a one-layer LSTM and the max of its hidden states over valid steps, as one registered op.

torch.compile refuses nn.LSTM; this compiles, takes lengths, and is equal to nn.LSTM on valid steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from ._args import autocast_dtype, check_same, check_sequences, describe, steps_tensor
from ._function import refuse_compiled_transform
from ._library import LIBRARY, define


def _fake_forward(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (batch, steps, _), (encoders, _, hidden) = x.shape, weight_hh.shape
    rows = batch * (steps + 1)
    return (
        x.new_empty(batch, encoders, hidden),
        x.new_empty(batch, encoders, hidden, dtype=torch.int64),
        x.new_empty(rows, encoders, hidden),
        x.new_empty(rows, encoders, hidden, dtype=reference.kl_dtype(x.dtype)),
        x.new_empty(rows, encoders, 4 * hidden),
    )


def _fake_backward(grad: Tensor, x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, *rest: Any) -> Any:
    return (
        x.new_empty(x.shape if rest[-1] else (0,)),
        x.new_empty(weight_ih.shape),
        x.new_empty(weight_hh.shape),
        x.new_empty(weight_ih.shape[:2]),
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
# Parts that the C++ library alone has; the products of the weights' gradients are torch's.
LIBRARY.define("packed_steps(Tensor x, Tensor lengths, int more, int least) -> Tensor")
LIBRARY.define(
    "lstm_recurrence(Tensor inputs, int capacity, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "lstm_recurrence_backward(Tensor grad, Tensor lengths, Tensor weight_hh, Tensor argmax, Tensor cell, Tensor gates) "
    "-> Tensor"
)


def register_compiled() -> None:
    """The CPU kernels of float32 and widths of whole vectors; the reference serves for the rest."""
    LIBRARY.impl("lstm_max_pool", _cpu, "CPU")
    LIBRARY.impl("lstm_max_pool_backward", _cpu_backward, "CPU")


def _served(x: Tensor, weight_hh: Tensor) -> bool:
    return x.dtype == torch.float32 and weight_hh.shape[2] % 16 == 0


def _cpu(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
    """Valid steps alone, end to end: the states' tensors are as long as all steps, and their first rows are used."""
    if not _served(x, weight_hh):
        return reference.lstm_max_pool(x, lengths, weight_ih, weight_hh, bias)
    lengths = lengths.clamp(0, x.shape[1]).contiguous()
    inputs, weights = torch.ops.nmer_fast.packed_steps(x, lengths, 1, 0), (weight_ih, weight_hh, bias)
    capacity = x.shape[0] * (x.shape[1] + 1)
    return torch.ops.nmer_fast.lstm_recurrence(inputs, capacity, lengths, *(w.contiguous() for w in weights))


def _cpu_backward(
    grad: Tensor,
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    argmax: Tensor,
    hidden: Tensor,
    cell: Tensor,
    gates: Tensor,
    need_x: bool,
) -> Any:
    """One product for both encoders' inputs, one an encoder for its states."""
    if not _served(x, weight_hh):
        return reference.lstm_max_pool_backward(
            grad, x, lengths, weight_ih, weight_hh, argmax, hidden, cell, gates, need_x
        )
    lengths = lengths.clamp(0, x.shape[1]).contiguous()
    inputs = torch.ops.nmer_fast.packed_steps(x, lengths, 1, 0)
    d_gates = torch.ops.nmer_fast.lstm_recurrence_backward(grad, lengths, weight_hh.contiguous(), argmax, cell, gates)
    flat = d_gates.flatten(1)
    grad_hh = torch.stack([d_gates[:, e].t() @ hidden[: len(inputs), e] for e in range(weight_hh.shape[0])])
    grad_x = x.new_empty(0)
    if need_x:
        valid = torch.arange(x.shape[1]) < lengths[:, None]
        rows = torch.arange(int(lengths.sum())) + torch.arange(len(lengths)).repeat_interleave(lengths)
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
        grad_x[valid] = (flat @ weight_ih.flatten(0, 1))[rows]
    return grad_x, (flat.t() @ inputs).view_as(weight_ih), grad_hh, flat.sum(0).view(weight_ih.shape[:2])


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
        ctx.set_materialize_grads(False)  # the others' would be zeros as large as all states
        ctx.save_for_backward(x, lengths, weight_ih, weight_hh, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        """Back through time."""
        if grad is None:
            return (None,) * 5
        need_x = ctx.needs_input_grad[0]
        with torch.autocast(grad.device.type, enabled=False):
            grad_x, grad_ih, grad_hh, grad_bias = _lstm_max_pool_backward(grad, *ctx.saved_tensors, need_x)
        return grad_x if need_x else None, None, grad_ih, grad_hh, grad_bias


def lstm_max_pool(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """One-layer, one-direction LSTM from a zero state, then the max over each sample's valid steps.

    Args:
        x: [B, T, D], float32, float64 or bfloat16 (with a float32 cell); what stands beyond the lengths is never
            read, NaN included.
        lengths: integers [B], valid steps.
        weight_ih: [4H, D], gates in the order i, f, g, o, as in nn.LSTM; or [E, 4H, D], of E LSTMs that read the same
            input, which costs less than one after the other.
        weight_hh: [4H, H] or [E, 4H, H].
        bias: [4H] or [E, 4H], the sum of nn.LSTM's two.

    Returns:
        [B, H] or [B, E, H], of x's dtype; zeros for a sample of length 0. Equal to nn.LSTM and a max within 1e-5, in
        float32 and float64. Differentiable once, in x and the weights: of a second derivative PyTorch says nothing, and
        gives none. Under autocast x and the weights are cast to its dtype, as for nn.LSTM.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_sequences(x)
    low = autocast_dtype(x.device)
    if low is not None and x.dtype != torch.float64:
        x, weight_ih, weight_hh, bias = (t.to(low) for t in (x, weight_ih, weight_hh, bias))
    hidden, encoders = weight_hh.shape[-1], tuple(weight_hh.shape[:-2])
    shapes = {"weight_ih": (4 * hidden, x.shape[2]), "weight_hh": (4 * hidden, hidden), "bias": (4 * hidden,)}
    for (name, shape), weight in zip(shapes.items(), (weight_ih, weight_hh, bias), strict=True):
        expected = (*encoders, *shape)
        if tuple(weight.shape) != expected or len(encoders) > 1:
            raise ValueError(f"{name}: expected {list(expected)} for x {describe(x)}, got {describe(weight)}")
        check_same(name, weight, "x's dtype and device", torch.empty(expected, dtype=x.dtype, device=x.device))
    valid = steps_tensor(lengths, x)
    refuse_compiled_transform("lstm_max_pool")
    if encoders:
        return LSTMMaxPool.apply(x, valid, weight_ih, weight_hh, bias)[0]
    return LSTMMaxPool.apply(x, valid, weight_ih[None], weight_hh[None], bias[None])[0][:, 0]

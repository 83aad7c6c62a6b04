"""A one-layer LSTM as two ops: lstm_max_pool, the max of its states over valid steps, and lstm_states, all states.

torch.compile refuses nn.LSTM. These ops compile, take lengths, and equal nn.LSTM on valid steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._args import autocast_dtype, check_same, check_sequences, describe, steps_tensor, without_autocast
from ._library import LIBRARY, cpu_kernel, define
from ._public import public
from ._transforms import Derivative


def _fake_rows(x: Tensor, weight_hh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (batch, steps, _), (encoders, _, width) = x.shape, weight_hh.shape
    rows, wide = batch * (steps + 1), reference.kl_dtype(x.dtype)
    hidden, cell = (x.new_empty(rows, encoders, width, dtype=dtype) for dtype in (x.dtype, wide))
    return hidden, cell, x.new_empty(rows, encoders, 4 * width)


def _fake_max_pool(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
    pooled = x.new_empty(x.shape[0], weight_hh.shape[0], weight_hh.shape[2])
    return pooled, torch.empty_like(pooled, dtype=torch.int64), *_fake_rows(x, weight_hh)


def _fake_states(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
    return x.new_empty(*x.shape[:2], weight_hh.shape[0], weight_hh.shape[2]), *_fake_rows(x, weight_hh)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    hidden: Tensor,
    cell: Tensor,
    gates: Tensor,
    need_x: bool,
    argmax: Tensor | None = None,
) -> Any:
    return (
        x.new_empty(x.shape if need_x else (0,)),
        x.new_empty(weight_ih.shape),
        x.new_empty(weight_hh.shape),
        x.new_empty(weight_ih.shape[:2]),
    )


class Recurrence(Derivative):
    """The gradient of both ops walks back through time; there is no tangent, and no second derivative."""

    wrt = ("x", "weight_ih", "weight_hh", "bias")

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the inputs, hidden states, cells and gates, and the steps of the maxima where there are any."""
        return (args.x, args.lengths, args.weight_ih, args.weight_hh, *outputs[1:]), None

    @staticmethod
    def backward(saved: Any, value: Any, needed: Any, *grads: Any) -> Any:
        """Propagate the gradient back through time."""
        *inputs, argmax, hidden, cell, gates = saved if len(saved) == 8 else (*saved[:4], None, *saved[4:])
        with without_autocast(grads[0].device):
            grad_x, *others = _lstm_backward(grads[0], *inputs, hidden, cell, gates, needed[0], argmax)
        return grad_x if needed[0] else None, *others


class MaxPool(Recurrence):
    """lstm_max_pool also returns the steps of the maxima."""

    constants = (1, 2, 3, 4)


class States(Recurrence):
    """lstm_states returns no maxima."""

    constants = (1, 2, 3)


_lstm_max_pool = define(
    "lstm_max_pool(Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias) "
    "-> (Tensor pooled, Tensor argmax, Tensor hidden, Tensor cell, Tensor gates)",
    reference.lstm_max_pool,
    _fake_max_pool,
    derivative=MaxPool,
)
_lstm_states = define(
    "lstm_states(Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias) "
    "-> (Tensor states, Tensor hidden, Tensor cell, Tensor gates)",
    reference.lstm_states,
    _fake_states,
    derivative=States,
)
_lstm_backward = define(
    "lstm_backward(Tensor grad, Tensor x, Tensor lengths, Tensor weight_ih, Tensor weight_hh, "
    "Tensor hidden, Tensor cell, Tensor gates, bool need_x, Tensor? argmax=None) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.lstm_backward,
    _fake_backward,
)
# Parts of the CPU kernels; the C++ library alone has them. Products for the weights' gradients are torch's.
LIBRARY.define("packed_steps(Tensor x, Tensor lengths, int more, int least) -> Tensor")
LIBRARY.define("unpacked_steps(Tensor rows, Tensor lengths, int steps, int first) -> Tensor")
LIBRARY.define(
    "lstm_recurrence(Tensor inputs, int capacity, Tensor lengths, Tensor weight_ih, Tensor weight_hh, Tensor bias) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "lstm_recurrence_backward(Tensor grad, Tensor lengths, Tensor weight_hh, Tensor argmax, Tensor cell, Tensor gates) "
    "-> Tensor"
)


def _served(x: Tensor, weight_hh: Tensor) -> bool:
    """Whether the C++ kernels serve: float32, and a width of whole vectors."""
    return x.dtype == torch.float32 and weight_hh.shape[2] % 16 == 0


@cpu_kernel("lstm_max_pool")
def _cpu_max_pool(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
    if not _served(x, weight_hh):
        return reference.lstm_max_pool(x, lengths, weight_ih, weight_hh, bias)
    return _recurrence(x, lengths.clamp(0, x.shape[1]).contiguous(), weight_ih, weight_hh, bias)


@cpu_kernel("lstm_states")
def _cpu_states(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Any:
    if not _served(x, weight_hh):
        return reference.lstm_states(x, lengths, weight_ih, weight_hh, bias)
    lengths = lengths.clamp(0, x.shape[1]).contiguous()
    _, _, hidden, cell, gates = _recurrence(x, lengths, weight_ih, weight_hh, bias)
    states = torch.ops.nmer_fast.unpacked_steps(hidden.flatten(1), lengths, x.shape[1], 1)
    return states.unflatten(2, hidden.shape[1:]), hidden, cell, gates


def _recurrence(x: Tensor, lengths: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the C++ recurrence on the valid steps, packed end to end.

    The states' tensors have rows for all B (T + 1) steps, so that their shapes do not depend on the lengths; the packed
    steps take the first rows.
    """
    inputs, capacity = torch.ops.nmer_fast.packed_steps(x, lengths, 1, 0), x.shape[0] * (x.shape[1] + 1)
    return torch.ops.nmer_fast.lstm_recurrence(inputs, capacity, lengths, *(w.contiguous() for w in weights))


@cpu_kernel("lstm_backward")
def _cpu_backward(
    grad: Tensor,
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    hidden: Tensor,
    cell: Tensor,
    gates: Tensor,
    need_x: bool,
    argmax: Tensor | None = None,
) -> Any:
    """Walk back through time in C++; then one product serves all encoders' inputs, and one each encoder's states."""
    if not _served(x, weight_hh):
        return reference.lstm_backward(grad, x, lengths, weight_ih, weight_hh, hidden, cell, gates, need_x, argmax)
    lengths = lengths.clamp(0, x.shape[1]).contiguous()
    if argmax is None:
        grad, argmax = torch.ops.nmer_fast.packed_steps(grad.flatten(2), lengths, 1, 0), lengths.new_empty(0)
    inputs = torch.ops.nmer_fast.packed_steps(x, lengths, 1, 0)
    d_gates = torch.ops.nmer_fast.lstm_recurrence_backward(grad, lengths, weight_hh.contiguous(), argmax, cell, gates)
    flat, grad_x = d_gates.flatten(1), x.new_empty(0)
    grad_hh = torch.stack([d_gates[:, e].t() @ hidden[: len(inputs), e] for e in range(weight_hh.shape[0])])
    if need_x:
        grad_x = torch.ops.nmer_fast.unpacked_steps(flat @ weight_ih.flatten(0, 1), lengths, x.shape[1], 0)
    return grad_x, (flat.t() @ inputs).view_as(weight_ih), grad_hh, flat.sum(0).view(weight_ih.shape[:2])


@public()
def lstm_max_pool(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """Run a one-layer, one-direction LSTM from a zero state, and take the max over each sample's valid steps.

    Args:
        x: the sequences [B, T, D], float32, float64 or bfloat16 (with a float32 cell); values beyond the lengths change
            nothing, NaN included.
        lengths: the valid steps of each sample, integers [B].
        weight_ih: the input weights [4H, D], with the gates in nn.LSTM's order i, f, g, o; or [E, 4H, D] for E LSTMs of
            the same input, which cost less in one call than in E calls.
        weight_hh: the recurrent weights [4H, H] or [E, 4H, H].
        bias: the sum of nn.LSTM's two biases, [4H] or [E, 4H].

    Returns:
        The maxima [B, H] or [B, E, H], of x's dtype; zeros for a sample of length 0. They equal those of nn.LSTM and a
        max within 1e-5, in float32 and float64. They are differentiable once, in x and the weights. Under autocast x
        and the weights are cast to autocast's dtype, as for nn.LSTM.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
        RuntimeError: backward is asked for a second derivative.
        NotImplementedError: forward mode is asked for.
    """
    return _apply(_lstm_max_pool, x, lengths, weight_ih, weight_hh, bias)


@public()
def lstm_states(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """Run a one-layer LSTM and return its hidden state at every step.

    Arguments, errors and exactness are those of `lstm_max_pool`.

    Returns:
        The states [B, T, H] or [B, T, E, H], of x's dtype; zeros beyond the lengths.
    """
    return _apply(_lstm_states, x, lengths, weight_ih, weight_hh, bias)


def _apply(
    op: Callable[..., Any],
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
) -> Tensor:
    """Check the arguments, cast them under autocast, and call the op, which always has an encoders' axis."""
    check_sequences(x)
    low = autocast_dtype(x.device)
    if low is not None and x.dtype != torch.float64:
        x, weight_ih, weight_hh, bias = (t.to(low) for t in (x, weight_ih, weight_hh, bias))
    _check_weights(x, weight_ih, weight_hh, bias)
    valid = steps_tensor(lengths, x)
    if weight_hh.dim() == 3:
        return op(x, valid, weight_ih, weight_hh, bias)[0]
    return op(x, valid, *(w.unsqueeze(0) for w in (weight_ih, weight_hh, bias)))[0].squeeze(-2)


def _check_weights(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> None:
    """The weights of one LSTM, or of E with a leading axis, that fit x [B, T, D] and each other."""
    hidden, encoders = weight_hh.shape[-1], tuple(weight_hh.shape[:-2])
    shapes = {"weight_ih": (4 * hidden, x.shape[2]), "weight_hh": (4 * hidden, hidden), "bias": (4 * hidden,)}
    for (name, shape), weight in zip(shapes.items(), (weight_ih, weight_hh, bias), strict=True):
        expected = (*encoders, *shape)
        if tuple(weight.shape) != expected or len(encoders) > 1:
            raise ValueError(f"{name}: expected {list(expected)} for x {describe(x)}, got {describe(weight)}")
        check_same(name, weight, "x's dtype and device", torch.empty(expected, dtype=x.dtype, device=x.device))

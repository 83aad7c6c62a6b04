"""An LSTM's hidden states at every step, as a registered op: torch.compile refuses nn.LSTM, and would unroll a loop.

`ops.lstm_max_pool`, which the encoders use, gives their maximum alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .encoders import lstm_weights


@torch.library.custom_op("nmer_fast::lstm_states", mutates_args=())
def lstm_states(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[T, B, D] -> hidden and cell [T, B, H], gates [T, B, 4H] after their activations, in the order i, f, g, o."""
    (steps, batch, _), width = x.shape, weight_hh.shape[1]
    gates = torch.addmm(bias, x.flatten(0, 1), weight_ih.t()).view(steps, batch, 4 * width)
    hidden, cell = x.new_empty(steps, batch, width), x.new_empty(steps, batch, width)
    h, c = x.new_zeros(batch, width), x.new_zeros(batch, width)
    for t in range(steps):
        i, f, g, o = gates[t].addmm_(h, weight_hh.t()).chunk(4, dim=1)
        for gate, activation in ((i, torch.sigmoid_), (f, torch.sigmoid_), (g, torch.tanh_), (o, torch.sigmoid_)):
            activation(gate)
        c = torch.addcmul(i * g, f, c, out=cell[t])
        h = torch.mul(o, c.tanh(), out=hidden[t])
    return hidden, cell, gates


@lstm_states.register_fake
def _(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (steps, batch, _), width = x.shape, weight_hh.shape[1]
    return x.new_empty(steps, batch, width), x.new_empty(steps, batch, width), x.new_empty(steps, batch, 4 * width)


@torch.library.custom_op("nmer_fast::lstm_states_backward", mutates_args=())
def lstm_states_backward(
    grad: Tensor, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, hidden: Tensor, cell: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight_ih, weight_hh and bias; a GEMM each after the walk back in time."""
    into_gates, d_h, d_c = torch.empty_like(gates), torch.zeros_like(grad[0]), torch.zeros_like(grad[0])
    for t in reversed(range(len(x))):
        i, f, g, o = gates[t].chunk(4, dim=1)
        tanh_c = cell[t].tanh()
        d_h = d_h + grad[t]
        d_c = d_c + d_h * o * (1 - tanh_c * tanh_c)
        d_f = d_c * cell[t - 1] * f * (1 - f) if t else torch.zeros_like(f)
        torch.cat([d_c * g * i * (1 - i), d_f, d_c * i * (1 - g * g), d_h * tanh_c * o * (1 - o)], 1, out=into_gates[t])
        d_h, d_c = into_gates[t] @ weight_hh, d_c * f
    flat, before = into_gates.flatten(0, 1), hidden[:-1].flatten(0, 1)
    grad_hh = into_gates[1:].flatten(0, 1).t() @ before
    return into_gates @ weight_ih, flat.t() @ x.flatten(0, 1), grad_hh, flat.sum(0)


@lstm_states_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, hidden: Tensor, cell: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = (t.new_empty(t.shape) for t in (x, weight_ih, weight_hh, weight_ih[:, 0]))
    return tuple(like)  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.set_materialize_grads(True)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    """Cell and gates are the op's own business: no gradient comes through them."""
    return lstm_states_backward(grad, *ctx.saved_tensors)


lstm_states.register_autograd(_backward, setup_context=_keep)


class LSTM(nn.Module):
    """One layer, one direction, from a zero state: [B, T, D] -> [B, T, H]; a state sees no later step."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh, self.bias = lstm_weights(inputs, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """All states, in the weights' dtype under autocast too: the cell sums over all steps."""
        with torch.autocast(x.device.type, enabled=False):
            inputs = x.transpose(0, 1).to(self.weight_ih.dtype).contiguous()
            return lstm_states(inputs, self.weight_ih, self.weight_hh, self.bias)[0].transpose(0, 1)

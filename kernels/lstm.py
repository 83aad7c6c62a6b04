"""The recurrence of a one-layer LSTM in one launch: a program walks some samples of one encoder through time.

A step reads the states of the step before from global memory (in effect from the first-level cache), in parts that fit
the registers, after a barrier. torch computes the input's product and the weights' gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from nmer_fast.ops import reference

from .launch import Launch, run

ROWS, DEPTH = 4, 16  # samples of a program; states or gates that one part of a product reads
WARPS = 4  # no register spills; on sm_80 shared memory and arithmetic take about the same time
WIDTHS = (16, 32, 64, 128)  # at these widths all gates fit a program's registers
INTS = ["batch", "steps"]


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """The sigmoid, with an absolute error below 2e-7."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def hyperbolic_tangent(x):  # type: ignore[no-untyped-def]
    """The hyperbolic tangent, with an absolute error below 4e-7."""
    return 2.0 * sigmoid(2.0 * x) - 1.0


@triton.jit
def samples_of(lengths, batch, steps, ENCODERS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's samples: (sample numbers, lengths, units, encoder, offsets of step 0 in rows of WIDTH)."""
    encoder = tl.program_id(0) % ENCODERS
    sample = (tl.program_id(0) // ENCODERS * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    length = tl.load(lengths + sample, mask=sample < batch, other=0)
    length = tl.minimum(tl.maximum(length, 0), steps).to(tl.int32)
    row = sample * (steps + 1) * ENCODERS + encoder
    return sample[:, None], length, tl.arange(0, WIDTH)[None, :], encoder, row[:, None] * WIDTH


@triton.jit(do_not_specialize=INTS)
def lstm_kernel(  # type: ignore[no-untyped-def]
    gates, weight, hidden, cell, pooled, argmax, lengths, batch, steps,
    ENCODERS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Grid: (groups of samples x encoders,). weight: [encoders, WIDTH, 4 WIDTH]. gates: first the input's products."""
    sample, length, unit, encoder, state = samples_of(lengths, batch, steps, ENCODERS, WIDTH, ROWS)
    gate, part = 4 * state + unit, tl.arange(0, DEPTH)
    weight += encoder * 4 * WIDTH * WIDTH + unit
    c = tl.zeros([ROWS, WIDTH], tl.float32)
    best = tl.full([ROWS, WIDTH], -float("inf"), tl.float32)
    when = tl.zeros([ROWS, WIDTH], tl.int64)
    for t in range(0, tl.max(length, 0)):
        active = (t < length)[:, None]
        i = tl.load(gates + gate, mask=active, other=0.0).to(tl.float32)
        f = tl.load(gates + gate + WIDTH, mask=active, other=0.0).to(tl.float32)
        g = tl.load(gates + gate + 2 * WIDTH, mask=active, other=0.0).to(tl.float32)
        o = tl.load(gates + gate + 3 * WIDTH, mask=active, other=0.0).to(tl.float32)
        for first in tl.range(0, WIDTH, DEPTH, num_stages=1):
            h = tl.load(hidden + state + (first + part)[None, :], mask=active, other=0.0).to(tl.float32)
            w = weight + (first + part)[:, None] * (4 * WIDTH)
            i = tl.dot(h, tl.load(w).to(tl.float32), i, input_precision="ieee")
            f = tl.dot(h, tl.load(w + WIDTH).to(tl.float32), f, input_precision="ieee")
            g = tl.dot(h, tl.load(w + 2 * WIDTH).to(tl.float32), g, input_precision="ieee")
            o = tl.dot(h, tl.load(w + 3 * WIDTH).to(tl.float32), o, input_precision="ieee")
        i, f, g, o = sigmoid(i), sigmoid(f), hyperbolic_tangent(g), sigmoid(o)
        c = tl.where(active, f * c + i * g, c)
        h = (o * hyperbolic_tangent(c)).to(hidden.dtype.element_ty)
        tl.store(gates + gate, i.to(gates.dtype.element_ty), mask=active)
        tl.store(gates + gate + WIDTH, f.to(gates.dtype.element_ty), mask=active)
        tl.store(gates + gate + 2 * WIDTH, g.to(gates.dtype.element_ty), mask=active)
        tl.store(gates + gate + 3 * WIDTH, o.to(gates.dtype.element_ty), mask=active)
        state += ENCODERS * WIDTH
        gate += ENCODERS * 4 * WIDTH
        tl.store(cell + state + unit, c, mask=active)
        tl.store(hidden + state + unit, h, mask=active)
        wins = active & ~(h.to(tl.float32) <= best)  # NaN propagates
        best = tl.where(wins, h.to(tl.float32), best)
        when = tl.where(wins, t, when)
        tl.debug_barrier()
    if pooled is not None:
        best = tl.where((length > 0)[:, None], best, 0.0)
        at = (sample * ENCODERS + encoder) * WIDTH + unit
        tl.store(pooled + at, best.to(pooled.dtype.element_ty), mask=sample < batch)
        tl.store(argmax + at, when, mask=sample < batch)


@triton.jit(do_not_specialize=INTS)
def lstm_backward_kernel(  # type: ignore[no-untyped-def]
    grad, argmax, weight, cell, gates, d_gates, lengths, batch, steps,
    ENCODERS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Grid as above. weight: [encoders, 4 WIDTH, WIDTH]. grad: the maxima's or, without argmax, all states'."""
    sample, length, unit, encoder, begin = samples_of(lengths, batch, steps, ENCODERS, WIDTH, ROWS)
    part = tl.arange(0, DEPTH)
    weight += encoder * 4 * WIDTH * WIDTH + unit
    if argmax is not None:
        at = (sample * ENCODERS + encoder) * WIDTH + unit
        won = tl.load(grad + at, mask=sample < batch, other=0.0).to(tl.float32)
        when = tl.load(argmax + at, mask=sample < batch, other=-1)
    d_h, d_c = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    longest = tl.max(length, 0)
    for back in range(0, longest):
        t = longest - 1 - back
        active = (t < length)[:, None]
        state = begin + t * (ENCODERS * WIDTH)
        gate, after = 4 * state + unit, state + ENCODERS * WIDTH + unit
        i = tl.load(gates + gate, mask=active, other=0.0).to(tl.float32)
        f = tl.load(gates + gate + WIDTH, mask=active, other=0.0).to(tl.float32)
        g = tl.load(gates + gate + 2 * WIDTH, mask=active, other=0.0).to(tl.float32)
        o = tl.load(gates + gate + 3 * WIDTH, mask=active, other=0.0).to(tl.float32)
        before = tl.load(cell + state + unit, mask=active & (state > begin), other=0.0)
        tanh_c = hyperbolic_tangent(tl.load(cell + after, mask=active, other=0.0))
        if argmax is not None:
            d_h += tl.where(active & (when == t), won, 0.0)
        else:
            of_step = ((sample * steps + t) * ENCODERS + encoder) * WIDTH + unit
            d_h += tl.load(grad + of_step, mask=active, other=0.0).to(tl.float32)
        d_c += d_h * o * (1.0 - tanh_c * tanh_c)
        element: tl.constexpr = d_gates.dtype.element_ty
        tl.store(d_gates + gate, (d_c * g * (i * (1.0 - i))).to(element), mask=active)
        tl.store(d_gates + gate + WIDTH, (d_c * before * (f * (1.0 - f))).to(element), mask=active)
        tl.store(d_gates + gate + 2 * WIDTH, (d_c * i * (1.0 - g * g)).to(element), mask=active)
        tl.store(d_gates + gate + 3 * WIDTH, (d_h * tanh_c * (o * (1.0 - o))).to(element), mask=active)
        tl.debug_barrier()
        d_c *= f
        d_h = tl.zeros([ROWS, WIDTH], tl.float32)
        for first in tl.range(0, 4 * WIDTH, DEPTH, num_stages=1):
            d = tl.load(d_gates + 4 * state + (first + part)[None, :], mask=active, other=0.0).to(tl.float32)
            w = tl.load(weight + (first + part)[:, None] * WIDTH).to(tl.float32)
            d_h = tl.dot(d, w, d_h, input_precision="ieee")


def lstm_max_pool(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the registered op on CUDA; the reference serves other widths and float64."""
    if not _served(x, weight_hh):
        return reference.lstm_max_pool(x, lengths, weight_ih, weight_hh, bias)
    pooled = x.new_empty(x.shape[0], weight_hh.shape[0], weight_hh.shape[2])
    argmax = torch.empty_like(pooled, dtype=torch.int64)
    return pooled, argmax, *_recurrence(x, lengths, weight_ih, weight_hh, bias, pooled, argmax)


def lstm_states(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the registered op on CUDA; the reference serves other widths and float64."""
    if not _served(x, weight_hh):
        return reference.lstm_states(x, lengths, weight_ih, weight_hh, bias)
    hidden, cell, gates = _recurrence(x, lengths, weight_ih, weight_hh, bias, None, None)
    states = hidden.unflatten(0, (x.shape[0], x.shape[1] + 1))[:, 1:]  # zeros beyond the lengths
    return states.clone(memory_format=torch.contiguous_format), hidden, cell, gates


def lstm_backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the registered op on CUDA, with one product for all encoders' inputs and one for each encoder's states."""
    if not _served(x, weight_hh):
        return reference.lstm_backward(grad, x, lengths, weight_ih, weight_hh, hidden, cell, gates, need_x, argmax)
    d_gates = torch.zeros_like(gates)
    run(planned_backward(grad.contiguous(), argmax, weight_hh.contiguous(), cell, gates, d_gates, lengths))
    flat, grad_x = d_gates.flatten(1), x.new_empty(0)
    grad_hh = torch.stack([d_gates[:, e].t() @ hidden[:, e] for e in range(weight_hh.shape[0])])
    if need_x:
        grad_x = (flat @ weight_ih.flatten(0, 1)).view(x.shape[0], x.shape[1] + 1, x.shape[2])[:, :-1].contiguous()
    grad_ih = (flat.t() @ _rows(x, lengths)).view_as(weight_ih)
    return grad_x, grad_ih, grad_hh, flat.sum(0).view(weight_ih.shape[:2])


def _served(x: Tensor, weight_hh: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.bfloat16) and weight_hh.shape[2] in WIDTHS


def _recurrence(
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    pooled: Tensor | None,
    argmax: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (hidden, cell, gates) in the reference's rows. Beyond a length, hidden is zero and the others unread."""
    encoders, _, width = weight_hh.shape
    gates = torch.addmm(bias.flatten(), _rows(x, lengths), weight_ih.flatten(0, 1).t())
    gates = gates.view(-1, encoders, 4 * width)
    hidden = x.new_zeros(len(gates), encoders, width)
    cell = torch.empty_like(hidden, dtype=torch.float32)
    run(planned(gates, weight_hh.mT.contiguous(), hidden, cell, pooled, argmax, lengths))
    return hidden, cell, gates


def _rows(x: Tensor, lengths: Tensor) -> Tensor:
    """Return [B (T + 1), D]: x with zeros beyond each length, and one more row of zeros for each sample."""
    return F.pad(torch.where(reference.valid_mask(x.shape, lengths, x.device), x, 0.0), (0, 0, 0, 1)).flatten(0, 1)


def planned(
    gates: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    pooled: Tensor | None,
    argmax: Tensor | None,
    lengths: Tensor,
) -> Launch:
    """Plan the forward launch; tensors are contiguous. pooled and argmax are given together or not at all."""
    args = {"gates": gates, "weight": weight, "hidden": hidden, "cell": cell, "pooled": pooled, "argmax": argmax}
    return _launch(lstm_kernel, args, lengths, hidden)


def planned_backward(
    grad: Tensor,
    argmax: Tensor | None,
    weight: Tensor,
    cell: Tensor,
    gates: Tensor,
    d_gates: Tensor,
    lengths: Tensor,
) -> Launch:
    """Plan the backward launch; tensors are contiguous, and d_gates is zero at first."""
    args = {"grad": grad, "argmax": argmax, "weight": weight, "cell": cell, "gates": gates, "d_gates": d_gates}
    return _launch(lstm_backward_kernel, args, lengths, cell)


def _launch(kernel: object, args: dict[str, Tensor | None], lengths: Tensor, states: Tensor) -> Launch:
    (rows, encoders, width), batch = states.shape, len(lengths)
    given = {**args, "lengths": lengths.contiguous(), "batch": batch, "steps": rows // max(batch, 1) - 1}
    constants = {"ENCODERS": encoders, "WIDTH": width, "ROWS": ROWS, "DEPTH": DEPTH}
    return Launch(kernel, encoders * triton.cdiv(batch, ROWS), given, constants, WARPS, registers=255)

"""Eq. 3 with given noise, and its gradient, which is one scaling."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, precision, row_of, run, steps_of, strides, tiling
from .tile import count_of, is_noisy, place_of, root, root_of_rest, scaled, valid_of

INTS = ["row", "steps", "step_size", "alpha_row", "noisy_row", "lengths_row"]


@triton.jit(do_not_specialize=INTS)
def mix_noise_kernel(  # type: ignore[no-untyped-def]
    x, eps, y, alpha_bar, noisy, lengths, row, steps, step_size, alpha_row, noisy_row, lengths_row,
    OF_NOISE: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles,). y = sqrt(a) x + sqrt(1 - a) eps. Without eps: x times sqrt(a), or sqrt(1 - a) if OF_NOISE."""
    sample, first, elements, left = place_of(tl.program_id(0), row, UNIT, BLOCK)
    valid = valid_of(lengths, sample * lengths_row, steps, step_size, elements)
    count = count_of(valid, first, BLOCK)
    at = tl.arange(0, BLOCK)
    base, counts = sample * elements + first, at < count
    a = tl.load(alpha_bar + sample * alpha_row)
    if OF_NOISE:
        a = 1.0 - a
    high, low = root(a, WIDE)
    element: tl.constexpr = y.dtype.element_ty
    flag = is_noisy(noisy, sample * noisy_row)
    if flag & (count > 0):
        given = tl.load(x + base + at, mask=at < left, other=0.0).to(high.dtype)
        plus = tl.full((BLOCK,), -0.0, high.dtype)  # adding it changes nothing, not even -0
        if eps is not None:
            plus = root_of_rest(a, WIDE) * tl.load(eps + base + at, mask=at < left, other=0.0).to(high.dtype)
        out = tl.where(counts, scaled(given, plus, high, low, QUADS == 1), 0.0).to(element)
    elif OF_NOISE or (count <= 0):
        out = tl.zeros((BLOCK,), element)
    else:
        out = tl.where(counts, tl.load(x + base + at, mask=at < left, other=0.0), 0.0).to(element)
    tl.store(y + base + at, out, mask=at < left)


def mix_noise(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Run the registered op on CUDA."""
    x, eps = x.contiguous(), eps.contiguous()
    y = torch.empty_like(x)
    run(planned(x, eps, y, alpha_bar, noisy, lengths, False))
    return y


def mix_noise_backward(
    grad: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None, wrt_noise: bool
) -> Tensor:
    """Run the registered op on CUDA."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    run(planned(grad, None, out, alpha_bar, noisy, lengths, wrt_noise))
    return out


def planned(
    x: Tensor,
    eps: Tensor | None,
    y: Tensor,
    alpha_bar: Tensor,
    noisy: Tensor | None,
    lengths: Tensor | None,
    of_noise: bool,
) -> Launch:
    """Plan the launch; x, eps and y are contiguous."""
    row, (steps, step_size) = row_of(x), steps_of(x)
    tiles = tiling([row], [x, y] if eps is None else [x, eps, y])
    args = {
        "x": x,
        "eps": eps,
        "y": y,
        "alpha_bar": alpha_bar,
        "noisy": noisy,
        "lengths": lengths,
        "row": row // tiles["UNIT"],
        "steps": steps,
        "step_size": step_size,
        "alpha_row": strides(alpha_bar, 1)[0],
        "noisy_row": strides(noisy, 1)[0],
        "lengths_row": strides(lengths, 1)[0],
    }
    programs = x.shape[0] * triton.cdiv(row, tiles["BLOCK"])
    made = precision(x.dtype)
    constants = {"OF_NOISE": of_noise, "WIDE": made["WIDE"], "QUADS": made["QUADS"], **tiles}
    return Launch(mix_noise_kernel, programs, args, constants)

"""Eq. 3 for all modalities of a batch in one launch: noise made and added in the same pass, with its statistics.

A program works on one tile: BLOCK consecutive elements of one sample of one modality. A tile that is all padding is
zeroed and one that is clean is copied; neither makes noise. `add_noise` is the case of one modality.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, precision, row_of, run, steps_of, strides, tiling
from .tile import is_noisy, root, root_of_rest, scaled, valid_of
from .words import below, eps_quads, eps_tile, impulse_threshold, in_order, one, stream_key, sum_of_squares_below


@triton.jit
def add_noise_multimodal_kernel(
    xs, ys, eps, partials, alpha_bars, rng, ids, noisy, lengths, p,
    rows, steps, step_sizes, ends, streams,
    alpha_row, alpha_column, ids_row, noisy_row, noisy_column, lengths_row, lengths_column,
    KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles of all modalities,). `rows` are in UNITs, so that their divisibility is known."""
    tile = tl.program_id(0)
    # The program's modality, by selection: one path of code for all.
    x_ptr, y_ptr, row, start, m = xs[0], ys[0], rows[0], 0, 0
    step_count, step_size, stream_id = steps[0], step_sizes[0], streams[0]
    for i in tl.static_range(1, len(xs)):
        later = tile >= ends[i - 1]
        x_ptr, y_ptr = tl.where(later, xs[i], x_ptr), tl.where(later, ys[i], y_ptr)
        row, start, m = tl.where(later, rows[i], row), tl.where(later, ends[i - 1], start), tl.where(later, i, m)
        step_count, step_size = tl.where(later, steps[i], step_count), tl.where(later, step_sizes[i], step_size)
        stream_id = tl.where(later, streams[i], stream_id)
    chunks = tl.cdiv(row, BLOCK // UNIT)
    sample, chunk = tl.cast((tile - start) // chunks, tl.int64), (tile - start) % chunks
    first = tl.cast(chunk, tl.int64) * BLOCK
    elements = tl.cast(row, tl.int64) * UNIT
    valid = valid_of(lengths, sample * lengths_row + m * lengths_column, step_count, step_size, elements)
    left = tl.cast(tl.minimum(row - chunk * (BLOCK // UNIT), BLOCK // UNIT), tl.int32) * UNIT
    count = tl.cast(tl.minimum(tl.maximum(valid - first, 0), BLOCK), tl.int32)
    flag = is_noisy(noisy, sample * noisy_row + m * noisy_column)
    # Loads and stores are masked by the row's end, whose divisibility keeps them 128 bits wide; values by the length.
    at = tl.arange(0, BLOCK)
    inside, counts, base = at < left, below(count, QUADS, BLOCK), sample * elements + first
    total = tl.full((), 0.0, tl.float64)
    squares, eps_squares = total, total
    if (count > 0) & flag:
        a = tl.load(alpha_bars + sample * alpha_row + m * alpha_column)
        high, low = root(a, WIDE)
        scale = root_of_rest(a, WIDE)
        amplitude = scale
        if partials is not None:
            amplitude = tl.where(scale == 0.0, 1.0, scale)  # what its squares are divided by
        c1, c2, c3, k0, k1 = stream_key(rng, ids, ids_row, sample, stream_id)
        threshold = impulse_threshold(p, KIND)
        v0, v1, v2, v3, u0, u1, u2, u3 = eps_quads(
            first, c1, c2, c3, k0, k1, threshold, amplitude, KIND, EXACT, WIDE, QUADS, BLOCK
        )
        made = in_order(v0, v1, v2, v3, u0, u1, u2, u3, QUADS, BLOCK)
        x = tl.load(x_ptr + base + at, mask=inside, other=0.0).to(high.dtype)
        y = scaled(x, made, high, low, QUADS == 1)
        if partials is not None:
            y = tl.where(scale == 0.0, x, y)
            scaled_squares = sum_of_squares_below(v0, v1, v2, v3, u0, u1, u2, u3, count, QUADS, BLOCK)
            eps_squares = (scaled_squares / (amplitude * amplitude)).to(tl.float64)
            x = tl.where(counts, x, 0.0)
            total, squares = tl.sum(x).to(tl.float64), tl.sum(x * x).to(tl.float64)
        y = tl.where(counts, y, 0.0)
        tl.store(y_ptr + base + at, y.to(y_ptr.dtype.element_ty), mask=inside)
        if eps is not None:  # the same words: only the last multiplication is done again
            bare = eps_tile(first, c1, c2, c3, k0, k1, threshold, one(WIDE), KIND, EXACT, WIDE, QUADS, BLOCK)
            tl.store(eps + base + at, tl.where(counts, bare, 0.0).to(eps.dtype.element_ty), mask=inside)
    else:
        if count > 0:
            x = tl.load(x_ptr + base + at, mask=inside, other=0.0)
            tl.store(y_ptr + base + at, tl.where(counts, x, 0.0), mask=inside)
        else:
            tl.store(y_ptr + base + at, tl.zeros((BLOCK,), y_ptr.dtype.element_ty), mask=inside)
        if eps is not None:
            tl.store(eps + base + at, tl.zeros((BLOCK,), eps.dtype.element_ty), mask=inside)
    if partials is not None:
        to = partials + tl.cast(tile, tl.int64) * 4
        tl.store(to, tl.where(flag, count, 0).to(tl.float64))
        tl.store(to + 1, total)
        tl.store(to + 2, squares)
        tl.store(to + 3, eps_squares)


@triton.jit
def sum_partials_kernel(partials, stats, ends, BLOCK: tl.constexpr):
    """Grid: (modalities,). Sums of a modality's tiles in one order, so to the same bits every time."""
    column = tl.arange(0, 4)
    for m in tl.static_range(len(ends)):
        if tl.program_id(0) == m:
            start = 0
            if m > 0:
                start = ends[m - 1]
            sums = tl.zeros((BLOCK, 4), tl.float64)
            for first in range(start, ends[m], BLOCK):
                tile = first + tl.arange(0, BLOCK)
                at = partials + tile[:, None] * 4 + column[None, :]
                sums += tl.load(at, mask=(tile < ends[m])[:, None], other=0.0)
            tl.store(stats + m * 4 + column, tl.sum(sums, axis=0))


def add_noise_multimodal(
    xs: list[Tensor],
    alpha_bars: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    streams: list[int],
    kind: str,
    return_stats: bool,
) -> tuple[list[Tensor], Tensor]:
    """The registered op."""
    xs = [x.contiguous() for x in xs]
    ys = [torch.empty_like(x) for x in xs]
    launch = planned(xs, ys, None, alpha_bars, rng, sample_ids, noisy, lengths, p, streams, kind, return_stats)
    run(launch)
    stats = rng.new_empty((len(xs) if return_stats else 0, 4), dtype=torch.float64)
    if return_stats:
        run(summed(launch, stats))
    return ys, stats


def planned(
    xs: list[Tensor],
    ys: list[Tensor],
    eps: Tensor | None,
    alpha_bars: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    streams: list[int],
    kind: str,
    return_stats: bool,
) -> Launch:
    """The launch over contiguous xs and ys."""
    rows = [row_of(x) for x in xs]
    tiles = tiling(rows, xs[0].dtype)
    if len(xs) > 1 and xs[0].element_size() == 2 and not return_stats:
        tiles["BLOCK"] *= 2  # choosing the modality costs instructions, which twice the elements share
    ends, programs = [], 0
    for x, row in zip(xs, rows, strict=True):
        programs += len(x) * triton.cdiv(row, tiles["BLOCK"])
        ends.append(programs)
    alpha_row, alpha_column = strides(alpha_bars, 2) if alpha_bars.dim() == 2 else (0, *strides(alpha_bars, 1))
    noisy_row, noisy_column = strides(noisy, 2)
    lengths_row, lengths_column = strides(lengths, 2)
    args = {
        "xs": tuple(xs),
        "ys": tuple(ys),
        "eps": eps,
        "partials": rng.new_empty((programs, 4), dtype=torch.float64) if return_stats else None,
        "alpha_bars": alpha_bars,
        "rng": rng.contiguous(),
        "ids": sample_ids,
        "noisy": noisy,
        "lengths": lengths,
        "p": p,
        "rows": tuple(row // tiles["UNIT"] for row in rows),
        "steps": tuple(steps_of(x)[0] for x in xs),
        "step_sizes": tuple(steps_of(x)[1] for x in xs),
        "ends": tuple(ends),
        "streams": tuple(streams),
        "alpha_row": alpha_row,
        "alpha_column": alpha_column,
        "ids_row": strides(sample_ids, 1)[0],
        "noisy_row": noisy_row,
        "noisy_column": noisy_column,
        "lengths_row": lengths_row,
        "lengths_column": lengths_column,
    }
    constants = {"KIND": kind, **precision(xs[0].dtype), **tiles}
    # ptxas balances its pipes best under these bounds (bench/roofline.py).
    registers = 96 if return_stats else 64 if len(xs) > 1 and xs[0].element_size() == 2 else 48
    return Launch(add_noise_multimodal_kernel, programs, args, constants, registers=registers)


def summed(launch: Launch, stats: Tensor) -> Launch:
    """The second launch, which adds up what the programs of the first found."""
    args = {"partials": launch.args["partials"], "stats": stats, "ends": launch.args["ends"]}
    return Launch(sum_partials_kernel, len(stats), args, {"BLOCK": 256})

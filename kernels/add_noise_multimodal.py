"""Eq. 3 for all modalities of a batch in one launch, which generates noise, adds it, and collects its statistics.

A program works on one tile: BLOCK consecutive elements of one sample of one modality. A tile of padding is zeroed and a
clean tile is copied; neither generates noise. `add_noise` is the case of one modality.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, hidden, precision, row_of, run, steps_of, strides, tiling
from .tile import count_of, is_noisy, place_of, root, root_of_rest, scaled, valid_of
from .words import below, eps_quads, eps_tile, impulse_threshold, in_order, one, squares_below, stream_key

INTS = [
    "alpha_row", "alpha_column", "ids_row", "noisy_row", "noisy_column", "lengths_row", "lengths_column",
]  # fmt: skip


@triton.jit(do_not_specialize=INTS)
def add_noise_multimodal_kernel(  # type: ignore[no-untyped-def]
    xs, ys, eps, partials, alpha_bars, rng, ids, noisy, lengths, p,
    rows, steps, step_sizes, ends, streams,
    alpha_row, alpha_column, ids_row, noisy_row, noisy_column, lengths_row, lengths_column,
    KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles of all modalities,). `rows` count UNITs, so that their divisibility is known. Tuples are `hidden`.

    A tile is worked on in PARTS, one after the other: more elements share the setup, in the registers of one part.
    """
    tile = tl.program_id(0)
    # The program selects its modality's parameters, so that all modalities share one path of code. It selects by sums
    # with zeros: LLVM would turn a choice between two parameters into a load from a chosen address.
    row, start, m, stream_id = rows[0] >> 2, 0, 0, streams[0] >> 2
    step_count, step_size = steps[0] >> 2, step_sizes[0] >> 2
    x_ptr, y_ptr = xs[0], ys[0]
    if len(xs) > 1:
        SIZE: tl.constexpr = xs[0].dtype.element_ty.primitive_bitwidth // 8
        row, step_count, step_size, stream_id = 0, 0, 0, 0
        to_x, to_y = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64)
        for i in tl.static_range(len(xs)):
            mine = tile < ends[i] >> 2
            if i > 0:
                mine = mine & (tile >= ends[i - 1] >> 2)
                start += tl.where(mine, ends[i - 1] >> 2, 0)
                to_x += tl.where(mine, (xs[i].to(tl.int64) - xs[0].to(tl.int64)) // SIZE, 0)
                to_y += tl.where(mine, (ys[i].to(tl.int64) - ys[0].to(tl.int64)) // SIZE, 0)
            m += tl.where(mine, i, 0)
            row += tl.where(mine, rows[i] >> 2, 0)
            step_count += tl.where(mine, steps[i] >> 2, 0)
            step_size += tl.where(mine, step_sizes[i] >> 2, 0)
            stream_id += tl.where(mine, streams[i] >> 2, 0)
        x_ptr, y_ptr = xs[0] + tl.multiple_of(to_x, UNIT), ys[0] + tl.multiple_of(to_y, UNIT)
    sample, first, elements, left = place_of(tile - start, row, UNIT, BLOCK)
    valid = valid_of(lengths, sample * lengths_row + m * lengths_column, step_count, step_size, elements)
    count = count_of(valid, first, BLOCK)
    flag = is_noisy(noisy, sample * noisy_row + m * noisy_column)
    # The row's end masks loads and stores: its known divisibility keeps them 128 bits wide. The length masks values.
    PART: tl.constexpr = BLOCK // PARTS
    at = tl.arange(0, PART)
    base = sample * elements + first
    total = tl.full((), 0.0, tl.float64)
    squares, eps_squares = total, total
    if (count > 0) & flag:
        a = tl.load(alpha_bars + sample * alpha_row + m * alpha_column)
        high, low = root(a, WIDE)
        scale = root_of_rest(a, WIDE)
        amplitude = scale
        if partials is not None:
            amplitude = tl.where(scale == 0.0, 1.0, scale)  # the sum of squares is divided by its square
        c1, c2, c3, k0, k1 = stream_key(rng, ids, ids_row, sample, stream_id)
        threshold = impulse_threshold(p, KIND)
        x_sums = tl.zeros((PART,), high.dtype)
        x_squares, made_squares = x_sums, tl.zeros((PART // 4 // QUADS,), high.dtype)
        for i in tl.static_range(PARTS):
            here = i * PART
            v0, v1, v2, v3, u0, u1, u2, u3 = eps_quads(
                first + here, c1, c2, c3, k0, k1, threshold, amplitude, KIND, EXACT, WIDE, QUADS, PART
            )
            made = in_order(v0, v1, v2, v3, u0, u1, u2, u3, QUADS, PART)
            inside, counts = at < left - here, below(count - here, QUADS, PART)
            x = tl.load(x_ptr + base + here + at, mask=inside, other=0.0).to(high.dtype)
            y = scaled(x, made, high, low, QUADS == 1)
            if partials is not None:
                y = tl.where(scale == 0.0, x, y)
                made_squares = squares_below(v0, v1, v2, v3, u0, u1, u2, u3, count - here, made_squares, QUADS, PART)
                x = tl.where(counts, x, 0.0)
                x_sums, x_squares = x_sums + x, tl.fma(x, x, x_squares)
            y = tl.where(counts, y, 0.0)
            tl.store(y_ptr + base + here + at, y.to(y_ptr.dtype.element_ty), mask=inside)
            if eps is not None:  # from the same words: only the last multiplication is repeated
                bare = eps_tile(first + here, c1, c2, c3, k0, k1, threshold, one(WIDE), KIND, EXACT, WIDE, QUADS, PART)
                tl.store(eps + base + here + at, tl.where(counts, bare, 0.0).to(eps.dtype.element_ty), mask=inside)
        if partials is not None:
            total, squares = tl.sum(x_sums).to(tl.float64), tl.sum(x_squares).to(tl.float64)
            eps_squares = (tl.sum(made_squares) / (amplitude * amplitude)).to(tl.float64)
    else:
        for i in tl.static_range(PARTS):
            here = i * PART
            inside = at < left - here
            kept = tl.zeros((PART,), y_ptr.dtype.element_ty)
            if count > here:
                kept = tl.load(x_ptr + base + here + at, mask=inside, other=0.0)
                kept = tl.where(below(count - here, QUADS, PART), kept, 0.0).to(y_ptr.dtype.element_ty)
            tl.store(y_ptr + base + here + at, kept, mask=inside)
            if eps is not None:
                tl.store(eps + base + here + at, tl.zeros((PART,), eps.dtype.element_ty), mask=inside)
    if partials is not None:
        to = partials + tl.cast(tile, tl.int64) * 4
        tl.store(to, tl.where(flag, count, 0).to(tl.float64))
        tl.store(to + 1, total)
        tl.store(to + 2, squares)
        tl.store(to + 3, eps_squares)


@triton.jit
def sum_partials_kernel(partials, stats, ends, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Grid: (modalities,). Sums a modality's tiles in a fixed order, so that the bits are the same in every run."""
    column = tl.arange(0, 4)
    for m in tl.static_range(len(ends)):
        if tl.program_id(0) == m:
            start = 0
            if m > 0:
                start = ends[m - 1] >> 2
            sums = tl.zeros((BLOCK, 4), tl.float64)
            for first in range(start, ends[m] >> 2, BLOCK):
                tile = first + tl.arange(0, BLOCK)
                at = partials + tile[:, None] * 4 + column[None, :]
                sums += tl.load(at, mask=(tile < ends[m] >> 2)[:, None], other=0.0)
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
    """Run the registered op on CUDA."""
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
    """Plan the launch; xs and ys are contiguous."""
    rows = [row_of(x) for x in xs]
    tiles = tiling(rows, [*xs, *ys])
    unit, parts = tiles["UNIT"], 2 if return_stats or len(xs) > 1 else 1
    block = tiles["BLOCK"] = parts * tiles["BLOCK"]
    ends, programs = [], 0
    for x, row in zip(xs, rows, strict=True):
        programs += x.shape[0] * -(-row // block)
        ends.append(programs)
    steps, step_sizes = zip(*[steps_of(x) for x in xs], strict=True)
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
        "rows": hidden([row // unit for row in rows]),
        "steps": hidden(steps),
        "step_sizes": hidden(step_sizes),
        "ends": hidden(ends),
        "streams": hidden(streams),
        "alpha_row": alpha_row,
        "alpha_column": alpha_column,
        "ids_row": strides(sample_ids, 1)[0],
        "noisy_row": noisy_row,
        "noisy_column": noisy_column,
        "lengths_row": lengths_row,
        "lengths_column": lengths_column,
    }
    constants = {"KIND": kind, "PARTS": parts, **precision(xs[0].dtype), **tiles}
    # With these limits ptxas balances the pipes best (bench/roofline.py).
    registers = 96 if return_stats else 64 if len(xs) > 1 and xs[0].element_size() == 2 else 48
    return Launch(add_noise_multimodal_kernel, programs, args, constants, registers=registers)


def summed(launch: Launch, stats: Tensor) -> Launch:
    """Plan the second launch, which adds up the partial sums of the first launch's programs."""
    args = {"partials": launch.args["partials"], "stats": stats, "ends": launch.args["ends"]}
    return Launch(sum_partials_kernel, stats.shape[0], args, {"BLOCK": 256})

"""The noise alone, which is eps of add_noise with the same arguments."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, precision, row_of, run, steps_of, strides, tiling
from .tile import count_of, is_noisy, place_of, valid_of
from .words import eps_tile, impulse_threshold, one, stream_key

INTS = ["row", "steps", "step_size", "stream_id", "ids_row", "noisy_row", "lengths_row"]


@triton.jit(do_not_specialize=INTS)
def noise_kernel(  # type: ignore[no-untyped-def]
    eps, rng, ids, noisy, lengths, p, row, steps, step_size, stream_id, ids_row, noisy_row, lengths_row,
    KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles,). `row` counts UNITs."""
    sample, first, elements, left = place_of(tl.program_id(0), row, UNIT, BLOCK)
    valid = valid_of(lengths, sample * lengths_row, steps, step_size, elements)
    count = count_of(valid, first, BLOCK)
    at = tl.arange(0, BLOCK)
    to = eps + sample * elements + first + at
    if (count > 0) & is_noisy(noisy, sample * noisy_row):
        c1, c2, c3, k0, k1 = stream_key(rng, ids, ids_row, sample, stream_id)
        threshold = impulse_threshold(p, KIND)
        made = eps_tile(first, c1, c2, c3, k0, k1, threshold, one(WIDE), KIND, EXACT, WIDE, QUADS, BLOCK)
        tl.store(to, tl.where(at < count, made, 0.0).to(eps.dtype.element_ty), mask=at < left)
    else:
        tl.store(to, tl.zeros((BLOCK,), eps.dtype.element_ty), mask=at < left)


def noise(
    size: list[int],
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    stream: int,
    kind: str,
    dtype: torch.dtype,
) -> Tensor:
    """Run the registered op on CUDA."""
    eps = rng.new_empty(size, dtype=dtype)
    run(planned(eps, rng, sample_ids, noisy, lengths, p, stream, kind))
    return eps


def planned(
    eps: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    stream: int,
    kind: str,
) -> Launch:
    """Plan the launch; eps is contiguous."""
    row, (steps, step_size) = row_of(eps), steps_of(eps)
    tiles = tiling([row], [eps])
    args = {
        "eps": eps,
        "rng": rng.contiguous(),
        "ids": sample_ids,
        "noisy": noisy,
        "lengths": lengths,
        "p": p,
        "row": row // tiles["UNIT"],
        "steps": steps,
        "step_size": step_size,
        "stream_id": stream,  # Triton uses the name `stream` itself
        "ids_row": strides(sample_ids, 1)[0],
        "noisy_row": strides(noisy, 1)[0],
        "lengths_row": strides(lengths, 1)[0],
    }
    programs = eps.shape[0] * triton.cdiv(row, tiles["BLOCK"])
    return Launch(noise_kernel, programs, args, {"KIND": kind, **precision(eps.dtype), **tiles})

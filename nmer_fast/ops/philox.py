"""ops.philox and ops.noise_counter: the noise contract's generator, for code that draws from it directly."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._args import INT_DTYPES, describe, rng_tensor, stream_number, whole_or_tensor
from ._library import define
from ._public import public

_philox = define(
    "philox(Tensor seed, Tensor counter) -> Tensor",
    reference.philox,
    lambda seed, counter: torch.empty(counter.shape, dtype=torch.int64, device=counter.device),
)


@public()
def philox(seed: int | Tensor, counter: Tensor) -> Tensor:
    """Make Philox4x32-10 words (Salmon et al., SC'11).

    Args:
        seed: the 64-bit key: an int (taken mod 2^64), an int64 tensor [], or an int64 tensor [2] = (seed, draw), whose
            draw is not read.
        counter: integers [..., 4], counter words 0 to 3, each masked to 32 bits.

    Returns:
        Words from 0 to 2^32-1, int64 [..., 4], bit-identical on all backends.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    if not isinstance(counter, Tensor) or counter.dtype not in INT_DTYPES or counter.shape[-1:] != (4,):
        raise ValueError(f"counter: expected an integer tensor [..., 4], got {describe(counter)}")
    if seed is None:
        raise TypeError("seed: expected an int or an int64 tensor, got None")
    return _philox(rng_tensor(seed, 0, counter.device).select(0, 0), counter.to(torch.int64))


def noise_counter(sample_ids: Tensor, quad: Tensor, *, draw: int | Tensor = 0, stream: int = 0) -> Tensor:
    """Make the counter of elements 4 quad to 4 quad + 3 of a sample (docs/noise_contract.md).

    Args:
        sample_ids: integers, masked to 48 bits, which broadcast against quad.
        quad: integers, element // 4.
        draw: an int from 0 to 2^32-1, or an integer tensor [], masked to 32 bits.
        stream: the purpose of the noise, 0 to 255.

    Returns:
        The counter for `philox`, int64 [..., 4].

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    stream = stream_number(stream)
    draw_word = torch.zeros_like(quad, dtype=torch.int64) + whole_or_tensor("draw", draw)
    words = reference.sample_counter(quad.long(), sample_ids.long(), stream, draw_word)
    return torch.stack(torch.broadcast_tensors(*words), dim=-1)

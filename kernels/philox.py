"""The Philox words of given counters, for users who build on the generator."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, run
from .words import philox as philox_words


@triton.jit(do_not_specialize=["count"])
def philox_kernel(seed, counter, words, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Grid: (ceil(count / BLOCK),). Counters and words are int64 [count, 4]."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key, at, inside = tl.load(seed), row * 4, row < count
    c0 = tl.load(counter + at, mask=inside, other=0).to(tl.uint32)
    c1 = tl.load(counter + at + 1, mask=inside, other=0).to(tl.uint32)
    c2 = tl.load(counter + at + 2, mask=inside, other=0).to(tl.uint32)
    c3 = tl.load(counter + at + 3, mask=inside, other=0).to(tl.uint32)
    c0, c1, c2, c3 = philox_words(c0, c1, c2, c3, key.to(tl.uint32), (key >> 32).to(tl.uint32))
    tl.store(words + at, c0.to(tl.int64), mask=inside)
    tl.store(words + at + 1, c1.to(tl.int64), mask=inside)
    tl.store(words + at + 2, c2.to(tl.int64), mask=inside)
    tl.store(words + at + 3, c3.to(tl.int64), mask=inside)


def philox(seed: Tensor, counter: Tensor) -> Tensor:
    """Run the registered op on CUDA."""
    counter = counter.contiguous()
    words = torch.empty_like(counter)
    run(planned(seed, counter, words))
    return words


def planned(seed: Tensor, counter: Tensor, words: Tensor) -> Launch:
    """Plan the launch; counters and words are contiguous."""
    count, block = counter.numel() // 4, 512
    args = {"seed": seed, "counter": counter, "words": words, "count": count}
    return Launch(philox_kernel, triton.cdiv(count, block), args, {"BLOCK": block})

"""Box-Muller on words that noise meets once in a billion: the far tail, the centre, the corners of the angle."""

import torch
import triton
import triton.language as tl

from nmer_fast.kernels.launch import Launch
from nmer_fast.kernels.words import box_muller
from nmer_fast.ops import reference

ENDS = [0, 1, 2, 3, 100, 65535, 16777217, 2**29 - 1, 2**29, 2**30, 3 * 2**29, 2**31 - 1, 2**31, 0xB504F333, 0xB504F334]
WORDS = torch.tensor([*ENDS, *(2**32 - 1 - e for e in ENDS[:7]), 0xFFFFFF7F, 0xFFFFFF80])


@triton.jit
def chosen_kernel(radius, angle, cos, sin, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    w0, w1 = tl.load(radius + at).to(tl.uint32), tl.load(angle + at).to(tl.uint32)
    c, s = box_muller(w0, w1, tl.full((), 1.0, tl.float32), EXACT)
    tl.store(cos + at, c)
    tl.store(sin + at, s)


def case(exact):
    """Return (launch, its two results, the results by the float64 definition)."""
    words = WORDS.to(torch.get_default_device())
    pairs = torch.cartesian_prod(words, words)
    pairs = torch.cat([pairs, pairs[:1].expand(1024 - len(pairs), 2)])
    radius, angle = pairs.t().contiguous()
    cos, sin = torch.empty(1024), torch.empty(1024)
    args = {"radius": radius, "angle": angle, "cos": cos, "sin": sin}
    launch = Launch(chosen_kernel, 1, args, {"EXACT": exact, "BLOCK": 1024})
    expected = reference.box_muller((radius, angle, radius, angle))
    return launch, (cos, sin), (expected[:, 0], expected[:, 1])


def check(results, expected, exact):
    for got, value in zip(results, expected, strict=True):
        assert got.isfinite().all()
        assert (got.double() - value).abs().max() <= (2e-6 if exact else 1e-3)
    assert results[0].abs().max() > 6.76  # sqrt(66 ln 2) at word 0
    if exact:
        assert results[0].abs().min() == 0  # at word 2^32 - 1

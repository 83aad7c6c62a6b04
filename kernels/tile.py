"""What the kernels share: which elements of a tile count, and Eq. 3 with factors that round once."""

import triton
import triton.language as tl


@triton.jit
def valid_of(lengths, at, steps, step_size, row):
    """Elements of a sample that count: all, or its length's, clamped to what there is."""
    valid = row
    if lengths is not None:
        valid = tl.minimum(tl.maximum(tl.load(lengths + at), 0), steps) * step_size
    return valid


@triton.jit
def is_noisy(noisy, at):
    """The sample's flag; without flags every sample is noisy."""
    flag = True
    if noisy is not None:
        flag = tl.load(noisy + at) != 0
    return flag


@triton.jit
def root(a, WIDE: tl.constexpr):
    """sqrt(a) of a float64 from 0 to 1 as high + low: high below it, so that both have its sign and infinity stays."""
    if WIDE:
        high, low = tl.sqrt(a), 0.0
    else:
        s = tl.sqrt(a.to(tl.float32))
        high = tl.fma(s, -0.00000023841858, s)  # 2^-22 less than the approximate root, which errs by less
        left = tl.fma(-high.to(tl.float64), high.to(tl.float64), a).to(tl.float32)
        low = tl.where(s == 0.0, 0.0, 0.5 * left / high)
    return high, low


@triton.jit
def scaled(x, plus, high, low, WIDE: tl.constexpr):
    """(high + low) x + plus, rounded once."""
    if WIDE:
        y = tl.fma(x, high, plus)
    else:
        y = tl.fma(x, high, tl.fma(x, low, plus))
    return y

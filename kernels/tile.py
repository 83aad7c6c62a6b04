"""Device functions that kernels share: which elements of a tile are valid, and Eq. 3 with factors that round once."""

# Device functions take whatever Triton passes; it reads no annotation but constexpr.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from .words import RSQRT, SQRT, special


@triton.jit
def place_of(tile, row, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """A tile's place in its tensor: (sample, first element, elements of a sample, the tile's elements inside it)."""
    chunks = (row - 1) // (BLOCK // UNIT) + 1  # tl.cdiv would pass 2^31 for the longest rows
    chunk = tile % chunks
    left = tl.cast(tl.minimum(row - chunk * (BLOCK // UNIT), BLOCK // UNIT), tl.int32) * UNIT
    first, elements = tl.cast(chunk, tl.int64) * BLOCK, tl.cast(row, tl.int64) * UNIT
    return tl.cast(tile // chunks, tl.int64), first, elements, left


@triton.jit
def count_of(valid, first, BLOCK: tl.constexpr):
    """The number of valid elements of a tile."""
    return tl.cast(tl.minimum(tl.maximum(valid - first, 0), BLOCK), tl.int32)


@triton.jit
def valid_of(lengths, at, steps, step_size, row):
    """The number of valid elements of a sample: all, or those of its length, clamped to the steps that exist."""
    valid = row
    if lengths is not None:
        valid = tl.minimum(tl.maximum(tl.load(lengths + at), 0), steps) * step_size
    return valid


@triton.jit
def is_noisy(noisy, at):
    """The sample's flag. Without flags every sample is noisy."""
    flag = True
    if noisy is not None:
        flag = tl.load(noisy + at) != 0
    return flag


@triton.jit
def root(a, WIDE: tl.constexpr):
    """sqrt(a) of a float64 from 0 to 1 as high + low. high is below it, so both have its sign and infinity stays."""
    if WIDE:
        high, low = tl.sqrt(a), tl.full((), 0.0, tl.float64)
    else:
        single = a.to(tl.float32)
        r = special(single, "rsqrt", RSQRT)
        high = single * r
        high = tl.fma(high, -0.00000047683716, high)  # less by 2^-21, which is more than the approximate root errs by
        left = tl.fma(-high.to(tl.float64), high.to(tl.float64), a).to(tl.float32)
        nothing = single < 1.2e-38  # the special-function unit takes these for 0
        high, low = tl.where(nothing, 0.0, high), tl.where(nothing, 0.0, 0.5 * left * r)
    return high, low


@triton.jit
def root_of_rest(a, WIDE: tl.constexpr):
    """sqrt(1 - a), the factor of eps. The approximate root errs by 2^-22, a third of the error that eps itself has."""
    rest = 1.0 - a
    return tl.sqrt(rest) if WIDE else special(rest.to(tl.float32), "sqrt", SQRT)


@triton.jit
def scaled(x, plus, high, low, ROUND_ONCE: tl.constexpr):
    """(high + low) x + plus, rounded once; without ROUND_ONCE, for results of 16 bits, nearly so."""
    if x.dtype == tl.float64:
        y = tl.fma(x, high, plus)  # low is 0, and infinity times 0 would be NaN
    elif ROUND_ONCE:
        y = tl.fma(x, high, tl.fma(x, low, plus))
    else:
        y = tl.fma(x, high + low, plus)
    return y

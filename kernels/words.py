"""Device functions of the noise contract: Philox words, and the values that they become (docs/noise_contract.md).

With EXACT, the polynomials and the order of their operations are those of csrc/distributions.h: with fused
multiply-add, which `tl.fma` is when compiled, float32 values are the CPU's to the bit. Without EXACT, for bfloat16 and
float16, the special-function unit computes the values, within 1e-3.
"""

# Device functions take whatever Triton passes; it reads no annotation but constexpr.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from nmer_fast.contract import GENERATED_KINDS

UNKNOWN_KIND = tl.constexpr(f"kind: expected one of {', '.join(GENERATED_KINDS)}, got ")
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # the interpreter runs no assembly
M0, M1 = tl.constexpr(0xD2511F53), tl.constexpr(0xCD9E8D57)
TIMES_M0 = tl.constexpr("mul.wide.u32 $0, $1, 0xD2511F53;")
TIMES_M1 = tl.constexpr("mul.wide.u32 $0, $1, 0xCD9E8D57;")
RSQRT = tl.constexpr("rsqrt.approx.ftz.f32 $0, $1;")
SQRT = tl.constexpr("sqrt.approx.ftz.f32 $0, $1;")
LG2 = tl.constexpr("lg2.approx.ftz.f32 $0, $1;")
SIN = tl.constexpr("sin.approx.ftz.f32 $0, $1;")
COS = tl.constexpr("cos.approx.ftz.f32 $0, $1;")
EX2 = tl.constexpr("ex2.approx.ftz.f32 $0, $1;")


def _hex(*values: str) -> tuple[tl.constexpr, ...]:
    return tuple(tl.constexpr(float.fromhex(value)) for value in values)


L0, L1, L2, L3, L4, L5, L6, L7 = _hex(
    "-0x1.555554p-1", "0x1.000226p-1", "-0x1.99a008p-2", "0x1.547246p-2",
    "-0x1.22da18p-2", "0x1.0d8534p-2", "-0x1.055b8ap-2", "0x1.38b618p-3",
)  # fmt: skip
S0, S1, S2 = _hex("-0x1.555546p-3", "0x1.11076p-7", "-0x1.994eb4p-13")
C0, C1, C2 = _hex("0x1.55554ap-5", "-0x1.6c0c8cp-10", "0x1.9a025cp-16")
W0, W1, W2, W3, W4, W5 = _hex(
    "-0x1.55555555553b8p+0", "-0x1.9999999b8677ap-1", "-0x1.2492462af84abp-1",
    "-0x1.c71fccd953895p-2", "-0x1.7382dbfa1ce75p-2", "-0x1.546a3155bacbfp-2",
)  # fmt: skip
WS0, WS1, WS2, WS3, WS4 = _hex(
    "-0x1.555555555516bp-3", "0x1.1111110fd3d43p-7", "-0x1.a019fd9b35ee5p-13",
    "0x1.71d9a9f41c5a9p-19", "-0x1.aa285788aaa42p-26",
)  # fmt: skip
WC0, WC1, WC2, WC3, WC4 = _hex(
    "0x1.5555555555437p-5", "-0x1.6c16c16b614fcp-10", "0x1.a019ff53a6a1cp-16",
    "-0x1.27e25f4bb4e6fp-22", "0x1.1c81c3531fff2p-29",
)  # fmt: skip
WIDE_TURN, WIDE_MINUS_TWO_LN2 = _hex("0x1.921fb54442d18p-30", "-0x1.62e42fefa39efp+0")
HALF_LOG2_E, MINUS_TWO_LN2 = _hex("0x1.715476p-1", "-0x1.62e43p+0")
TURN, SQRT3, TWICE_SQRT3, LAPLACE = _hex("0x1.921fb6p-30", "-0x1.bb67aep+0", "0x1.bb67aep+1", "0x1.6a09e6p-2")


@triton.jit
def multiply_wide(x, M: tl.constexpr, ASM: tl.constexpr):
    """The 64-bit product of a uint32 in one instruction, which LLVM would split into a high and a low one."""
    if INTERPRETED:
        product = x.to(tl.uint64) * M
    else:
        product = tl.inline_asm_elementwise(ASM, "=l,r", [x], dtype=tl.uint64, is_pure=True, pack=1)
    return product


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of uint32 counters; one wide multiplication gives both halves of a product."""
    for _ in tl.static_range(10):
        a = multiply_wide(c0, M0, TIMES_M0)
        b = multiply_wide(c2, M1, TIMES_M1)
        c0, c1 = (b >> 32).to(tl.uint32) ^ c1 ^ k0, b.to(tl.uint32)
        c2, c3 = (a >> 32).to(tl.uint32) ^ c3 ^ k1, a.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def unit(w, BITS: tl.constexpr):
    """A float32 in (0, 1]: fl32(fl32(w) 2^-BITS + 2^-(BITS + 1))."""
    return tl.fma(w.to(tl.float32), 1.0 / (1 << BITS), 0.5 / (1 << BITS))


@triton.jit
def minus_two_log(u):
    """-2 ln u of a float32 u in [2^-33, 1]."""
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    f = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(tl.fma(tl.fma(tl.fma(f, L7, L6), f, L5), f, L4), f, L3)
    p = tl.fma(tl.fma(tl.fma(p, f, L2), f, L1), f, L0)
    q = tl.fma(f, tl.fma(f, p, 1.0), -2.0)
    return tl.fma(e.to(tl.float32), MINUS_TWO_LN2, f * q)


@triton.jit
def special(x, NAME: tl.constexpr, ASM: tl.constexpr):
    """A function of the special-function unit. It handles no subnormals, which no value here needs."""
    if INTERPRETED:
        if NAME == "rsqrt":
            y = tl.rsqrt(x)
        elif NAME == "sqrt":
            y = tl.sqrt(x)
        elif NAME == "lg2":
            y = tl.log2(x)
        elif NAME == "ex2":
            y = tl.exp2(x)
        elif NAME == "sin":
            y = tl.sin(x)
        else:
            y = tl.cos(x)
    else:
        y = tl.inline_asm_elementwise(ASM, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return y


@triton.jit
def square_root(x):
    """The square root of 0 or of x in [2^-60, 2^60], correctly rounded by one fused residual step; sqrt_rn is slow."""
    r = special(x, "rsqrt", RSQRT)
    s = x * r
    half = (r.to(tl.int32, bitcast=True) - (1 << 23)).to(tl.float32, bitcast=True)  # r / 2, by the integer unit
    s = tl.fma(tl.fma(-s, s, x), half, s)
    return tl.where(x == 0.0, 0.0, s)


@triton.jit
def sin_cos(w):
    """Sine and cosine of the angle 2 pi w / 2^32. The multiple of pi/2 is subtracted in integers, which is exact."""
    quarter = (w + (1 << 29)).to(tl.int32, bitcast=True) >> 30
    rest = (w - (quarter.to(tl.uint32, bitcast=True) << 30)).to(tl.int32, bitcast=True)
    x = rest.to(tl.float32) * TURN
    z = x * x
    s = tl.fma(x * z, tl.fma(tl.fma(z, S2, S1), z, S0), x)
    c = tl.fma(z * z, tl.fma(tl.fma(z, C2, C1), z, C0), tl.fma(z, -0.5, 1.0))
    odd = (quarter & 1) != 0
    sin_sign, cos_sign = (quarter & 2) << 30, ((quarter + 1) & 2) << 30
    sin = (tl.where(odd, c, s).to(tl.int32, bitcast=True) ^ sin_sign).to(tl.float32, bitcast=True)
    cos = (tl.where(odd, s, c).to(tl.int32, bitcast=True) ^ cos_sign).to(tl.float32, bitcast=True)
    return sin, cos


@triton.jit
def box_muller(w0, w1, amplitude, EXACT: tl.constexpr):
    """Box-Muller: two words become amplitude r cos and amplitude r sin."""
    u = unit(w0, 32)
    if EXACT:
        r = square_root(minus_two_log(u))
        sin, cos = sin_cos(w1)
    else:
        r = special(tl.maximum(special(u, "lg2", LG2) * MINUS_TWO_LN2, 0.0), "sqrt", SQRT)  # lg2 may be positive near 1
        angle = w1.to(tl.int32, bitcast=True).to(tl.float32) * TURN
        sin, cos = special(angle, "sin", SIN), special(angle, "cos", COS)
    r *= amplitude
    return r * cos, r * sin


@triton.jit
def signed_by_bit_0(magnitude, w):
    """The magnitude, with a minus sign where bit 0 of the word is not set."""
    return (magnitude.to(tl.uint32, bitcast=True) | ((w & 1) ^ 1) << 31).to(tl.float32, bitcast=True)


@triton.jit
def one_word(w, threshold, amplitude, KIND: tl.constexpr, EXACT: tl.constexpr):
    """Amplitude times a value, for the kinds that need one word for each element."""
    if KIND == "impulse":
        value = tl.where((w >> 1) < threshold, signed_by_bit_0(amplitude, w), 0.0)
    elif KIND == "uniform":
        value = tl.fma(unit(w, 32), amplitude * TWICE_SQRT3, amplitude * SQRT3)
    elif KIND == "laplace":
        if EXACT:
            magnitude = minus_two_log(unit(w >> 1, 31))
        else:
            magnitude = tl.maximum(special(unit(w >> 1, 31), "lg2", LG2) * MINUS_TWO_LN2, 0.0)
        value = signed_by_bit_0(magnitude * (amplitude * LAPLACE), w)
    else:
        tl.static_assert(False, UNKNOWN_KIND + KIND)
    return value


@triton.jit
def square_root64(x):
    """The square root of 0 or of a float64 x in [2^-60, 2^60]: two steps of Newton's; sqrt_rn calls a subroutine."""
    r = special(x.to(tl.float32), "rsqrt", RSQRT).to(tl.float64)
    r = r * (1.5 - 0.5 * x * r * r)
    r = r * (1.5 - 0.5 * x * r * r)
    return tl.where(x == 0.0, 0.0, x * r)


@triton.jit
def minus_two_log64(u):
    """-2 ln u of a float64 u in [2^-33, 1]: CUDA's own logarithm would take most of a float64 kernel's time."""
    bits = u.to(tl.int64, bitcast=True)
    e = (bits - 0x3FE6A09E667F3BCD) >> 52  # 1 + f is between the roots of 1/2 and of 2
    f = (bits - (e << 52)).to(tl.float64, bitcast=True) - 1.0
    d = f + 2.0
    r = (1.0 / d.to(tl.float32)).to(tl.float64)  # 1 / d by two steps of Newton's; a division calls a subroutine
    r = r * (2.0 - d * r)
    r = r * (2.0 - d * r)
    s = f * r
    z = s * s
    p = ((((z * W5 + W4) * z + W3) * z + W2) * z + W1) * z + W0
    return e.to(tl.float64) * WIDE_MINUS_TWO_LN2 + (s * z * p - 4.0 * s)


@triton.jit
def sin_cos64(w):
    """Sine and cosine, in float64, of the angle 2 pi w / 2^32, as in `sin_cos`."""
    quarter = (w + (1 << 29)).to(tl.int32, bitcast=True) >> 30
    rest = (w - (quarter.to(tl.uint32, bitcast=True) << 30)).to(tl.int32, bitcast=True)
    x = rest.to(tl.float64) * WIDE_TURN
    z = x * x
    s = x * z * ((((z * WS4 + WS3) * z + WS2) * z + WS1) * z + WS0) + x
    c = z * z * ((((z * WC4 + WC3) * z + WC2) * z + WC1) * z + WC0) + (1.0 - 0.5 * z)
    odd = (quarter & 1) != 0
    sin, cos = tl.where(odd, c, s), tl.where(odd, s, c)
    return tl.where((quarter & 2) != 0, -sin, sin), tl.where(((quarter + 1) & 2) != 0, -cos, cos)


@triton.jit
def one_word64(w, threshold, KIND: tl.constexpr):
    """The kinds that need one word for each element, in float64; u is the float32 value."""
    if KIND == "impulse":
        value = one_word(w, threshold, tl.full((), 1.0, tl.float32), "impulse", True).to(tl.float64)
    elif KIND == "uniform":
        value = 1.7320508075688772 * (2 * unit(w, 32).to(tl.float64) - 1)
    elif KIND == "laplace":
        magnitude = minus_two_log64(unit(w >> 1, 31).to(tl.float64)) * 0.3535533905932738  # 1 / (2 sqrt(2))
        value = tl.where((w & 1) != 0, magnitude, -magnitude)
    else:
        tl.static_assert(False, UNKNOWN_KIND + KIND)
    return value


@triton.jit
def box_muller64(w0, w1):
    """Box-Muller in float64."""
    r = square_root64(minus_two_log64(unit(w0, 32).to(tl.float64)))
    sin, cos = sin_cos64(w1)
    return r * cos, r * sin


@triton.jit
def quad(c0, c1, c2, c3, k0, k1, threshold, amplitude, KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr):
    """The four values of each quad times the amplitude: float64 if WIDE, else float32."""
    w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
    if WIDE:
        if KIND == "gaussian":
            v0, v1 = box_muller64(w0, w1)
            v2, v3 = box_muller64(w2, w3)
        else:
            v0, v1 = one_word64(w0, threshold, KIND), one_word64(w1, threshold, KIND)
            v2, v3 = one_word64(w2, threshold, KIND), one_word64(w3, threshold, KIND)
        v0, v1, v2, v3 = v0 * amplitude, v1 * amplitude, v2 * amplitude, v3 * amplitude
    elif KIND == "gaussian":
        v0, v1 = box_muller(w0, w1, amplitude, EXACT)
        v2, v3 = box_muller(w2, w3, amplitude, EXACT)
    else:
        v0, v1 = one_word(w0, threshold, amplitude, KIND, EXACT), one_word(w1, threshold, amplitude, KIND, EXACT)
        v2, v3 = one_word(w2, threshold, amplitude, KIND, EXACT), one_word(w3, threshold, amplitude, KIND, EXACT)
    return v0, v1, v2, v3


@triton.jit
def stream_key(rng, ids, ids_row, sample, stream):
    """Counter words 1 to 3 and the two words of the key, for a stream of a sample."""
    seed, draw = tl.load(rng), tl.load(rng + 1)
    identity = sample.to(tl.int64)
    if ids is not None:
        identity = tl.load(ids + identity * ids_row)
    c1 = identity.to(tl.uint32)
    c2 = ((identity >> 32) & 0xFFFF).to(tl.uint32) | (tl.cast(stream, tl.uint32) << 16) | (0x4E << 24)
    return c1, c2, draw.to(tl.uint32), seed.to(tl.uint32), (seed >> 32).to(tl.uint32)


@triton.jit
def one(WIDE: tl.constexpr):
    """The amplitude 1."""
    return tl.full((), 1.0, tl.float64 if WIDE else tl.float32)


@triton.jit
def impulse_threshold(p, KIND: tl.constexpr):
    """ceil(p 2^31), which fits an unsigned int of 32 bits; 0 for kinds that do not use p."""
    threshold = tl.full((), 0, tl.uint32)
    if KIND == "impulse":
        threshold = tl.ceil(tl.load(p) * 2147483648.0).to(tl.int64).to(tl.uint32)
    return threshold


@triton.jit
def in_order(v0, v1, v2, v3, u0, u1, u2, u3, QUADS: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK] from the values v of each quad, and u of the next one if QUADS is 2. No value changes threads."""
    if QUADS == 2:
        v0, v1, v2, v3 = tl.join(v0, u0), tl.join(v1, u1), tl.join(v2, u2), tl.join(v3, u3)
    return tl.reshape(tl.join(tl.join(v0, v2), tl.join(v1, v3)), (BLOCK,))


@triton.jit
def below(count, QUADS: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK] of element < count, by one comparison for each element with the count that is left for its quads."""
    left = count - tl.arange(0, BLOCK // 4 // QUADS) * (4 * QUADS)
    return in_order(left > 0, left > 1, left > 2, left > 3, left > 4, left > 5, left > 6, left > 7, QUADS, BLOCK)


@triton.jit
def eps_quads(
    first, c1, c2, c3, k0, k1, threshold, amplitude,
    KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Amplitude times eps of BLOCK elements, as in_order takes them. `first`, the first element, is a multiple of 4.

    The amplitude is a scalar, so it costs one multiplication for each pair, or none, and not one for each element.
    """
    c0 = (first // 4).to(tl.uint32) + tl.arange(0, BLOCK // 4 // QUADS).to(tl.uint32) * QUADS
    v0, v1, v2, v3 = quad(c0, c1, c2, c3, k0, k1, threshold, amplitude, KIND, EXACT, WIDE)
    u0, u1, u2, u3 = v0, v1, v2, v3
    if QUADS == 2:
        u0, u1, u2, u3 = quad(c0 + 1, c1, c2, c3, k0, k1, threshold, amplitude, KIND, EXACT, WIDE)
    return v0, v1, v2, v3, u0, u1, u2, u3


@triton.jit
def squares_below(v0, v1, v2, v3, u0, u1, u2, u3, count, so_far, QUADS: tl.constexpr, BLOCK: tl.constexpr):
    """so_far plus the squares of the first `count` elements, added quad by quad, so that no layout changes."""
    left = count - tl.arange(0, BLOCK // 4 // QUADS) * (4 * QUADS)
    a, b = tl.where(left > 0, v0, 0.0), tl.where(left > 1, v1, 0.0)
    c, d = tl.where(left > 2, v2, 0.0), tl.where(left > 3, v3, 0.0)
    squares = tl.fma(d, d, tl.fma(c, c, tl.fma(b, b, tl.fma(a, a, so_far))))
    if QUADS == 2:
        a, b = tl.where(left > 4, u0, 0.0), tl.where(left > 5, u1, 0.0)
        c, d = tl.where(left > 6, u2, 0.0), tl.where(left > 7, u3, 0.0)
        squares = tl.fma(d, d, tl.fma(c, c, tl.fma(b, b, tl.fma(a, a, squares))))
    return squares


@triton.jit
def eps_tile(
    first, c1, c2, c3, k0, k1, threshold, amplitude,
    KIND: tl.constexpr, EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Amplitude times eps of BLOCK elements in order, [BLOCK]."""
    v0, v1, v2, v3, u0, u1, u2, u3 = eps_quads(
        first, c1, c2, c3, k0, k1, threshold, amplitude, KIND, EXACT, WIDE, QUADS, BLOCK
    )
    return in_order(v0, v1, v2, v3, u0, u1, u2, u3, QUADS, BLOCK)

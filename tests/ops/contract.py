"""The tests' oracle: a second implementation of the noise contract, one value at a time in Python's own numbers."""

import math

import numpy as np
import torch

STREAM_TAG = 0x4E


def philox_words(seed, counter):
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def quad_words(seed, draw, stream, sample, element):
    word2 = sample >> 32 & 0xFFFF | stream << 16 | STREAM_TAG << 24
    return philox_words(seed % 2**64, [element // 4, sample & 0xFFFFFFFF, word2, draw])


def unit(word, scale_bits=32):
    scaled = np.float32(word) * np.float32(2.0**-scale_bits)
    return float(np.float32(scaled + np.float32(2.0 ** -(scale_bits + 1))))


def normals(words):
    """The four normals of a quad; the angle is reduced to an octant in integers, before it becomes a float."""
    out = []
    for w, turn in (words[:2], words[2:]):
        r = math.sqrt(-2 * math.log(unit(w)))
        quadrant, rest = divmod(turn + 2**29, 2**30)
        angle = (rest - 2**29) * math.pi / 2**31
        c, s = math.cos(angle), math.sin(angle)
        cos, sin = [(c, s), (-s, c), (-c, -s), (s, -c)][quadrant % 4]
        out += [r * cos, r * sin]
    return out


def value(kind, *, seed, draw=0, stream=0, sample, element, p=0.3):
    """One noise value, a Python float."""
    words = quad_words(seed, draw, stream, sample, element)
    word = words[element % 4]
    if kind == "gaussian":
        return normals(words)[element % 4]
    if kind == "impulse":
        return float((1 if word & 1 else -1) * ((word >> 1) < math.ceil(p * 2**31)))
    if kind == "uniform":
        return math.sqrt(3) * (2 * unit(word) - 1)
    if kind == "laplace":
        return (1 if word & 1 else -1) * -math.log(unit(word >> 1, 31)) / math.sqrt(2)
    raise ValueError(kind)


def array(kind, shape, *, sample_ids=None, **key):
    """The noise of a whole [B, ...] array, float64."""
    row = math.prod(shape[1:])
    ids = range(shape[0]) if sample_ids is None else sample_ids
    flat = [[value(kind, sample=int(i), element=e, **key) for e in range(row)] for i in ids]
    return np.array(flat, dtype=np.float64).reshape(shape)


# The bound on a backend's difference from the float64 definition: Box-Muller and logarithms are float32.
EPS_ERROR = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6, torch.float64: 1e-12}


def assert_within(got, exact, error):
    """Assert that got is exact within one rounding to its dtype (half an ulp, subnormal or not) plus an error."""
    info = torch.finfo(got.dtype)
    allowed = exact.abs() * (info.eps / 2) + info.smallest_normal * info.eps + error * (1 + info.eps)
    assert got.isfinite().all()
    worst = ((got.double() - exact).abs() - allowed).max() if got.numel() else torch.tensor(0.0)
    assert worst <= 0, f"beyond its bound by {worst.item():.3g}"

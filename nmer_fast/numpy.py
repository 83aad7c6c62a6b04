"""The noise and VAE ops on NumPy arrays, without torch: the same C++ kernels, so the same bits as `nmer_fast.ops`.

A noise value is a pure function of (seed, draw, stream, sample, element): docs/noise_contract.md. Arrays are float32,
float16 or float64, contiguous or not; results are new arrays of the class ndarray, whatever subclass came in. A masked
array is refused, since its mask would be lost. Large calls release the GIL and use OMP_NUM_THREADS threads, or a thread
for each processor that the process may run on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .contract import (
    LATENT_STREAM,
    NUMPY_DTYPES,
    SEED_BITS,
    check_draw,
    check_elements,
    check_kind,
    check_stream,
    either,
    integer,
    real,
)
from .processes import warn_shared_noise

try:
    from . import _native
except ImportError as error:
    raise ImportError(
        f"nmer_fast.numpy: the C++ library _native is not built or does not load ({error}); nmer_fast.ops needs none. "
        "To build it, with a C++ compiler: pip install --no-build-isolation --force-reinstall --no-deps nmer_fast"
    ) from None

Floats = NDArray[Any]


def philox(seed: int, counter: ArrayLike) -> NDArray[np.int64]:
    """Make Philox4x32-10 words (Salmon et al., SC'11).

    Args:
        seed: the 64-bit key, an int, taken mod 2^64.
        counter: integers [..., 4], counter words 0 to 3, each masked to 32 bits.

    Returns:
        Words from 0 to 2^32-1, int64 [..., 4], with the bits of `ops.philox`.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    array = _array("counter", counter)
    if not np.issubdtype(array.dtype, np.integer) or array.shape[-1:] != (4,):
        raise ValueError(f"counter: expected integers [..., 4], got {_describe(array)}")
    counters = np.ascontiguousarray(array, dtype=np.int64).reshape(array.shape)
    words = np.empty_like(counters)
    _native.philox(integer("seed", seed) % 2**SEED_BITS, counters, words)
    return words


def noise(
    shape: Sequence[int],
    *,
    seed: int | None = None,
    draw: int = 0,
    stream: int = 0,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: ArrayLike | None = None,
    noisy: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    dtype: DTypeLike = np.float32,
) -> Floats:
    """Make the noise alone: the eps of `add_noise` with the same arguments.

    Args:
        shape: the noise's shape (B, ...).
        seed, draw, stream, kind, p, sample_ids, noisy, lengths: the arguments of `add_noise`.
        dtype: float32, float16 or float64.

    Returns:
        eps, 0 beyond the length and where a sample is not noisy.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    if not isinstance(shape, Iterable):
        raise TypeError(f"shape: expected (B, ...), sizes of 0 or more with a batch dimension, got {shape!r}")
    shape = tuple(integer("shape", extent) for extent in shape)
    if not shape or min(shape) < 0:
        raise ValueError(f"shape: expected (B, ...), sizes of 0 or more with a batch dimension, got {shape}")
    check_elements("shape", shape)
    eps = np.empty(shape, _dtype(dtype))
    key = _key(seed, draw, kind, p, sample_ids, len(eps))
    _native.noise(key, _stream(stream), _flags(noisy, (len(eps),)), _lengths(lengths, eps), eps)
    return eps


def noise_like(x: ArrayLike, **options: Any) -> Floats:
    """Make noise of x's shape and dtype.

    Args:
        x: floats [B, ...]; their values are not read.
        **options: keyword arguments of `noise`.

    Returns:
        eps, of x's shape and dtype.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    array = _floats("x", x)
    return noise(array.shape, dtype=array.dtype, **options)


def add_noise(
    x: ArrayLike,
    alpha_bar: ArrayLike,
    *,
    seed: int | None = None,
    draw: int = 0,
    stream: int = 0,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: ArrayLike | None = None,
    noisy: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    return_noise: bool = False,
) -> Floats | tuple[Floats, Floats]:
    """Add noise made in the same pass: y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (paper, Eq. 3).

    Args:
        x: the features [B, ...], float32, float16 or float64.
        alpha_bar: the share of the signal's power that is kept, 0 to 1 inclusive: a number, or floats [B].
        seed: an int, taken mod 2^64; None takes a seed from NumPy's global generator, which `np.random.seed` governs.
        draw: the number of the draw for a sample (a step or an epoch), 0 to 2^32-1.
        stream: the purpose of the noise, 0 to 255; `nmer_fast.contract` lists the streams that the project uses.
        kind: a name of `nmer_fast.contract.GENERATED_KINDS`, such as "gaussian" or "impulse". Every kind has
            variance 1, except impulse noise, which has variance p.
        p: the share of impulses, 0 to 1; impulse noise alone reads it.
        sample_ids: integers [B], the samples' ids in their data set (48 bits); 0..B-1 by default.
        noisy: bool [B]; where it is False, y = x bit for bit. All are True by default.
        lengths: integers [B], the valid steps along dim 1, 0 to T. Beyond them y = 0, whatever x holds, NaN included.
            For x [B, D] of several features, lengths that are all 1 are refused: one step of D features is x[:, None].
        return_noise: whether to return eps too, which is 0 beyond the length and where a sample is not noisy.

    Returns:
        y, of x's shape and dtype; or (y, eps).

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    array = _floats("x", x)
    y, eps = np.empty_like(array), np.empty_like(array) if return_noise else None
    key = _key(seed, draw, kind, p, sample_ids, len(array))
    flags, steps = _flags(noisy, (len(array),)), _lengths(lengths, array)
    keep = _alpha_bar("alpha_bar", alpha_bar, ((), (len(array),)))
    _native.add_noise(array, keep, key, _stream(stream), flags, steps, y, eps)
    return y if eps is None else (y, eps)


def add_noise_multimodal(
    xs: Sequence[ArrayLike],
    alpha_bars: ArrayLike,
    *,
    seed: int | None = None,
    draw: int = 0,
    streams: Sequence[int] | None = None,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: ArrayLike | None = None,
    noisy: ArrayLike | None = None,
    lengths: Sequence[ArrayLike | None] | None = None,
    return_stats: bool = False,
) -> list[Floats] | tuple[list[Floats], NDArray[np.float64]]:
    """Add noise to all modalities of a batch in one call, and measure what was added (paper, Eq. 3).

    Args:
        xs: M arrays [B, ...] of one dtype; their trailing shapes are free.
        alpha_bars: floats [M] or [B, M], 0 to 1 inclusive.
        seed, draw, kind, p, sample_ids: the arguments of `add_noise`.
        streams: M ints from 0 to 255; 0..M-1 by default. Two modalities with one stream would share their noise.
        noisy: bool [B, M]; where it is False, y = x bit for bit. All are True by default.
        lengths: M entries, each integers [B] or None (all steps are valid).
        return_stats: whether to return statistics too: float64 [M, 4] over the valid noisy elements, which are the
            count, the sum of x, the sum of x^2 and the sum of eps^2.

    Returns:
        The list ys, or (ys, stats).

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    arrays = [_floats(f"xs[{m}]", x) for m, x in enumerate(xs)]
    if not arrays:
        raise ValueError("xs: expected at least one array, got none")
    batch, count = len(arrays[0]), len(arrays)
    for m, x in enumerate(arrays):
        if len(x) != batch or x.dtype != arrays[0].dtype:
            raise ValueError(f"xs[{m}]: expected xs[0]'s batch and dtype, {_describe(arrays[0])}, got {_describe(x)}")
    streams = range(count) if streams is None else list(streams)
    if len(streams) != count:
        raise ValueError(f"streams: expected {count}, one for each of xs, got {len(streams)}")
    ys, stats = [np.empty_like(x) for x in arrays], np.empty((count, 4)) if return_stats else None
    _native.add_noise_multimodal(
        arrays,
        _alpha_bar("alpha_bars", alpha_bars, ((count,), (batch, count))),
        _key(seed, draw, kind, p, sample_ids, batch),
        [_stream(stream) for stream in streams],
        _flags(noisy, (batch, count)),
        _stack_lengths(lengths, arrays),
        ys,
        stats,
    )
    return ys if stats is None else (ys, stats)


def mix_noise(
    x: ArrayLike,
    eps: ArrayLike,
    alpha_bar: ArrayLike,
    *,
    noisy: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> Floats:
    """Mix x with any array as noise: y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (paper, Eq. 3, section 2.2.1).

    Args:
        x: the features [B, ...], float32, float16 or float64.
        eps: the noise, of x's shape and dtype.
        alpha_bar, noisy, lengths: the arguments of `add_noise`.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    array, given = _floats("x", x), _same("eps", eps, "x", x)
    y = np.empty_like(array)
    keep = _alpha_bar("alpha_bar", alpha_bar, ((), (len(array),)))
    _native.mix_noise(array, given, keep, _flags(noisy, (len(array),)), _lengths(lengths, array), y)
    return y


def reparameterize_kl(
    mu: ArrayLike,
    logvar: ArrayLike,
    *,
    seed: int | None = None,
    draw: int = 0,
    stream: int = LATENT_STREAM,
    sample_ids: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Sample a diagonal Gaussian and compute its KL: z = mu + exp(logvar / 2) eps, kl = KL(N(mu, sigma^2) || N(0, 1)).

    kl = -1/2 sum(1 + logvar - mu^2 - exp(logvar)) over all dims but 0 (paper, Eq. 6; Kingma and Welling,
    arXiv 1312.6114, appendix B).

    Args:
        mu: the mean [B, ...], float32, float16 or float64.
        logvar: the log of the variance, of mu's shape and dtype.
        seed, draw, stream, sample_ids: the arguments of `add_noise`.

    Returns:
        (z, kl): z of mu's shape and dtype; kl [B], in nats, float32 (float64 for float64).

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    means, logs = _floats("mu", mu), _same("logvar", logvar, "mu", mu)
    z, kl = np.empty_like(means), np.empty(len(means), np.float64 if means.dtype == np.float64 else np.float32)
    key = _key(seed, draw, "gaussian", 0.0, sample_ids, len(means))
    _native.reparameterize_kl(means, logs, key, _stream(stream), z, kl)
    return z, kl


# ---------------------------------------------------------------- checks


def _describe(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    """The value as a plain array; a masked one is refused."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, which would be lost, got a masked array")
    return np.asarray(value)


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in NUMPY_DTYPES:
        raise TypeError(f"dtype: expected {either(NUMPY_DTYPES)}, got {dtype!r}")
    return found.newbyteorder("=")


def _floats(name: str, value: ArrayLike) -> Floats:
    array = _array(name, value)
    if array.dtype.name not in NUMPY_DTYPES:
        raise TypeError(f"{name}: expected {either(NUMPY_DTYPES)}, got {_describe(array)}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected [B, ...] with a batch dimension, got {_describe(array)}")
    check_elements(name, array.shape)
    return np.require(array, array.dtype.newbyteorder("="), ["C", "ALIGNED"])


def _same(name: str, value: ArrayLike, other_name: str, other: ArrayLike) -> Floats:
    array, expected = _floats(name, value), _floats(other_name, other)
    if array.shape != expected.shape or array.dtype != expected.dtype:
        raise ValueError(
            f"{name}: expected the same as {other_name}, {_describe(expected)}, got {_describe(np.asarray(value))}"
        )
    return array


def _stream(stream: int) -> int:
    stream = integer("stream", stream)
    check_stream(stream)
    return stream


def _key(
    seed: int | None, draw: int, kind: str, p: float, sample_ids: ArrayLike | None, batch: int
) -> tuple[int, int, str, float, NDArray[np.int64] | None]:
    """Check what the words depend on, and pack it for the binding: (seed, draw, kind, p, sample ids)."""
    check_kind(kind)
    share = real("p", p) if kind == "impulse" else 0.0
    if not 0 <= share <= 1:
        raise ValueError(f"p: expected a number from 0 to 1, got {p!r}")
    draw = integer("draw", draw)
    check_draw(draw)
    ids = _integers("sample_ids", sample_ids, (batch,))
    if seed is None:
        seed = int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
    elif ids is None:
        warn_shared_noise()
    return integer("seed", seed) % 2**SEED_BITS, draw, kind, share, ids


def _alpha_bar(name: str, value: ArrayLike, shapes: tuple[tuple[int, ...], ...]) -> NDArray[np.float64]:
    array = _array(name, float(value) if isinstance(value, Real) else value)
    if array.dtype.kind not in "fiu" or array.shape not in shapes or not ((array >= 0) & (array <= 1)).all():
        expected = " or ".join("a number" if shape == () else f"shape {shape}" for shape in shapes)
        got = _describe(array) if array.ndim else repr(value)
        raise ValueError(f"{name}: expected {expected}, from 0 to 1, got {got}")
    return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)


def _integers(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    if value is None:
        return None
    array = _array(name, value)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise ValueError(f"{name}: expected integers of shape {shape}, got {_describe(array)}")
    return array.astype(np.int64)


def _flags(noisy: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if noisy is None:
        return None
    array = _array("noisy", noisy)
    if array.dtype != bool or array.shape != shape:
        raise ValueError(f"noisy: expected bools of shape {shape}, got {_describe(array)}")
    return np.ascontiguousarray(array)


def _lengths(lengths: ArrayLike | None, x: Floats) -> NDArray[np.int64] | None:
    """Check lengths [B], which count valid steps along x's dim 1, and refuse those that would count something else."""
    if lengths is not None and x.ndim < 2:
        raise ValueError(f"lengths: expected two or more dims, whose dim 1 they count, got shape {x.shape}")
    steps = _integers("lengths", lengths, (len(x),))
    if steps is None or not steps.size:
        return steps
    for extreme in (steps.min(), steps.max()):
        if not 0 <= extreme <= x.shape[1]:
            raise ValueError(f"lengths: expected 0 to T = {x.shape[1]} valid steps along dim 1, got {extreme}")
    if x.ndim == 2 and x.shape[1] > 1 and (steps == 1).all():
        raise ValueError(
            f"lengths: expected steps along dim 1 of x [B, T, ...], got all 1 for shape {x.shape}: "
            f"one step of {x.shape[1]} features is x[:, None]"
        )
    return steps


def _stack_lengths(lengths: Sequence[ArrayLike | None] | None, xs: Sequence[Floats]) -> NDArray[np.int64] | None:
    """Stack M lengths [B], some of them None (all steps are valid), into one [B, M]."""
    if lengths is None:
        return None
    if len(lengths) != len(xs):
        raise ValueError(f"lengths: expected {len(xs)}, one (or None) for each of xs, got {len(lengths)}")
    columns = []
    if all(given is None for given in lengths):
        return None
    for m, (given, x) in enumerate(zip(lengths, xs, strict=True)):
        if x.ndim < 2:
            raise ValueError(
                f"lengths: expected every x of two or more dims, whose dim 1 they count, got xs[{m}] {_describe(x)}"
            )
        steps = _lengths(given, x)
        columns.append(np.full(len(x), x.shape[1]) if steps is None else steps)
    return np.stack(columns, axis=1)

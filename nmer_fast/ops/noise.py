"""ops.noise, noise_like, add_noise, add_noise_multimodal and mix_noise: noise at a chosen alpha_bar.

A noise value is a pure function of (seed, draw, stream, sample, element): docs/noise_contract.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from ..contract import DTYPES as DTYPE_NAMES
from ..contract import check_elements, check_kind, either, integer
from . import reference
from ._args import (
    DTYPES,
    alpha_bar_tensor,
    check_floating,
    check_same,
    check_steps,
    describe,
    ids_tensor,
    lengths_tensor,
    p_tensor,
    rng_tensor,
    rows_tensor,
    stream_number,
    widest,
)
from ._library import define
from ._public import public
from ._transforms import Derivative, mapped_in_the_batch


class Scaling(Derivative):
    """mix_noise_backward scales by sqrt(alpha_bar) or sqrt(1 - alpha_bar): it is its own gradient and tangent."""

    wrt = ("grad",)

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the scales and masks."""
        return (args.alpha_bar, args.noisy, args.lengths), args.wrt_noise

    @staticmethod
    def backward(saved: Any, wrt_noise: Any, needed: Any, *grads: Any) -> Any:
        """Scale in the same way."""
        return (_mix_noise_backward(grads[0], *saved, wrt_noise),)

    @staticmethod
    def tangent(saved: Any, wrt_noise: Any, *tangents: Any) -> Any:
        """Scale in the same way."""
        return _mix_noise_backward(tangents[0], *saved, wrt_noise)


class Mixing(Derivative):
    """mix_noise is linear in x and in eps."""

    wrt = ("x", "eps")

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the scales and masks."""
        return (args.alpha_bar, args.noisy, args.lengths), None

    @staticmethod
    def backward(saved: Any, value: Any, needed: Any, *grads: Any) -> Any:
        """Scale once for each input that needs a gradient."""
        return [_mix_noise_backward(grads[0], *saved, i == 1) if needed[i] else None for i in range(2)]

    @staticmethod
    def tangent(saved: Any, value: Any, *tangents: Any) -> Any:
        """Mix the tangents."""
        scaled = [_mix_noise_backward(t, *saved, i == 1) for i, t in enumerate(tangents) if t is not None]
        return scaled[0] if len(scaled) == 1 else scaled[0] + scaled[1]


class Adding(Derivative):
    """add_noise is linear in x, so its gradient needs no noise; eps is a constant."""

    wrt = ("x",)
    constants = (1,)
    save = Mixing.save

    @staticmethod
    def backward(saved: Any, value: Any, needed: Any, *grads: Any) -> Any:
        """Scale in one pass."""
        return (_mix_noise_backward(grads[0], *saved, False),)

    @staticmethod
    def tangent(saved: Any, value: Any, *tangents: Any) -> Any:
        """Scale in one pass."""
        return _mix_noise_backward(tangents[0], *saved, False), None


class AddingMultimodal(Derivative):
    """add_noise_multimodal is linear in each of xs; the statistics are constants."""

    wrt = ("xs",)
    constants = (-1,)

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the scales and masks, and what a zero tangent of each modality would be."""
        zeros = [(x.shape, {"dtype": x.dtype, "device": x.device}) for x in args.xs]
        return (args.alpha_bars, args.noisy, args.lengths), zeros

    @staticmethod
    def backward(saved: Any, zeros: Any, needed: Any, *grads: Any) -> Any:
        """Scale in one pass each modality that needs a gradient."""
        wanted = [grad if need else None for grad, need in zip(grads[:-1], needed[0], strict=True)]
        return (AddingMultimodal.scaled(wanted, *saved),)

    @staticmethod
    def tangent(saved: Any, zeros: Any, *tangents: Any) -> Any:
        """Scale in one pass each modality that has a tangent."""
        scaled = zip(AddingMultimodal.scaled(tangents[0], *saved), zeros, strict=True)
        return *(torch.zeros(shape, **options) if t is None else t for t, (shape, options) in scaled), None

    @staticmethod
    def scaled(grads: Any, alpha_bars: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> list[Tensor | None]:
        """Scale the gradient of each modality, or leave it None."""
        columns = [[None if t is None else t[..., m] for t in (alpha_bars, noisy, lengths)] for m in range(len(grads))]
        return [
            None if grad is None else _mix_noise_backward(grad, *column, False)
            for grad, column in zip(grads, columns, strict=True)
        ]


def _empty(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_SHARED = "Tensor rng, Tensor? sample_ids, Tensor? noisy, Tensor? lengths, Tensor? p"
_noise = define(
    f"noise(SymInt[] size, {_SHARED}, SymInt stream, str kind, ScalarType dtype) -> Tensor",
    reference.noise,
    lambda size, rng, *shared: rng.new_empty(size, dtype=shared[-1]),
)
_mix_noise_backward = define(
    "mix_noise_backward(Tensor grad, Tensor alpha_bar, Tensor? noisy, Tensor? lengths, bool wrt_noise) -> Tensor",
    reference.mix_noise_backward,
    lambda grad, *_: _empty(grad),
    derivative=Scaling,
    vmap=mapped_in_the_batch,
)
_mix_noise = define(
    "mix_noise(Tensor x, Tensor eps, Tensor alpha_bar, Tensor? noisy, Tensor? lengths) -> Tensor",
    reference.mix_noise,
    lambda x, *_: _empty(x),
    derivative=Mixing,
    vmap=mapped_in_the_batch,
)
_add_noise = define(
    f"add_noise(Tensor x, Tensor alpha_bar, {_SHARED}, SymInt stream, str kind, bool return_noise) -> (Tensor, Tensor)",
    reference.add_noise,
    lambda x, *shared: (_empty(x), _empty(x) if shared[-1] else x.new_empty(0)),
    derivative=Adding,
    vmap=mapped_in_the_batch,
)
_add_noise_multimodal = define(
    f"add_noise_multimodal(Tensor[] xs, Tensor alpha_bars, {_SHARED}, SymInt[] streams, str kind, bool return_stats) "
    "-> (Tensor[], Tensor)",
    reference.add_noise_multimodal,
    lambda xs, alpha_bars, rng, *shared: (
        [_empty(x) for x in xs],
        rng.new_empty((len(xs) if shared[-1] else 0, 4), dtype=reference.wide_dtype(rng.device)),
    ),
    derivative=AddingMultimodal,
    vmap=mapped_in_the_batch,
)


class Source(TypedDict, total=False):
    """The keyword arguments that the noise of a batch depends on; `add_noise` describes them."""

    seed: int | Tensor | None
    draw: int
    kind: str
    p: float
    sample_ids: Tensor | None


class SourceOfOne(Source, total=False):
    """The keyword arguments that the noise of one tensor depends on, and where it applies."""

    stream: int
    noisy: Tensor | None
    lengths: Tensor | None


class SourceOfAll(Source, total=False):
    """The keyword arguments that the noise of several modalities depends on, and where it applies."""

    streams: Sequence[int] | None
    noisy: Tensor | None
    lengths: Sequence[Tensor | None] | None


@overload
def add_noise(
    x: Tensor, alpha_bar: float | Tensor, *, return_noise: Literal[False] = ..., **source: Unpack[SourceOfOne]
) -> Tensor: ...
@overload
def add_noise(
    x: Tensor, alpha_bar: float | Tensor, *, return_noise: Literal[True], **source: Unpack[SourceOfOne]
) -> tuple[Tensor, Tensor]: ...
@public("x")
def add_noise(
    x: Tensor,
    alpha_bar: float | Tensor,
    *,
    seed: int | Tensor | None = None,
    draw: int = 0,
    stream: int = 0,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: Tensor | None = None,
    noisy: Tensor | None = None,
    lengths: Tensor | None = None,
    return_noise: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Add noise made in the same pass: y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (paper, Eq. 3).

    The same sample gets the same noise on every device and at every batch size, order and padding: eps is a pure
    function of (seed, draw, stream, sample id, element).

    Args:
        x: the features [B, ...], float32, bfloat16, float16 or float64, contiguous or not.
        alpha_bar: the share of the signal's power that is kept, 0 to 1 inclusive: a float, or a floating tensor [] or
            [B], whose values are not checked.
        seed: an int, taken mod 2^64; an int64 tensor [2] = (seed, draw), with which a compiled step draws fresh noise
            without recompiling; or None, which takes a seed from torch's default generator, so that
            `torch.manual_seed` governs. With None alone, eager and compiled calls differ.
        draw: the number of the draw for a sample (a step or an epoch), 0 to 2^32-1; not given beside a seed tensor.
        stream: the purpose of the noise, 0 to 255; `nmer_fast.contract` lists the streams that the project uses.
        kind: a name of `nmer_fast.contract.GENERATED_KINDS`, such as "gaussian" or "impulse". Every kind has
            variance 1, except impulse noise, which has variance p.
        p: the share of impulses, 0 to 1; impulse noise alone reads it.
        sample_ids: integers [B], the samples' ids in their data set (48 bits); 0..B-1 by default. A batch split keeps
            the noise only if ids are given.
        noisy: bool [B]; where it is False, y = x bit for bit. All are True by default.
        lengths: integers [B], the valid steps along dim 1. Beyond them y = 0, whatever x holds, NaN included.
        return_noise: whether to return eps too, which is 0 beyond the length and where a sample is not noisy.

    Returns:
        y, contiguous, of x's shape and dtype, under autocast too; or (y, eps). y is differentiable in x.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_floating("x", x)
    check_kind(kind)
    batch, device = x.shape[0], x.device
    y, eps = _add_noise(
        x,
        alpha_bar_tensor("alpha_bar", alpha_bar, ((), (batch,)), x),
        rng_tensor(seed, draw, device),
        ids_tensor(sample_ids, seed, batch, device),
        rows_tensor("noisy", noisy, (batch,), device),
        lengths_tensor(lengths, x),
        p_tensor(kind, p, device),
        stream_number(stream),
        kind,
        bool(return_noise),
    )
    return (y, eps) if return_noise else y


@overload
def add_noise_multimodal(
    xs: Sequence[Tensor], alpha_bars: Tensor, *, return_stats: Literal[False] = ..., **source: Unpack[SourceOfAll]
) -> list[Tensor]: ...
@overload
def add_noise_multimodal(
    xs: Sequence[Tensor], alpha_bars: Tensor, *, return_stats: Literal[True], **source: Unpack[SourceOfAll]
) -> tuple[list[Tensor], Tensor]: ...
@public("xs")
def add_noise_multimodal(
    xs: Sequence[Tensor],
    alpha_bars: Tensor,
    *,
    seed: int | Tensor | None = None,
    draw: int = 0,
    streams: Sequence[int] | None = None,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: Tensor | None = None,
    noisy: Tensor | None = None,
    lengths: Sequence[Tensor | None] | None = None,
    return_stats: bool = False,
) -> list[Tensor] | tuple[list[Tensor], Tensor]:
    """Add noise to all modalities of a batch in one launch, and measure what was added (paper, Eq. 3).

    Args:
        xs: M tensors [B, ...] of one dtype and device; their trailing shapes are free. Under autocast their dtypes may
            differ, and all are cast to the widest.
        alpha_bars: floating tensor [M] or [B, M], 0 to 1 inclusive.
        seed, draw, kind, p, sample_ids: the arguments of `add_noise`.
        streams: M ints from 0 to 255; 0..M-1 by default. Two modalities with one stream would share their noise.
        noisy: bool [B, M]; where it is False, y = x bit for bit. All are True by default.
        lengths: M entries, each integers [B] or None (all steps are valid). One tensor may stand for several.
        return_stats: whether to return statistics too: float64 [M, 4] over the valid noisy elements, which are the
            count, the sum of x, the sum of x^2 and the sum of eps^2. With alpha_bar they give the realised SNR.

    Returns:
        The list ys, or (ys, stats). Each y is differentiable in its x.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    xs = list(xs)
    if not xs:
        raise ValueError("xs: expected at least one tensor, got none")
    for m, x in enumerate(xs):
        check_floating(f"xs[{m}]", x)
    xs = list(widest(xs[0].device, *xs))
    for m, x in enumerate(xs):
        if x.shape[0] != xs[0].shape[0] or x.dtype != xs[0].dtype or x.device != xs[0].device:
            raise ValueError(f"xs[{m}]: expected xs[0]'s batch, dtype and device, {describe(xs[0])}, got {describe(x)}")
    check_kind(kind)
    numbers = list(range(len(xs))) if streams is None else [stream_number(stream) for stream in streams]
    if len(numbers) != len(xs):
        raise ValueError(f"streams: expected {len(xs)}, one for each of xs, got {len(numbers)}")
    batch, device = xs[0].shape[0], xs[0].device
    if not isinstance(alpha_bars, Tensor):
        raise TypeError(f"alpha_bars: expected a floating tensor [{len(xs)}], got {describe(alpha_bars)}")
    ys, stats = _add_noise_multimodal(
        xs,
        alpha_bar_tensor("alpha_bars", alpha_bars, ((len(xs),), (batch, len(xs))), xs[0]),
        rng_tensor(seed, draw, device),
        ids_tensor(sample_ids, seed, batch, device),
        rows_tensor("noisy", noisy, (batch, len(xs)), device),
        _stack_lengths(lengths, xs),
        p_tensor(kind, p, device),
        numbers,
        kind,
        bool(return_stats),
    )
    return (list(ys), stats) if return_stats else list(ys)


def _stack_lengths(lengths: Sequence[Tensor | None] | None, xs: Sequence[Tensor]) -> Tensor | None:
    """Stack M lengths [B], some of them None (all steps are valid), into one int64 [B, M]."""
    if lengths is None:
        return None
    if isinstance(lengths, Tensor) or len(lengths) != len(xs):
        raise ValueError(f"lengths: expected a list of {len(xs)}, one (or None) for each of xs, got {len(lengths)}")
    if all(entry is None for entry in lengths):
        return None
    columns = []
    for m, (entry, x) in enumerate(zip(lengths, xs, strict=True)):
        if x.dim() < 2:
            raise ValueError(
                f"lengths: expected every x of two or more dims, whose dim 1 they count, got xs[{m}] {describe(x)}"
            )
        column = lengths_tensor(entry, x)
        full = torch.zeros(len(x), dtype=torch.int64, device=x.device) + x.shape[1]
        columns.append(full if column is None else column)
    return torch.stack(columns, dim=1)


@public("x", "eps")
def mix_noise(
    x: Tensor,
    eps: Tensor,
    alpha_bar: float | Tensor,
    *,
    noisy: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Mix x with any tensor as noise: y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (paper, Eq. 3, section 2.2.1).

    Args:
        x: the features [B, ...], float32, bfloat16, float16 or float64, contiguous or not.
        eps: the noise, of x's shape, dtype and device. Under autocast its dtype may differ, and both are cast to the
            wider one.
        alpha_bar, noisy, lengths: the arguments of `add_noise`.

    Returns:
        y, contiguous, of x's shape and dtype (of the wider dtype under autocast). y is differentiable in x and in eps.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_floating("x", x)
    check_floating("eps", eps)
    x, eps = widest(x.device, x, eps)
    check_same("eps", eps, "x", x)
    rows = (x.shape[0],)
    return _mix_noise(
        x,
        eps,
        alpha_bar_tensor("alpha_bar", alpha_bar, ((), rows), x),
        rows_tensor("noisy", noisy, rows, x.device),
        lengths_tensor(lengths, x),
    )


@public()
def noise(
    shape: Sequence[int],
    *,
    seed: int | Tensor | None = None,
    draw: int = 0,
    stream: int = 0,
    kind: str = "gaussian",
    p: float = 0.3,
    sample_ids: Tensor | None = None,
    noisy: Tensor | None = None,
    lengths: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make the noise alone: the eps of `add_noise` with the same arguments.

    Args:
        shape: the noise's shape (B, ...).
        seed, draw, stream, kind, p, sample_ids, noisy, lengths: the arguments of `add_noise`.
        dtype: float32, bfloat16, float16 or float64.
        device: the noise's device; torch's default device by default.

    Returns:
        eps, contiguous, 0 beyond the length and where a sample is not noisy.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    shape = _sizes(shape)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected {either(DTYPE_NAMES)}, got {dtype}")
    check_elements("shape", shape)
    check_kind(kind)
    # Dynamo does not trace torch.get_default_device, which costs more than an empty tensor.
    device = torch.empty(0).device if device is None else torch.device(device)
    if lengths is not None and len(shape) < 2:
        raise ValueError(f"lengths: expected a shape of two or more dims, whose dim 1 they count, got {shape}")
    steps = rows_tensor("lengths", lengths, shape[:1], device)
    if lengths is not None:
        check_steps(lengths, shape)
    return _noise(
        shape,
        rng_tensor(seed, draw, device),
        ids_tensor(sample_ids, seed, shape[0], device),
        rows_tensor("noisy", noisy, shape[:1], device),
        steps,
        p_tensor(kind, p, device),
        stream_number(stream),
        kind,
        dtype,
    )


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes of (B, ...), which are integers of 0 or more."""
    try:
        sizes = tuple(size if isinstance(size, (int, torch.SymInt)) else integer("shape", size) for size in shape)
    except TypeError:
        sizes = ()
    if not sizes or any(size < 0 for size in sizes):
        raise ValueError(f"shape: expected (B, ...), sizes of 0 or more with a batch dimension, got {shape!r}")
    return sizes


@public("x")
def noise_like(x: Tensor, **options: Any) -> Tensor:
    """Make noise of x's shape, dtype and device.

    Args:
        x: a floating tensor [B, ...]; its values are not read.
        **options: keyword arguments of `noise`.

    Returns:
        eps, contiguous, of x's shape, dtype and device.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_floating("x", x)
    return noise(x.shape, dtype=x.dtype, device=x.device, **options)

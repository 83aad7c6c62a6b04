"""ops.noise, noise_like, add_noise, add_noise_multimodal and mix_noise: noise at a chosen alpha_bar.

A noise value is a pure function of (seed, draw, stream, sample, element): docs/noise_contract.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..contract import DTYPES as DTYPE_NAMES
from ..contract import check_elements, check_kind, check_stream, either
from . import reference
from ._args import (
    DTYPES,
    alpha_bar_tensor,
    check_floating,
    check_same,
    describe,
    distinct,
    lengths_tensor,
    p_tensor,
    rng_tensor,
    rows_tensor,
    widest,
)
from ._function import Function, fold, fold_ids, fold_scale, loop, save
from ._library import define, map_in_a_loop


def _empty(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_noise = define(
    "noise(SymInt[] size, Tensor rng, Tensor? sample_ids, Tensor? noisy, Tensor? lengths, Tensor? p, "
    "SymInt stream, str kind, ScalarType dtype) -> Tensor",
    reference.noise,
    lambda size, rng, sample_ids, noisy, lengths, p, stream, kind, dtype: rng.new_empty(size, dtype=dtype),
)
map_in_a_loop(_noise)
_add_noise = define(
    "add_noise(Tensor x, Tensor alpha_bar, Tensor rng, Tensor? sample_ids, Tensor? noisy, Tensor? lengths, Tensor? p, "
    "SymInt stream, str kind, bool return_noise) -> (Tensor, Tensor)",
    reference.add_noise,
    lambda x, alpha_bar, rng, sample_ids, noisy, lengths, p, stream, kind, return_noise: (
        _empty(x),
        _empty(x) if return_noise else x.new_empty(0),
    ),
)
_add_noise_multimodal = define(
    "add_noise_multimodal(Tensor[] xs, Tensor alpha_bars, Tensor rng, Tensor? sample_ids, Tensor? noisy, "
    "Tensor? lengths, Tensor? p, SymInt[] streams, str kind, bool return_stats) -> (Tensor[], Tensor)",
    reference.add_noise_multimodal,
    lambda xs, alpha_bars, rng, sample_ids, noisy, lengths, p, streams, kind, return_stats: (
        [_empty(x) for x in xs],
        rng.new_empty((len(xs) if return_stats else 0, 4), dtype=torch.float64),
    ),
)
_mix_noise = define(
    "mix_noise(Tensor x, Tensor eps, Tensor alpha_bar, Tensor? noisy, Tensor? lengths) -> Tensor",
    reference.mix_noise,
    lambda x, eps, alpha_bar, noisy, lengths: _empty(x),
)
_mix_noise_backward = define(
    "mix_noise_backward(Tensor grad, Tensor alpha_bar, Tensor? noisy, Tensor? lengths, bool wrt_noise) -> Tensor",
    reference.mix_noise_backward,
    lambda grad, alpha_bar, noisy, lengths, wrt_noise: _empty(grad),
)


class MixNoiseBackward(Function):
    """Scale a gradient by sqrt(alpha_bar), or by sqrt(1 - alpha_bar).

    The map is diagonal, so it is its own gradient and its own tangent.
    """

    plain = staticmethod(reference.mix_noise_backward)

    @staticmethod
    def forward(
        grad: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None, wrt_noise: bool
    ) -> Tensor:
        """Call the registered op: [B, ...] -> [B, ...]."""
        return _mix_noise_backward(grad, alpha_bar, noisy, lengths, wrt_noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the scales and masks."""
        _, alpha_bar, noisy, lengths, ctx.wrt_noise = inputs
        save(ctx, alpha_bar, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Scale in the same way."""
        return MixNoiseBackward.call(grad, *ctx.saved_tensors, ctx.wrt_noise), None, None, None, None

    @staticmethod
    def tangent(ctx: Any, grad_t: Tensor, *_: Any) -> Tensor:
        """Scale in the same way."""
        return MixNoiseBackward.call(grad_t, *ctx.saved_tensors, ctx.wrt_noise)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch."""
        grad, alpha_bar, noisy, lengths, wrt_noise = args
        size, batch = info.batch_size, grad.movedim(in_dims[0], 0).shape[1] if in_dims[0] is not None else len(grad)
        folded = MixNoiseBackward.call(
            fold(grad, in_dims[0], size),
            fold_scale(alpha_bar, in_dims[1], size, batch),
            fold(noisy, in_dims[2], size),
            fold(lengths, in_dims[3], size),
            wrt_noise,
        )
        return folded.unflatten(0, (size, batch)), 0


class MixNoise(Function):
    """Mix x with given noise (paper, Eq. 3); linear in x and in eps."""

    plain = staticmethod(reference.mix_noise)

    @staticmethod
    def forward(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Call the registered op: [B, ...] -> [B, ...]."""
        return _mix_noise(x, eps, alpha_bar, noisy, lengths)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the scales and masks."""
        save(ctx, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Scale once for each input that needs a gradient."""
        of_x, of_eps = ctx.needs_input_grad[:2]
        return (
            MixNoiseBackward.call(grad, *ctx.saved_tensors, False) if of_x else None,
            MixNoiseBackward.call(grad, *ctx.saved_tensors, True) if of_eps else None,
            *(None, None, None),
        )

    @staticmethod
    def tangent(ctx: Any, x_t: Any, eps_t: Any, *_: Any) -> Any:
        """Mix the tangents, since the op is linear."""
        x_part = None if x_t is None else MixNoiseBackward.call(x_t, *ctx.saved_tensors, False)
        eps_part = None if eps_t is None else MixNoiseBackward.call(eps_t, *ctx.saved_tensors, True)
        if x_part is None or eps_part is None:
            return eps_part if x_part is None else x_part
        return x_part + eps_part

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch."""
        x, eps, alpha_bar, noisy, lengths = args
        size = info.batch_size
        x, eps = fold(x, in_dims[0], size), fold(eps, in_dims[1], size)
        batch = len(x) // size
        folded = MixNoise.call(
            x,
            eps,
            fold_scale(alpha_bar, in_dims[2], size, batch),
            fold(noisy, in_dims[3], size),
            fold(lengths, in_dims[4], size),
        )
        return folded.unflatten(0, (size, batch)), 0


class AddNoise(Function):
    """Mix x with noise made in the same pass (paper, Eq. 3); linear in x, so backward needs no noise."""

    plain = staticmethod(reference.add_noise)

    @staticmethod
    def forward(
        x: Tensor,
        alpha_bar: Tensor,
        rng: Tensor,
        sample_ids: Tensor | None,
        noisy: Tensor | None,
        lengths: Tensor | None,
        p: Tensor | None,
        stream: int,
        kind: str,
        return_noise: bool,
    ) -> tuple[Tensor, Tensor]:
        """Call the registered op: (y, eps)."""
        return _add_noise(x, alpha_bar, rng, sample_ids, noisy, lengths, p, stream, kind, return_noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the scales and masks; eps is a constant."""
        _, alpha_bar, _, _, noisy, lengths, *_ = inputs
        ctx.mark_non_differentiable(output[1])
        save(ctx, alpha_bar, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        """Scale in one pass, or not at all where x needs no gradient."""
        needed = ctx.needs_input_grad[0]
        return MixNoiseBackward.call(grad, *ctx.saved_tensors, False) if needed else None, *(None,) * 9

    @staticmethod
    def tangent(ctx: Any, x_t: Tensor, *_: Any) -> Any:
        """Scale the tangent, since the op is linear in x."""
        return MixNoiseBackward.call(x_t, *ctx.saved_tensors, False), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch; with a seed or a p for each slice, run slice by slice."""
        x, alpha_bar, rng, sample_ids, noisy, lengths, p, stream, kind, return_noise = args
        if in_dims[2] is not None or in_dims[6] is not None:
            return loop(AddNoise, info.batch_size, in_dims, args)
        size = info.batch_size
        x = fold(x, in_dims[0], size)
        batch = len(x) // size
        y, eps = AddNoise.call(
            x,
            fold_scale(alpha_bar, in_dims[1], size, batch),
            rng,
            fold_ids(sample_ids, in_dims[3], size, batch, x.device),
            fold(noisy, in_dims[4], size),
            fold(lengths, in_dims[5], size),
            *(p, stream, kind, return_noise),
        )
        y = y.unflatten(0, (size, batch))
        return ((y, eps.unflatten(0, (size, batch))), (0, 0)) if return_noise else ((y, eps), (0, None))


class AddNoiseMultimodal(Function):
    """Mix all modalities with noise at once (paper, Eq. 3).

    The features are the last arguments, one by one, because autograd sees no tensors inside a list.
    """

    @staticmethod
    def forward(
        alpha_bars: Tensor,
        rng: Tensor,
        sample_ids: Tensor | None,
        noisy: Tensor | None,
        lengths: Tensor | None,
        p: Tensor | None,
        streams: tuple[int, ...],
        kind: str,
        return_stats: bool,
        *xs: Tensor,
    ) -> tuple[Tensor, ...]:
        """Call the registered op: (*ys, stats)."""
        shared = (alpha_bars, rng, sample_ids, noisy, lengths, p)
        ys, stats = _add_noise_multimodal(list(xs), *shared, list(streams), kind, return_stats)
        return *ys, stats

    @staticmethod
    def plain(*args: Any) -> tuple[Tensor, ...]:
        """Run the reference: (*ys, stats)."""
        ys, stats = reference.add_noise_multimodal(list(args[9:]), *args[:9])
        return *ys, stats

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the scales and masks; the statistics are constants."""
        alpha_bars, _, _, noisy, lengths, *_ = inputs
        ctx.mark_non_differentiable(output[-1])
        save(ctx, alpha_bars, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Scale in one pass for each modality that needs a gradient."""
        scaled = [
            _scale_modality(ctx, m, grad) if ctx.needs_input_grad[9 + m] else None for m, grad in enumerate(grads[:-1])
        ]
        return *(None,) * 9, *scaled

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        """Scale each modality's tangent, since the op is linear in each."""
        xs_t = tangents[9:]
        return *(None if x_t is None else _scale_modality(ctx, m, x_t) for m, x_t in enumerate(xs_t)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch; with a seed or a p for each slice, or statistics, run slice by slice."""
        alpha_bars, rng, sample_ids, noisy, lengths, p, streams, kind, return_stats, *xs = args
        if return_stats or in_dims[1] is not None or in_dims[5] is not None:
            return loop(AddNoiseMultimodal, info.batch_size, in_dims, args)
        size = info.batch_size
        xs = [fold(x, dim, size) for x, dim in zip(xs, in_dims[9:], strict=True)]
        batch = len(xs[0]) // size
        if alpha_bars.dim() - (in_dims[0] is not None) == 1 and in_dims[0] is not None:  # each slice has its own [M]
            alpha_bars = alpha_bars.movedim(in_dims[0], 0).repeat_interleave(batch, dim=0)
        elif alpha_bars.dim() - (in_dims[0] is not None) == 2:
            alpha_bars = fold(alpha_bars, in_dims[0], size)
        *ys, stats = AddNoiseMultimodal.call(
            alpha_bars,
            rng,
            fold_ids(sample_ids, in_dims[2], size, batch, rng.device),
            fold(noisy, in_dims[3], size),
            fold(lengths, in_dims[4], size),
            *(p, streams, kind, return_stats, *xs),
        )
        return (*(y.unflatten(0, (size, batch)) for y in ys), stats), (*(0,) * len(ys), None)


def _scale_modality(ctx: Any, m: int, grad: Tensor) -> Tensor:
    alpha_bars, noisy, lengths = ctx.saved_tensors
    noisy_m = None if noisy is None else noisy[:, m]
    lengths_m = None if lengths is None else lengths[:, m]
    return MixNoiseBackward.call(grad, alpha_bars[..., m], noisy_m, lengths_m, False)


@overload
def add_noise(
    x: Tensor,
    alpha_bar: float | Tensor,
    *,
    seed: int | Tensor | None = ...,
    draw: int = ...,
    stream: int = ...,
    kind: str = ...,
    p: float = ...,
    sample_ids: Tensor | None = ...,
    noisy: Tensor | None = ...,
    lengths: Tensor | None = ...,
    return_noise: Literal[False] = ...,
) -> Tensor: ...
@overload
def add_noise(
    x: Tensor,
    alpha_bar: float | Tensor,
    *,
    seed: int | Tensor | None = ...,
    draw: int = ...,
    stream: int = ...,
    kind: str = ...,
    p: float = ...,
    sample_ids: Tensor | None = ...,
    noisy: Tensor | None = ...,
    lengths: Tensor | None = ...,
    return_noise: Literal[True],
) -> tuple[Tensor, Tensor]: ...
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
    check_stream(stream)
    rows = (x.shape[0],)
    tensors = distinct(
        x,
        alpha_bar_tensor("alpha_bar", alpha_bar, ((), rows), x),
        rng_tensor(seed, draw, x.device),
        rows_tensor("sample_ids", sample_ids, rows, x.device),
        rows_tensor("noisy", noisy, rows, x.device),
        lengths_tensor(lengths, x),
        p_tensor(kind, p, x.device),
    )
    y, eps = AddNoise.call(*tensors, stream, kind, return_noise)
    return (y, eps) if return_noise else y


@overload
def add_noise_multimodal(
    xs: Sequence[Tensor],
    alpha_bars: Tensor,
    *,
    seed: int | Tensor | None = ...,
    draw: int = ...,
    streams: Sequence[int] | None = ...,
    kind: str = ...,
    p: float = ...,
    sample_ids: Tensor | None = ...,
    noisy: Tensor | None = ...,
    lengths: Sequence[Tensor | None] | None = ...,
    return_stats: Literal[False] = ...,
) -> list[Tensor]: ...
@overload
def add_noise_multimodal(
    xs: Sequence[Tensor],
    alpha_bars: Tensor,
    *,
    seed: int | Tensor | None = ...,
    draw: int = ...,
    streams: Sequence[int] | None = ...,
    kind: str = ...,
    p: float = ...,
    sample_ids: Tensor | None = ...,
    noisy: Tensor | None = ...,
    lengths: Sequence[Tensor | None] | None = ...,
    return_stats: Literal[True],
) -> tuple[list[Tensor], Tensor]: ...
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
    streams = tuple(range(len(xs))) if streams is None else tuple(streams)
    if len(streams) != len(xs):
        raise ValueError(f"streams: expected {len(xs)}, one for each of xs, got {len(streams)}")
    for stream in streams:
        check_stream(stream)
    batch, device = xs[0].shape[0], xs[0].device
    if not isinstance(alpha_bars, Tensor):
        raise TypeError(f"alpha_bars: expected a floating tensor [{len(xs)}], got {describe(alpha_bars)}")
    alpha_bars, rng, ids, noisy, stacked, p_or_none, *distinct_xs = distinct(
        alpha_bar_tensor("alpha_bars", alpha_bars, ((len(xs),), (batch, len(xs))), xs[0]),
        rng_tensor(seed, draw, device),
        rows_tensor("sample_ids", sample_ids, (batch,), device),
        rows_tensor("noisy", noisy, (batch, len(xs)), device),
        _stack_lengths(lengths, xs),
        p_tensor(kind, p, device),
        *xs,
    )
    *ys, stats = AddNoiseMultimodal.call(
        alpha_bars, rng, ids, noisy, stacked, p_or_none, streams, kind, return_stats, *distinct_xs
    )
    return (ys, stats) if return_stats else ys


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
    return MixNoise.call(
        *distinct(
            x,
            eps,
            alpha_bar_tensor("alpha_bar", alpha_bar, ((), rows), x),
            rows_tensor("noisy", noisy, rows, x.device),
            lengths_tensor(lengths, x),
        )
    )


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
    shape = tuple(shape)
    if not shape or any(extent < 0 for extent in shape):
        raise ValueError(f"shape: expected (B, ...), sizes of 0 or more with a batch dimension, got {shape}")
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected {either(DTYPE_NAMES)}, got {dtype}")
    check_elements("shape", shape)
    check_kind(kind)
    check_stream(stream)
    # Dynamo does not trace torch.get_default_device.
    device = torch.empty(0).device if device is None else torch.device(device)
    if lengths is not None and len(shape) < 2:
        raise ValueError(f"lengths: expected a shape of two or more dims, whose dim 1 they count, got {shape}")
    rows = (shape[0],)
    return _noise(
        shape,
        rng_tensor(seed, draw, device),
        rows_tensor("sample_ids", sample_ids, rows, device),
        rows_tensor("noisy", noisy, rows, device),
        rows_tensor("lengths", lengths, rows, device),
        p_tensor(kind, p, device),
        stream,
        kind,
        dtype,
    )


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

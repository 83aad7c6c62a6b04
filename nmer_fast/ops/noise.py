"""ops.noise, noise_like, add_noise, add_noise_multimodal, mix_noise: noise at a chosen alpha_bar, by the contract.

A value is a pure function of (seed, draw, stream, sample, element); see docs/noise_contract.md.
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
    """g -> sqrt(alpha_bar) g, or sqrt(1 - alpha_bar) g: diagonal, so its own gradient and tangent."""

    plain = staticmethod(reference.mix_noise_backward)

    @staticmethod
    def forward(
        grad: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None, wrt_noise: bool
    ) -> Tensor:
        """[B, ...] -> [B, ...]."""
        return _mix_noise_backward(grad, alpha_bar, noisy, lengths, wrt_noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the scales and masks."""
        _, alpha_bar, noisy, lengths, ctx.wrt_noise = inputs
        save(ctx, alpha_bar, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The same scaling."""
        return MixNoiseBackward.call(grad, *ctx.saved_tensors, ctx.wrt_noise), None, None, None, None

    @staticmethod
    def tangent(ctx: Any, grad_t: Tensor, *_: Any) -> Tensor:
        """The same scaling."""
        return MixNoiseBackward.call(grad_t, *ctx.saved_tensors, ctx.wrt_noise)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Folds the mapped axis into the batch."""
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
    """Eq. 3 with given noise: linear in x and in eps."""

    plain = staticmethod(reference.mix_noise)

    @staticmethod
    def forward(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
        """[B, ...] -> [B, ...]."""
        return _mix_noise(x, eps, alpha_bar, noisy, lengths)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the scales and masks."""
        save(ctx, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """One scaling for each input that needs a gradient."""
        of_x, of_eps = ctx.needs_input_grad[:2]
        return (
            MixNoiseBackward.call(grad, *ctx.saved_tensors, False) if of_x else None,
            MixNoiseBackward.call(grad, *ctx.saved_tensors, True) if of_eps else None,
            *(None, None, None),
        )

    @staticmethod
    def tangent(ctx: Any, x_t: Any, eps_t: Any, *_: Any) -> Any:
        """Linear: the mix of the tangents."""
        x_part = None if x_t is None else MixNoiseBackward.call(x_t, *ctx.saved_tensors, False)
        eps_part = None if eps_t is None else MixNoiseBackward.call(eps_t, *ctx.saved_tensors, True)
        if x_part is None or eps_part is None:
            return eps_part if x_part is None else x_part
        return x_part + eps_part

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Folds the mapped axis into the batch."""
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
    """Eq. 3 with noise made in the same pass: linear in x, so backward needs no noise."""

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
        """The registered op."""
        return _add_noise(x, alpha_bar, rng, sample_ids, noisy, lengths, p, stream, kind, return_noise)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the scales and masks; eps is a constant."""
        _, alpha_bar, _, _, noisy, lengths, *_ = inputs
        ctx.mark_non_differentiable(output[1])
        save(ctx, alpha_bar, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        """One scaling pass, none where x needs no gradient."""
        needed = ctx.needs_input_grad[0]
        return MixNoiseBackward.call(grad, *ctx.saved_tensors, False) if needed else None, *(None,) * 9

    @staticmethod
    def tangent(ctx: Any, x_t: Tensor, *_: Any) -> Any:
        """Linear in x."""
        return MixNoiseBackward.call(x_t, *ctx.saved_tensors, False), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Folds the mapped axis into the batch; a seed or p per slice goes slice by slice."""
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
    """Eq. 3 for all modalities at once; the features stand last, flat, as autograd wants them."""

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
        """The registered op: (*ys, stats)."""
        shared = (alpha_bars, rng, sample_ids, noisy, lengths, p)
        ys, stats = _add_noise_multimodal(list(xs), *shared, list(streams), kind, return_stats)
        return *ys, stats

    @staticmethod
    def plain(*args: Any) -> tuple[Tensor, ...]:
        """The reference, its outputs flat."""
        ys, stats = reference.add_noise_multimodal(list(args[9:]), *args[:9])
        return *ys, stats

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps the scales and masks; the statistics are constants."""
        alpha_bars, _, _, noisy, lengths, *_ = inputs
        ctx.mark_non_differentiable(output[-1])
        save(ctx, alpha_bars, noisy, lengths)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """One scaling pass for each modality that needs a gradient."""
        scaled = [
            _scale_modality(ctx, m, grad) if ctx.needs_input_grad[9 + m] else None for m, grad in enumerate(grads[:-1])
        ]
        return *(None,) * 9, *scaled

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        """Linear in each modality."""
        xs_t = tangents[9:]
        return *(None if x_t is None else _scale_modality(ctx, m, x_t) for m, x_t in enumerate(xs_t)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Folds the mapped axis into the batch; a seed or p per slice, or statistics, go slice by slice."""
        alpha_bars, rng, sample_ids, noisy, lengths, p, streams, kind, return_stats, *xs = args
        if return_stats or in_dims[1] is not None or in_dims[5] is not None:
            return loop(AddNoiseMultimodal, info.batch_size, in_dims, args)
        size = info.batch_size
        xs = [fold(x, dim, size) for x, dim in zip(xs, in_dims[9:], strict=True)]
        batch = len(xs[0]) // size
        if alpha_bars.dim() - (in_dims[0] is not None) == 1 and in_dims[0] is not None:  # [M] in each slice
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

    The same sample gets the same noise on every device, at every batch size, order and padding: eps is a pure
    function of (seed, draw, stream, sample id, element).

    Args:
        x: [B, ...], float32, bfloat16, float16 or float64, contiguous or not.
        alpha_bar: 0 to 1 inclusive: a float, or a floating tensor [] or [B] (whose values are not checked).
        seed: an int, taken mod 2^64; or an int64 tensor [2] = (seed, draw), so that a compiled step draws fresh noise
            without recompiling; or None: drawn from torch's default generator, so `torch.manual_seed` governs (the
            one case in which eager and compiled calls differ).
        draw: which draw for the sample (a step, an epoch), 0 to 2^32-1; not given beside a seed tensor.
        stream: what the noise is for, 0 to 255; the project uses 0-239 for modalities.
        kind: "gaussian", "impulse", "uniform" or "laplace"; all of variance 1, impulse p.
        p: the share of impulses, 0 to 1; read by "impulse" alone.
        sample_ids: integers [B], the samples' ids in their data set (48 bits); by default 0..B-1. Only ids that are
            given survive a batch split.
        noisy: bool [B]; where False, y = x bit for bit. By default all True.
        lengths: integers [B], valid steps of dim 1. Beyond them y = 0, whatever x holds, NaN included.
        return_noise: also return eps, which is 0 beyond the length and where not noisy.

    Returns:
        y, contiguous, of x's shape and dtype, under autocast too; or (y, eps). Differentiable in x.

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
    """`add_noise` for all modalities of a batch in one launch, with the statistics of what was added.

    Args:
        xs: M tensors [B, ...], of one dtype and device; their trailing shapes are free. Under autocast dtypes may
            differ, and the widest serves.
        alpha_bars: floating tensor [M] or [B, M], 0 to 1 inclusive.
        seed, draw, kind, p, sample_ids: as in `add_noise`.
        streams: M ints from 0 to 255; by default 0..M-1. Two modalities of one stream would share their noise.
        noisy: bool [B, M]; by default all True.
        lengths: M entries, each integers [B] or None (all steps valid). One tensor may stand for several.
        return_stats: also return float64 [M, 4] over the valid noisy elements: count, sum of x, sum of x^2, sum of
            eps^2; with alpha_bar they give the realised SNR.

    Returns:
        The list ys, or (ys, stats). Differentiable in every x.

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
    """M lengths, some of them None, as one int64 [B, M]; None stands for all steps."""
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
                f"lengths: expected every x of two or more dims, whose dim 1 they are of, got xs[{m}] {describe(x)}"
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
    """Any tensor as noise: y = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps (paper, Eq. 3 and section 2.2.1).

    Args:
        x: [B, ...], float32, bfloat16, float16 or float64, contiguous or not.
        eps: the noise, of x's shape, dtype and device; under autocast its dtype may differ, and the wider one serves.
        alpha_bar, noisy, lengths: as in `add_noise`.

    Returns:
        y, contiguous, of x's shape and dtype (under autocast the wider one). Differentiable in x and in eps.

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
    """The noise alone, eps of `add_noise` with the same arguments.

    Args:
        shape: (B, ...).
        seed, draw, stream, kind, p, sample_ids, noisy, lengths: as in `add_noise`.
        dtype: float32, bfloat16, float16 or float64.
        device: by default torch's default device.

    Returns:
        eps, contiguous, 0 beyond the length and where not noisy.

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
        raise ValueError(f"lengths: expected a shape of two or more dims, whose dim 1 they are of, got {shape}")
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
    """`noise` of x's shape, dtype and device; options as there."""
    check_floating("x", x)
    return noise(x.shape, dtype=x.dtype, device=x.device, **options)

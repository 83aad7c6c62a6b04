"""Every op in plain PyTorch: the definition against which all backends are tested.

Noise values follow the noise contract (docs/noise_contract.md): they are a pure function of (seed, draw, stream,
sample, element). Noise, mixes and KL are computed in float64 and rounded once to the result's dtype. The signatures are
those of the registered ops `torch.ops.nmer_fast.*`, which call these functions on a device that has no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import Tensor

from ..contract import COUNTER_TAG, MAX_DRAW, MAX_SAMPLE_ID, MAX_STREAM, GeneratedKind, check_kind

MASK32 = 0xFFFFFFFF
Piece = tuple[slice, slice]
"""Some samples, and some elements of each; it indexes [B, the elements of a sample]."""


def has_float64(device: torch.device) -> bool:
    """Whether the device has float64. Without it the reference computes in float32; words are exact all the same."""
    return device.type != "mps"


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype that is computed in on this device."""
    return torch.float64 if has_float64(device) else torch.float32


def widen(t: Tensor) -> Tensor:
    """Convert elements to the dtype that is computed in."""
    return t.to(wide_dtype(t.device))


def widen_scale(t: Tensor, device: torch.device) -> Tensor:
    """Convert alpha_bar or p likewise. Without float64 they come in float32, or as [] in float64 on the CPU."""
    return t.double() if has_float64(device) else t


def philox(seed: Tensor, counter: Tensor) -> Tensor:
    """Make Philox4x32-10 words (Salmon et al., SC'11): int64 seed [], counter [..., 4] -> words [..., 4] below 2^32."""
    return torch.stack(philox_words(seed, counter.unbind(-1)), dim=-1)


def philox_words(seed: Tensor, counter: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run the ten rounds on counter words that broadcast against each other. Products wrap mod 2^64, as they must."""
    c0, c1, c2, c3 = (word & MASK32 for word in counter)
    rounds = torch.arange(10, device=seed.device)
    keys0 = (seed + rounds * 0x9E3779B9) & MASK32
    keys1 = ((seed >> 32) + rounds * 0xBB67AE85) & MASK32
    for k0, k1 in zip(keys0.unbind(), keys1.unbind(), strict=True):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        # Words 1 and 3 are the low halves of b and a. Only the next xor reads them, so one mask serves for both.
        c0, c1, c2, c3 = (b >> 32 ^ c1 ^ k0) & MASK32, b, (a >> 32 ^ c3 ^ k1) & MASK32, a
    return c0, c1 & MASK32, c2, c3 & MASK32


def sample_counter(quad: Tensor, sample_ids: Tensor, stream: int, draw: Tensor) -> tuple[Tensor, ...]:
    """Make the contract's four counter words; quad is element // 4. The arguments broadcast against each other."""
    return (
        quad,
        sample_ids & MASK32,
        (sample_ids & MAX_SAMPLE_ID) >> 32 | (stream & MAX_STREAM) << 16 | COUNTER_TAG << 24,
        draw & MAX_DRAW,
    )


def unit(words: Tensor) -> Tensor:
    """u = fl32(fl32(w) 2^-32 + 2^-33) in (0, 1]: the float32 value, widened."""
    return widen(words.float() * 2.0**-32 + 2.0**-33)


def cos_sin(words: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the cosine and sine of 2 pi w / 2^32."""
    if has_float64(words.device):
        turn = (words ^ 0x80000000) - 0x80000000  # a signed 32-bit integer, so that the angle is in [-pi, pi)
        angle = turn.double() * (math.pi / 2**31)
        return angle.cos(), angle.sin()
    quarter = (words + 2**29) >> 30  # float32 loses the digits of a large angle, so quarters are subtracted in integers
    angle = (words - (quarter << 30)).float() * (math.pi / 2**31)
    cos, sin = angle.cos(), angle.sin()
    cos, sin = torch.where(quarter & 1 == 1, sin, cos), torch.where(quarter & 1 == 1, cos, sin)
    return torch.where(quarter + 1 & 2 == 2, -cos, cos), torch.where(quarter & 2 == 2, -sin, sin)


def box_muller(words: tuple[Tensor, ...]) -> Tensor:
    """Turn four words into four standard normals, [..., 4]: r0 cos, r0 sin, r1 cos, r1 sin."""
    out = []
    for radius_word, angle_word in (words[:2], words[2:]):
        r = (-2 * unit(radius_word).log()).sqrt()
        out += [r * part for part in cos_sin(angle_word)]
    return torch.stack(torch.broadcast_tensors(*out), dim=-1)


def impulse(words: Tensor, p: Tensor) -> Tensor:
    """Turn each word into -1, 0 or +1, which is not 0 with probability p."""
    threshold = torch.ceil(widen_scale(p, words.device) * 2.0**31).long()
    return widen(torch.where(words >> 1 < threshold, (words & 1) * 2 - 1, 0))


def uniform(words: Tensor) -> Tensor:
    """Turn each word into a uniform value of unit variance, in (-sqrt(3), sqrt(3)]."""
    return math.sqrt(3) * (2 * unit(words) - 1)


def laplace(words: Tensor) -> Tensor:
    """Turn each word into a Laplace value of unit variance."""
    magnitude = -widen((words >> 1).float() * 2.0**-31 + 2.0**-32).log() / math.sqrt(2)
    return torch.where(words & 1 == 1, magnitude, -magnitude)


def values(words: tuple[Tensor, ...], p: Tensor | None, kind: GeneratedKind) -> Tensor:
    """Turn the four words of each quad into its four noise values, [..., 4] in the wide dtype."""
    if kind == "gaussian":
        return box_muller(words)
    flat = torch.stack(torch.broadcast_tensors(*words), dim=-1)
    if kind == "impulse":
        assert p is not None, "impulse noise needs p"
        return impulse(flat, p)
    if kind == "uniform":
        return uniform(flat)
    if kind == "laplace":
        return laplace(flat)
    assert_never(kind)


def noise_values(at: Piece, rng: Tensor, sample_ids: Tensor | None, p: Tensor | None, stream: int, kind: str) -> Tensor:
    """Make the noise of a piece, whose first element is a multiple of 4: wide, [b, n]."""
    samples, elements = at
    ids = torch.arange(samples.start, samples.stop, device=rng.device) if sample_ids is None else sample_ids[samples]
    quad = torch.arange(elements.start // 4, -(-elements.stop // 4), device=rng.device)
    words = philox_words(rng[0], sample_counter(quad, ids[:, None], stream, rng[1]))
    return values(words, p, check_kind(kind)).flatten(1)[:, : elements.stop - elements.start]


def eps64(size: torch.Size, rng: Tensor, sample_ids: Tensor | None, p: Tensor | None, stream: int, kind: str) -> Tensor:
    """Make the noise of every element of [B, ...], float64, before lengths and flags are applied."""
    (eps,) = in_pieces(size, rng.device, lambda at: (noise_values(at, rng, sample_ids, p, stream, kind),))
    return eps.reshape(size)


def in_pieces(
    size: torch.Size, device: torch.device, work: Callable[[Piece], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Compute tensors of [B, ...] piece by piece, so that what `work` makes on the way is small and stays in the cache.

    Args:
        size: the size of the whole, of which a sample's elements count as one dim.
        device: where `work` computes.
        work: returns results for a piece: [b, n], or [b] for sums over elements.

    Returns:
        The results for all samples and elements: [B, the elements of a sample], or [B].
    """
    batch, row = size[0], size[1:].numel()
    piece = piece_size(device)
    # A trace of pieces would hold every one of them, and their sizes may be symbols.
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or torch._C._len_torch_dispatch_stack() > 0 or device.type == "meta" or batch * row <= piece:
        return tuple(result.contiguous() for result in work((slice(0, batch), slice(0, row))))
    results: list[Tensor] = []
    for sample in range(0, batch, max(1, piece // row)):
        samples = slice(sample, min(sample + max(1, piece // row), batch))
        for element in range(0, row, piece):
            elements = slice(element, min(element + piece, row))
            parts = work((samples, elements))
            results = results or [p.new_zeros((batch, row)[: p.dim()]) for p in parts]
            for result, p in zip(results, parts, strict=True):
                if p.dim() == 1:
                    result[samples] += p
                else:
                    result[samples, elements] = p
    return tuple(results)


def piece_size(device: torch.device) -> int:
    """The elements of a piece, a multiple of 4: on a CPU the integers of its quads fit the caches of the threads."""
    if device.type != "cpu":
        return 2**22
    threads = torch.get_num_threads()
    return 2**16 if threads == 1 else 2**17 * threads  # torch gives a thread 2^15 integers, one for each quad


def rows(t: Tensor, like_dim: int) -> Tensor:
    """Reshape [B] or [] to a tensor that broadcasts against [B, ...] of that many dims."""
    return t if t.dim() == 0 else t.reshape(-1, *[1] * (like_dim - 1))


def of_samples(t: Tensor, samples: slice) -> Tensor:
    """Take some samples of [B] as [b, 1], which broadcasts against their elements; one value for all becomes []."""
    return t.reshape(()) if t.numel() == 1 else t[samples, None]


def valid_mask(size: torch.Size, lengths: Tensor | None, device: torch.device) -> Tensor:
    """A mask that is True where the index along dim 1 is below the sample's length; it broadcasts against `size`."""
    if lengths is None:
        return torch.ones((), dtype=torch.bool, device=device)
    steps = torch.arange(size[1], device=device)
    return (steps < lengths[:, None]).reshape(size[0], size[1], *[1] * (len(size) - 2))


def noisy_mask(noisy: Tensor | None, dim: int, device: torch.device) -> Tensor:
    """A mask that is True where a sample gets noise; it broadcasts against `dim` dims."""
    return torch.ones((), dtype=torch.bool, device=device) if noisy is None else rows(noisy, dim)


def zero_padding(t: Tensor, size: torch.Size, at: Piece, lengths: Tensor | None) -> Tensor:
    """Set those elements of a piece [b, n] to 0 that are beyond the lengths, whatever they hold."""
    if lengths is None:
        return t
    samples, elements = at
    element = torch.arange(elements.start, elements.stop, device=t.device)
    return torch.where(element < of_samples(lengths, samples) * size[2:].numel(), t, 0)


def chosen(t: Tensor, size: torch.Size, at: Piece, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Set the elements of a piece [b, n] to 0 that get no noise: padding, and samples that are not noisy."""
    t = t if noisy is None else torch.where(of_samples(noisy, at[0]), t, 0)
    return zero_padding(t, size, at, lengths)


def noise(
    size: torch.Size,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    stream: int,
    kind: str,
    dtype: torch.dtype,
) -> Tensor:
    """Make the noise alone: 0 beyond the length and where a sample is not noisy."""
    size = torch.Size(size)

    def work(at: Piece) -> tuple[Tensor]:
        eps = noise_values(at, rng, sample_ids, p, stream, kind).to(dtype)
        return (chosen(eps, size, at, noisy, lengths),)

    return in_pieces(size, rng.device, work)[0].reshape(size)


def mixed(
    x: Tensor,
    eps: Tensor,
    alpha_bar: Tensor,
    size: torch.Size,
    at: Piece,
    noisy: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """Mix a piece [b, n] by Eq. 3: 0 beyond the length, and x bit for bit where a sample is not noisy."""
    keep = of_samples(widen_scale(alpha_bar, x.device), at[0])
    y = (keep.sqrt() * widen(x) + (1 - keep).sqrt() * widen(eps)).to(x.dtype)
    y = y if noisy is None else torch.where(of_samples(noisy, at[0]), y, x)
    return zero_padding(y, size, at, lengths)


def mix_noise(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Mix x with any tensor as noise: sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps."""
    flat_x, flat_eps = (t.reshape(x.shape[0], x.shape[1:].numel()) for t in (x, eps))

    def work(at: Piece) -> tuple[Tensor]:
        return (mixed(flat_x[at], flat_eps[at], alpha_bar, x.shape, at, noisy, lengths),)

    return in_pieces(x.shape, x.device, work)[0].reshape(x.shape)


def mix_noise_backward(
    grad: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None, wrt_noise: bool
) -> Tensor:
    """Compute the gradient with respect to x, or to eps: one diagonal scaling, which is its own transpose."""
    flat, share = grad.reshape(grad.shape[0], grad.shape[1:].numel()), widen_scale(alpha_bar, grad.device)
    factor = (1 - share if wrt_noise else share).sqrt()

    def work(at: Piece) -> tuple[Tensor]:
        scaled = (widen(flat[at]) * of_samples(factor, at[0])).to(grad.dtype)
        if noisy is not None:
            rest = torch.zeros_like(scaled) if wrt_noise else flat[at]
            scaled = torch.where(of_samples(noisy, at[0]), scaled, rest)
        return (zero_padding(scaled, grad.shape, at, lengths),)

    return in_pieces(grad.shape, grad.device, work)[0].reshape(grad.shape)


def add_noise(
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
    """Return (y, eps); eps is empty unless return_noise is set."""
    flat = x.reshape(x.shape[0], x.shape[1:].numel())

    def work(at: Piece) -> tuple[Tensor, ...]:
        eps = noise_values(at, rng, sample_ids, p, stream, kind)
        y = mixed(flat[at], eps, alpha_bar, x.shape, at, noisy, lengths)
        return (y, chosen(eps.to(x.dtype), x.shape, at, noisy, lengths)) if return_noise else (y,)

    y, *eps = (result.reshape(x.shape) for result in in_pieces(x.shape, x.device, work))
    return y, eps[0] if return_noise else x.new_empty(0)


def add_noise_multimodal(
    xs: Sequence[Tensor],
    alpha_bars: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    streams: Sequence[int],
    kind: str,
    return_stats: bool,
) -> tuple[list[Tensor], Tensor]:
    """Mix all modalities: (ys, stats [M, 4]), from alpha_bars [M] or [B, M], noisy [B, M] and lengths [B, M]."""
    ys, stats = [], []
    for m, (x, stream) in enumerate(zip(xs, streams, strict=True)):
        masks = (None if noisy is None else noisy[:, m], None if lengths is None else lengths[:, m])
        y, *sums = _one_modality(x, alpha_bars[..., m], rng, sample_ids, *masks, p, stream, kind, return_stats)
        ys.append(y.reshape(x.shape))
        stats += [torch.stack([s.sum() for s in sums])] if return_stats else []
    none = torch.empty(0, 4, dtype=wide_dtype(rng.device), device=rng.device)
    return ys, torch.stack(stats) if stats else none


def _one_modality(
    x: Tensor,
    alpha_bar: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    stream: int,
    kind: str,
    return_stats: bool,
) -> tuple[Tensor, ...]:
    """Mix one modality: y, and, for the statistics, `sums` of each sample."""
    flat = x.reshape(x.shape[0], x.shape[1:].numel())

    def work(at: Piece) -> tuple[Tensor, ...]:
        eps = noise_values(at, rng, sample_ids, p, stream, kind)
        y = mixed(flat[at], eps, alpha_bar, x.shape, at, noisy, lengths)
        return (y, *sums(flat[at], eps, x.shape, at, noisy, lengths)) if return_stats else (y,)

    return in_pieces(x.shape, x.device, work)


def sums(
    x: Tensor, eps: Tensor, size: torch.Size, at: Piece, noisy: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, ...]:
    """Sum over the valid noisy elements of a piece, four times [b]: their count, x, x^2 and eps^2."""
    ones, x, eps = (chosen(widen(t), size, at, noisy, lengths) for t in (torch.ones_like(x), x, eps))
    return ones.sum(1), x.sum(1), (x * x).sum(1), (eps * eps).sum(1)


def statistics(x: Tensor, eps: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Sum over valid noisy elements, wide [4]: their count, x, x^2 and eps^2."""
    flat_x, flat_eps = (t.reshape(x.shape[0], x.shape[1:].numel()) for t in (x, eps))
    by_sample = in_pieces(x.shape, x.device, lambda at: sums(flat_x[at], flat_eps[at], x.shape, at, noisy, lengths))
    return torch.stack([one.sum() for one in by_sample])


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    """z = mu + exp(logvar / 2) eps, and the KL to a standard normal, summed over all dims but 0 (paper, Eq. 6)."""
    flat_mu, flat_logvar = (t.reshape(mu.shape[0], mu.shape[1:].numel()) for t in (mu, logvar))

    def work(at: Piece) -> tuple[Tensor, Tensor]:
        eps, m, v = (
            noise_values(at, rng, sample_ids, None, stream, "gaussian"),
            widen(flat_mu[at]),
            widen(flat_logvar[at]),
        )
        z = m + (v / 2).exp() * eps
        return z.to(mu.dtype), -0.5 * (1 + v - m.square() - v.exp()).sum(1)

    z, kl = in_pieces(mu.shape, mu.device, work)
    return z.reshape(mu.shape), kl.to(kl_dtype(mu.dtype))


def kl_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the KL, and of an LSTM's cell: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reparameterize_kl_backward(
    grad_z: Tensor, grad_kl: Tensor, mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients with respect to mu and logvar; eps is made again, since it is not stored."""
    flat_gz, flat_mu, flat_logvar = (t.reshape(mu.shape[0], mu.shape[1:].numel()) for t in (grad_z, mu, logvar))

    def work(at: Piece) -> tuple[Tensor, Tensor]:
        eps, gz = noise_values(at, rng, sample_ids, None, stream, "gaussian"), widen(flat_gz[at])
        m, v, gk = widen(flat_mu[at]), widen(flat_logvar[at]), of_samples(widen(grad_kl), at[0])
        grad_logvar = 0.5 * (gz * (v / 2).exp() * eps + gk * torch.expm1(v))
        return (gz + gk * m).to(mu.dtype), grad_logvar.to(mu.dtype)

    grad_mu, grad_logvar = in_pieces(mu.shape, mu.device, work)
    return grad_mu.reshape(mu.shape), grad_logvar.reshape(mu.shape)


def lstm_max_pool(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run E LSTMs of one input: (pooled, argmax [B, E, H], and the rows of `_lstm_recurrence`)."""
    hidden, cell, gates = _lstm_recurrence(x, lengths, weight_ih, weight_hh, bias)
    (batch, steps, _), (encoders, _, width) = x.shape, weight_hh.shape
    if steps == 0:
        none = x.new_zeros(batch, encoders, width)
        return none, none.long(), hidden, cell, gates
    valid, states = valid_mask(x.shape, lengths, x.device), hidden.unflatten(0, (batch, steps + 1))[:, 1:]
    pooled, argmax = torch.where(valid[..., None], states, float("-inf")).max(dim=1)
    return torch.where(lengths[:, None, None] > 0, pooled, 0.0), argmax, hidden, cell, gates


def lstm_states(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run E LSTMs of one input: (states [B, T, E, H], 0 beyond the lengths, and the rows of `_lstm_recurrence`)."""
    hidden, cell, gates = _lstm_recurrence(x, lengths, weight_ih, weight_hh, bias)
    valid, states = valid_mask(x.shape, lengths, x.device), hidden.unflatten(0, (x.shape[0], x.shape[1] + 1))[:, 1:]
    return torch.where(valid[..., None], states, 0.0), hidden, cell, gates


def _lstm_recurrence(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run E LSTMs of one input: hidden and cell [B (T + 1), E, H], gates [B (T + 1), E, 4H].

    Each sample has T + 1 rows: its states begin with the zero state before step 0, and its gates end with an unused
    row. The cell is float32 where x is narrower, since it sums over all steps. The C++ kernels pack the rows of valid
    steps and leave the other rows unset; backward alone reads them.
    """
    (batch, steps, _), (encoders, _, width), wide = x.shape, weight_hh.shape, kl_dtype(x.dtype)
    valid = valid_mask(x.shape, lengths, x.device)
    projected = torch.einsum("btd,egd->tebg", torch.where(valid, x, 0.0), weight_ih) + bias[None, :, None]
    hidden, cell = ([x.new_zeros(encoders, batch, width, dtype=dtype)] for dtype in (x.dtype, wide))
    gates = []
    for t in range(steps):
        i, f, g, o = torch.baddbmm(projected[t], hidden[t], weight_hh.mT).chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        gates.append(torch.cat([i, f, g, o], dim=-1))
        cell.append(torch.addcmul(i.to(wide) * g, f.to(wide), cell[t]))
        hidden.append((o * cell[t + 1].tanh()).to(x.dtype))
    gates.append(x.new_zeros(encoders, batch, 4 * width))
    states, cells, packed = (
        torch.stack(t).permute(2, 0, 1, 3).flatten(0, 1).contiguous() for t in (hidden, cell, gates)
    )
    return states, cells, packed


def lstm_backward(
    grad: Tensor,
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    hidden: Tensor,
    cell: Tensor,
    gates: Tensor,
    need_x: bool,
    argmax: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of x (empty unless need_x), weight_ih, weight_hh and bias.

    One product makes each of them after the walk back through time. `grad` is the gradient of all states, or, if argmax
    is given, of their maxima.
    """
    if argmax is not None:
        into_states = grad.new_zeros(*x.shape[:2], *grad.shape[1:])
        grad = into_states.scatter_(1, argmax[:, None], grad[:, None]) if x.shape[1] else into_states
    batch, steps, _ = x.shape
    hidden, cell, gates = (t.unflatten(0, (batch, steps + 1)).permute(1, 2, 0, 3) for t in (hidden, cell, gates))
    into_hidden = torch.where(valid_mask(x.shape, lengths, x.device)[..., None], grad, 0.0).permute(1, 2, 0, 3)
    d_gates = x.new_empty(steps, *gates.shape[1:])
    d_h, d_c = torch.zeros_like(hidden[0]), torch.zeros_like(cell[0])
    for t in reversed(range(steps)):
        i, f, g, o = gates[t].to(cell.dtype).chunk(4, dim=-1)
        d_i, d_f, d_g, d_o = d_gates[t].chunk(4, dim=-1)
        tanh_c = cell[t + 1].tanh()
        d_h = (d_h + into_hidden[t]).to(cell.dtype)
        d_c = d_c + d_h * o * (1 - tanh_c * tanh_c)
        d_i.copy_(d_c * g * (i * (1 - i)))
        d_f.copy_(d_c * cell[t] * (f * (1 - f)))
        d_g.copy_(d_c * i * (1 - g * g))
        d_o.copy_(d_h * tanh_c * (o * (1 - o)))
        d_c = d_c * f
        d_h = d_gates[t] @ weight_hh
    inputs = torch.where(valid_mask(x.shape, lengths, x.device), x, 0.0)
    grad_x = torch.einsum("tebg,egd->btd", d_gates, weight_ih) if need_x else x.new_empty(0)
    grad_ih = torch.einsum("tebg,btd->egd", d_gates, inputs)
    grad_hh = torch.einsum("tebg,tebh->egh", d_gates, hidden[:-1])
    return grad_x.contiguous(), grad_ih.contiguous(), grad_hh.contiguous(), d_gates.sum((0, 2))


def conv_max_pool(x: Tensor, lengths: Tensor, taps: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Convolve with each kernel's taps [E, F, k, D] and biases [E, F]: (pooled, argmax), each [B, E, F of all kernels].

    One product serves all taps of a kernel; a convolution is the sum of its taps, each shifted to its step. argmax is
    the first window that reaches the max.
    """
    steps, encoders, lengths = x.shape[1], taps[0].shape[0], lengths.clamp(0, x.shape[1])
    longest, windows = max(t.shape[2] for t in taps), max(steps, 1)
    x = torch.where(valid_mask(x.shape, lengths, x.device), x, 0.0)
    x = torch.nn.functional.pad(x, (0, 0, 0, longest - 1 + windows - steps))
    at, pooled, argmax = torch.arange(windows, device=x.device), [], []
    for weight, bias in zip(taps, biases, strict=True):
        kernel = weight.shape[2]
        products = torch.nn.functional.linear(x, weight.permute(2, 0, 1, 3).flatten(0, 2)).unflatten(
            2, (kernel, encoders, -1)
        )
        total = bias
        for tap in range(kernel):
            total = total + products[:, tap : tap + windows, tap]
        counts = (at + kernel <= lengths[:, None]) | (at == 0)
        best = torch.where(counts[..., None, None], total, float("-inf")).max(dim=1)
        pooled.append(torch.where(lengths[:, None, None] > 0, best.values.relu(), 0.0))
        argmax.append(best.indices)
    return torch.cat(pooled, 2).to(x.dtype), torch.cat(argmax, 2)


def conv_max_pool_backward(
    grad: Tensor, x: Tensor, lengths: Tensor, taps: list[Tensor], argmax: Tensor, need_x: bool
) -> tuple[Tensor, list[Tensor]]:
    """Compute the gradients of x (empty unless need_x) and of the taps; grad is 0 where ReLU made a 0."""
    (batch, steps, dims), longest, windows = x.shape, max(t.shape[2] for t in taps), max(x.shape[1], 1)
    x = torch.where(valid_mask(x.shape, lengths, x.device), x, 0.0)
    x = torch.nn.functional.pad(x, (0, 0, 0, longest - 1 + windows - steps))
    grad = torch.where(lengths[:, None, None] > 0, grad, 0.0)
    grad_x, grad_taps, first = torch.zeros_like(x), [], 0
    for weight in taps:
        filters = slice(first, first + weight.shape[1])
        first = filters.stop
        spread = x.new_zeros(batch, windows, *weight.shape[:2])
        spread.scatter_(1, argmax[:, None, :, filters], grad[:, None, :, filters])
        parts = [torch.einsum("btef,btd->efd", spread, x[:, tap : tap + windows]) for tap in range(weight.shape[2])]
        grad_taps.append(torch.stack(parts, dim=2))
        for tap in range(weight.shape[2] if need_x else 0):
            grad_x[:, tap : tap + windows] += torch.einsum("btef,efd->btd", spread, weight[:, :, tap])
    if not need_x:
        return x.new_empty(0), grad_taps
    valid = valid_mask(torch.Size((batch, steps, dims)), lengths, x.device)
    return torch.where(valid, grad_x[:, :steps], 0.0).contiguous(), grad_taps


def gather_padded(
    values: Tensor,
    offsets: Tensor,
    rows: Tensor,
    steps: int,
    mean: Tensor | None,
    std: Tensor | None,
    clip: float,
) -> Tensor:
    """Gather values[offsets[r] : offsets[r + 1]] for each r of rows, standardise them if mean is given, pad with 0."""
    starts, step = offsets[rows], torch.arange(steps, device=values.device)
    valid = step < (offsets[rows + 1] - starts)[:, None]
    if values.shape[0] == 0:
        return values.new_zeros(len(rows), steps, values.shape[1])
    x = values[torch.where(valid, starts[:, None] + step, 0)]
    if mean is not None and std is not None:
        x = ((x - mean) / std).clamp_(-clip, clip)
    return x.masked_fill_(~valid[..., None], 0)

"""Every op in plain PyTorch: the definition against which all backends are tested.

Noise values follow the noise contract (docs/noise_contract.md): they are a pure function of (seed, draw, stream,
sample, element). Noise, mixes and KL are computed in float64 and rounded once to the result's dtype. The signatures are
those of the registered ops `torch.ops.nmer_fast.*`, which call these functions on a device that has no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor

from ..contract import COUNTER_TAG, MAX_DRAW, MAX_SAMPLE_ID, MAX_STREAM, GeneratedKind, check_kind

MASK32 = 0xFFFFFFFF


def has_float64(device: torch.device) -> bool:
    """Whether the device has float64. Without it the arithmetic is float32's."""
    return device.type != "mps"


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic on this device."""
    return torch.float64 if has_float64(device) else torch.float32


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
        c0, c1, c2, c3 = (b >> 32) & MASK32 ^ c1 ^ k0, b & MASK32, (a >> 32) & MASK32 ^ c3 ^ k1, a & MASK32
    return c0, c1, c2, c3


def sample_counter(quad: Tensor, sample_ids: Tensor, stream: int, draw: Tensor) -> tuple[Tensor, ...]:
    """Make the contract's four counter words; quad is element // 4. The arguments broadcast against each other."""
    return (
        quad,
        sample_ids & MASK32,
        (sample_ids & MAX_SAMPLE_ID) >> 32 | (stream & MAX_STREAM) << 16 | COUNTER_TAG << 24,
        draw & MAX_DRAW,
    )


def unit(words: Tensor) -> Tensor:
    """u = fl32(fl32(w) 2^-32 + 2^-33) in (0, 1]: the float32 value, returned as float64."""
    return (words.float() * 2.0**-32 + 2.0**-33).double()


def box_muller(words: tuple[Tensor, ...]) -> Tensor:
    """Turn four words into four standard normals, [..., 4]: r0 cos, r0 sin, r1 cos, r1 sin."""
    out = []
    for radius_word, angle_word in (words[:2], words[2:]):
        r = (-2 * unit(radius_word).log()).sqrt()
        turn = (angle_word ^ 0x80000000) - 0x80000000  # a signed 32-bit integer, so that the angle is in [-pi, pi)
        angle = turn.double() * (math.pi / 2**31)
        out += [r * angle.cos(), r * angle.sin()]
    return torch.stack(torch.broadcast_tensors(*out), dim=-1)


def impulse(words: Tensor, p: Tensor) -> Tensor:
    """Turn each word into -1, 0 or +1, which is not 0 with probability p."""
    threshold = torch.ceil(p.double() * 2.0**31).long()
    sign = ((words & 1) * 2 - 1).double()
    return torch.where(words >> 1 < threshold, sign, 0.0)


def uniform(words: Tensor) -> Tensor:
    """Turn each word into a uniform value of unit variance, in (-sqrt(3), sqrt(3)]."""
    return math.sqrt(3) * (2 * unit(words) - 1)


def laplace(words: Tensor) -> Tensor:
    """Turn each word into a Laplace value of unit variance."""
    magnitude = -((words >> 1).float() * 2.0**-31 + 2.0**-32).double().log() / math.sqrt(2)
    return torch.where(words & 1 == 1, magnitude, -magnitude)


def values(words: tuple[Tensor, ...], p: Tensor | None, kind: GeneratedKind) -> Tensor:
    """Turn the four words of each quad into its four noise values, float64 [..., 4]."""
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


def eps64(size: torch.Size, rng: Tensor, sample_ids: Tensor | None, p: Tensor | None, stream: int, kind: str) -> Tensor:
    """Make the noise of every element of [B, ...], float64, before lengths and flags are applied."""
    batch, row = size[0], size[1:].numel()
    if sample_ids is None:
        sample_ids = torch.arange(batch, device=rng.device)
    quad = torch.arange(-(-row // 4), device=rng.device)
    words = philox_words(rng[0], sample_counter(quad, sample_ids[:, None], stream, rng[1]))
    return values(words, p, check_kind(kind)).flatten(1)[:, :row].reshape(size)


def rows(t: Tensor, like_dim: int) -> Tensor:
    """Reshape [B] or [] to a tensor that broadcasts against [B, ...] of that many dims."""
    return t if t.dim() == 0 else t.reshape(-1, *[1] * (like_dim - 1))


def valid_mask(size: torch.Size, lengths: Tensor | None, device: torch.device) -> Tensor:
    """A mask that is True where the index along dim 1 is below the sample's length; it broadcasts against `size`."""
    if lengths is None:
        return torch.ones((), dtype=torch.bool, device=device)
    steps = torch.arange(size[1], device=device)
    return (steps < lengths[:, None]).reshape(size[0], size[1], *[1] * (len(size) - 2))


def noisy_mask(noisy: Tensor | None, dim: int, device: torch.device) -> Tensor:
    """A mask that is True where a sample gets noise; it broadcasts against `dim` dims."""
    return torch.ones((), dtype=torch.bool, device=device) if noisy is None else rows(noisy, dim)


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
    eps = eps64(size, rng, sample_ids, p, stream, kind)
    chosen = valid_mask(size, lengths, rng.device) & noisy_mask(noisy, len(size), rng.device)
    return torch.where(chosen, eps, 0.0).to(dtype)


def mixed(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Mix by Eq. 3: 0 beyond the length, and x bit for bit where a sample is not noisy."""
    alpha_bar = rows(alpha_bar.double(), x.dim())
    y = (alpha_bar.sqrt() * x.double() + (1 - alpha_bar).sqrt() * eps.double()).to(x.dtype)
    y = torch.where(noisy_mask(noisy, x.dim(), x.device), y, x)
    return torch.where(valid_mask(x.shape, lengths, x.device), y, 0.0).contiguous()


def mix_noise(x: Tensor, eps: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Mix x with any tensor as noise: sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps."""
    return mixed(x, eps, alpha_bar, noisy, lengths)


def mix_noise_backward(
    grad: Tensor, alpha_bar: Tensor, noisy: Tensor | None, lengths: Tensor | None, wrt_noise: bool
) -> Tensor:
    """Compute the gradient with respect to x, or to eps: one diagonal scaling, which is its own transpose."""
    if wrt_noise:
        scaled = (grad.double() * rows((1 - alpha_bar.double()).sqrt(), grad.dim())).to(grad.dtype)
        rest = torch.zeros_like(grad)
    else:
        scaled = (grad.double() * rows(alpha_bar.double().sqrt(), grad.dim())).to(grad.dtype)
        rest = grad
    scaled = torch.where(noisy_mask(noisy, grad.dim(), grad.device), scaled, rest)
    return torch.where(valid_mask(grad.shape, lengths, grad.device), scaled, 0.0).contiguous()


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
    eps = eps64(x.shape, rng, sample_ids, p, stream, kind)
    y = mixed(x, eps, alpha_bar, noisy, lengths)
    if not return_noise:
        return y, x.new_empty(0)
    chosen = valid_mask(x.shape, lengths, x.device) & noisy_mask(noisy, x.dim(), x.device)
    return y, torch.where(chosen, eps, 0.0).to(x.dtype)


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
        eps = eps64(x.shape, rng, sample_ids, p, stream, kind)
        noisy_m = None if noisy is None else noisy[:, m]
        lengths_m = None if lengths is None else lengths[:, m]
        ys.append(mixed(x, eps, alpha_bars[..., m], noisy_m, lengths_m))
        if return_stats:
            stats.append(statistics(x, eps, noisy_m, lengths_m))
    empty = torch.empty(0, 4, dtype=torch.float64, device=rng.device)
    return ys, torch.stack(stats) if stats else empty


def statistics(x: Tensor, eps: Tensor, noisy: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Sum over valid noisy elements, float64 [4]: their count, x, x^2 and eps^2."""
    chosen = valid_mask(x.shape, lengths, x.device) & noisy_mask(noisy, x.dim(), x.device)
    chosen = chosen.expand(x.shape)
    x64, eps64 = torch.where(chosen, x.double(), 0.0), torch.where(chosen, eps.double(), 0.0)
    return torch.stack([chosen.sum().double(), x64.sum(), (x64 * x64).sum(), (eps64 * eps64).sum()])


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    """z = mu + exp(logvar / 2) eps, and the KL to a standard normal, summed over all dims but 0 (paper, Eq. 6)."""
    eps = eps64(mu.shape, rng, sample_ids, None, stream, "gaussian")
    mu64, logvar64 = mu.double(), logvar.double()
    z = mu64 + (logvar64 / 2).exp() * eps
    kl = -0.5 * (1 + logvar64 - mu64.square() - logvar64.exp()).reshape(mu.shape[0], mu.shape[1:].numel()).sum(1)
    return z.to(mu.dtype).contiguous(), kl.to(kl_dtype(mu.dtype))


def kl_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the KL, and of an LSTM's cell: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reparameterize_kl_backward(
    grad_z: Tensor, grad_kl: Tensor, mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients with respect to mu and logvar; eps is made again, since it is not stored."""
    eps = eps64(mu.shape, rng, sample_ids, None, stream, "gaussian")
    mu64, logvar64, gz, gk = mu.double(), logvar.double(), grad_z.double(), rows(grad_kl.double(), mu.dim())
    grad_mu = gz + gk * mu64
    grad_logvar = 0.5 * (gz * (logvar64 / 2).exp() * eps + gk * torch.expm1(logvar64))
    return grad_mu.to(mu.dtype).contiguous(), grad_logvar.to(mu.dtype).contiguous()


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

"""A VAE's sample and its KL divergence in one pass (paper, Eq. 6). The backward pass generates eps again."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, precision, row_of, run, strides, tiling
from .tile import place_of
from .words import EX2, HALF_LOG2_E, eps_tile, one, special, stream_key

INTS = ["row", "stream_id", "ids_row", "grad_kl_row"]


@triton.jit
def exps(logvar, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """exp(logvar / 2) and exp(logvar) - 1.

    Up to |logvar| = 11 the errors are 2^-21 of exp(logvar / 2) and of exp(logvar) + 1.
    """
    if WIDE:
        sigma = tl.exp(0.5 * logvar)
        s = logvar  # the series serves where the difference cancels: relative error below 2^-53 for |logvar| < 2^-6
        series = s * (1 + s * (0.5 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s * (1 / 720 + s / 5040))))))
        expm1 = tl.where(tl.abs(s) < 0.015625, series, tl.exp(s) - 1.0)
    else:
        sigma = special(logvar * HALF_LOG2_E, "ex2", EX2)
        expm1 = tl.fma(sigma, sigma, -1.0)
    return sigma, expm1


@triton.jit(do_not_specialize=INTS)
def reparameterize_kl_kernel(  # type: ignore[no-untyped-def]
    mu, logvar, z, kl, rng, ids, row, stream_id, ids_row,
    EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (samples,). `row` counts UNITs. A program walks along its whole row, so kl needs no second pass."""
    sample = tl.program_id(0).to(tl.int64)
    c1, c2, c3, k0, k1 = stream_key(rng, ids, ids_row, sample, stream_id)
    threshold = tl.full((), 0, tl.uint32)
    at = tl.arange(0, BLOCK)
    total = tl.full((), 0.0, tl.float64)
    for chunk in range(0, (row - 1) // (BLOCK // UNIT) + 1):
        first = tl.cast(chunk, tl.int64) * BLOCK
        left = tl.cast(tl.minimum(row - chunk * (BLOCK // UNIT), BLOCK // UNIT), tl.int32) * UNIT
        here = sample * (tl.cast(row, tl.int64) * UNIT) + first + at
        made = eps_tile(first, c1, c2, c3, k0, k1, threshold, one(WIDE), "gaussian", EXACT, WIDE, QUADS, BLOCK)
        m = tl.load(mu + here, mask=at < left, other=0.0).to(made.dtype)
        lv = tl.load(logvar + here, mask=at < left, other=0.0).to(made.dtype)
        sigma, expm1 = exps(lv, WIDE)
        tl.store(z + here, tl.fma(sigma, made, m).to(z.dtype.element_ty), mask=at < left)
        total += tl.sum(tl.fma(m, m, expm1 - lv)).to(tl.float64)  # 0 beyond the end: mu and logvar are 0 there
    tl.store(kl + sample, (0.5 * total).to(kl.dtype.element_ty))


@triton.jit(do_not_specialize=INTS)
def reparameterize_kl_backward_kernel(  # type: ignore[no-untyped-def]
    grad_z, grad_kl, mu, logvar, grad_mu, grad_logvar, rng, ids, row, stream_id, grad_kl_row, ids_row,
    EXACT: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles,). grad_mu = gz + gk mu; grad_logvar = 1/2 (gz sigma eps + gk (exp(logvar) - 1))."""
    sample, first, elements, left = place_of(tl.program_id(0), row, UNIT, BLOCK)
    at = tl.arange(0, BLOCK)
    here = sample * elements + first + at
    c1, c2, c3, k0, k1 = stream_key(rng, ids, ids_row, sample, stream_id)
    threshold = tl.full((), 0, tl.uint32)
    made = eps_tile(first, c1, c2, c3, k0, k1, threshold, one(WIDE), "gaussian", EXACT, WIDE, QUADS, BLOCK)
    gk = tl.load(grad_kl + sample * grad_kl_row)
    gz = tl.load(grad_z + here, mask=at < left, other=0.0).to(made.dtype)
    m = tl.load(mu + here, mask=at < left, other=0.0).to(made.dtype)
    sigma, expm1 = exps(tl.load(logvar + here, mask=at < left, other=0.0).to(made.dtype), WIDE)
    element: tl.constexpr = grad_mu.dtype.element_ty
    tl.store(grad_mu + here, tl.fma(m, gk, gz).to(element), mask=at < left)
    tl.store(grad_logvar + here, tl.fma(expm1, 0.5 * gk, 0.5 * gz * (sigma * made)).to(element), mask=at < left)


def reparameterize_kl(
    mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Run the registered op on CUDA."""
    mu, logvar = mu.contiguous(), logvar.contiguous()
    z = torch.empty_like(mu)
    kl = mu.new_empty(mu.shape[0], dtype=torch.float64 if mu.dtype == torch.float64 else torch.float32)
    run(planned(mu, logvar, z, kl, rng, sample_ids, stream))
    return z, kl


def reparameterize_kl_backward(
    grad_z: Tensor,
    grad_kl: Tensor,
    mu: Tensor,
    logvar: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    stream: int,
) -> tuple[Tensor, Tensor]:
    """Run the registered op on CUDA."""
    grad_z, mu, logvar = grad_z.contiguous(), mu.contiguous(), logvar.contiguous()
    grad_mu, grad_logvar = torch.empty_like(mu), torch.empty_like(mu)
    run(planned_backward(grad_z, grad_kl, mu, logvar, grad_mu, grad_logvar, rng, sample_ids, stream))
    return grad_mu, grad_logvar


def planned(
    mu: Tensor, logvar: Tensor, z: Tensor, kl: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> Launch:
    """Plan the forward launch; tensors are contiguous."""
    tiles, warps = _tiling(mu)
    args = {
        "mu": mu,
        "logvar": logvar,
        "z": z,
        "kl": kl,
        "rng": rng.contiguous(),
        "ids": sample_ids,
        "row": row_of(mu) // tiles["UNIT"],
        "stream_id": stream,  # Triton uses the name `stream` itself
        "ids_row": strides(sample_ids, 1)[0],
    }
    return Launch(reparameterize_kl_kernel, mu.shape[0], args, {**precision(mu.dtype), **tiles}, warps)


def planned_backward(
    grad_z: Tensor,
    grad_kl: Tensor,
    mu: Tensor,
    logvar: Tensor,
    grad_mu: Tensor,
    grad_logvar: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    stream: int,
) -> Launch:
    """Plan the backward launch; tensors are contiguous."""
    tiles, warps = _tiling(mu)
    args = {
        "grad_z": grad_z,
        "grad_kl": grad_kl,
        "mu": mu,
        "logvar": logvar,
        "grad_mu": grad_mu,
        "grad_logvar": grad_logvar,
        "rng": rng.contiguous(),
        "ids": sample_ids,
        "row": row_of(mu) // tiles["UNIT"],
        "stream_id": stream,  # Triton uses the name `stream` itself
        "grad_kl_row": strides(grad_kl, 1)[0],
        "ids_row": strides(sample_ids, 1)[0],
    }
    programs = mu.shape[0] * triton.cdiv(row_of(mu), tiles["BLOCK"])
    constants = {**precision(mu.dtype), **tiles}
    return Launch(reparameterize_kl_backward_kernel, programs, args, constants, warps)


def _tiling(mu: Tensor) -> tuple[dict[str, int], int]:
    """Choose a tile no longer than a row needs, since latents are short, and a warp for each 1024 bytes of it."""
    row = row_of(mu)
    block = min(1024, max(256, triton.next_power_of_2(row)))
    return {**tiling([row], [mu]), "BLOCK": block}, max(1, block * mu.element_size() // 1024)

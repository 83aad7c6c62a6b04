"""ops.reparameterize_kl makes a VAE's sample and its KL in one pass (the formulas: reference.py); eps is not stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import LATENT_STREAM, check_stream
from . import reference
from ._args import autocast_dtype, check_floating, check_same, distinct, rng_tensor, rows_tensor
from ._function import Function, fold, fold_ids, loop, save
from ._library import define
from .noise import noise


def _fake_forward(
    mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
) -> tuple[Tensor, Tensor]:
    return torch.empty(mu.shape, dtype=mu.dtype, device=mu.device), mu.new_empty(
        mu.shape[0], dtype=reference.kl_dtype(mu.dtype)
    )


def _fake_backward(grad_z: Tensor, grad_kl: Tensor, mu: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(mu.shape, dtype=mu.dtype, device=mu.device), torch.empty(
        mu.shape, dtype=mu.dtype, device=mu.device
    )


_reparameterize_kl = define(
    "reparameterize_kl(Tensor mu, Tensor logvar, Tensor rng, Tensor? sample_ids, SymInt stream) -> (Tensor, Tensor)",
    reference.reparameterize_kl,
    _fake_forward,
)
_reparameterize_kl_backward = define(
    "reparameterize_kl_backward(Tensor grad_z, Tensor grad_kl, Tensor mu, Tensor logvar, Tensor rng, "
    "Tensor? sample_ids, SymInt stream) -> (Tensor, Tensor)",
    reference.reparameterize_kl_backward,
    _fake_backward,
)


def _eps(mu: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int) -> Tensor:
    """Make the forward's noise again, in the dtype in which derivatives are computed."""
    dtype = reference.kl_dtype(mu.dtype)
    return noise(mu.shape, seed=rng, sample_ids=sample_ids, stream=stream, dtype=dtype, device=mu.device)


class ReparameterizeKLBackward(Function):
    """The gradient as one fused op. Its own derivatives, which are rarely wanted, are plain PyTorch."""

    plain = staticmethod(reference.reparameterize_kl_backward)

    @staticmethod
    def forward(
        grad_z: Tensor,
        grad_kl: Tensor,
        mu: Tensor,
        logvar: Tensor,
        rng: Tensor,
        sample_ids: Tensor | None,
        stream: int,
    ) -> tuple[Tensor, Tensor]:
        """Call the registered op: (grad_mu, grad_logvar)."""
        return _reparameterize_kl_backward(grad_z, grad_kl, mu, logvar, rng, sample_ids, stream)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save all inputs."""
        *tensors, ctx.stream = inputs
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> Any:
        """Compute the derivatives of <a, grad_mu> + <b, grad_logvar>."""
        gz, gk, mu, logvar, rng, sample_ids = ctx.saved_tensors
        dtype = reference.kl_dtype(mu.dtype)
        a, b, gz64, lv = a.to(dtype), b.to(dtype), gz.to(dtype), logvar.to(dtype)
        k = reference.rows(gk, mu.dim())
        half = 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, ctx.stream)
        grad_k = (a * mu.to(dtype) + 0.5 * b * torch.expm1(lv)).reshape(len(mu), mu.shape[1:].numel()).sum(1)
        grad_lv = b * (0.5 * gz64 * half + 0.5 * k * lv.exp())
        return (a + b * half).to(mu.dtype), grad_k, (a * k).to(mu.dtype), grad_lv.to(mu.dtype), None, None, None

    @staticmethod
    def tangent(ctx: Any, gz_t: Any, gk_t: Any, mu_t: Any, lv_t: Any, *_: Any) -> Any:
        """Compute the directional derivatives of both gradients."""
        gz, gk, mu, logvar, rng, sample_ids = ctx.saved_tensors
        dtype = reference.kl_dtype(mu.dtype)
        gz_t, mu_t, lv_t = (torch.zeros_like(mu) if t is None else t for t in (gz_t, mu_t, lv_t))
        gk_t = torch.zeros_like(gk) if gk_t is None else gk_t
        k, k_t, lv = reference.rows(gk, mu.dim()), reference.rows(gk_t, mu.dim()), logvar.to(dtype)
        half = 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, ctx.stream)
        grad_mu_t = gz_t.to(dtype) + k_t * mu.to(dtype) + k * mu_t.to(dtype)
        of_lv = 0.5 * gz.to(dtype) * half + 0.5 * k * lv.exp()
        grad_lv_t = gz_t.to(dtype) * half + 0.5 * k_t * torch.expm1(lv) + of_lv * lv_t.to(dtype)
        return grad_mu_t.to(mu.dtype), grad_lv_t.to(mu.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch; with a seed for each slice, run slice by slice."""
        gz, gk, mu, logvar, rng, sample_ids, stream = args
        if in_dims[4] is not None:
            return loop(ReparameterizeKLBackward, info.batch_size, in_dims, args)
        size = info.batch_size
        rows = [fold(t, dim, size) for t, dim in zip((gz, gk, mu, logvar), in_dims[:4], strict=True)]
        batch = len(rows[0]) // size
        ids = fold_ids(sample_ids, in_dims[5], size, batch, rng.device)
        outs = ReparameterizeKLBackward.call(*rows, rng, ids, stream)
        return tuple(out.unflatten(0, (size, batch)) for out in outs), (0, 0)


class ReparameterizeKL(Function):
    """The sample z and its kl; backward makes eps again from the seed."""

    plain = staticmethod(reference.reparameterize_kl)

    @staticmethod
    def forward(
        mu: Tensor, logvar: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Call the registered op: (z, kl)."""
        return _reparameterize_kl(mu, logvar, rng, sample_ids, stream)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the inputs; eps is not stored."""
        *tensors, ctx.stream = inputs
        save(ctx, *tensors)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_kl: Tensor) -> Any:
        """Compute both gradients in one pass over mu, logvar and grad_z."""
        grad_mu, grad_logvar = ReparameterizeKLBackward.call(grad_z, grad_kl, *ctx.saved_tensors, ctx.stream)
        return grad_mu, grad_logvar, None, None, None

    @staticmethod
    def tangent(ctx: Any, mu_t: Any, lv_t: Any, *_: Any) -> Any:
        """Compute the directional derivatives of z and kl."""
        mu, logvar, rng, sample_ids = ctx.saved_tensors
        dtype = reference.kl_dtype(mu.dtype)
        mu_t, lv_t = (torch.zeros_like(mu) if t is None else t for t in (mu_t, lv_t))
        mu_t, lv_t, lv = mu_t.to(dtype), lv_t.to(dtype), logvar.to(dtype)
        z_t = mu_t + 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, ctx.stream) * lv_t
        kl_t = mu.to(dtype) * mu_t + 0.5 * torch.expm1(lv) * lv_t
        return z_t.to(mu.dtype), kl_t.reshape(len(mu), mu.shape[1:].numel()).sum(1)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Fold the mapped axis into the batch; with a seed for each slice, run slice by slice."""
        mu, logvar, rng, sample_ids, stream = args
        if in_dims[2] is not None:
            return loop(ReparameterizeKL, info.batch_size, in_dims, args)
        size = info.batch_size
        mu, logvar = fold(mu, in_dims[0], size), fold(logvar, in_dims[1], size)
        batch = len(mu) // size
        ids = fold_ids(sample_ids, in_dims[3], size, batch, rng.device)
        outs = ReparameterizeKL.call(mu, logvar, rng, ids, stream)
        return tuple(out.unflatten(0, (size, batch)) for out in outs), (0, 0)


def reparameterize_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    seed: int | Tensor | None = None,
    draw: int = 0,
    stream: int = LATENT_STREAM,
    sample_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample a diagonal Gaussian and compute its KL: z = mu + exp(logvar / 2) eps, kl = KL(N(mu, sigma^2) || N(0, 1)).

    kl = -1/2 sum(1 + logvar - mu^2 - exp(logvar)) over all dims but 0 (paper, Eq. 6; Kingma and Welling,
    arXiv 1312.6114, appendix B). The same sample gets the same eps on every device and at every batch size.

    Args:
        mu: the mean [B, ...], float32, bfloat16, float16 or float64, contiguous or not.
        logvar: the log of the variance, of mu's shape, dtype and device.
        seed, draw, sample_ids: the arguments of `add_noise`.
        stream: the purpose of the noise, 0 to 255.

    Returns:
        (z, kl): z of mu's shape and dtype; kl [B], in nats, float32 (float64 for float64). Both are differentiable in
        mu and logvar; backward makes eps again instead of storing it. Under autocast both are computed and returned in
        float32 at least, as autocast does for exp and sums.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """
    check_floating("mu", mu)
    check_floating("logvar", logvar)
    if autocast_dtype(mu.device) is not None:
        mu, logvar = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (mu, logvar))
    check_same("logvar", logvar, "mu", mu)
    check_stream(stream)
    tensors = distinct(
        mu,
        logvar,
        rng_tensor(seed, draw, mu.device),
        rows_tensor("sample_ids", sample_ids, (mu.shape[0],), mu.device),
    )
    return ReparameterizeKL.call(*tensors, stream)

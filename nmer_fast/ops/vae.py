"""ops.reparameterize_kl makes a VAE's sample and its KL in one pass (the formulas: reference.py); eps is not stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import LATENT_STREAM
from . import reference
from ._args import autocast_dtype, check_floating, check_same, ids_tensor, rng_tensor, stream_number
from ._library import define
from ._public import public
from ._transforms import Derivative, mapped_in_the_batch
from .noise import noise


def _eps(mu: Tensor, rng: Tensor, sample_ids: Tensor | None, stream: int) -> Tensor:
    """Make the forward's noise again, in the dtype in which derivatives are computed."""
    if sample_ids is None:
        sample_ids = torch.arange(len(mu), device=mu.device)
    dtype = reference.kl_dtype(mu.dtype)
    return noise(mu.shape, seed=rng, sample_ids=sample_ids, stream=stream, dtype=dtype, device=mu.device)


def _sum_of_rows(t: Tensor) -> Tensor:
    return t.reshape(len(t), t.shape[1:].numel()).sum(1)


class SamplingBackward(Derivative):
    """The derivatives of the gradient, which are rarely wanted, are plain PyTorch."""

    wrt = ("grad_z", "grad_kl", "mu", "logvar")

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save all arguments."""
        return args[:-1], args.stream

    @staticmethod
    def backward(saved: Any, stream: Any, needed: Any, *grads: Any) -> Any:
        """Compute the derivatives of <a, grad_mu> + <b, grad_logvar>."""
        gz, gk, mu, logvar, rng, sample_ids = saved
        dtype = reference.kl_dtype(mu.dtype)
        a, b = (torch.zeros_like(mu, dtype=dtype) if grad is None else grad.to(dtype) for grad in grads)
        gz, lv, k = gz.to(dtype), logvar.to(dtype), reference.rows(gk, mu.dim())
        half = 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, stream)
        return (
            (a + b * half).to(mu.dtype),
            _sum_of_rows(a * mu.to(dtype) + 0.5 * b * torch.expm1(lv)),
            (a * k).to(mu.dtype),
            (b * (0.5 * gz * half + 0.5 * k * lv.exp())).to(mu.dtype),
        )

    @staticmethod
    def tangent(saved: Any, stream: Any, *tangents: Any) -> Any:
        """Compute the directional derivatives of both gradients."""
        gz, gk, mu, logvar, rng, sample_ids = saved
        dtype = reference.kl_dtype(mu.dtype)
        gz_t, gk_t, mu_t, lv_t = (
            torch.zeros_like(value, dtype=dtype) if t is None else t.to(dtype)
            for t, value in zip(tangents, (gz, gk, mu, logvar), strict=True)
        )
        k, k_t, lv = reference.rows(gk, mu.dim()), reference.rows(gk_t, mu.dim()), logvar.to(dtype)
        half = 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, stream)
        grad_mu_t = gz_t + k_t * mu.to(dtype) + k * mu_t
        of_lv = 0.5 * gz.to(dtype) * half + 0.5 * k * lv.exp()
        grad_lv_t = gz_t * half + 0.5 * k_t * torch.expm1(lv) + of_lv * lv_t
        return grad_mu_t.to(mu.dtype), grad_lv_t.to(mu.dtype)


class Sampling(Derivative):
    """The gradient of the sample z and of its kl makes eps again from the seed."""

    wrt = ("mu", "logvar")

    @staticmethod
    def save(args: Any, outputs: Any) -> Any:
        """Save the arguments; eps is not stored."""
        return args[:-1], args.stream

    @staticmethod
    def backward(saved: Any, stream: Any, needed: Any, *grads: Any) -> Any:
        """Compute both gradients in one pass over mu, logvar and grad_z."""
        mu, logvar, rng, sample_ids = saved
        grad_z, grad_kl = grads
        grad_z = torch.zeros_like(mu) if grad_z is None else grad_z
        grad_kl = mu.new_zeros(mu.shape[0], dtype=reference.kl_dtype(mu.dtype)) if grad_kl is None else grad_kl
        return _reparameterize_kl_backward(grad_z, grad_kl, mu, logvar, rng, sample_ids, stream)

    @staticmethod
    def tangent(saved: Any, stream: Any, *tangents: Any) -> Any:
        """Compute the directional derivatives of z and kl."""
        mu, logvar, rng, sample_ids = saved
        dtype = reference.kl_dtype(mu.dtype)
        mu_t, lv_t = (torch.zeros_like(mu, dtype=dtype) if t is None else t.to(dtype) for t in tangents)
        lv = logvar.to(dtype)
        z_t = mu_t + 0.5 * (lv / 2).exp() * _eps(mu, rng, sample_ids, stream) * lv_t
        return z_t.to(mu.dtype), _sum_of_rows(mu.to(dtype) * mu_t + 0.5 * torch.expm1(lv) * lv_t)


def _empty(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_reparameterize_kl = define(
    "reparameterize_kl(Tensor mu, Tensor logvar, Tensor rng, Tensor? sample_ids, SymInt stream) -> (Tensor, Tensor)",
    reference.reparameterize_kl,
    lambda mu, *_: (_empty(mu), mu.new_empty(mu.shape[0], dtype=reference.kl_dtype(mu.dtype))),
    derivative=Sampling,
    vmap=mapped_in_the_batch,
)
_reparameterize_kl_backward = define(
    "reparameterize_kl_backward(Tensor grad_z, Tensor grad_kl, Tensor mu, Tensor logvar, Tensor rng, "
    "Tensor? sample_ids, SymInt stream) -> (Tensor, Tensor)",
    reference.reparameterize_kl_backward,
    lambda grad_z, grad_kl, mu, *_: (_empty(mu), _empty(mu)),
    derivative=SamplingBackward,
    vmap=mapped_in_the_batch,
)


@public("mu", "logvar")
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
    rng, ids = rng_tensor(seed, draw, mu.device), ids_tensor(sample_ids, seed, mu.shape[0], mu.device)
    return _reparameterize_kl(mu, logvar, rng, ids, stream_number(stream))

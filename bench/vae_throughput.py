"""Throughput of reparameterize_kl, forward and backward, beside the ordinary formulation and a copy.

One run on one machine: compare the ratios, not the times. Takes a minute on two cores, with --quick 20 s. Writes
vae_throughput.csv and .png, on a GPU vae_throughput_cuda.csv and .png.
"""

from __future__ import annotations

import torch
from measure import DEVICE
from op_bench import Row, run
from torch import Tensor

from nmer_fast import ops


def plain(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """What a user would write."""
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    return z, -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)


def rows(quick: bool) -> list[Row]:
    """Forward and backward on [4096, 512]; on a GPU also on a size that its cache does not hold."""
    large = [2**17] if DEVICE.type == "cuda" and not quick else []
    return [row for samples in [256 if quick else 4096, *large] for row in task(samples)]


def task(samples: int) -> list[Row]:
    """Ours and its rivals on [samples, 512]."""
    mu, logvar = (0.5 * torch.randn(samples, 512, device=DEVICE) for _ in range(2))
    mu.requires_grad_()
    logvar.requires_grad_()
    weight = torch.randn(mu.shape, device=DEVICE)
    compiled = torch.compile(plain)

    def step(f) -> tuple[Tensor, ...]:
        z, kl = f(mu, logvar)
        return torch.autograd.grad((z, kl), (mu, logvar), (weight, torch.ones_like(kl)))

    calls = {
        "ours": lambda: step(lambda m, v: ops.reparameterize_kl(m, v, seed=1)),
        "eager": lambda: step(plain),
        "torch.compile": lambda: step(compiled),
        "copy": lambda: (mu.detach().clone(), logvar.detach().clone()),
    }
    name = f"reparameterize + KL, forward + backward, {list(mu.shape)}"
    return [
        Row(name, who, mu.numel(), (4 if who == "copy" else 8) * mu.nbytes, call, True) for who, call in calls.items()
    ]


if __name__ == "__main__":
    run("vae_throughput", rows, "VAE sampling and its KL", __doc__)

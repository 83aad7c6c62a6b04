"""A VAE on scikit-learn's digits reaches the same ELBO with `reparameterize_kl` as with the ordinary formulation.

Run `python examples/digits_vae.py`. It takes a few seconds and needs scikit-learn.
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from nmer_fast import ops
from nmer_fast.contract import LATENT_STREAM

EPOCHS, BATCH, LATENT = 40, 100, 8
x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
train, test = x[:1500], x[1500:]


def fused(mu: Tensor, logvar: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Sample z and compute the KL in one pass; backward makes the noise again instead of storing it."""
    return ops.reparameterize_kl(mu, logvar, seed=seed)


def ordinary(mu: Tensor, logvar: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Do the same in plain PyTorch, with the same noise so that the results can be compared."""
    eps = ops.noise(mu.shape, seed=seed, stream=LATENT_STREAM)
    z = mu + torch.exp(0.5 * logvar) * eps
    return z, -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)


def elbo(model: nn.ModuleDict, batch: Tensor, sample, seed: int) -> Tensor:
    """Compute the mean ELBO in nats, with pixels as Bernoulli probabilities (Kingma and Welling, arXiv 1312.6114)."""
    mu, logvar = model["encoder"](batch).chunk(2, dim=1)
    z, kl = sample(mu, logvar, seed)
    likelihood = -F.binary_cross_entropy_with_logits(model["decoder"](z), batch, reduction="none").sum(1)
    return (likelihood - kl).mean()


for sample in (ordinary, fused):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 2 * LATENT)),
            "decoder": nn.Sequential(nn.Linear(LATENT, 256), nn.SiLU(), nn.Linear(256, 64)),
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    start = time.perf_counter()
    step = 0
    for _ in range(EPOCHS):
        for batch in train[torch.randperm(len(train))].split(BATCH):
            optimizer.zero_grad()
            (-elbo(model, batch, sample, step)).backward()
            optimizer.step()
            step += 1
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        result = elbo(model, test, sample, seed=2**40).item()
    print(f"{sample.__name__:10} ELBO of the test digits {result:8.4f} nats after {step} steps in {seconds:.1f} s")

"""A diffusion model whose validation loss does not depend on the batches: noise is a function of the sample.

Run `python examples/diffusion.py`. It takes a few seconds and needs scikit-learn.

With `torch.randn_like`, a sample's noise depends on its neighbours and on everything drawn before, so a validation loss
varies from run to run and changes with the batch size. Here the noise and the time step are functions of the sample and
the draw alone.
"""

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nmer_fast import ops

STEPS, EPOCHS = 200, 60
# The cosine schedule of Nichol and Dhariwal, arXiv 2102.09672.
alphas_cumprod = torch.cos(torch.linspace(0.008, 1, STEPS) * math.pi / 2).square()
x = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
train, valid = torch.arange(1500), torch.arange(1500, len(x))


def add_noise(ids: Tensor, draw: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the noisy samples, their time steps, and the noise to predict."""
    uniform = ops.noise((len(ids), 1), kind="uniform", seed=seed, draw=draw, stream=1, sample_ids=ids)[:, 0]
    times = uniform / 12**0.5 + 0.5  # from unit variance to the range from 0 to 1
    t = (times * STEPS).long().clamp(max=STEPS - 1)
    y, eps = ops.add_noise(x[ids], alphas_cumprod[t], seed=seed, draw=draw, sample_ids=ids, return_noise=True)
    return y, t, eps


def loss(model: nn.Module, ids: Tensor, draw: int, seed: int) -> Tensor:
    """Return each sample's mean squared error of the predicted noise."""
    y, t, eps = add_noise(ids, draw, seed)
    time = t[:, None] / STEPS
    predicted = model(torch.cat([y, time, (3 * math.pi * time).sin(), (3 * math.pi * time).cos()], dim=1))
    return (predicted - eps).square().mean(1)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(67, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(EPOCHS):
    for ids in train[torch.randperm(len(train))].split(100):
        optimizer.zero_grad()
        loss(model, ids, draw=epoch, seed=0).mean().backward()
        optimizer.step()

with torch.inference_mode():
    print("validation loss, the same noise whatever the batches:")
    for batch in (1, 32, len(valid)):
        shuffled = valid[torch.randperm(len(valid))]
        mean = torch.cat([loss(model, ids, draw=0, seed=1) for ids in shuffled.split(batch)]).double().mean()
        print(f"  batches of {batch:3}, shuffled: {mean:.6f}")
    other = torch.stack([loss(model, valid, draw=draw, seed=1).mean() for draw in range(8)])
    print(f"  eight other draws: from {other.min():.4f} to {other.max():.4f}")

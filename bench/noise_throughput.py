"""Throughput of the noise ops beside what a user would write instead, and beside copying the same bytes.

It times single tensors of 2^10 to 2^26 elements, a batch of three modalities, and calls of a thousand elements, where
overhead is all. One run on one machine: compare the ratios, not the times. Takes 5 minutes on two cores, with --quick a
minute. Writes noise_throughput.csv and .png, on a GPU noise_throughput_cuda.csv and .png.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from measure import DEVICE
from op_bench import Row, replayed, run
from torch import Tensor

from nmer_fast import ops
from nmer_fast.ops import reference

ALPHA_BAR = 1 / 11  # -10 dB at variance 1
KEEP, SCALE = math.sqrt(ALPHA_BAR), math.sqrt(1 - ALPHA_BAR)
SHAPES = {"a": (100, 130), "v": (50, 342), "l": (22, 1024)}
RNG = torch.tensor([1, 0], device=DEVICE)
LARGE = 28 if DEVICE.type == "cuda" else 24  # log2 of the elements that no cache holds


def eager_gaussian(x: Tensor) -> Tensor:
    """The usual two lines."""
    return KEEP * x + SCALE * torch.randn_like(x)


def eager_impulse(x: Tensor, p: float = 0.3) -> Tensor:
    """A sign and a mask."""
    sign = torch.randint_like(x, 0, 2) * 2 - 1
    return KEEP * x + SCALE * sign * (torch.rand_like(x) < p)


def eager_uniform(x: Tensor) -> Tensor:
    """Uniform noise of variance 1."""
    return KEEP * x + SCALE * math.sqrt(3) * (2 * torch.rand_like(x) - 1)


def eager_laplace(x: Tensor) -> Tensor:
    """Laplace noise of variance 1, by the inverse of its distribution function."""
    u = torch.rand_like(x) - 0.5
    return KEEP * x - SCALE * math.sqrt(0.5) * u.sign() * torch.log1p(-2 * u.abs())


EAGER = {"gaussian": eager_gaussian, "impulse": eager_impulse, "uniform": eager_uniform, "laplace": eager_laplace}


def single(kind: str, log2: int, dtype: torch.dtype, rivals: tuple[str, ...], claimed: bool = False) -> list[Row]:
    """One tensor [128, ...] of 2^log2 elements: ours, and the rivals that are named."""
    x = torch.randn(128, 2**log2 // 128, device=DEVICE).to(dtype)
    eager = EAGER[kind]
    compiled = torch.compile(eager, dynamic=False)
    alpha_bar, p = (torch.tensor(value, dtype=torch.float64, device=DEVICE) for value in (ALPHA_BAR, 0.3))
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.add_noise(x, ALPHA_BAR, seed=1, kind=kind),
        "eager": lambda: eager(x),
        "torch.compile": lambda: compiled(x),
        "reference": lambda: reference.add_noise(x, alpha_bar, RNG, None, None, None, p, 0, kind, False),
        "copy": lambda: x.clone(),
    }
    task = f"{kind}, 2^{log2}, {str(dtype).removeprefix('torch.')}"
    return [
        Row(task, who, x.numel(), 2 * x.nbytes, call, claimed)
        for who, call in calls.items()
        if who in ("ours", *rivals)
    ]


def multimodal(batch: int, share: float, with_loop: bool) -> list[Row]:
    """A batch of three modalities: lengths, a condition for each sample, and the statistics of the noise."""
    xs = [torch.randn(batch, *shape, device=DEVICE) for shape in SHAPES.values()]
    lengths = [torch.randint(shape[0] // 4, shape[0] + 1, (batch,), device=DEVICE) for shape in SHAPES.values()]
    noisy = torch.rand(batch, 3, device=DEVICE) < share
    alpha_bars = torch.full((3,), ALPHA_BAR, dtype=torch.float64, device=DEVICE)
    masks = [
        (torch.arange(x.shape[1], device=DEVICE) < n[:, None])[..., None] & noisy[:, m, None, None]
        for m, (x, n) in enumerate(zip(xs, lengths, strict=True))
    ]

    def loop() -> list[Tensor]:
        """A call for each sample and modality, as in the paper's released code."""
        out = []
        for m, x in enumerate(xs):
            rows = []
            for b in range(batch):
                eps = torch.randn_like(x[b])
                rows.append(torch.where(masks[m][b], KEEP * x[b] + SCALE * eps, x[b]))
                (eps * masks[m][b]).square().sum(), (x[b] * masks[m][b]).square().sum(), (x[b] * masks[m][b]).sum()
            out.append(torch.stack(rows))
        return out

    def vectorised() -> list[Tensor]:
        """A few calls for each modality."""
        out = []
        for x, mask in zip(xs, masks, strict=True):
            eps = torch.randn_like(x)
            out.append(torch.where(mask, KEEP * x + SCALE * eps, x))
            (eps * mask).square().sum(), (x * mask).square().sum(), (x * mask).sum()
        return out

    def ours() -> object:
        return ops.add_noise_multimodal(xs, alpha_bars, seed=1, noisy=noisy, lengths=lengths, return_stats=True)

    calls: dict[str, Callable[[], object]] = {"ours": ours, "eager": vectorised}
    if with_loop:
        calls["per-sample loop"] = loop
    if DEVICE.type == "cuda":
        calls |= {"ours, CUDA graph": replayed(ours), "eager, CUDA graph": replayed(vectorised)}
    calls["copy"] = lambda: [x.clone() for x in xs]
    elements, moved = sum(x.numel() for x in xs), 2 * sum(x.nbytes for x in xs)
    task = f"multimodal, batch {batch}, {share:.0%} noisy"
    return [Row(task, who, elements, moved, call, claimed=True) for who, call in calls.items()]


def small() -> list[Row]:
    """Every op on a thousand elements, where overhead is all, alone and with its gradient by autograd."""
    x, eps, logvar = (torch.randn(10, 100, device=DEVICE) for _ in range(3))
    xs = [torch.randn(2, n, device=DEVICE) for n in (100, 150, 250)]
    alpha_bars, generator = torch.full((3,), ALPHA_BAR, dtype=torch.float64, device=DEVICE), torch.Generator(DEVICE)

    def vae(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return z, -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)

    pairs: dict[str, tuple[Callable, Callable, list[Tensor]]] = {
        "add_noise, gaussian": (lambda x: ops.add_noise(x, ALPHA_BAR, seed=1), eager_gaussian, [x]),
        "add_noise, impulse": (lambda x: ops.add_noise(x, ALPHA_BAR, seed=1, kind="impulse"), eager_impulse, [x]),
        "add_noise_multimodal": (
            lambda *xs: ops.add_noise_multimodal(xs, alpha_bars, seed=1),
            lambda *xs: [eager_gaussian(x) for x in xs],
            xs,
        ),
        "mix_noise": (lambda x, eps: ops.mix_noise(x, eps, ALPHA_BAR), lambda x, eps: KEEP * x + SCALE * eps, [x, eps]),
        "reparameterize_kl": (lambda mu, logvar: ops.reparameterize_kl(mu, logvar, seed=1), vae, [x, logvar]),
    }
    rows = []
    for name, (ours, eager, inputs) in pairs.items():
        leaves = [t.clone().requires_grad_() for t in inputs]

        def graded(f: Callable, leaves: list[Tensor] = leaves) -> object:
            out = f(*leaves)
            outs = [out] if isinstance(out, Tensor) else list(out)
            return torch.autograd.grad(outs, leaves, [torch.ones_like(o) for o in outs])

        for who, f in (("ours", ours), ("eager", eager)):
            rows.append(Row(f"{name}, 1000", who, 1000, 8000, lambda f=f, inputs=inputs: f(*inputs), True))
            rows.append(Row(f"{name}, 1000, gradients", who, 1000, 8000, lambda f=f, graded=graded: graded(f), True))
    alone = {
        "ours": lambda: ops.noise((10, 100), seed=1, device=DEVICE),
        "eager": lambda: torch.randn(10, 100, device=DEVICE),
        "eager, seeded": lambda: torch.randn(10, 100, device=DEVICE, generator=generator.manual_seed(1)),
    }
    return rows + [Row("noise, 1000", who, 1000, 4000, call, True) for who, call in alone.items()]


def rows(quick: bool) -> list[Row]:
    """Everything that is timed."""
    everybody, cheap = ("eager", "torch.compile", "reference", "copy"), ("eager", "copy")
    if quick:
        out = [row for kind in EAGER for row in single(kind, 18, torch.float32, everybody)]
        return [*out, *multimodal(16, 0.5, True), *small()]
    out = [row for kind in ("gaussian", "impulse") for row in single(kind, LARGE, torch.float32, everybody, True)]
    for kind in ("uniform", "laplace"):
        out += single(kind, LARGE, torch.float32, cheap)
    for kind in ("gaussian", "impulse"):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            out += single(kind, LARGE - 2 * (dtype == torch.float64), dtype, cheap, claimed=True)
    for log2 in range(10, 27, 2):
        if log2 != LARGE:
            out += single("gaussian", log2, torch.float32, everybody if log2 <= 20 else cheap)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        out += multimodal(128, share, with_loop=share == 0.5)
    return [*out, *small()]


if __name__ == "__main__":
    run("noise_throughput", rows, "noise generated and added", __doc__)

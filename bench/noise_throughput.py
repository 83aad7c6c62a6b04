"""Throughput of the noise ops beside what a user would write instead, and beside copying the same bytes.

One run on one machine: compare the ratios, not the times. Each row is an NVTX range for Nsight.
"""

from __future__ import annotations

import math

import torch
from measure import Row, run
from torch import Tensor

from nmer_fast import ops

ALPHA_BAR = 1 / 11  # -10 dB at variance 1
KEEP, SCALE = math.sqrt(ALPHA_BAR), math.sqrt(1 - ALPHA_BAR)
SHAPES = {"a": (100, 130), "v": (50, 342), "l": (22, 1024)}


def eager_gaussian(x: Tensor) -> Tensor:
    """The usual two lines."""
    return KEEP * x + SCALE * torch.randn_like(x)


def eager_impulse(x: Tensor, p: float = 0.3) -> Tensor:
    """A sign and a mask."""
    sign = torch.randint_like(x, 0, 2) * 2 - 1
    return KEEP * x + SCALE * sign * (torch.rand_like(x) < p)


def single(kind: str, count: int, dtype: torch.dtype = torch.float32) -> list[Row]:
    """One tensor [128, ...] of so many elements."""
    x = torch.randn(128, count // 128).to(dtype)
    eager = eager_gaussian if kind == "gaussian" else eager_impulse
    compiled = torch.compile(eager)
    calls = {
        "ours": lambda: ops.add_noise(x, ALPHA_BAR, seed=1, kind=kind),
        "eager": lambda: eager(x),
        "torch.compile": lambda: compiled(x),
        "copy": lambda: x.clone(),
    }
    task = f"{kind}, 2^{round(math.log2(count))}, {str(dtype).removeprefix('torch.')}"
    return [Row(task, who, x.numel(), 2 * x.nbytes, call) for who, call in calls.items()]


def multimodal(batch: int) -> list[Row]:
    """A batch of three modalities: lengths, a condition for each sample, and the statistics of what was added."""
    xs = [torch.randn(batch, *shape) for shape in SHAPES.values()]
    lengths = [torch.randint(shape[0] // 4, shape[0] + 1, (batch,)) for shape in SHAPES.values()]
    noisy = torch.rand(batch, 3) < 0.5
    alpha_bars = torch.full((3,), ALPHA_BAR, dtype=torch.float64)
    masks = [
        (torch.arange(x.shape[1]) < n[:, None])[..., None] & noisy[:, m, None, None]
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

    calls = {"ours": ours, "eager": vectorised, "per-sample loop": loop, "copy": lambda: [x.clone() for x in xs]}
    elements, moved = sum(x.numel() for x in xs), 2 * sum(x.nbytes for x in xs)
    return [Row(f"multimodal, batch {batch}", who, elements, moved, call) for who, call in calls.items()]


def small() -> list[Row]:
    """A thousand elements, where overhead is all; with the gradient that autograd makes of it too."""
    x = torch.randn(10, 100)
    leaf = x.clone().requires_grad_()
    one = torch.ones_like(x)
    plain = {"ours": lambda: ops.add_noise(x, ALPHA_BAR, seed=1), "eager": lambda: eager_gaussian(x)}
    graded = {
        "ours": lambda: torch.autograd.grad(ops.add_noise(leaf, ALPHA_BAR, seed=1), leaf, one),
        "eager": lambda: torch.autograd.grad(eager_gaussian(leaf), leaf, one),
    }
    return [
        Row(f"gaussian, 1000{of}", who, 1000, 2 * x.nbytes, call)
        for of, calls in (("", plain), (", with gradients", graded))
        for who, call in calls.items()
    ]


def rows(quick: bool) -> list[Row]:
    """All that is timed."""
    count = 2**20 if quick else 2**24
    out = [row for kind in ("gaussian", "impulse") for row in single(kind, count)]
    for dtype in () if quick else (torch.bfloat16, torch.float16):
        out += [row for row in single("gaussian", count, dtype) if row.who != "torch.compile"]
    return [*out, *multimodal(16 if quick else 128), *small()]


if __name__ == "__main__":
    run("noise_throughput", rows, "noise generated and added")

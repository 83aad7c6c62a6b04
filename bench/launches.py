"""Each Triton kernel as its op launches it, on made-up inputs: what the roofline compiles, counts and times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from measure import DEVICE

from nmer_fast.kernels import add_noise_multimodal, mix_noise, noise, reparameterize_kl
from nmer_fast.kernels.launch import Launch

TOTAL = 2**26 if DEVICE.type == "cuda" else 2**20  # elements of a launch: timed on a GPU, else only compiled
KINDS = ("gaussian", "impulse")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclass(frozen=True)
class Case:
    """A kernel as it is launched, and the gates that it has to pass.

    Attributes:
        kernel: the row's name in the table.
        dtype: the features' dtype, a key of DTYPES.
        launch: the launch.
        elements: the elements of one program.
        total: the elements of all programs.
        bytes: the bytes that must be moved for an element.
        most: the gate, the largest busiest pipe over memory floor on an A100; None for a row without gates.
        registers: the largest number of registers of a thread.
    """

    kernel: str
    dtype: str
    launch: Launch
    elements: int
    total: int
    bytes: int
    most: float | None
    registers: int = 64


def normal(*shape: int, dtype: str) -> torch.Tensor:
    """Normal features."""
    return torch.randn(shape, dtype=DTYPES[dtype], device=DEVICE)


def chosen(*shape: int, value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """An option that has one value everywhere."""
    return torch.full(shape, value, dtype=dtype, device=DEVICE)


def rng() -> torch.Tensor:
    """A seed and a draw."""
    return torch.tensor([5, 3], device=DEVICE)


def noisy(dtype: str, dims: tuple[int, ...], kind: str, stats: bool, most: float) -> Case:
    """add_noise_multimodal with ids, conditions and lengths; every tile is noisy to its end."""
    batch = max(16, TOTAL // (64 * sum(dims)))
    xs = [normal(batch, 64, d, dtype=dtype) for d in dims]
    options = {
        "alpha_bars": chosen(batch, len(dims), value=0.3),
        "rng": rng(),
        "sample_ids": torch.arange(batch, device=DEVICE),
        "noisy": chosen(batch, len(dims), value=True, dtype=torch.bool),
        "lengths": chosen(batch, len(dims), value=64, dtype=torch.int64),
        "p": chosen(value=0.3) if kind == "impulse" else None,
        "streams": list(range(2, 2 + len(dims))),
    }
    ys = [torch.empty_like(x) for x in xs]
    launch = add_noise_multimodal.planned(xs, ys, None, **options, kind=kind, return_stats=stats)
    name = f"add_noise_multimodal, {kind}, D = {', '.join(map(str, dims))}{', statistics' if stats else ''}"
    total, moved = sum(x.numel() for x in xs), 2 * xs[0].element_size()
    return Case(name, dtype, launch, launch.constants["BLOCK"], total, moved, most, 96 if stats else 64)


def single(dtype: str, kind: str, most: float | None) -> Case:
    """add_noise without options."""
    x, p = normal(TOTAL // 2**16, 2**16, dtype=dtype), chosen(value=0.3) if kind == "impulse" else None
    options = (chosen(len(x), 1, value=0.3), rng(), None, None, None, p, [2], kind, False)
    launch = add_noise_multimodal.planned([x], [torch.empty_like(x)], None, *options)
    return Case(f"add_noise, {kind}", dtype, launch, launch.constants["BLOCK"], x.numel(), 2 * x.element_size(), most)


def made(dtype: str) -> Case:
    """Noise alone: it moves one tensor, so arithmetic decides."""
    eps = normal(TOTAL // 2**16, 2**16, dtype=dtype)
    launch = noise.planned(eps, rng(), None, None, None, None, 2, "gaussian")
    return Case("noise, gaussian", dtype, launch, launch.constants["BLOCK"], eps.numel(), eps.element_size(), None)


def mixed(dtype: str, backward: bool) -> Case:
    """mix_noise, or its backward, which serves all noise ops."""
    x, eps = (
        normal(TOTAL // 2**16, 2**16, dtype=dtype),
        None if backward else normal(TOTAL // 2**16, 2**16, dtype=dtype),
    )
    launch = mix_noise.planned(x, eps, torch.empty_like(x), chosen(len(x), value=0.3), None, None, False)
    name, streams = ("mix_noise_backward", 2) if backward else ("mix_noise", 3)
    return Case(name, dtype, launch, launch.constants["BLOCK"], x.numel(), streams * x.element_size(), None)


def vae(dtype: str, backward: bool, most: float) -> Case:
    """reparameterize_kl, or its backward, on rows of 512."""
    mu, logvar, grad, a, b = (normal(TOTAL // 512, 512, dtype=dtype) for _ in range(5))
    kl = torch.ones(len(mu), device=DEVICE)
    if backward:
        launch = reparameterize_kl.planned_backward(grad, kl, mu, logvar, a, b, rng(), None, 240)
    else:
        launch = reparameterize_kl.planned(mu, logvar, a, kl, rng(), None, 240)
    streams = 5 if backward else 3
    name = f"reparameterize_kl{'_backward' if backward else ''}, rows of 512"
    return Case(name, dtype, launch, launch.constants["BLOCK"], mu.numel(), streams * mu.element_size(), most)


@triton.jit
def randn_kernel(x, y, seed, count, keep, scale, FOUR: tl.constexpr, BLOCK: tl.constexpr):
    """What a user would run instead: Triton's own normals, one an element (what Inductor emits) or four a call."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if FOUR:
        a, b, c, d = tl.randn4x(seed, (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.int32))
        eps = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK,))
    else:
        eps = tl.randn(seed, at.to(tl.int32))
    value = keep * tl.load(x + at, mask=at < count).to(tl.float32) + scale * eps
    tl.store(y + at, value.to(y.dtype.element_ty), mask=at < count)


def rival(dtype: str, four: bool) -> Case:
    """A row for comparison, without a gate."""
    x = normal(TOTAL, dtype=dtype)
    args = {"x": x, "y": torch.empty_like(x), "seed": 12345, "count": x.numel(), "keep": 0.3, "scale": 0.95}
    launch = Launch(randn_kernel, x.numel() // 1024, args, {"FOUR": four, "BLOCK": 1024})
    name = "tl.randn4x, joined" if four else "tl.randn an element (Inductor's way)"
    return Case(name, dtype, launch, 1024, x.numel(), 2 * x.element_size(), None)


def cases() -> Iterator[Case]:
    """Every row, with the gate of its busiest pipe over the memory floor of an A100."""
    yield single("fp64", "gaussian", None)  # the root of alpha_bar, once a tile, is a subroutine with a stack
    for dtype in ("fp32", "bf16"):
        wide = dtype == "fp32"
        for kind in KINDS:
            yield single(dtype, kind, 0.75 if wide else 0.90)
        for dim in (130, 342, 1024, 74, 35, 300):
            yield noisy(dtype, (dim,), "gaussian", False, 0.75 if wide else 0.95)
        for kind in KINDS:
            yield noisy(dtype, (130, 342, 1024), kind, False, 0.75 if wide else 0.95)
            yield noisy(dtype, (130, 342, 1024), kind, True, 0.90 if wide else 1.25)
        yield made(dtype)
        yield mixed(dtype, False)
        yield mixed(dtype, True)
        yield vae(dtype, False, 0.65 if wide else 0.90)
        yield vae(dtype, True, 0.50 if wide else 0.60)
        yield rival(dtype, False)
        yield rival(dtype, True)

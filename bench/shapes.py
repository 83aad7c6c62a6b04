"""Times of the CPU ops over shapes, and of calls on 1,000 elements, beside the formulation in plain PyTorch or NumPy.

The first table is nanoseconds an element for samples of 1 to 1,000 elements, in float32 and float64, by torch and
NumPy, on 1 and 2 threads. The second is microseconds a call on 1,000 elements, without and with gradients. Ours
and theirs take turns, and the medians stand. Takes a minute, with --quick some seconds. Writes shapes.csv and
small_calls.csv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import about, parser, results, seconds, write_csv
from rich.console import Console
from rich.table import Table

from nmer_fast import numpy as nf
from nmer_fast import ops
from nmer_fast.ops import reference

KEPT = 0.3
A, B = math.sqrt(KEPT), math.sqrt(1 - KEPT)
SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 35, 128, 1000)  # elements of a sample


def beside(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Both medians in seconds, taken in turn."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def kl(mu: torch.Tensor, logvar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual formulation of a VAE's sample and its KL."""
    std = (logvar / 2).exp()
    return mu + std * torch.randn_like(std), -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)


def impulses(x: torch.Tensor) -> torch.Tensor:
    """The usual formulation of impulse noise, p = 0.3."""
    return A * x + B * (torch.rand_like(x) < 0.3) * (torch.randint(0, 2, x.shape) * 2 - 1)


class Bare(torch.autograd.Function):
    """The least that Python can do for a gradient: no checks, the two registered ops alone."""

    args = (torch.tensor(KEPT, dtype=torch.float64), torch.tensor([0, 0]))

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Add noise."""
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.nmer_fast.add_noise(x, *Bare.args, None, None, None, None, 0, "gaussian", False)[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """Scale the gradient."""
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.nmer_fast.mix_noise_backward(*grads, Bare.args[0], None, None, False)


def reference_add_noise(x: torch.Tensor) -> torch.Tensor:
    """The fallback in plain PyTorch."""
    return reference.add_noise(x, *Bare.args, None, None, None, None, 0, "gaussian", False)[0]


def shapes(count: int, dtype: str) -> Iterator[tuple[str, int, Callable[[], Any], Callable[[], Any]]]:
    """(op, elements of a sample, ours, theirs)."""
    for size in SIZES:
        shape = (count // size, size)
        x = torch.randn(shape, dtype=getattr(torch, dtype))
        array, normal = x.numpy(), np.random.default_rng(0).standard_normal
        yield "add_noise", size, lambda x=x: ops.add_noise(x, KEPT, seed=0), lambda x=x: A * x + B * torch.randn_like(x)
        yield "impulse", size, lambda x=x: ops.add_noise(x, KEPT, seed=0, kind="impulse"), lambda x=x: impulses(x)
        yield "noise", size, lambda x=x: ops.noise_like(x, seed=0), lambda x=x: torch.randn_like(x)
        yield "reparameterize_kl", size, lambda x=x: ops.reparameterize_kl(x, x, seed=0), lambda x=x: kl(x, x)
        if size == SIZES[-1]:
            yield "reference", size, lambda x=x: reference_add_noise(x), lambda x=x: A * x + B * torch.randn_like(x)
        yield (
            "numpy add_noise", size, lambda a=array: nf.add_noise(a, KEPT, seed=0),
            lambda a=array, n=normal: A * a + B * n(a.shape, dtype=a.dtype),
        )  # fmt: skip


def small() -> Iterator[tuple[str, tuple[torch.Tensor, ...], Callable[..., Any], Callable[..., Any]]]:
    """(op, float inputs, ours, theirs) on about 1,000 elements."""
    x, eps, xs = torch.randn(10, 100), torch.randn(10, 100), [torch.randn(10, 33) for _ in range(3)]
    kept, offsets, rows = torch.full((3,), KEPT), torch.arange(0, 1001, 100), torch.arange(10)
    values = torch.randn(1000, 1)
    yield "noise", (), lambda: ops.noise((10, 100), seed=0), lambda: torch.randn(10, 100)
    yield "add_noise", (x,), lambda x: ops.add_noise(x, KEPT, seed=0), lambda x: A * x + B * torch.randn_like(x)
    yield "add_noise, bare Function", (x,), Bare.apply, lambda x: A * x + B * torch.randn_like(x)
    yield "add_noise, impulse", (x,), lambda x: ops.add_noise(x, KEPT, seed=0, kind="impulse"), impulses
    yield (
        "add_noise_multimodal", tuple(xs), lambda *xs: ops.add_noise_multimodal(xs, kept, seed=0),
        lambda *xs: [A * x + B * torch.randn_like(x) for x in xs],
    )  # fmt: skip
    yield "mix_noise", (x, eps), lambda x, e: ops.mix_noise(x, e, KEPT), lambda x, e: A * x + B * e
    yield "reparameterize_kl", (x, eps), lambda m, v: ops.reparameterize_kl(m, v, seed=0), kl
    yield (
        "gather_padded", (), lambda: ops.gather_padded(values, offsets, rows, 100),
        lambda: torch.stack([values[i : i + 100] for i in range(0, 1000, 100)]),
    )  # fmt: skip


def trained(call: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """The call, forward and backward from the sum of its results."""
    leaves = [t.clone().requires_grad_() for t in inputs]

    def step() -> None:
        out = call(*leaves)
        torch.autograd.backward([t.sum() for t in (out if isinstance(out, (list, tuple)) else [out])])
        for leaf in leaves:
            leaf.grad = None

    return step


def main() -> None:
    """Measure, print and write both tables."""
    options = parser(__doc__, "one size of the work, one dtype, one thread").parse_args()
    repeats, folder, known = (3, results(True), about()) if options.quick else (7, results(False), about())
    over_shapes, calls = [], []
    for threads in (1,) if options.quick else (1, 2):
        torch.set_num_threads(threads)
        for dtype in ("float32",) if options.quick else ("float32", "float64"):
            for count in (10**4,) if options.quick else (10**4, 10**6):
                for op, size, ours, theirs in shapes(count, dtype):
                    a, b = (1e9 * s / (count // size * size) for s in beside(ours, theirs, repeats))
                    row = {"op": op, "dtype": dtype, "elements": count, "sample": size, "threads": threads}
                    over_shapes.append({**row, "ours_ns": a, "theirs_ns": b, "ratio": a / b, **known})
    torch.set_num_threads(1)
    for op, inputs, ours, theirs in small():
        for grads in (False, True)[: 1 + bool(inputs)]:
            pair = [trained(f, inputs) if grads else lambda f=f, i=inputs: f(*i) for f in (ours, theirs)]
            a, b = (1e6 * s for s in beside(pair[0], pair[1], 2 * repeats))
            calls.append({"op": op, "gradients": grads, "ours_us": a, "theirs_us": b, "ratio": a / b, **known})
    show("nanoseconds an element", over_shapes, 5)
    show("microseconds a call on 1,000 elements, one thread", calls, 2)
    write_csv(folder / "shapes.csv", over_shapes, 4)
    write_csv(folder / "small_calls.csv", calls, 4)


def show(title: str, rows: list[dict[str, Any]], names: int) -> None:
    """A table of the rows' names and their three figures."""
    table = Table(title=title, title_justify="left")
    columns = list(rows[0])[: names + 3]
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

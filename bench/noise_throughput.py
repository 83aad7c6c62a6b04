"""Throughput of ops.add_noise beside what a user would write instead, and beside copying the same bytes.

Medians of one run on one machine: compare the ratios, not the times. Each row is an NVTX range for Nsight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import nvtx
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

from nmer_fast import ops

ALPHA_BAR = 1 / 11  # -10 dB at variance 1


@dataclass(frozen=True)
class Options:
    """Time Gaussian and impulse noise on x [batch, elements].

    Attributes:
        batch: samples.
        elements: of a sample.
        seconds: of measurement for each row.
    """

    batch: int = 128
    elements: int = 8192
    seconds: float = 1.0


def eager_gaussian(x: Tensor) -> Tensor:
    """The usual two lines."""
    return math.sqrt(ALPHA_BAR) * x + math.sqrt(1 - ALPHA_BAR) * torch.randn_like(x)


def eager_impulse(x: Tensor, p: float = 0.3) -> Tensor:
    """A sign and a mask."""
    sign = torch.randint_like(x, 0, 2) * 2 - 1
    return math.sqrt(ALPHA_BAR) * x + math.sqrt(1 - ALPHA_BAR) * sign * (torch.rand_like(x) < p)


def per_sample_loop(x: Tensor) -> Tensor:
    """One call for each sample, as in the paper's released code."""
    return torch.stack([eager_gaussian(sample) for sample in x])


def rows(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is timed."""
    compiled = torch.compile(eager_gaussian)
    return {
        "copy": lambda: x.clone(),
        "ops.add_noise gaussian": lambda: ops.add_noise(x, ALPHA_BAR, seed=1),
        "eager gaussian": lambda: eager_gaussian(x),
        "torch.compile gaussian": lambda: compiled(x),
        "per-sample loop gaussian": lambda: per_sample_loop(x),
        "ops.add_noise impulse": lambda: ops.add_noise(x, ALPHA_BAR, seed=1, kind="impulse"),
        "eager impulse": lambda: eager_impulse(x),
    }


def main() -> None:
    """Print the table."""
    options = tyro.cli(Options, prog="python bench/noise_throughput.py")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(options.batch, options.elements, device=device)
    threads, backend = torch.get_num_threads(), "Triton" if device.type == "cuda" else "C++"
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key("nmer_fast::add_noise", device.type.upper())
    title = f"{x.numel():,} float32, {device}, {threads} threads; ours runs {backend if kernel else 'the reference'}"
    table = Table(title=title, title_justify="left")
    for column in ("", "ns / element", "of copy"):
        table.add_column(column, justify="left" if not column else "right")
    copy = None
    for name, call in rows(x).items():
        call()
        with nvtx.annotate(name, domain="nmer_fast"):
            timer = Timer("call()", globals={"call": call}, num_threads=threads)
            time = timer.blocked_autorange(min_run_time=options.seconds).median
        copy = copy or time
        table.add_row(name, f"{1e9 * time / x.numel():.2f}", f"{time / copy:.1f}x")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

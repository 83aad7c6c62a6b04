"""Ranges for Nsight Systems and a trace for Perfetto: docs/profiling.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

ATTACHED = "NVTX_INJECTION64_PATH" in os.environ
"""Whether a profiler loaded itself before this process began, as nsys does. Without one nobody would see a range."""


def span(name: str, size: int = 0) -> AbstractContextManager:
    """An NVTX range of the domain nmer_fast around a with block, its size as payload; free when no profiler looks.

    Compiled code has no ranges: what is inside is one graph.
    """
    if not ATTACHED or torch.compiler.is_compiling():
        return nullcontext()
    import nvtx

    return nvtx.annotate(name, domain="nmer_fast", payload=size)


@contextmanager
def trace(folder: Path | None) -> Iterator[Callable[[], None]]:
    """What to call after each step: the third to the fifth go to trace.json in the folder, for ui.perfetto.dev."""
    if folder is None:
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    folder.mkdir(parents=True, exist_ok=True)
    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(
        activities=[ProfilerActivity.CPU, *cuda],
        schedule=schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(folder / "trace.json")),
        record_shapes=True,
    ) as profiler:
        yield profiler.step

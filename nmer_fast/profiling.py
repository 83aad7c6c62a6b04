"""NVTX ranges for Nsight Systems, and a trace for Perfetto: docs/profiling.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

ATTACHED = "NVTX_INJECTION64_PATH" in os.environ
"""Whether a profiler loaded itself before this process began, as nsys does. Without one no range is made."""


def span(name: str, size: int = 0) -> AbstractContextManager:
    """A context manager that puts an NVTX range of the domain nmer_fast around its block; free without a profiler.

    Compiled code has no ranges, because a compiled block is one graph.

    Args:
        name: the range's name.
        size: the range's payload, such as the number of samples.
    """
    if not ATTACHED or torch.compiler.is_compiling():
        return nullcontext()
    import nvtx

    return nvtx.annotate(name, domain="nmer_fast", payload=size)


@contextmanager
def trace(folder: Path | None) -> Iterator[Callable[[], None]]:
    """Record steps 3 to 5 into trace.json in the folder, for ui.perfetto.dev.

    Args:
        folder: the trace's folder, made if it does not exist; None records nothing.

    Yields:
        The function to call after each step.
    """
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

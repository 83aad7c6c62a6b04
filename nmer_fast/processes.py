"""Whether this process shares its work with others, in which case noise without sample ids repeats. No torch import.

The ops, the scheduler and the NumPy functions ask in every call, so a question costs a part of a microsecond.
"""

from __future__ import annotations

import sys
import warnings
from functools import cache


def in_worker() -> bool:
    """Whether this process is a worker of a torch DataLoader."""
    worker = sys.modules.get("torch.utils.data._utils.worker")
    return worker is not None and worker._worker_info is not None


def in_group() -> bool:
    """Whether torch.distributed has a process group of more than one rank here."""
    member = getattr(sys.modules.get("torch.distributed"), "GroupMember", None)  # None in a build without it
    return member is not None and member.WORLD is not None and member.WORLD.size() > 1


def warn_shared_noise() -> None:
    """Warn, once a process, in a DataLoader worker or a process group: call it where noise has a seed but no ids."""
    if in_worker():
        _warn("calls in DataLoader workers")
    elif in_group():
        _warn("ranks")


@cache
def _warn(sharers: str) -> None:
    """Warn at the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("nmer_fast."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"sample_ids: none given, so samples count from 0 in each call and {sharers} share their noise: pass "
        "sample_ids, the samples' indices in the data set, and draw, the epoch or the step",
        UserWarning,
        stacklevel=level,
    )

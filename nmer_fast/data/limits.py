"""How much memory reading may take: what is free, and no more than a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..errors import UserError

CGROUP = Path("/sys/fs/cgroup")  # a container's own limits
COPIES = 3  # of a data set while it is loaded: as read, as float32, as ragged; a packed store is only mapped


def free_memory() -> int:
    """Bytes."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, int(limit) - int(used)) if limit.isdigit() else free


def check_memory(what: str, wanted: int) -> None:
    """Refuse what would not fit, before it is tried."""
    free = free_memory()
    if wanted > free:
        raise UserError(f"memory: {what} would take about {wanted / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")

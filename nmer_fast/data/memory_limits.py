"""How much memory is free, within a container's limit too, and the refusal of data that would not fit into it."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..errors import UserError

CGROUP = Path("/sys/fs/cgroup")  # the folder of a container's own limits
COPIES = 3  # copies of a data set while it is loaded: as read, as float32, as Ragged (a packed store is only mapped)


def free_memory() -> int:
    """The number of bytes that this process may still allocate."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, int(limit) - int(used)) if limit.isdigit() else free


def check_memory(what: str, wanted: int) -> None:
    """Refuse an allocation that would not fit, before it is tried.

    Args:
        what: the thing that would be allocated, for the message.
        wanted: the size of that thing in bytes.

    Raises:
        UserError: one line that says how much is wanted and how much is free.
    """
    free = free_memory()
    if wanted > free:
        raise UserError(f"memory: {what} would take about {wanted / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")

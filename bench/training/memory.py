"""How much memory each system holds, and whether it grows from epoch to epoch, in a process of its own."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

import made_up
import psutil
from library import release_freed_memory
from measure import BASELINE, OURS, answer

from .figures import Figure, figure
from .systems import Ours, Plan, System, Theirs, config_of


def logged(who: str, plan: Plan) -> tuple[list[int], list[int], int]:
    """Bytes of this process, which trains one system and nothing else.

    Returns:
        The resident memory after each epoch, the resident memory once freed memory was given back, and the peak.
    """
    count, per_epoch = plan.memory
    plan = replace(plan, train=per_epoch * plan.batch, test=plan.batch)
    data = made_up.iemocap(plan.train, plan.test)
    system: System = Theirs(data, config_of(plan)) if who == BASELINE else Ours(data, config_of(plan))
    before, after = [], []
    for _ in range(count):
        system.epoch()
        system.evaluate()
        before.append(psutil.Process().memory_info().rss)
        release_freed_memory()  # as a run does once a minute
        after.append(psutil.Process().memory_info().rss)
    return before, after, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident() -> list[Figure]:
    """Each system's memory: after an epoch, growth an epoch after the first two, and the peak."""
    out = []
    for who in (BASELINE, OURS):
        before, after, peak = answer([sys.executable, *sys.argv, "--memory", who])
        for what, sizes in (("resident", before), ("resident, freed memory given back", after)):
            out.append(figure("memory", what, who, "MB", [size / 1e6 for size in sizes[1:]]))
            growth = (sizes[-1] - sizes[1]) / max(len(sizes) - 2, 1) / 1e6
            out.append(figure("memory", f"{what}: growth an epoch after the second", who, "MB", [growth]))
        out += [figure("memory", "peak", who, "MB", [peak / 1e6])]
    return out

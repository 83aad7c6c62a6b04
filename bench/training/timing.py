"""How long a training step, its parts, and an epoch with its evaluation take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from measure import BASELINE, COMPILED, ONE, OURS, WARM_UP, in_turn, timed
from torch import Tensor, nn
from torch._dynamo.utils import counters

from nmer_fast.data import FeatureSet

from .figures import Figure, figure
from .systems import Ours, Plan, System, Theirs, rows_of

PARTS = ("batch", "noise", "encoders", "teacher", "forward", "backward", "optimizer")


def steps(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """A training step of each system in turn, on the same rows, and how often the compiled one lost to eager.

    A step begins with row numbers, so batching is part of it. No step is made twice for warmth: a batch that was just
    read would be in the cache.
    """
    batches = [rows_of(plan, data, turn) for turn in range(WARM_UP + plan.turns)]
    calls = {who: lambda turn, s=system: s.step(s.batch(batches[turn])) for who, system in systems.items()}
    times = in_turn(calls, plan.turns, again=False)
    out = [figure("step", "seconds", who, "s", values) for who, values in times.items()]
    if COMPILED in times:
        lost = sum(c > e for c, e in zip(times[COMPILED], times[ONE], strict=True)) / plan.turns
        out.append(figure("compile", "turns that compiled lost to eager", COMPILED, "share", [lost]))
    return out


def epochs(systems: dict[str, System], graphs_before: int) -> list[Figure]:
    """An epoch and an evaluation of each system, ours first, then the baseline, then the compiled one again.

    The graphs of the compiled one are those that Dynamo has made beyond `graphs_before`.
    """
    train: dict[str, list[float]] = defaultdict(list)
    test: dict[str, list[float]] = defaultdict(list)
    graphs = []
    ours = [who for who in systems if who != BASELINE]
    for who in (*ours, BASELINE, *(who for who in ours if who == COMPILED)):
        train[who].append(timed(systems[who].epoch))
        test[who].append(timed(systems[who].evaluate))
        if who == COMPILED:
            graphs.append(counters["stats"]["unique_graphs"] - graphs_before)
    out = []
    both = {who: [a + b for a, b in zip(train[who], test[who], strict=True)] for who in systems}
    for what, times in (("training", train), ("evaluation", test), ("both", both)):
        out += [figure("epoch", what, who, "s", times[who]) for who in systems]
    if graphs:
        out.append(figure("compile", "graphs after the first epoch", COMPILED, "graphs", [graphs[0]]))
        out.append(figure("compile", "graphs that a later epoch added", COMPILED, "graphs", [graphs[1] - graphs[0]]))
    return out


class Laps:
    """Splits a step's time among its parts, by hooks where one ends and the next begins."""

    def __init__(self) -> None:
        self.times: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Give the part the time since the last lap."""
        now = time.perf_counter()
        self.times[part] += now - self.last
        self.last = now

    def around(self, module: nn.Module, before: str, inside: str) -> list[Any]:
        """Laps when a module's forward begins and ends."""
        return [
            module.register_forward_pre_hook(lambda *_: self.lap(before)),
            module.register_forward_hook(lambda *_: self.lap(inside)),
        ]


def parts(system: Ours | Theirs, rows: Sequence[Tensor]) -> dict[str, list[float]]:
    """Seconds of each part of a step, for each of the batches; "forward" is what belongs to no other part."""
    out: dict[str, list[float]] = defaultdict(list)
    for chosen in rows:
        laps = Laps()
        handles = laps.around(system.model.encoders, "noise" if isinstance(system, Theirs) else "forward", "encoders")
        if isinstance(system, Theirs):
            handles += laps.around(system.model.teacher[0], "forward", "teacher")
        else:
            handles += laps.around(system.scheduler, "forward", "noise")
        handles += [
            system.model.register_forward_hook(lambda *_, laps=laps: laps.lap("forward")),
            system.optimizer.register_step_pre_hook(lambda *_, laps=laps: laps.lap("backward")),
            system.optimizer.register_step_post_hook(lambda *_, laps=laps: laps.lap("optimizer")),
        ]
        batch = system.batch(chosen)
        laps.lap("batch")
        system.step(batch)
        for handle in handles:
            handle.remove()
        for part, seconds in laps.times.items():
            out[part].append(seconds)
    return out


def where(plan: Plan, data: FeatureSet, systems: dict[str, Any]) -> list[Figure]:
    """Where a step's time goes, the baseline's and ours; in eager mode, since a compiled step is one piece."""
    rows = [rows_of(plan, data, turn) for turn in range(max(plan.turns // 3, 1))]
    out = []
    for who in (BASELINE, OURS):
        times = parts(systems[who], rows)
        out += [figure("parts", part, who, "s", times.get(part, [0.0])) for part in PARTS]
    return out

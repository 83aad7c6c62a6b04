"""Whether an epoch's time grows in proportion to the utterances and to the modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import made_up
import torch
from measure import OURS, timed

from .figures import Figure, figure
from .systems import Ours, Plan, config_of


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope and intercept of the line with the least relative squares, and its largest relative residual."""
    xs, ys = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    columns = torch.stack([xs, torch.ones_like(xs)], dim=1) / ys[:, None]
    slope, intercept = torch.linalg.lstsq(columns, torch.ones_like(ys)[:, None]).solution[:, 0].tolist()
    return slope, intercept, max(abs(slope * a + intercept - b) / b for a, b in zip(x, y, strict=True))


def linear(plan: Plan) -> list[Figure]:
    """Seconds an epoch of ours against utterances, and against modalities, on small data and a small model."""
    out = []
    largest = max(plan.utterances) // 32
    for what, sizes, make in (
        ("utterances", plan.utterances, lambda n: made_up.small(n, 3)),
        ("modalities", plan.modalities, lambda n: made_up.small(largest, n)),
    ):
        config = config_of(replace(plan, layers=1), feedforward=16, latent=8, tokens="one", heads=1)
        systems = {n: Ours(make(n), config) for n in sizes}
        times: dict[int, list[float]] = {n: [] for n in sizes}
        systems[min(sizes)].epoch()  # warms up
        for turn in range(plan.repeats):
            for n, system in systems.items():
                if turn == 0 or n <= 8 * min(sizes):  # an epoch of a large set is a mean of many steps already
                    times[n].append(timed(system.epoch))
        found = [figure(what, str(n), OURS, "s", times[n]) for n in sizes]
        slope, intercept, residual = line(sizes, [f.p50 for f in found])
        out += [
            *found,
            figure(what, "slope", OURS, "s each", [slope]),
            figure(what, "intercept", OURS, "s", [intercept]),
            figure(what, "largest residual", OURS, "share", [residual]),
        ]
    return out

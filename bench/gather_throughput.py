"""Throughput of gather_padded on batches of 128 out of ragged features, beside what a user would write and a copy.

A batch counts as written whole, and its valid steps as read. "copy" clones padded batches of the same size. Takes 40 s
on two cores, with --quick 15 s. Writes gather_throughput.csv and .png.
"""

from __future__ import annotations

from itertools import cycle

import torch
from measure import DEVICE
from op_bench import Row, run
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nmer_fast import ops


def rows(quick: bool) -> list[Row]:
    """Audio and text of IEMOCAP's dimensions; the lengths are log-normal with median 40, or all equal."""
    dims = [130] if quick else [130, 1024]
    return [row for dim in dims for spread in (0.7, 0.0) for row in task(dim, spread, 300 if quick else 2000)]


def task(dim: int, spread: float, samples: int) -> list[Row]:
    """A batch by each way; eight batches take turns, so that none is in the cache."""
    generator = torch.Generator().manual_seed(0)
    lengths = (40 * (spread * torch.randn(samples, generator=generator)).exp()).round().clamp(10, 300).long()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(DEVICE)
    values = torch.randn(int(lengths.sum()), dim).to(DEVICE)
    mean, std = torch.randn(dim, device=DEVICE), torch.rand(dim, device=DEVICE) + 0.5
    batches = [torch.randperm(samples, generator=generator)[:128] for _ in range(8)]
    steps = -(-max(int(lengths[batch].max()) for batch in batches) // 8) * 8
    valid = sum(int(lengths[batch].sum()) for batch in batches) / 8
    bounds = offsets.tolist()
    turns = {who: cycle([batch.to(DEVICE) for batch in batches]) for who in ("ours", "standardised", "pad_sequence")}
    padded_ones = [torch.randn(128, steps, dim, device=DEVICE) for _ in range(8)]
    batch, copied = padded_ones[0], cycle(padded_ones)

    def padded() -> Tensor:
        chosen = next(turns["pad_sequence"]).tolist()
        return pad_sequence([values[bounds[row] : bounds[row + 1]] for row in chosen], batch_first=True)

    calls = {
        "ours": lambda: ops.gather_padded(values, offsets, next(turns["ours"]), steps),
        "ours, standardised": lambda: ops.gather_padded(
            values, offsets, next(turns["standardised"]), steps, mean=mean, std=std, clip=10.0
        ),
        "pad_sequence": padded,
        "copy": lambda: next(copied).clone(),
    }
    kind = "log-normal" if spread else "equal"
    name = f"gather [128, {steps}, {dim}], {kind} lengths, {valid / 128 / steps:.0%} valid"
    moved = {who: batch.nbytes + int(4 * dim * valid) for who in calls} | {"copy": 2 * batch.nbytes}
    return [Row(name, who, batch.numel(), moved[who], call, True) for who, call in calls.items()]


if __name__ == "__main__":
    run("gather_throughput", rows, "Padded batches out of ragged features", __doc__)

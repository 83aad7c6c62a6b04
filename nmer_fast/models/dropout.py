"""Dropout that is fast on CPUs: its masks come from this library's noise op, while torch draws them one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..contract import DROPOUT_STREAM


class Dropout(nn.Module):
    """A replacement for nn.Dropout: in training, each value is set to 0 with probability p, else scaled by 1 / (1 - p).

    The probability is exact to 2^-31. On a CPU the mask is impulse noise, seeded from torch's generator; on other
    devices torch draws the mask.

    Args:
        p: the dropout rate, at least 0 and below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to a tensor [B, ...]."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        rng, rows = torch.randint(2**63 - 1, (2,)), torch.arange(len(x))  # each rank has a generator of its own
        kept = ops.noise(
            x.shape, kind="impulse", p=1 - self.p, seed=rng, stream=DROPOUT_STREAM, sample_ids=rows, dtype=x.dtype
        ).abs_()
        return x * kept.mul_(1 / (1 - self.p))

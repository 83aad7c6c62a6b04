"""Dropout whose masks are the library's own noise on a CPU, where torch draws a mask value by value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..contract import DROPOUT_STREAM


class Dropout(nn.Module):
    """As nn.Dropout: each value 0 with probability p (to 2^-31), else times 1 / (1 - p); in training alone.

    On a CPU the mask is impulse noise under a seed from torch's generator; elsewhere it is torch's own.

    Args:
        p: from 0 to below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape with a batch dimension."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        rng = torch.randint(2**63 - 1, (2,))
        kept = ops.noise(x.shape, kind="impulse", p=1 - self.p, seed=rng, stream=DROPOUT_STREAM, dtype=x.dtype).abs_()
        return x * kept.mul_(1 / (1 - self.p))

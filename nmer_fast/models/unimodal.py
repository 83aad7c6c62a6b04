"""A classifier of one modality, trained on complete data (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ..config import NMERConfig
from ..errors import UserError
from .interface import Batch, Output
from .men import MEN


class Unimodal(MEN):
    """MEN on one modality, `model.modality`; the others are not read.

    "all" is then its accuracy on clean data (the paper's first row), "none" on noisy data.

    Raises:
        UserError: there are several modalities and none is named, or one that is not there.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        only = config.modality or (next(iter(dims)) if len(dims) == 1 else None)
        if only is None or only not in dims:
            raise UserError(f"model.modality: expected one of {', '.join(dims)} for unimodal, got {only or 'none'}")
        super().__init__({only: dims[only]}, classes, config)
        self.place, self.modalities = list(dims).index(only), len(dims)

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 128], zeros for the modalities that are not read."""
        return F.pad(super().encode(features, lengths), (0, 0, self.place, self.modalities - 1 - self.place))

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """As MEN, on the one modality."""
        return super().fuse(encoded[:, self.place : self.place + 1], batch)

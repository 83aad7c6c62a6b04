"""A classifier of one modality, trained on complete data (paper, Table 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from ..config import CHECKED, ModelConfig
from ..errors import UserError
from .interface import Batch, Output
from .men import MEN


@dataclass(frozen=True, config=CHECKED)
class UnimodalConfig(ModelConfig):
    """The settings of a unimodal classifier.

    Attributes:
        modality: the modality that the classifier reads; it may be omitted if the data have only one.
    """

    modality: str | None = None

    @property
    def label(self) -> str:
        """The system's name and its modality, such as unimodal.a."""
        return self.system if self.modality is None else f"{self.system}.{self.modality}"


class Unimodal(MEN):
    """MEN on a single modality, `model.modality`; all other modalities are ignored.

    The condition "all" then gives its accuracy on clean data (the first row of the paper's Table 4), and "none" its
    accuracy on noisy data.

    Raises:
        UserError: the named modality does not exist, or none is named and the data have several.
    """

    Config = UnimodalConfig
    title = "unimodal classifier"

    def __init__(self, dims: Mapping[str, int], classes: int, config: UnimodalConfig) -> None:
        only = config.modality or (next(iter(dims)) if len(dims) == 1 else None)
        if only is None or only not in dims:
            raise UserError(f"model.modality: expected one of {', '.join(dims)} for unimodal, got {only or 'none'}")
        super().__init__({only: dims[only]}, classes, config)
        self.place, self.modalities = list(dims).index(only), len(dims)

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode the modality into [B, M, 128]; the ignored modalities are zeros."""
        return F.pad(super().encode(features, lengths), (0, 0, self.place, self.modalities - 1 - self.place))

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return MEN's logits and losses for the one modality."""
        return super().fuse(encoded[:, self.place : self.place + 1], batch)

"""One encoder for each modality, without invariant encoders, for MEN, MMIN, late fusion and unimodal classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .encoders import TEXT_MODALITIES, LSTMEncoder, TextCNN


class SpecificEncoders(nn.ModuleList):
    """NMER's specificity encoders (paper, section 3.3): an LSTM for each modality of frames, a TextCNN for words.

    Args:
        dims: the feature dimensions by modality.
        dropout: the dropout rate of the TextCNNs.
    """

    def __init__(self, dims: Mapping[str, int], dropout: float) -> None:
        super().__init__(
            TextCNN(dim, dropout) if name in TEXT_MODALITIES else LSTMEncoder(dim) for name, dim in dims.items()
        )
        self.modalities = tuple(dims)

    def forward(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 128]; absent modalities are zeros."""
        encoded = (encoder(features[m], lengths[m]) for m, encoder in zip(self.modalities, self, strict=True))
        return torch.stack(list(encoded), dim=1)

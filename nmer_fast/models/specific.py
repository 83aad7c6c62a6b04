"""One encoder for each modality, without the invariant stream: what MEN, MMIN and the single classifiers read with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .encoders import TEXT, LSTMEncoder, TextCNN


class SpecificEncoders(nn.ModuleList):
    """An LSTM for frames, a TextCNN for words, as NMER's specificity encoders (paper, section 3.3).

    Args:
        dims: feature dimensions by modality.
        dropout: of the TextCNNs.
    """

    def __init__(self, dims: Mapping[str, int], dropout: float) -> None:
        super().__init__(TextCNN(dim, dropout) if name in TEXT else LSTMEncoder(dim) for name, dim in dims.items())
        self.modalities = tuple(dims)

    def forward(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 128]; zeros where absent."""
        encoded = (encoder(features[m], lengths[m]) for m, encoder in zip(self.modalities, self, strict=True))
        return torch.stack(list(encoded), dim=1)

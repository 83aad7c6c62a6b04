"""Encoders of one modality: LSTM for frames, TextCNN for words (paper, section 3.3). Padding has no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from .. import ops
from ..config import CHECKED, ModelConfig
from .dropout import Dropout

HIDDEN = 128
TEXT_MODALITIES = (
    "l",
    "text",
    "lexical",
    "language",
)  # the modalities that a TextCNN encodes; an LSTM encodes all others


def lstm_weights(inputs: int, hidden: int) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Return weight_ih [4H, D], weight_hh [4H, H] and bias [4H], initialised like those of nn.LSTM."""
    bound, gates = 1 / math.sqrt(hidden), 4 * hidden
    ih, hh, bias = (
        torch.empty(shape).uniform_(-bound, bound) for shape in ((gates, inputs), (gates, hidden), (gates,))
    )
    return nn.Parameter(ih), nn.Parameter(hh), nn.Parameter(bias)


class LSTM(nn.Module):
    """One-layer LSTM with 128 hidden units that returns all hidden states: [B, T, D] -> [B, T, 128].

    The states beyond a sample's length are zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh, self.bias = lstm_weights(dim, HIDDEN)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the hidden states of a padded batch; a state depends on no later step."""
        return ops.lstm_states(x, lengths, self.weight_ih, self.weight_hh, self.bias)


class LSTMEncoder(nn.Module):
    """One-layer LSTM with 128 hidden units, max-pooled over the valid steps: [B, T, D] -> [B, 128].

    A sample without the modality gives zeros.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh, self.bias = lstm_weights(dim, HIDDEN)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode a padded batch: [B, T, D] -> [B, 128]."""
        return ops.lstm_max_pool(x, lengths, self.weight_ih, self.weight_hh, self.bias)


class TextCNN(nn.Module):
    """Convolutions over 3, 4 and 5 steps with 128 filters each, ReLU, max over time; dropout; linear to 128, ReLU.

    A sample that is shorter than a kernel is zero-padded to the kernel's length; an absent sample gives zeros.
    """

    KERNELS = (3, 4, 5)

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        convolutions = [nn.Conv1d(dim, HIDDEN, kernel) for kernel in self.KERNELS]  # for the initial weights
        # Weights are stored as [128, kernel, D], the layout that the op reads, so that no step transposes them.
        self.weights = nn.ParameterList(c.weight.detach().mT.contiguous() for c in convolutions)
        self.biases = nn.ParameterList(c.bias for c in convolutions if c.bias is not None)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(len(self.KERNELS) * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode a padded batch [B, T, D] -> [B, 128]."""
        return self.head(ops.conv_max_pool(x, lengths, [w.mT for w in self.weights], [*self.biases]), lengths)

    def head(self, pooled: Tensor, lengths: Tensor) -> Tensor:
        """Apply the layers after the pooling: [B, 384] -> [B, 128]."""
        out = self.linear(self.dropout(pooled)).relu()
        return torch.where(lengths[:, None] > 0, out, 0.0)


def encode_twice(a: nn.Module, b: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run two encoders of the same class on one modality with one call of the op, which reads the features once."""
    if isinstance(a, TextCNN) and isinstance(b, TextCNN):
        weights = [torch.stack(pair).mT for pair in zip(a.weights, b.weights, strict=True)]
        biases = [torch.stack(pair) for pair in zip(a.biases, b.biases, strict=True)]
        first, second = ops.conv_max_pool(x, lengths, weights, biases).unbind(1)
        return a.head(first, lengths), b.head(second, lengths)
    assert isinstance(a, LSTMEncoder)
    assert isinstance(b, LSTMEncoder)
    weights = [torch.stack(pair) for pair in ((a.weight_ih, b.weight_ih), (a.weight_hh, b.weight_hh), (a.bias, b.bias))]
    first, second = ops.lstm_max_pool(x, lengths, *weights).unbind(1)
    return first, second


@dataclass(frozen=True, config=CHECKED)
class EncodersConfig(ModelConfig):
    """The settings of systems that use `Encoders`.

    Attributes:
        shared: the network that follows all invariant encoders: "linear" (one linear layer), or "two_leaky" (two linear
            layers with LeakyReLU, as in the released code).
    """

    shared: Literal["linear", "two_leaky"] = "linear"


class Encoders(nn.Module):
    """Two encoders for each modality, specific and invariant, and one shared network after all invariant encoders.

    Args:
        dims: the feature dimensions by modality.
        dropout: the dropout rate of the TextCNNs.
        shared: the network that follows all invariant encoders: "linear" or "two_leaky".
    """

    def __init__(self, dims: Mapping[str, int], dropout: float, shared: str = "linear") -> None:
        super().__init__()
        self.modalities = tuple(dims)

        def encoder(name: str, dim: int) -> nn.Module:
            return TextCNN(dim, dropout) if name in TEXT_MODALITIES else LSTMEncoder(dim)

        self.specific = nn.ModuleList(encoder(name, dim) for name, dim in dims.items())
        self.invariant = nn.ModuleList(encoder(name, dim) for name, dim in dims.items())
        self.shared = nn.Linear(HIDDEN, HIDDEN) if shared == "linear" else self._two_leaky()

    @staticmethod
    def _two_leaky() -> nn.Module:
        return nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU())))

    def clip_groups(self) -> list[nn.Module]:
        """Return the sub-networks whose gradients are clipped separately."""
        return [*self.specific, *self.invariant, self.shared]

    def forward(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 2, 128]: h' in [:, :, 0], H' in [:, :, 1]; absent modalities are zeros."""
        pairs = [
            encode_twice(a, b, features[m], lengths[m])
            for a, b, m in zip(self.specific, self.invariant, self.modalities, strict=True)
        ]
        specific, invariant = (torch.stack(encoded, dim=1) for encoded in zip(*pairs, strict=True))
        present = torch.stack([lengths[m] > 0 for m in self.modalities], dim=1)[..., None]
        return torch.stack([specific, torch.where(present, self.shared(invariant), 0.0)], dim=2)


class Classifier(nn.Sequential):
    """Linear layers with ReLU, optional BatchNorm, and dropout between them; widths 384, 128, classes (section 3.3)."""

    def __init__(self, inputs: int, classes: int, config: ModelConfig) -> None:
        layers: list[nn.Module] = []
        for width in config.classifier:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            if config.classifier_batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(Dropout(config.classifier_dropout))
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, classes))

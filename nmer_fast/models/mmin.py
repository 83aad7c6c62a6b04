"""MMIN: a cascade of residual autoencoders imagines the noisy modalities' features (Zhao et al., ACL 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable, Teaching
from .men import MEN
from .specific import SpecificEncoders

BLOCKS = 5  # as all sizes and weights here, of the released code
WIDTHS = (256, 128, 64)
LAMBDA_FORWARD, LAMBDA_BACKWARD = 4.0, 2.0


class ResidualCascade(nn.Module):
    """Autoencoders, each of which reads the first one's input and the sum of all outputs before it.

    Args:
        inputs: dimensions of what is imagined.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        down, up = (inputs, *WIDTHS), (*reversed(WIDTHS), inputs)
        self.encoders = nn.ModuleList(self._layers(down, nn.LeakyReLU) for _ in range(BLOCKS))
        self.decoders = nn.ModuleList(self._layers(up, nn.ReLU) for _ in range(BLOCKS))
        self.out = self._layers((inputs, inputs, inputs), nn.ReLU)

    @staticmethod
    def _layers(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
        """Linear layers, the activation between them."""
        layers = [(nn.Linear(a, b), activation()) for a, b in pairwise(widths)]
        return nn.Sequential(*[part for pair in layers for part in pair][:-1])

    def forward(self, x: Tensor, guide: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """[B, inputs] -> what is imagined, of the same shape, and the blocks' latents, [B, 5 * 64].

        `guide` is added to every block's input.
        """
        latents = []
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            latents.append(encoder(x + guide))
            x = x + decoder(latents[-1])
        return self.out(x + guide), torch.cat(latents, dim=1)


class MMIN(Separable):
    """Encoders, forward and backward imagination, and a classifier on the forward cascade's latents.

    L = L_cls + 4 L_forward + 2 L_backward. Forward: what is imagined against the teacher's features of the *noisy*
    modalities, 0 for the clean ones, since the original gives its teacher zeros there and an absent modality's features
    are 0 here. Backward: what a second cascade makes of that, against the features that came in, which get no gradient
    of it. The teacher is MEN; the classifier has NMER's widths.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.forward_cascade, self.backward_cascade = (ResidualCascade(HIDDEN * len(dims)) for _ in range(2))
        self.classifier = Classifier(BLOCKS * WIDTHS[-1], classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> Teaching:
        """MEN, trained on complete data; it has no moments to weigh."""
        return MEN(dims, classes, config)

    def parts(self) -> list[nn.Module]:
        """Each encoder, the cascades and the classifier."""
        return [*self.encoders.children(), self.forward_cascade, self.backward_cascade, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Losses are in float32, under autocast too."""
        joint = encoded.flatten(1)
        imagined, latents = self.forward_cascade(joint)
        logits = self.classifier(latents).float()
        if not self.training:
            return Output(logits, {})
        losses = {
            "cls": F.cross_entropy(logits, batch.labels),
            "forward": F.mse_loss(imagined.float(), noisy_targets(batch)),
            "backward": F.mse_loss(self.backward_cascade(imagined)[0].float(), joint.detach().float()),
        }
        losses["total"] = losses["cls"] + LAMBDA_FORWARD * losses["forward"] + LAMBDA_BACKWARD * losses["backward"]
        return Output(logits, losses)


def noisy_targets(batch: Batch) -> Tensor:
    """The teacher's features of the noisy modalities, zeros for the clean ones: [B, M * 128]."""
    assert batch.targets is not None
    assert batch.noisy is not None
    return torch.where(batch.noisy[..., None], batch.targets.joint.unflatten(1, (-1, HIDDEN)), 0.0).flatten(1)

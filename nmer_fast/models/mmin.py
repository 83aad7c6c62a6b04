"""MMIN: a cascade of residual autoencoders imagines the noisy modalities' features (Zhao et al., ACL 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable, TeacherSystem
from .men import MEN
from .specific_encoders import SpecificEncoders

BLOCKS = 5  # this and the sizes and loss weights below are the released code's
WIDTHS = (256, 128, 64)
LAMBDA_FORWARD, LAMBDA_BACKWARD = 4.0, 2.0


class ResidualCascade(nn.Module):
    """A cascade of autoencoders; each one reads the sum of the cascade's input and all earlier autoencoders' outputs.

    Args:
        inputs: the dimension of the features that the cascade reads and reconstructs.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        down, up = (inputs, *WIDTHS), (*reversed(WIDTHS), inputs)
        self.encoders = nn.ModuleList(self._layers(down, nn.LeakyReLU) for _ in range(BLOCKS))
        self.decoders = nn.ModuleList(self._layers(up, nn.ReLU) for _ in range(BLOCKS))
        self.out = self._layers((inputs, inputs, inputs), nn.ReLU)

    @staticmethod
    def _layers(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
        """Return linear layers with the activation between them."""
        layers = [(nn.Linear(a, b), activation()) for a, b in pairwise(widths)]
        return nn.Sequential(*[part for pair in layers for part in pair][:-1])

    def forward(self, x: Tensor, guide: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the imagined features [B, inputs] and the latents of all blocks, [B, 5 * 64].

        Args:
            x: the features, [B, inputs].
            guide: the tensor that is added to the input of every block.
        """
        latents = []
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            latents.append(encoder(x + guide))
            x = x + decoder(latents[-1])
        return self.out(x + guide), torch.cat(latents, dim=1)


class MMIN(Separable):
    """Encoders, forward and backward imagination, and a classifier on the forward cascade's latents.

    The loss is L = L_cls + 4 L_forward + 2 L_backward. L_forward compares the imagined features with the teacher's
    features of the *noisy* modalities and with 0 for the clean modalities, because the original code gives its teacher
    zeros for them, and the features of an absent modality are 0 here. L_backward compares the output of a second
    cascade, which reads the imagined features, with the encoders' features; its gradient does not reach the latter. The
    teacher is MEN; the classifier has NMER's widths.
    """

    title = "MMIN"

    def __init__(self, dims: Mapping[str, int], classes: int, config: ModelConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.forward_cascade, self.backward_cascade = (ResidualCascade(HIDDEN * len(dims)) for _ in range(2))
        self.classifier = Classifier(BLOCKS * WIDTHS[-1], classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: ModelConfig, lambda_cmd: float) -> TeacherSystem:
        """Return MEN, which is trained on complete data; `lambda_cmd` has no effect on it."""
        return MEN(dims, classes, config)

    def clip_groups(self) -> list[nn.Module]:
        """Return each encoder, the two cascades and the classifier."""
        return [*self.encoders.children(), self.forward_cascade, self.backward_cascade, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the losses, in float32 also under autocast."""
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
    """Return the teacher's features of the noisy modalities, with zeros for the clean ones, [B, M * 128]."""
    assert batch.targets is not None
    assert batch.noisy is not None
    return torch.where(batch.noisy[..., None], batch.targets.joint.unflatten(1, (-1, HIDDEN)), 0.0).flatten(1)

"""NMER without the VAE (paper, section 3.4, "w/o VAE"): the classifier reads [h'; H'] directly."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output, Separable, TeacherSystem
from .nmer import NMERConfig
from .teacher import Teacher


class NMERNoVAE(Separable):
    """Encoders and a classifier on [h'; H'], trained with the loss lambda_inv L_inv + lambda_cls L_cls.

    Nothing is reconstructed, so there is no L_gen. With three modalities the classifier has 768 inputs, twice as many
    as NMER's classifier.
    """

    Config = NMERConfig
    title = "NMER w/o VAE"

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.config = config
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.classifier = Classifier(2 * HIDDEN * len(dims), classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> TeacherSystem:
        """Return NMER's teacher."""
        return Teacher(dims, classes, config, lambda_cmd)

    def clip_groups(self) -> list[nn.Module]:
        """Return the encoders' sub-networks and the classifier."""
        return [*self.encoders.clip_groups(), self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 2, 128], as `Encoders` does."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the losses, in float32 also under autocast."""
        invariant = encoded[:, :, 1].flatten(1)
        logits = self.classifier(encoded.flatten(1)).float()
        if not self.training:
            return Output(logits, {})
        assert batch.targets is not None
        losses = {
            "inv": F.mse_loss(invariant.float(), batch.targets.invariant),
            "cls": F.cross_entropy(logits, batch.labels),
        }
        losses["total"] = self.config.lambda_inv * losses["inv"] + self.config.lambda_cls * losses["cls"]
        return Output(logits, losses)

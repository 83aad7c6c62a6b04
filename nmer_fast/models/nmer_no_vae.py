"""NMER without the VAE (paper, section 3.4, "w/o VAE"): [h'; H'] goes into the classifier as it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output, Separable, Teaching
from .teacher import Teacher


class NMERNoVAE(Separable):
    """Encoders and a classifier on all of [h'; H'], under lambda_inv L_inv + lambda_cls L_cls.

    Nothing is reconstructed, so there is no L_gen. The classifier reads 768 inputs, twice what NMER's reads.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.config = config
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.classifier = Classifier(2 * HIDDEN * len(dims), classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> Teaching:
        """NMER's."""
        return Teacher(dims, classes, config, lambda_cmd)

    def parts(self) -> list[nn.Module]:
        """The encoders' parts, and the classifier."""
        return [*self.encoders.parts(), self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 2, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Losses are in float32, under autocast too."""
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

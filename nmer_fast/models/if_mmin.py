"""IF-MMIN: MMIN's forward imagination, guided by modality-invariant features (Zuo et al., ICASSP 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output, Separable, Teaching
from .mmin import BLOCKS, WIDTHS, ResidualCascade, noisy_targets
from .teacher import Teacher


class IFMMIN(Separable):
    """NMER's encoders, one cascade that reads h' and is given H' at every block, and a classifier on its latents.

    L = L_cls + L_forward + L_inv, L_forward being MMIN's and L_inv NMER's; there is no backward imagination. The
    released code gives up the sum of the blocks' outputs where it adds H'; here it stays, as in MMIN.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.cascade = ResidualCascade(HIDDEN * len(dims))
        self.classifier = Classifier(BLOCKS * WIDTHS[-1], classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> Teaching:
        """NMER's."""
        return Teacher(dims, classes, config, lambda_cmd)

    def parts(self) -> list[nn.Module]:
        """The encoders' parts, the cascade and the classifier."""
        return [*self.encoders.parts(), self.cascade, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 2, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Losses are in float32, under autocast too."""
        specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
        imagined, latents = self.cascade(specific, invariant)
        logits = self.classifier(latents).float()
        if not self.training:
            return Output(logits, {})
        assert batch.targets is not None
        losses = {
            "cls": F.cross_entropy(logits, batch.labels),
            "forward": F.mse_loss(imagined.float(), noisy_targets(batch)),
            "inv": F.mse_loss(invariant.float(), batch.targets.invariant),
        }
        losses["total"] = losses["cls"] + losses["forward"] + losses["inv"]
        return Output(logits, losses)

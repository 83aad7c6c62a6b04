"""IF-MMIN: MMIN's forward imagination, guided by modality-invariant features (Zuo et al., ICASSP 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import HIDDEN, Classifier, Encoders, EncodersConfig
from .interface import Batch, Output, Separable, TeacherSystem
from .mmin import BLOCKS, WIDTHS, ResidualCascade, noisy_targets
from .teacher import Teacher


class IFMMIN(Separable):
    """NMER's encoders, a cascade that reads h' and adds H' to the input of every block, and a classifier.

    The classifier reads the latents of the cascade's blocks. The loss is L = L_cls + L_forward + L_inv, with MMIN's
    L_forward and NMER's L_inv; there is no backward imagination. The released code drops the sum of the blocks' outputs
    where it adds H'; this implementation keeps the sum, as MMIN does.
    """

    Config = EncodersConfig
    title = "IF-MMIN"

    def __init__(self, dims: Mapping[str, int], classes: int, config: EncodersConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.cascade = ResidualCascade(HIDDEN * len(dims))
        self.classifier = Classifier(BLOCKS * WIDTHS[-1], classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: EncodersConfig, lambda_cmd: float) -> TeacherSystem:
        """Return NMER's teacher."""
        return Teacher(dims, classes, config, lambda_cmd)

    def clip_groups(self) -> list[nn.Module]:
        """Return the encoders' sub-networks, the cascade and the classifier."""
        return [*self.encoders.clip_groups(), self.cascade, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 2, 128], as `Encoders` does."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the losses, in float32 also under autocast."""
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

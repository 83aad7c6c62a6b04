"""Late fusion: one classifier for each modality, trained under noise; their log-probabilities are averaged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable
from .specific_encoders import SpecificEncoders

TINY = 1e-9  # less than any share of samples above 0; it avoids a division by 0


class LateFusion(Separable):
    """The logits are the mean of the present modalities' log-probabilities; each classifier has its own loss.

    A sample without any modality gets equal log-probabilities for all classes and adds nothing to the losses.
    """

    title = "late fusion"

    def __init__(self, dims: Mapping[str, int], classes: int, config: ModelConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.classifiers = nn.ModuleList(Classifier(HIDDEN, classes, config) for _ in dims)

    def clip_groups(self) -> list[nn.Module]:
        """Return each encoder and each classifier."""
        return [*self.encoders.children(), *self.classifiers]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Return the log-probabilities of each modality's classifier, float32 [B, M, classes]."""
        encoded = self.encoders(features, lengths).unbind(1)
        said = [classifier(h) for classifier, h in zip(self.classifiers, encoded, strict=True)]
        return torch.stack(said, dim=1).float().log_softmax(2)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Average over the present modalities; a modality's loss is its cross-entropy, averaged over its samples."""
        present = torch.stack([batch.lengths[m] > 0 for m in self.encoders.modalities], dim=1)
        heard = torch.where(present[..., None], encoded, 0.0)
        logits = heard.sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        if not self.training:
            return Output(logits, {})
        share = torch.stack([(batch.global_lengths[m] > 0).float().mean() for m in self.encoders.modalities])
        wrong = -heard.gather(2, batch.labels[:, None, None].expand(-1, heard.shape[1], 1))[..., 0]  # 0 where absent
        own = wrong.mean(0) / share.clamp(min=TINY)
        losses = {f"cls_{name}": loss for name, loss in zip(self.encoders.modalities, own.unbind(), strict=True)}
        return Output(logits, {**losses, "total": own.sum()})

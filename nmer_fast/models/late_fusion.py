"""Late fusion: a classifier for each modality, trained under noise; the mean of what they say."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable
from .specific import SpecificEncoders

TINY = 1e-9  # below any share of samples


class LateFusion(Separable):
    """Logits are the mean of the present modalities' log-probabilities; each classifier learns from its own sample.

    A sample with no modality gets equal log-probabilities, and teaches nothing.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.classifiers = nn.ModuleList(Classifier(HIDDEN, classes, config) for _ in dims)

    def parts(self) -> list[nn.Module]:
        """Each encoder, and each classifier."""
        return [*self.encoders.children(), *self.classifiers]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities, [B, M, classes], in float32."""
        encoded = self.encoders(features, lengths).unbind(1)
        said = [classifier(h) for classifier, h in zip(self.classifiers, encoded, strict=True)]
        return torch.stack(said, dim=1).float().log_softmax(2)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """The mean over present modalities; in training each one's own cross-entropy, meaned over its samples."""
        present = torch.stack([batch.lengths[m] > 0 for m in self.encoders.modalities], dim=1)
        heard = torch.where(present[..., None], encoded, 0.0)
        logits = heard.sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        if not self.training:
            return Output(logits, {})
        share = torch.stack([(batch.lengths_of_all[m] > 0).float().mean() for m in self.encoders.modalities])
        wrong = -heard.gather(2, batch.labels[:, None, None].expand(-1, heard.shape[1], 1))[..., 0]  # 0 where absent
        own = wrong.mean(0) / share.clamp(min=TINY)
        losses = {f"cls_{name}": loss for name, loss in zip(self.encoders.modalities, own.unbind(), strict=True)}
        return Output(logits, {**losses, "total": own.sum()})

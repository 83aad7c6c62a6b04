"""MEN: encoders and a classifier, trained on complete data (modality encoder network; Zhao et al., ACL 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable, Targets, Teaching
from .specific import SpecificEncoders


class MEN(Separable, Teaching):
    """The paper's complete-modality baseline, and MMIN's teacher. The classifier is NMER's, on [h_1; ...; h_M]."""

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.classifier = Classifier(HIDDEN * len(dims), classes, config)

    def parts(self) -> list[nn.Module]:
        """Each encoder, and the classifier."""
        return [*self.encoders.children(), self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Cross-entropy alone, in float32."""
        logits = self.classifier(encoded.flatten(1)).float()
        if not self.training:
            return Output(logits, {})
        loss = F.cross_entropy(logits, batch.labels)
        return Output(logits, {"cls": loss, "total": loss})

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """The features of complete data; it has no invariant ones."""
        joint = self.encode(batch.features, batch.lengths).flatten(1)
        return Targets(joint, joint.new_empty(len(joint), 0))

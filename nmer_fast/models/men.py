"""MEN: encoders and a classifier, trained on complete data (modality encoder network; Zhao et al., ACL 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .encoders import HIDDEN, Classifier
from .interface import Batch, Output, Separable, Targets, TeacherSystem
from .specific_encoders import SpecificEncoders


class MEN(Separable, TeacherSystem):
    """The paper's complete-modality baseline and MMIN's teacher; NMER's classifier reads [h_1; ...; h_M]."""

    title = "MEN"

    def __init__(self, dims: Mapping[str, int], classes: int, config: ModelConfig) -> None:
        super().__init__(dims, classes, config)
        self.encoders = SpecificEncoders(dims, config.dropout)
        self.classifier = Classifier(HIDDEN * len(dims), classes, config)

    def clip_groups(self) -> list[nn.Module]:
        """Return each encoder and the classifier."""
        return [*self.encoders.children(), self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode all modalities into [B, M, 128]."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the cross-entropy, in float32."""
        logits = self.classifier(encoded.flatten(1)).float()
        if not self.training:
            return Output(logits, {})
        loss = F.cross_entropy(logits, batch.labels)
        return Output(logits, {"cls": loss, "total": loss})

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """Return the features of complete data as joint targets; there are no invariant targets."""
        joint = self.encode(batch.features, batch.lengths).flatten(1)
        return Targets(joint, joint.new_empty(len(joint), 0))

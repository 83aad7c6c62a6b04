"""The teacher: encoders trained on complete data, whose features are NMER's targets (IF-MMIN, Zuo et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoders import HIDDEN, Classifier, Encoders, EncodersConfig
from .interface import Batch, Output, Targets, TeacherSystem


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = 5) -> Tensor:
    """Return the distance between two samples' first central moments (CMD; Zellinger et al., arXiv 1702.08811, Eq. 5).

    Args:
        x: the first sample, [B, D].
        y: the second sample, [B, D].
        moments: the number of moments.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    total = torch.linalg.vector_norm(mean_x - mean_y)
    for order in range(2, moments + 1):
        moment_x, moment_y = ((x - mean_x) ** order).mean(0), ((y - mean_y) ** order).mean(0)
        total = total + torch.linalg.vector_norm(moment_x - moment_y)
    return total


class Teacher(TeacherSystem):
    """Encoders and a classifier on [h; H], trained on complete data.

    The loss is the cross-entropy plus lambda_cmd times the central moment discrepancy (CMD) between the modalities' H.

    Args:
        dims: the feature dimensions by modality.
        classes: the number of classes.
        config: the settings of the system that is taught; the teacher has the same encoders and classifier widths.
        lambda_cmd: the loss weight of the CMD. The gradient of its norms does not vanish near 0: with a loss weight of
            1 it shrinks H to a standard deviation of 0.03, and NMER, whose decoder reads H' beside a latent with
            standard deviation 1, then learns no class (docs/results.md).

    Attributes:
        gather_batch: the function from this rank's rows of a batch to all ranks' rows, because the moments of a batch
            are not sums over its samples.
    """

    Config = EncodersConfig

    encoders: Encoders

    def __init__(self, dims: Mapping[str, int], classes: int, config: EncodersConfig, lambda_cmd: float) -> None:
        super().__init__(dims, classes, config)
        self.lambda_cmd = lambda_cmd
        self.gather_batch: Callable[[Tensor, Batch], Tensor] = lambda x, batch: x
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.classifier = Classifier(2 * HIDDEN * len(dims), classes, config)

    def clip_groups(self) -> list[nn.Module]:
        """Return the sub-networks whose gradients are clipped separately."""
        return [*self.encoders.clip_groups(), self.classifier]

    def forward(self, batch: Batch) -> Output:
        """Return logits and losses on complete data, in float32 also under autocast."""
        encoded = self.encoders(batch.features, batch.lengths)
        logits, encoded = self.classifier(encoded.flatten(1)).float(), encoded.float()
        invariant = self.gather_batch(encoded[:, :, 1], batch).unbind(1)
        distances = [central_moment_discrepancy(x, y) for x, y in combinations(invariant, 2)]
        losses = {
            "cls": F.cross_entropy(logits, batch.labels),
            "cmd": torch.stack(distances).mean() if distances else logits.new_zeros(()),
        }
        losses["total"] = losses["cls"] + self.lambda_cmd * losses["cmd"]
        return Output(logits, losses)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """Return h and H of complete data, without gradients (call it in eval mode)."""
        encoded = self.encoders(batch.features, batch.lengths)
        return Targets(joint=encoded[:, :, 0].flatten(1), invariant=encoded[:, :, 1].flatten(1))

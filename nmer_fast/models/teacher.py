"""The teacher: encoders trained on complete data, whose features are NMER's targets (IF-MMIN, Zuo et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output, Targets, Teaching


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = 5) -> Tensor:
    """Distance of two batches' distributions by their first moments (Zellinger et al., arXiv 1702.08811, Eq. 5)."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    total = torch.linalg.vector_norm(mean_x - mean_y)
    for order in range(2, moments + 1):
        moment_x, moment_y = ((x - mean_x) ** order).mean(0), ((y - mean_y) ** order).mean(0)
        total = total + torch.linalg.vector_norm(moment_x - moment_y)
    return total


class Teacher(Teaching):
    """Encoders and a classifier on [h; H]; cross-entropy, and moments that agree between modalities' H.

    Args:
        dims: feature dimensions by modality.
        classes: how many.
        config: of the system that it teaches, whose encoders and classifier it has.
        lambda_cmd: weight of the moments' distance. Its norms never let go: at 1 they flatten H to a spread of 0.03,
            and NMER, whose decoder reads H' beside a latent of spread 1, learns no class (docs/results.md).

    Attributes:
        whole_batch: from rows of a batch to all of its rows, where several processes share them: moments are no sums.
    """

    encoders: Encoders

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> None:
        super().__init__(dims, classes, config)
        self.lambda_cmd = lambda_cmd
        self.whole_batch: Callable[[Tensor, Batch], Tensor] = lambda x, batch: x
        self.encoders = Encoders(dims, config.dropout, config.shared)
        self.classifier = Classifier(2 * HIDDEN * len(dims), classes, config)

    def parts(self) -> list[nn.Module]:
        """The sub-networks whose gradients are clipped apart."""
        return [*self.encoders.parts(), self.classifier]

    def forward(self, batch: Batch) -> Output:
        """Logits and losses on complete data; losses are in float32, under autocast too."""
        encoded = self.encoders(batch.features, batch.lengths)
        logits, encoded = self.classifier(encoded.flatten(1)).float(), encoded.float()
        invariant = self.whole_batch(encoded[:, :, 1], batch).unbind(1)
        distances = [central_moment_discrepancy(x, y) for x, y in combinations(invariant, 2)]
        losses = {
            "cls": F.cross_entropy(logits, batch.labels),
            "cmd": torch.stack(distances).mean() if distances else logits.new_zeros(()),
        }
        losses["total"] = losses["cls"] + self.lambda_cmd * losses["cmd"]
        return Output(logits, losses)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """h and H of complete data, which are constants of a sample (call in eval mode)."""
        encoded = self.encoders(batch.features, batch.lengths)
        return Targets(joint=encoded[:, :, 0].flatten(1), invariant=encoded[:, :, 1].flatten(1))

"""What every system reads and returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Targets:
    """What the teacher makes of a sample's complete data.

    Attributes:
        joint: [B, M * 128], specific features, the target of reconstruction (C of Eq. 7).
        invariant: [B, M * 128], invariant features, the target of L_inv.
    """

    joint: Tensor
    invariant: Tensor


@dataclass
class Batch:
    """B samples, padded.

    Attributes:
        features: by modality, [B, T, D]; beyond a sample's length anything.
        lengths: by modality, int64 [B]; 0 where the modality is absent.
        labels: int64 [B].
        sample_ids: int64 [B], ids in the data set.
        targets: the teacher's, in training.
        rng: int64 [2] = (seed, draw), of the latent's noise in training.
        real_lengths: where `lengths` count padding as steps, those that do not.
        whole: samples of the training batch of which these are one process's; None where nobody asked.
    """

    features: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    sample_ids: Tensor
    targets: Targets | None = None
    rng: Tensor | None = None
    real_lengths: dict[str, Tensor] | None = None
    whole: int | None = None


@dataclass
class Output:
    """What a system makes of a batch.

    Attributes:
        logits: [B, classes].
        losses: scalars by name; "total" is what is minimised. Empty in evaluation.
        watched: tensors by name that are logged and never minimised.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    watched: dict[str, Tensor] = field(default_factory=dict)

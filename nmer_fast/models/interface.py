"""What every system reads and returns, and what the trainer and the evaluation ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from ..config import NMERConfig


@dataclass
class Targets:
    """What the teacher makes of a sample's complete data.

    Attributes:
        joint: [B, M * 128], specific features, the target of reconstruction (C of Eq. 7).
        invariant: [B, M * 128], invariant features, the target of L_inv; [B, 0] of a teacher that has none.
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
        whole_lengths: by modality, the lengths of all samples of the training batch of which these are one process's;
            None where these are all. A mean over the samples that have a modality takes their number from here.
        noisy: bool [B, M], the modalities that training has put noise on; None where nothing was noised.
        clean: by modality, [B, T, D], the features before the noise, in training under noise.
    """

    features: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    sample_ids: Tensor
    targets: Targets | None = None
    rng: Tensor | None = None
    real_lengths: dict[str, Tensor] | None = None
    whole_lengths: dict[str, Tensor] | None = None
    noisy: Tensor | None = None
    clean: dict[str, Tensor] | None = None

    @property
    def lengths_of_all(self) -> dict[str, Tensor]:
        """Of the whole batch, where several processes share it."""
        return self.lengths if self.whole_lengths is None else self.whole_lengths

    @property
    def whole(self) -> int:
        """Samples of the whole batch."""
        return len(next(iter(self.lengths_of_all.values())))


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


class System(nn.Module):
    """A model that the trainer trains and the evaluation measures; `forward` is all that it must have.

    It is made as System(dims, classes, config): feature dimensions by modality, in the order of their streams; how
    many classes; sizes and loss weights.

    Attributes:
        complete: it is trained on complete data and meets noise in evaluation alone.
    """

    complete: ClassVar[bool] = False

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__()

    @property
    def leaks(self) -> bool:
        """Whether a prediction depends on the batch that its sample is in."""
        return False

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> Teaching | None:
        """The model, to be trained first, that makes this system's targets; None without targets."""
        return None

    def start_from(self, teacher: Teaching) -> None:
        """Take over what the trained teacher knows; by default its encoders, as in the released codes."""
        self.get_submodule("encoders").load_state_dict(teacher.encoders.state_dict())

    def parts(self) -> list[nn.Module]:
        """The sub-networks whose gradients are clipped apart; together they hold every parameter once."""
        return list(self.children())

    def forward(self, batch: Batch) -> Output:
        """Logits, and losses in training; the batch's features are as noisy as they are to be."""
        raise NotImplementedError


class Separable(System):
    """A system that encodes each modality on its own, so that evaluation encodes it twice for all conditions."""

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Each modality on its own: [B, M, ...]."""
        raise NotImplementedError

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """From what `encode` gave to logits and losses."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Output:
        """Encode, then fuse."""
        return self.fuse(self.encode(batch.features, batch.lengths), batch)


class Teaching(System):
    """A system, trained on complete data, whose features are another's targets.

    Attributes:
        whole_batch: from rows of a batch to all of its rows, where several processes share them; set by the trainer.
    """

    complete = True
    encoders: nn.Module
    whole_batch: Callable[[Tensor, Batch], Tensor]

    def targets(self, batch: Batch) -> Targets:
        """Constants of complete samples (call in eval mode)."""
        raise NotImplementedError

"""The interface of all systems: their input and output, and the methods that trainer and evaluation call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ..config import ModelConfig, model_config
from ..errors import UserError
from ..registry import SYSTEMS


@dataclass
class Targets:
    """The teacher's features of complete data, which are the targets of a system's losses.

    Attributes:
        joint: the specific features, the target of the reconstruction (C of Eq. 7), [B, M * 128].
        invariant: the invariant features, the target of L_inv, [B, M * 128]; [B, 0] if the teacher has none.
    """

    joint: Tensor
    invariant: Tensor


@dataclass
class Batch:
    """A padded batch of B samples; under torchrun it is this rank's share of a global batch.

    Attributes:
        features: the features by modality, [B, T, D]; values beyond a sample's length are undefined.
        lengths: the number of valid steps of each sample by modality, int64 [B]; 0 if the modality is absent.
        labels: the class of each sample, int64 [B].
        sample_ids: the id of each sample in the data set, int64 [B].
        targets: the teacher's targets, in training only.
        rng: the seed and the draw of the latent noise, int64 [2], in training only.
        real_lengths: the lengths without padding by modality, int64 [B], if `lengths` counts padding as valid steps;
            otherwise None.
        all_ranks_lengths: the lengths of all samples of the global batch by modality, int64, if other ranks have a
            share of it; otherwise None. A mean over the samples that have a modality takes their number from here.
        noisy: whether training has added noise to each sample's modality, bool [B, M]; None if no noise was added.
        clean: the features before the noise by modality, [B, T, D], in training under noise only.
    """

    features: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    sample_ids: Tensor
    targets: Targets | None = None
    rng: Tensor | None = None
    real_lengths: dict[str, Tensor] | None = None
    all_ranks_lengths: dict[str, Tensor] | None = None
    noisy: Tensor | None = None
    clean: dict[str, Tensor] | None = None

    @property
    def global_lengths(self) -> dict[str, Tensor]:
        """The lengths of all samples of the global batch by modality, int64."""
        return self.lengths if self.all_ranks_lengths is None else self.all_ranks_lengths

    @property
    def global_size(self) -> int:
        """The number of samples in the global batch."""
        return len(next(iter(self.global_lengths.values())))


@dataclass
class Output:
    """The output of a system for one batch.

    Attributes:
        logits: the logits, [B, classes].
        losses: the losses by name, scalars; training minimises "total". Empty in evaluation.
        logged: the tensors by name that are logged but not minimised, such as the KL of each latent dimension.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    logged: dict[str, Tensor] = field(default_factory=dict)


class System(nn.Module):
    """The base class of all models that can be trained and evaluated; a subclass must implement `forward` only.

    Args:
        dims: the feature dimensions by modality, in the order of the modalities' noise streams.
        classes: the number of classes.
        config: the system's settings, an instance of the class `Config`.

    Attributes:
        Config: the class of the system's settings; a system with additional settings subclasses ModelConfig.
        title: the system's name in tables; by default its registered name.
        trains_on_complete_data: whether the system is trained on complete data, so that only evaluation adds noise.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    title: ClassVar[str] = ""
    trains_on_complete_data: ClassVar[bool] = False

    def __init__(self, dims: Mapping[str, int], classes: int, config: Any) -> None:
        super().__init__()

    @property
    def depends_on_batch(self) -> bool:
        """Whether a sample's prediction depends on the other samples of its batch."""
        return False

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: Any, lambda_cmd: float) -> TeacherSystem | None:
        """Return the teacher, a model that is trained first and computes this system's targets, or None.

        Args:
            dims: the feature dimensions by modality.
            classes: the number of classes.
            config: the system's settings.
            lambda_cmd: the teacher's loss weight of the central moment discrepancy.
        """
        return None

    def start_from_teacher(self, teacher: TeacherSystem) -> None:
        """Initialise this system from its trained teacher; by default copy the encoders, as in the released codes."""
        self.get_submodule("encoders").load_state_dict(teacher.encoders.state_dict())

    def clip_groups(self) -> list[nn.Module]:
        """Return the sub-networks whose gradients are clipped separately; every parameter is in exactly one of them."""
        return list(self.children())

    def forward(self, batch: Batch) -> Output:
        """Return logits, and losses in training. The features of the batch already have their noise."""
        raise NotImplementedError


class Separable(System):
    """A system that encodes each modality independently of the others.

    Evaluation encodes each modality twice, clean and noisy, and reuses the results in all conditions.
    """

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode each modality independently: [B, M, ...]."""
        raise NotImplementedError

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits and losses, given the output of `encode`."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Output:
        """Encode the modalities, then fuse them."""
        return self.fuse(self.encode(batch.features, batch.lengths), batch)


class TeacherSystem(System):
    """A teacher: a system that is trained on complete data and whose features are the targets of another system.

    Attributes:
        encoders: the encoders, which the other system copies.
        gather_batch: the function from this rank's rows of a batch to all ranks' rows; the trainer sets it.
    """

    trains_on_complete_data = True
    encoders: nn.Module
    gather_batch: Callable[[Tensor, Batch], Tensor]

    def targets(self, batch: Batch) -> Targets:
        """Return the targets of a batch of complete samples, without gradients (call it in eval mode)."""
        raise NotImplementedError


def system_class(name: str) -> type[System]:
    """Return the class of a system.

    Args:
        name: the system's name, or package.module:Class.

    Raises:
        UserError: no system has that name, or the object is not a subclass of System.
    """
    found = SYSTEMS.load(name)
    if not (isinstance(found, type) and issubclass(found, System)):
        raise UserError(f"model.system: expected a subclass of nmer_fast.models.System, got {name}")
    return found


def make_system(dims: Mapping[str, int], classes: int, config: ModelConfig) -> System:
    """Construct the system that a config names.

    Raises:
        UserError: no system has that name, or it does not support these modalities.
    """
    return system_class(config.system)(dims, classes, model_config(config))

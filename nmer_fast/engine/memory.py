"""Rough estimates of a run's memory, checked before it starts; and the release of freed memory to the system."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from .. import ops
from ..config import Config, ModelConfig
from ..data import FeatureSet
from ..data.featureset import padded_steps
from ..data.memory_limits import COPIES, free_memory
from ..data.synthetic import DIMS
from ..errors import UserError
from ..models import Batch, Targets, make_system
from ..models.encoders import HIDDEN

FLOAT = 4  # bytes of a float32
REFERENCE = 8  # the workspace of an op's reference implementation in PyTorch, as a multiple of the size of its inputs


def check_synthetic(size: int) -> None:
    """Refuse synthetic data of `size` utterances, of about five steps each, if they do not fit into memory."""
    check(f"synthetic data of {size} utterances", COPIES * size * 5 * sum(DIMS.values()) * FLOAT, torch.device("cpu"))


def check_context(data: FeatureSet, k: int) -> None:
    """Refuse a context of k preceding samples if the data do not fit into memory.

    A sample is copied into each sample whose context it is in: at most k + 1 copies, and at most the size of its group.
    """
    if k == 0 or len(data) == 0:
        return
    sizes = torch.bincount(data.groups.clamp(min=0))
    share = float((sizes * sizes.clamp(max=k + 1)).sum() / sizes.sum())
    values = sum(ragged.values.numel() for ragged in data.modalities.values())
    check(f"{data.name} with a context of {k}", int(2 * share * values * FLOAT), torch.device("cpu"))


def check_training(data: FeatureSet, config: Config, device: torch.device) -> None:
    """Refuse a training run whose step on the largest batch, with the optimizer's two moments, does not fit."""
    rows, size = torch.cat(list(data.splits.values())), config.training.batch_size
    longest = {name: padded_steps(ragged.lengths[rows]) for name, ragged in data.modalities.items()}
    wanted = step_bytes(data.dims, len(data.class_names), config.model, longest, min(size, len(rows)), device)
    check(f"training with batches of {size} and sequences of up to {max(longest.values())} steps", wanted, device)


def step_bytes(
    dims: Mapping[str, int],
    classes: int,
    config: ModelConfig,
    steps: Mapping[str, int],
    size: int,
    device: torch.device,
) -> int:
    """Estimate the peak memory in bytes of a training step, with the weights and the optimizer's two moments.

    The step runs on fake tensors, which have shapes but no values.

    Args:
        dims: the feature dimensions by modality.
        classes: the number of classes.
        config: the system's settings.
        steps: the padded length of the batch by modality.
        size: the number of samples in the batch.
        device: the device of the training.
    """
    with FakeTensorMode(), _Peak(device) as peak:
        model = make_system(dims, classes, config)
        features, clean = ({name: torch.empty(size, steps[name], dim) for name, dim in dims.items()} for _ in "ab")
        ids = torch.empty(size, dtype=torch.int64)
        lengths = dict.fromkeys(dims, ids)
        targets, noisy = torch.empty(size, HIDDEN * len(dims)), torch.empty(size, len(dims), dtype=torch.bool)
        batch = Batch(
            features, lengths, ids, ids, Targets(targets, targets), torch.empty(2, dtype=torch.int64),
            noisy=noisy, clean=clean,
        )  # fmt: skip
        model(batch).losses["total"].backward()
    return peak.most + 2 * sum(p.nbytes for p in model.parameters())


class _Peak(TorchDispatchMode):
    """The peak of the bytes of all live tensors, `most`, while the mode is active.

    The workspace of this library's ops is invisible here and is estimated: as large as the op's inputs for the compiled
    kernels (packed steps, gradients of the gates), and `REFERENCE` times that for the reference implementation (the
    products of all taps of a convolution).
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.live, self.most, self.known = 0, 0, set[int]()
        self.inside = 1 if ops.compiled and device.type == "cpu" else REFERENCE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out).values():
            if id(storage) not in self.known:
                self.known.add(id(storage))
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        own = func.namespace == "nmer_fast"
        inside = self.inside * sum(s.nbytes() for s in _storages(args).values()) if own else 0
        self.most = max(self.most, self.live + inside)
        return out

    def _freed(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.live -= size


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """Return the storages of all tensors in a nested structure, each once, by id."""
    storages = (t.untyped_storage() for t in tree_iter(tree) if isinstance(t, Tensor))
    return {id(storage): storage for storage in storages}


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; for the CPU, the container's limit is respected."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def check(what: str, wanted: int, device: torch.device) -> None:
    """Raise a UserError if `wanted` bytes are not free on the device; the message calls them `what`."""
    free = free_bytes(device)
    if wanted > free:
        raise UserError(f"memory: {what} would take about {wanted / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")


def release_freed_memory() -> None:
    """Return freed memory to the system; glibc keeps fragments, so the resident set of a long run would only grow."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)

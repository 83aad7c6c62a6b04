"""Whether a run will fit into memory, said before it begins. Estimates are rough and rather high."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .. import ops
from ..data import FeatureSet
from ..data.limits import COPIES, free_memory
from ..data.synthetic import DIMS
from ..errors import UserError
from ..models.encoders import HIDDEN, TEXT, TextCNN

FLOAT = 4  # bytes


def check_synthetic(size: int) -> None:
    """The synthetic data of so many utterances, of about five steps each."""
    check(f"synthetic data of {size} utterances", COPIES * size * 5 * sum(DIMS.values()) * FLOAT, torch.device("cpu"))


def check_context(data: FeatureSet, k: int) -> None:
    """Samples joined with up to k before them: as many copies of each sample as its group has, at most."""
    if k == 0 or len(data) == 0:
        return
    sizes = torch.bincount(data.groups.clamp(min=0))
    share = float((sizes * sizes.clamp(max=k + 1)).sum() / sizes.sum())
    values = sum(ragged.values.numel() for ragged in data.modalities.values())
    check(f"{data.name} with a context of {k}", int(2 * share * values * FLOAT), torch.device("cpu"))


def check_training(data: FeatureSet, model: nn.Module, batch_size: int, device: torch.device) -> None:
    """Weights, gradients, the optimizer's two moments and one batch's activations."""
    parameters = sum(p.numel() for p in model.parameters())
    rows = torch.cat(list(data.splits.values()))
    longest = {name: int(ragged.lengths[rows].max()) for name, ragged in data.modalities.items()}
    batch = batch_bytes(data.dims, longest, min(batch_size, len(rows)))
    wanted = 4 * FLOAT * parameters + batch
    check(f"training with batches of {batch_size} and sequences of up to {max(longest.values())} steps", wanted, device)


def batch_bytes(dims: Mapping[str, int], steps: Mapping[str, int], size: int) -> int:
    """Of a training step's activations, at their peak.

    Kept for backward: features, clean and noisy, and of an LSTM two encoders' gates, hidden states and cells. On top of
    them the temporaries of one modality: its packed input, beside the gates' gradients of both where it is an LSTM's;
    without the C++ kernels the products of all taps, or its noise in float64.
    """
    kept, temporary, taps = 0, 0, sum(TextCNN.KERNELS)
    for name, dim in dims.items():
        states, extra = (0, 0) if name in TEXT else (12 * HIDDEN, 8 * HIDDEN)
        if not ops.compiled:
            extra = max(extra + 4 * taps * HIDDEN, 8 * dim)
        rows = size * steps[name]
        kept += rows * (2 * dim + states)
        temporary = max(temporary, rows * (dim + extra))
    return (kept + temporary) * FLOAT


def free_bytes(device: torch.device) -> int:
    """On the device; of the CPU's no more than the container's limit leaves."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def check(what: str, wanted: int, device: torch.device) -> None:
    """Raise where it would not fit."""
    free = free_bytes(device)
    if wanted > free:
        raise UserError(f"memory: {what} would take about {wanted / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")

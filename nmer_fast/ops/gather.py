"""ops.gather_padded makes a padded batch from samples of one flat array, in one pass at memory bandwidth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..contract import real
from . import reference
from ._args import check_same, describe, whole_number
from ._library import define
from ._public import public

_gather_padded = define(
    "gather_padded(Tensor values, Tensor offsets, Tensor rows, SymInt steps, Tensor? mean, Tensor? std, "
    "float clip) -> Tensor",
    reference.gather_padded,
    lambda values, offsets, rows, steps, mean, std, clip: values.new_empty(rows.shape[0], steps, values.shape[1]),
)


@public()
def gather_padded(
    values: Tensor,
    offsets: Tensor,
    rows: Tensor,
    steps: int,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    clip: float = math.inf,
) -> Tensor:
    """Gather sequences that lie end to end in one array into a padded batch; standardise them on the way.

    Args:
        values: the steps of all sequences, [sum of lengths, D], any dtype. Sequence i is
            values[offsets[i] : offsets[i + 1]].
        offsets: the sequences' boundaries, int64 [N + 1].
        rows: the indices of the sequences to gather, int64 [B], 0 to N - 1.
        steps: the batch's number of steps T; a longer sequence gives its first T.
        mean: float32 [D]; given together with std and float32 values, which become (values - mean) / std.
        std: float32 [D].
        clip: the largest magnitude of a standardised value, in standard deviations.

    Returns:
        The batch [B, T, D], 0 beyond each length, with the same bits as if all values had been standardised first. It
        is not differentiable.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
        RuntimeError: a row or an offset is out of range (on the CPU).
    """
    if not isinstance(values, Tensor) or values.dim() != 2:
        raise ValueError(f"values: expected a tensor [sum of lengths, D], got {describe(values)}")
    if values.requires_grad:
        raise ValueError("values: expected no gradient: they are data, got a tensor that has one")
    for name, t in (("offsets", offsets), ("rows", rows)):
        if not isinstance(t, Tensor) or t.dtype != torch.int64 or t.dim() != 1 or t.device != values.device:
            raise ValueError(f"{name}: expected int64 of one dim on {values.device}, got {describe(t)}")
    if len(offsets) == 0:
        raise ValueError("offsets: expected one more than there are sequences, got none")
    steps = whole_number("steps", steps)
    if (mean is None) != (std is None):
        raise ValueError("mean, std: expected both or neither, got one")
    if mean is not None and std is not None:
        if values.dtype != torch.float32:
            raise ValueError(f"values: expected float32 beside mean and std, got {describe(values)}")
        for name, t in (("mean", mean), ("std", std)):
            check_same(name, t, "a column of values", values.new_empty(values.shape[1]))
    if torch.compiler.is_compiling() and not isinstance(clip, (int, float, str)):  # NumPy's numbers are tensors here
        gathered, limit = _gather_padded(values, offsets, rows, steps, mean, std, math.inf), torch.as_tensor(clip)
        return gathered if mean is None else gathered.clamp(-limit, limit)
    return _gather_padded(values, offsets, rows, steps, mean, std, real("clip", clip))

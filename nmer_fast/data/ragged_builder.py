"""Sequences of one modality, collected while a source is read and then joined into one `Ragged`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import UserError
from .featureset import Ragged
from .memory_limits import check_memory


class RaggedBuilder:
    """Collects the sequences of one modality.

    Attributes:
        what: the modality's name in messages.
        dim: the number of features D of a step; 0 before the first sequence is added.
    """

    def __init__(self, what: str) -> None:
        self.what, self.dim = what, 0
        self._values: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._bytes = 0

    def add(self, values: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None) -> None:
        """Append sequences.

        Args:
            values: the steps of the sequences, end to end, float [sum of lengths, D].
            lengths: the number of steps of each sequence; None: values are one sequence.

        Raises:
            UserError: one line, if values are no floats, D differs from earlier calls, or memory would not suffice.
        """
        if values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] == 0:
            raise UserError(
                f"{self.what}: expected floats of shape [steps, D], got {values.dtype} {list(values.shape)}"
            )
        self.dim = self.dim or values.shape[1]
        if values.shape[1] != self.dim:
            raise UserError(
                f"{self.what}: expected {self.dim} dimensions everywhere, got {self.dim} and {values.shape[1]}"
            )
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinity, which FeatureSet refuses
            self._values.append(values.astype(np.float32, copy=False))
        self._lengths.append(np.array([len(values)] if lengths is None else lengths, dtype=np.int64))
        self._bytes += self._values[-1].nbytes
        check_memory(f"{self.what}: what is read of it", 2 * self._bytes)

    def ragged(self) -> Ragged:
        """All sequences as one Ragged. The parts are freed, so this is called once, at the end."""
        values = np.concatenate(self._values) if self._values else np.zeros((0, 1), np.float32)
        self._values.clear()
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        return Ragged.from_lengths(torch.from_numpy(values), torch.from_numpy(lengths))

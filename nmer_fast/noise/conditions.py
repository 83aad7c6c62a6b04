"""Conditions: the paper's incomplete conditions, which say what modalities are clean, for any set of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .. import ops
from ..contract import CONDITION_STREAM

MAX_MODALITIES = 10  # ten modalities have 2^10 conditions


class Conditions:
    """The conditions of a set of modalities, each named by its clean modalities.

    The modalities a, v and l have the paper's six conditions "a", "v", "l", "av", "al" and "vl" (Table 3), then "none"
    (its new condition, section 3.2) and "all". Modality names of more than one letter are joined by "+".

    Args:
        modalities: the modalities' names, 1 to 10 different ones without "+", none of them "none" or "all".

    Attributes:
        modalities: the modalities' names, in order.
        names: the conditions' names; the incomplete conditions come first.
        incomplete: the number of incomplete conditions, 2^M - 2; a single modality has one, "none".
        table: `noisy` as Python bools, for each condition a tuple of M.

    Raises:
        ValueError: one line that says which names were expected and what was given.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: expected one or more different names, got {list(self.modalities)}")
        if len(self.modalities) > MAX_MODALITIES:
            raise ValueError(f"modalities: expected at most {MAX_MODALITIES}, got {len(self.modalities)}")
        for name in self.modalities:
            if not isinstance(name, str) or not name or "+" in name or name in ("none", "all"):
                raise ValueError(f"modalities: expected names without '+' and other than none and all, got {name!r}")
        m = len(self.modalities)
        subsets = [subset for size in range(1, m) for subset in combinations(range(m), size)]
        glue = "" if all(len(name) == 1 for name in self.modalities) else "+"
        self.names = [glue.join(self.modalities[i] for i in subset) for subset in subsets] + ["none", "all"]
        self.incomplete = max(len(subsets), 1)
        self.table = tuple(tuple(i not in clean for i in range(m)) for clean in [*subsets, (), tuple(range(m))])

    @property
    def noisy(self) -> Tensor:
        """True where a modality is noisy, bool [conditions, M], on the CPU."""
        return torch.tensor(self.table, dtype=torch.bool, device="cpu")

    def index(self, name: str) -> int:
        """The index of a condition in `names`; ValueError if there is no such condition."""
        if name not in self.names:
            raise ValueError(f"condition: expected one of {', '.join(self.names)}, got {name!r}")
        return self.names.index(name)

    def draw(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """Draw an incomplete condition for each sample, uniformly, from the noise contract's generator.

        Args:
            rng: (seed, draw), int64 [2].
            sample_ids: the samples' ids in the data set, integers [B].

        Returns:
            Indices into `names`, int64 [B].
        """
        counter = ops.noise_counter(sample_ids, torch.zeros_like(sample_ids), draw=rng[1], stream=CONDITION_STREAM)
        return (ops.philox(rng, counter)[:, 0] * self.incomplete) >> 32

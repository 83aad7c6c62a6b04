"""Which modalities are clean: the paper's incomplete conditions, for any set of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .. import ops
from ..contract import CONDITION_STREAM

MAX_MODALITIES = 10  # which have 2^10 conditions


class Conditions:
    """Conditions of a set of modalities, named by the clean ones.

    For a, v, l: the paper's six "a", "v", "l", "av", "al", "vl" (Table 3), then "none" (its new condition, section
    3.2) and "all". Names of more than one letter are joined by "+".

    Attributes:
        modalities: the modalities' names, in order.
        names: all conditions' names; the incomplete ones first.
        incomplete: how many are incomplete, 2^M - 2; a single modality has one, "none".
        noisy: bool [conditions, M], True where a modality is noisy.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: expected one or more different names, got {list(self.modalities)}")
        if len(self.modalities) > MAX_MODALITIES:
            raise ValueError(f"modalities: expected at most {MAX_MODALITIES}, got {len(self.modalities)}")
        for name in self.modalities:
            if not name or "+" in name or name in ("none", "all"):
                raise ValueError(f"modalities: expected names without '+' and other than none and all, got {name!r}")
        m = len(self.modalities)
        subsets = [subset for size in range(1, m) for subset in combinations(range(m), size)]
        glue = "" if all(len(name) == 1 for name in self.modalities) else "+"
        self.names = [glue.join(self.modalities[i] for i in subset) for subset in subsets] + ["none", "all"]
        self.incomplete = max(len(subsets), 1)
        clean = torch.zeros(len(self.names), m, dtype=torch.bool)
        for row, subset in enumerate([*subsets, (), tuple(range(m))]):
            clean[row, list(subset)] = True
        self.noisy = ~clean

    def index(self, name: str) -> int:
        """A condition's place in `names`."""
        if name not in self.names:
            raise ValueError(f"condition: expected one of {', '.join(self.names)}, got {name!r}")
        return self.names.index(name)

    def draw(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """An incomplete condition for each sample, uniform, from the contract's generator.

        Args:
            rng: int64 [2] = (seed, draw).
            sample_ids: integers [B].

        Returns:
            int64 [B], indices into `names`.
        """
        counter = ops.noise_counter(sample_ids, torch.zeros_like(sample_ids), draw=rng[1], stream=CONDITION_STREAM)
        return (ops.philox(rng, counter)[:, 0] * self.incomplete) >> 32

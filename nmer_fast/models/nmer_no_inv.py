"""NMER without L_inv (paper, section 3.4, "w/o L_inv"): the invariant features are not trained towards a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .nmer import NMER, NMERConfig


class NMERNoInv(NMER):
    """NMER with lambda_inv = 0, whatever the config says; the loss `inv` is still computed and logged."""

    title = "NMER w/o L_inv"

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, replace(config, lambda_inv=0.0))

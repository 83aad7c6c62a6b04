"""NMER without L_inv (paper, section 3.4, "w/o L_inv"): the invariant features have no target of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config import NMERConfig
from .nmer import NMER


class NMERNoInv(NMER):
    """NMER whose lambda_inv is 0, whatever the config says; `inv` is still computed, to be watched."""

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, replace(config, lambda_inv=0.0))

"""NMER with its VAE made a plain autoencoder: no sampling and no L_KL; not in the paper."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..config import NMERConfig
from .interface import Batch
from .nmer import NMER


class NMERNoSampling(NMER):
    """Transformer, one linear layer to z, and decoder map [h'; H'] to the joint representation.

    The losses are lambda_gen L_MSE + lambda_inv L_inv + lambda_cls L_cls. It has NMER's layers but that of the
    log-variance, so it tells apart what the reconstruction does and what the latent's distribution does.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        del self.to_logvar

    def _latent(self, state: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """z alone."""
        return self.to_mu(state), {}, {}

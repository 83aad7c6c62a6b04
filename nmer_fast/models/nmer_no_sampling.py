"""NMER with a plain autoencoder instead of the VAE: no sampling and no L_KL; it is not in the paper."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .interface import Batch
from .nmer import NMER, NMERConfig


class NMERNoSampling(NMER):
    """An ablation in which Transformer, a linear layer to z, and decoder map [h'; H'] to the joint representation.

    The loss is lambda_gen L_MSE + lambda_inv L_inv + lambda_cls L_cls. It has all of NMER's layers except the one for
    the log-variance, so it separates the effect of the reconstruction from the effect of the latent distribution.
    """

    title = "NMER w/o sampling"

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        del self.to_logvar

    def _latent(self, state: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return z, without a loss and without logged tensors."""
        return self.to_mu(state), {}, {}

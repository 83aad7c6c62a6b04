"""NMER: a VAE that makes the joint representation of complete data out of noisy modalities (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output

LATENT_STREAM = 240  # of the noise contract


@dataclass(frozen=True)
class NMERConfig:
    """NMER's sizes and loss weights; the defaults are the paper's (section 3.3).

    Attributes:
        latent: dimensions of z; 64 in the released code, the paper gives none.
        layers: of the VAE's Transformer encoder.
        feedforward: its feed-forward width; 128 in the released code, the paper gives none.
        dropout: everywhere.
        lambda_gen: weight of L_KL + L_MSE.
        lambda_inv: weight of L_inv.
        lambda_cls: weight of the cross-entropy.
    """

    latent: int = 64
    layers: int = 5
    feedforward: int = 128
    dropout: float = 0.5
    lambda_gen: float = 1.0
    lambda_inv: float = 10.0
    lambda_cls: float = 1.0


class OneTokenLayer(nn.Module):
    """A post-norm Transformer layer on a sequence of one token.

    Attention over one token is its value path, whatever the query, the key and the number of heads, so those are not
    computed. Dropout on the single attention weight is left out.
    """

    def __init__(self, width: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        x = self.norm1(x + self.dropout(self.out(self.value(x))))
        return self.norm2(x + self.dropout(self.feedforward(x)))


class NMER(nn.Module):
    """Encoders, VAE and classifier.

    Args:
        dims: feature dimensions by modality, in the order of their streams.
        classes: how many.
        config: sizes and loss weights.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NMERConfig()
        joint, dropout = HIDDEN * len(dims), config.dropout  # 384 for three modalities
        self.encoders = Encoders(dims, dropout)
        self.vae_encoder = nn.Sequential(
            *(OneTokenLayer(2 * joint, config.feedforward, dropout) for _ in range(config.layers))
        )
        self.to_mu, self.to_logvar = nn.Linear(2 * joint, config.latent), nn.Linear(2 * joint, config.latent)
        self.decoder = nn.Sequential(
            *(nn.Linear(config.latent + joint, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, joint))
        )
        self.classifier = Classifier(joint, classes, dropout)

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Each modality on its own: [B, M, 2, 128], which evaluation reuses in all conditions."""
        return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """From the modalities' features to logits and losses. In evaluation z is mu, so a prediction has no chance."""
        specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
        state = self.vae_encoder(torch.cat([specific, invariant], dim=1))
        mu, logvar = self.to_mu(state), self.to_logvar(state)
        if not self.training:
            joint = self.decoder(torch.cat([mu, invariant], dim=1))
            return Output(self.classifier(joint), {})
        assert batch.targets is not None
        assert batch.rng is not None
        z, kl = ops.reparameterize_kl(mu, logvar, seed=batch.rng, stream=LATENT_STREAM, sample_ids=batch.sample_ids)
        joint = self.decoder(torch.cat([z, invariant], dim=1))
        logits = self.classifier(joint)
        losses = {
            "kl": kl.mean(),
            "mse": F.mse_loss(joint, batch.targets.joint),
            "inv": F.mse_loss(invariant, batch.targets.invariant),
            "cls": F.cross_entropy(logits, batch.labels),
        }
        weights = self.config
        losses["total"] = (
            weights.lambda_gen * (losses["kl"] + losses["mse"])
            + weights.lambda_inv * losses["inv"]
            + weights.lambda_cls * losses["cls"]
        )
        return Output(logits, losses)

    def forward(self, batch: Batch) -> Output:
        """A batch whose features are already noisy."""
        return self.fuse(self.encode(batch.features, batch.lengths), batch)

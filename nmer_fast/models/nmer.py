"""NMER: a VAE that makes the joint representation of complete data out of noisy modalities (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..config import NMERConfig
from ..contract import LATENT_STREAM
from ..errors import UserError
from ..profiling import span
from .dropout import Dropout
from .encoders import HIDDEN, Classifier, Encoders
from .interface import Batch, Output, Separable, Teaching
from .teacher import Teacher


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
            nn.Linear(width, feedforward), nn.ReLU(), Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        x = self.norm1(x + self.dropout(self.out(self.value(x))))
        return self.norm2(x + self.dropout(self.feedforward(x)))


class NMER(Separable):
    """Encoders, VAE and classifier.

    Args:
        dims: feature dimensions by modality, in the order of their streams.
        classes: how many.
        config: sizes and loss weights.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig | None = None) -> None:
        config = config or NMERConfig()
        super().__init__(dims, classes, config)
        self.config = config
        joint, dropout = HIDDEN * len(dims), config.transformer_dropout  # joint is 384 for three modalities
        self.encoders = Encoders(dims, config.dropout, config.shared)
        width = HIDDEN if config.tokens == "modality" else 2 * joint

        def layer() -> nn.Module:
            if config.tokens == "one":
                return OneTokenLayer(width, config.feedforward, dropout)
            return nn.TransformerEncoderLayer(width, config.heads, config.feedforward, dropout, batch_first=True)

        if width % config.heads:
            raise UserError(f"model.heads: expected a divisor of the token's {width} dimensions, got {config.heads}")
        self.vae_encoder = nn.Sequential(*(layer() for _ in range(config.layers)))
        self.to_mu, self.to_logvar = nn.Linear(2 * joint, config.latent), nn.Linear(2 * joint, config.latent)
        self.decoder = nn.Sequential(
            *(nn.Linear(config.latent + joint, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, joint))
        )
        self.classifier = Classifier(joint, classes, config)

    @classmethod
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> Teaching:
        """Encoders of complete data."""
        return Teacher(dims, classes, config, lambda_cmd)

    @property
    def leaks(self) -> bool:
        """Attention over the batch leaks."""
        return self.config.tokens == "batch"

    def parts(self) -> list[nn.Module]:
        """The sub-networks whose gradients are clipped apart."""
        vae = nn.ModuleList(part for name, part in self.named_children() if name not in ("encoders", "classifier"))
        return [*self.encoders.parts(), vae, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Each modality on its own: [B, M, 2, 128], which evaluation reuses in all conditions."""
        with span("encoders"):
            return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """From the modalities' features to logits and losses. In evaluation z is mu, so a prediction has no chance.

        Losses are in float32, under autocast too.
        """
        specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
        with span("vae", len(encoded)):
            z, divergence, watched = self._latent(self.attend(torch.cat([specific, invariant], dim=1)), batch)
            joint = self.decoder(torch.cat([z, invariant], dim=1))
        logits = self.classifier(joint)
        if not self.training:
            return Output(logits, {})
        assert batch.targets is not None
        with span("loss", len(encoded)):
            logits, weights = logits.float(), self.config
            losses = {
                **divergence,
                "mse": F.mse_loss(joint.float(), batch.targets.joint),
                "inv": F.mse_loss(invariant.float(), batch.targets.invariant),
                "cls": F.cross_entropy(logits, batch.labels),
            }
            losses["total"] = (
                weights.lambda_gen * (weights.lambda_kl * losses["kl"] + losses["mse"] if divergence else losses["mse"])
                + weights.lambda_inv * losses["inv"]
                + weights.lambda_cls * losses["cls"]
            )
        return Output(logits, losses, watched)

    def _latent(self, state: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """z; in training also its loss, and what is watched of it."""
        mu = self.to_mu(state)
        if not self.training:
            return mu, {}, {}
        assert batch.rng is not None
        logvar = self.to_logvar(state)
        z, kl = ops.reparameterize_kl(mu, logvar, seed=batch.rng, stream=LATENT_STREAM, sample_ids=batch.sample_ids)
        divergence = {"kl": kl.mean()}
        if self.config.kl == "sum":  # of the whole batch
            divergence["kl"] = divergence["kl"] * batch.whole
        return z, divergence, {"kl_per_latent": kl_per_latent(mu.detach(), logvar.detach())}

    def attend(self, joint: Tensor) -> Tensor:
        """[h'; H'] -> the same shape, through the Transformer."""
        if self.config.tokens == "modality":
            return self.vae_encoder(joint.unflatten(1, (-1, HIDDEN))).flatten(1)
        if self.config.tokens == "batch":
            return self.vae_encoder(joint[None])[0]
        return self.vae_encoder(joint)


def kl_per_latent(mu: Tensor, logvar: Tensor) -> Tensor:
    """[latent], mean over the batch: a dimension at 0 has collapsed onto the prior."""
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean(0)

"""NMER: a VAE that reconstructs the joint representation of complete data from noisy modalities (section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from .. import ops
from ..config import CHECKED, Count, Fraction, Weight
from ..contract import LATENT_STREAM
from ..errors import UserError
from ..profiling import span
from .dropout import Dropout
from .encoders import HIDDEN, Classifier, Encoders, EncodersConfig
from .interface import Batch, Output, Separable, TeacherSystem
from .teacher import Teacher


@dataclass(frozen=True, config=CHECKED)
class NMERConfig(EncodersConfig):
    """The sizes and loss weights of NMER and its ablations; the defaults are the paper's (section 3.3).

    Attributes:
        latent: the number of dimensions of z; the released code has 64, the paper does not say.
        layers: the number of layers of the VAE's Transformer encoder.
        heads: the number of attention heads of the Transformer encoder; it has no effect with tokens=one.
        feedforward: the feed-forward width of the Transformer encoder; the released code has 128, the paper does not
            say.
        tokens: the tokens of the Transformer's attention: "one", one token for each sample; "modality", two tokens of
            128 for each modality of a sample (h' and H'; six tokens for three modalities); "batch", the samples of the
            batch, as in the released code, so that predictions depend on the other samples of the batch.
        transformer_dropout: the dropout rate of the Transformer encoder.
        kl: the reduction of L_KL over the batch: "mean" or "sum"; over the latent dimensions it is always summed.
        lambda_gen: the loss weight of lambda_kl L_KL + L_MSE.
        lambda_kl: the loss weight of L_KL relative to L_MSE, which is a mean over the joint representation's
            dimensions.
        lambda_inv: the loss weight of L_inv.
        lambda_cls: the loss weight of the cross-entropy.
    """

    latent: Count = 64
    layers: Count = 5
    heads: Count = 16
    feedforward: Count = 128
    tokens: Literal["one", "modality", "batch"] = "one"
    transformer_dropout: Fraction = 0.5
    kl: Literal["mean", "sum"] = "mean"
    lambda_gen: Weight = 1.0
    lambda_kl: Weight = 1.0
    lambda_inv: Weight = 10.0
    lambda_cls: Weight = 1.0


class OneTokenLayer(nn.Module):
    """A post-norm Transformer layer for a sequence of one token.

    Attention over one token returns its value projection, independent of query, key and number of heads, so query and
    key are not computed. Dropout of the single attention weight is omitted.
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
        """Apply the layer to each sample's token: [B, width] -> [B, width]."""
        x = self.norm1(x + self.dropout(self.out(self.value(x))))
        return self.norm2(x + self.dropout(self.feedforward(x)))


class NMER(Separable):
    """The paper's system: encoders, VAE and classifier.

    Args:
        dims: the feature dimensions by modality, in the order of the modalities' noise streams.
        classes: the number of classes.
        config: the sizes and loss weights; by default the paper's.
    """

    Config = NMERConfig
    title = "NMER"

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
    def teacher(cls, dims: Mapping[str, int], classes: int, config: NMERConfig, lambda_cmd: float) -> TeacherSystem:
        """Return the teacher, whose encoders are trained on complete data."""
        return Teacher(dims, classes, config, lambda_cmd)

    @property
    def depends_on_batch(self) -> bool:
        """Whether attention goes over the batch, so that a prediction depends on the other samples of the batch."""
        return self.config.tokens == "batch"

    def clip_groups(self) -> list[nn.Module]:
        """Return the sub-networks whose gradients are clipped separately."""
        vae = nn.ModuleList(part for name, part in self.named_children() if name not in ("encoders", "classifier"))
        return [*self.encoders.clip_groups(), vae, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Encode each modality independently into [B, M, 2, 128]; evaluation reuses the result in all conditions."""
        with span("encoders"):
            return self.encoders(features, lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the losses, in float32 also under autocast.

        In evaluation z is mu, so predictions are deterministic.
        """
        specific, invariant = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
        with span("vae", len(encoded)):
            z, divergence, logged = self._latent(self.attend(torch.cat([specific, invariant], dim=1)), batch)
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
        return Output(logits, losses, logged)

    def _latent(self, state: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return z, and in training also L_KL by name and the KL of each latent dimension, which is logged."""
        mu = self.to_mu(state)
        if not self.training:
            return mu, {}, {}
        assert batch.rng is not None
        logvar = self.to_logvar(state)
        z, kl = ops.reparameterize_kl(mu, logvar, seed=batch.rng, stream=LATENT_STREAM, sample_ids=batch.sample_ids)
        divergence = {"kl": kl.mean()}
        if self.config.kl == "sum":  # the sum over the global batch
            divergence["kl"] = divergence["kl"] * batch.global_size
        return z, divergence, {"kl_per_latent": kl_per_latent(mu.detach(), logvar.detach())}

    def attend(self, joint: Tensor) -> Tensor:
        """Apply the VAE's Transformer encoder to [h'; H']; the shape [B, M * 256] stays the same."""
        if self.config.tokens == "modality":
            return self.vae_encoder(joint.unflatten(1, (-1, HIDDEN))).flatten(1)
        if self.config.tokens == "batch":
            return self.vae_encoder(joint[None])[0]
        return self.vae_encoder(joint)


def kl_per_latent(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the KL of each latent dimension, averaged over the batch, [latent]; 0 means collapse onto the prior."""
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean(0)

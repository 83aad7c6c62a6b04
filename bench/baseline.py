"""NMER as its authors' released code formulates it, in torch's stock layers: what the engine is timed against.

A Python loop over samples adds the noise; the teacher's features are recomputed in every step; batches are padded
without masks, so padding is noised and read; each condition is an evaluation pass of its own; each encoder reads its
input alone. Sizes, losses and their weights are NMERConfig's, with the batch as the Transformer's sequence
(`tokens="batch"`), so it has the same parameters as that NMER and, where nothing is padded, the same losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from library import HIDDEN, TEXT_MODALITIES, Classifier, NMERConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from nmer_fast.data import FeatureSet
from nmer_fast.noise import Conditions

Features = dict[str, Tensor]


class LSTMEncoder(nn.Module):
    """nn.LSTM and the max over time, padding included: [B, T, D] -> [B, 128]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a padded batch."""
        return self.lstm(x)[0].max(dim=1).values


class TextCNN(nn.Module):
    """Three nn.Conv1d, each with ReLU and max over time; dropout, linear, ReLU: [B, T, D] -> [B, 128]."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, HIDDEN, kernel) for kernel in (3, 4, 5))
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(3 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a padded batch."""
        x = x.transpose(1, 2)
        pooled = [convolution(x).relu().max(dim=2).values for convolution in self.convolutions]
        return self.linear(self.dropout(torch.cat(pooled, dim=1))).relu()


class Encoders(nn.Module):
    """A specific and an invariant encoder of each modality, and the network behind the invariant ones."""

    def __init__(self, dims: Mapping[str, int], config: NMERConfig) -> None:
        super().__init__()

        def encoder(name: str, dim: int) -> nn.Module:
            return TextCNN(dim, config.dropout) if name in TEXT_MODALITIES else LSTMEncoder(dim)

        self.specific = nn.ModuleDict({name: encoder(name, dim) for name, dim in dims.items()})
        self.invariant = nn.ModuleDict({name: encoder(name, dim) for name, dim in dims.items()})
        self.shared = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Specific and invariant features, [B, M * 128] each."""
        specific = [self.specific[name](x) for name, x in features.items()]
        invariant = [self.shared(self.invariant[name](x)) for name, x in features.items()]
        return torch.cat(specific, dim=1), torch.cat(invariant, dim=1)


class Baseline(nn.Module):
    """The model, with its frozen teacher's encoders beside it."""

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig, teacher: Encoders) -> None:
        super().__init__()
        self.config = config
        joint = HIDDEN * len(dims)
        layer = nn.TransformerEncoderLayer(2 * joint, config.heads, config.feedforward, config.transformer_dropout)
        self.encoders = Encoders(dims, config)
        self.transformer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.to_mu, self.to_logvar = nn.Linear(2 * joint, config.latent), nn.Linear(2 * joint, config.latent)
        self.decoder = nn.Sequential(
            *(nn.Linear(config.latent + joint, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, joint))
        )
        self.classifier = Classifier(joint, classes, config)
        self.teacher = [teacher.eval().requires_grad_(False)]  # in a list: no part of what is trained

    def forward(self, noisy: Features, clean: Features, labels: Tensor) -> dict[str, Tensor]:
        """Losses."""
        specific, invariant = self.encoders(noisy)
        state = self.transformer(torch.cat([specific, invariant], dim=1))
        mu, logvar = self.to_mu(state), self.to_logvar(state)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        joint = self.decoder(torch.cat([z, invariant], dim=1))
        with torch.no_grad():
            target_joint, target_invariant = self.teacher[0](clean)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(labels)
        losses = {
            "kl": kl,
            "mse": F.mse_loss(joint, target_joint),
            "inv": F.mse_loss(invariant, target_invariant),
            "cls": F.cross_entropy(self.classifier(joint), labels),
        }
        config = self.config
        losses["total"] = (
            config.lambda_gen * (losses["kl"] + losses["mse"])
            + config.lambda_inv * losses["inv"]
            + config.lambda_cls * losses["cls"]
        )
        return losses

    def predict(self, noisy: Features) -> Tensor:
        """Logits [B, classes], with z = mu."""
        specific, invariant = self.encoders(noisy)
        mu = self.to_mu(self.transformer(torch.cat([specific, invariant], dim=1)))
        return self.classifier(self.decoder(torch.cat([mu, invariant], dim=1)))


def add_noise(features: Features, alpha_bars: Tensor, noisy: Tensor) -> Features:
    """Noise by a loop over modalities and samples; for each a draw, two products, a sum, and a look at its condition.

    `alpha_bars` [M], `noisy` bool [B, M]. Impulse noise takes twice as many kernels in the released code.
    """
    out = {}
    for m, (name, x) in enumerate(features.items()):
        keep, scale = alpha_bars[m] ** 0.5, (1 - alpha_bars[m]) ** 0.5
        rows = []
        for i in range(len(x)):
            sample = x[i]
            noised = keep * sample + scale * torch.randn_like(sample)
            rows.append(noised if noisy[i, m].item() else sample)
        out[name] = torch.stack(rows)
    return out


def collate(data: FeatureSet, rows: Tensor) -> Features:
    """These rows, each modality padded with zeros to its longest."""
    out = {}
    for name, ragged in data.modalities.items():
        bounds = zip(ragged.offsets[rows].tolist(), ragged.offsets[rows + 1].tolist(), strict=True)
        out[name] = pad_sequence([ragged.values[start:end] for start, end in bounds], batch_first=True)
    return out


def step(
    model: Baseline,
    optimizer: torch.optim.Optimizer,
    clean: Features,
    labels: Tensor,
    alpha_bars: Tensor,
    known: Conditions,
) -> dict[str, Tensor]:
    """One training step on a clean batch, each sample under one of the incomplete conditions; its losses."""
    noisy = add_noise(clean, alpha_bars, known.noisy[torch.randint(known.incomplete, (len(labels),))])
    losses = model(noisy, clean, labels)
    optimizer.zero_grad()
    losses["total"].backward()
    optimizer.step()
    return losses


def shuffled(data: FeatureSet, rows: Tensor, size: int) -> Iterator[tuple[Features, Tensor]]:
    """Batches of features and labels in a random order."""
    for part in rows[torch.randperm(len(rows))].split(size):
        yield collate(data, part), data.labels[part]


def epoch(
    model: Baseline,
    optimizer: torch.optim.Optimizer,
    data: FeatureSet,
    rows: Tensor,
    size: int,
    alpha_bars: Tensor,
    known: Conditions,
) -> float:
    """Train on all rows once; the mean loss."""
    model.train()
    totals = [
        step(model, optimizer, clean, labels, alpha_bars, known)["total"].detach()
        for clean, labels in shuffled(data, rows, size)
    ]
    return torch.stack(totals).mean().item()


@torch.no_grad()
def evaluate(
    model: Baseline,
    data: FeatureSet,
    rows: Tensor,
    size: int,
    alpha_bars: Tensor,
    known: Conditions,
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Predicted classes [rows] by condition: a pass over the data for each."""
    model.eval()
    predicted = {}
    for name in names:
        noisy = known.noisy[known.index(name)]
        parts = []
        for part in rows.split(size):
            features = add_noise(collate(data, part), alpha_bars, noisy.expand(len(part), -1))
            parts.append(model.predict(features).argmax(dim=1))
        predicted[name] = torch.cat(parts)
    return predicted

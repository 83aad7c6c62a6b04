"""MCTN: representations learnt by translating each modality into the others and back (Pham et al., AAAI 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import UserError
from .encoders import HIDDEN, LSTM, Classifier
from .interface import Batch, Output, Separable

LAMBDA_TRANSLATION, LAMBDA_CYCLE = 0.1, 0.1  # the loss weights of the authors' code
TINY = 1e-9  # less than any mean number of steps above 0; it avoids a division by 0


class Decoder(nn.Module):
    """An LSTM decoder whose input at every step is the encoder's last state, with attention over all encoder states.

    As in the authors' code, the decoder's output is not fed back, so there is no teacher forcing: training and
    inference compute the same translation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(HIDDEN)

    def forward(self, states: Tensor, lengths: Tensor, out_lengths: Tensor, steps: int) -> Tensor:
        """Decode the encoder's states.

        Args:
            states: the encoder's states, [B, T, 128], zeros beyond their lengths.
            lengths: the valid steps of each source, int64 [B].
            out_lengths: the valid steps of each target, int64 [B].
            steps: the number of decoded steps.

        Returns:
            the decoder's states and the attended encoder states, [B, steps, 256].
        """
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, HIDDEN)
        decoded = self.lstm(states.gather(1, last).expand(-1, steps, -1), out_lengths)
        seen = valid(states, lengths)
        seen = torch.cat([torch.ones_like(seen[:, :1]), seen[:, 1:]], dim=1)  # an absent source attends to a zero state
        attended = F.scaled_dot_product_attention(
            decoded[:, None], states[:, None], states[:, None], seen[:, None, None]
        )
        return torch.cat([decoded, attended[:, 0]], dim=2)


class Chain(nn.Module):
    """A chain of translations from one modality, the source, into each of the other modalities, the targets.

    Level 1 translates the source into the first target and, with the same encoder and decoder, translates the result
    back into the source. Level k encodes the states of level k - 1, which represent the source and k - 1 targets, and
    translates them into the next target. The states of the last level are the joint representation; they are computed
    from the source alone.

    Args:
        dims: the feature dimensions, first the source's, then those of the targets.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        levels = len(dims) - 1
        self.into = nn.ModuleList(nn.Linear(dim, HIDDEN) for dim in dims[:2])
        self.encoders = nn.ModuleList(LSTM(HIDDEN) for _ in range(levels))
        self.decoders = nn.ModuleList(Decoder() for _ in range(levels))
        self.outs = nn.ModuleList(nn.Linear(2 * HIDDEN, dim) for dim in dims)

    def forward(self, source: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return the states of each level, [B, T, 128], zeros beyond the lengths, for the source [B, T, D]."""
        x, states = self.into[0](torch.where(valid(source, lengths)[..., None], source, 0.0)), []
        for encoder in self.encoders:
            x = encoder(x, lengths)
            states.append(x)
        return states

    def losses(
        self, states: list[Tensor], clean: list[Tensor], lengths: list[Tensor], of_all: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the squared errors of the translations into the targets (summed) and of the one back to the source.

        Samples without the source or without the target are left out. All lists are in the chain's order.

        Args:
            states: the states of each level, [B, T, 128].
            clean: the features without noise of each modality, [B, T, D].
            lengths: the valid steps of each sample for each modality, int64 [B].
            of_all: the lengths of all samples of the global batch for each modality, int64.
        """
        translation = states[0].new_zeros(())
        for level, decoder in enumerate(self.decoders, 1):
            decoded = decoder(states[level - 1], lengths[0], lengths[level], clean[level].shape[1])
            translated = self.outs[level](decoded)
            translation = translation + squared_error(
                translated, clean[level], lengths[level], lengths[0], mean_steps(of_all[level], of_all[0])
            )
            if level == 1:
                back = self._back(translated, lengths[1], lengths[0], clean[0].shape[1])
        return translation, squared_error(back, clean[0], lengths[0], lengths[1], mean_steps(of_all[0], of_all[1]))

    def _back(self, translated: Tensor, lengths: Tensor, out_lengths: Tensor, steps: int) -> Tensor:
        """Translate the first target's translation back into the source."""
        states = self.encoders[0](self.into[1](translated), lengths)
        return self.outs[0](self.decoders[0](states, lengths, out_lengths, steps))


class MCTN(Separable):
    """A chain of translations from each modality, and a classifier on the joint representations of all chains.

    The original MCTN has a single chain, which reads one modality alone, so noise on that modality leaves it without
    information. The paper does not say how it ran MCTN; a chain that reads language alone cannot reach the paper's
    scores in the conditions with noisy language. The translation targets are complete data; the sources have noise.
    Each joint representation is the maximum of its states over the valid steps, as in the LSTM encoders.

    The loss is L = L_cls + 0.1 L_translation + 0.1 L_cycle. L_translation is summed over the levels of a chain; both
    L_translation and L_cycle are averaged over the chains.

    Raises:
        UserError: there is only one modality.
    """

    title = "MCTN"

    def __init__(self, dims: Mapping[str, int], classes: int, config: ModelConfig) -> None:
        super().__init__(dims, classes, config)
        if len(dims) < 2:
            raise UserError(f"model.system: expected two modalities or more for mctn, got {', '.join(dims)}")
        names = list(dims)
        self.orders = [names[i:] + names[:i] for i in range(len(names))]  # each modality is a source once
        self.chains = nn.ModuleList(Chain([dims[name] for name in order]) for order in self.orders)
        self.classifier = Classifier(HIDDEN * len(dims), classes, config)

    def clip_groups(self) -> list[nn.Module]:
        """Return each chain and the classifier."""
        return [*self.chains, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Return the joint representation of each modality's chain, [B, M, 128]; zeros if the modality is absent."""
        return self._pool(self._states(features, lengths), lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Return logits, and in training the cross-entropy, in float32; the translation losses are not included."""
        logits = self.classifier(encoded.flatten(1)).float()
        return Output(logits, {"cls": F.cross_entropy(logits, batch.labels)} if self.training else {})

    def forward(self, batch: Batch) -> Output:
        """Return logits, and in training all losses; only training computes the translations."""
        states = self._states(batch.features, batch.lengths)
        output = self.fuse(self._pool(states, batch.lengths), batch)
        if not self.training:
            return output
        clean = batch.clean
        assert clean is not None
        translations, cycles = [], []
        for chain, levels, order in zip(self.chains, states, self.orders, strict=True):
            assert isinstance(chain, Chain)
            of_all = [batch.global_lengths[m] for m in order]
            errors = chain.losses(levels, [clean[m] for m in order], [batch.lengths[m] for m in order], of_all)
            translations.append(errors[0])
            cycles.append(errors[1])
        translation, cycle = torch.stack(translations).mean(), torch.stack(cycles).mean()
        losses = {**output.losses, "translation": translation, "cycle": cycle}
        losses["total"] = losses["cls"] + LAMBDA_TRANSLATION * translation + LAMBDA_CYCLE * cycle
        return Output(output.logits, losses)

    def _states(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> list[list[Tensor]]:
        """Return the states of each level of each chain."""
        pairs = zip(self.chains, self.orders, strict=True)
        return [chain(features[order[0]], lengths[order[0]]) for chain, order in pairs]

    def _pool(self, states: list[list[Tensor]], lengths: Mapping[str, Tensor]) -> Tensor:
        """Return the maximum of each chain's last states over the valid steps, [B, M, 128]."""
        pooled = []
        for levels, order in zip(states, self.orders, strict=True):
            there = valid(levels[-1], lengths[order[0]])[..., None]
            most = torch.where(there, levels[-1], -torch.inf).amax(dim=1)
            pooled.append(torch.where(lengths[order[0]][:, None] > 0, most, 0.0))
        return torch.stack(pooled, dim=1)


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mask of valid steps of x [B, T, D], bool [B, T]."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def mean_steps(lengths: Tensor, also: Tensor) -> Tensor:
    """Return the mean number of valid steps of a sample; a sample that lacks either modality counts as 0 steps."""
    return torch.where(also > 0, lengths, 0).float().mean()


def squared_error(x: Tensor, y: Tensor, lengths: Tensor, also: Tensor, steps: Tensor) -> Tensor:
    """Return the mean squared error over the valid elements of samples that have both modalities, in float32.

    It is 0 if no sample has both.

    Args:
        x: the translation, [B, T, D].
        y: the features of the target, [B, T, D].
        lengths: the valid steps of each sample of the target, int64 [B].
        also: the valid steps of each sample of the other modality, int64 [B].
        steps: the `mean_steps` of the global batch, so that the mean of the ranks' errors, weighted by their numbers of
            samples, is the error of the global batch.
    """
    mask = valid(y, torch.where(also > 0, lengths, 0))[..., None]
    squares = torch.where(mask, x.float() - torch.where(mask, y, 0.0), 0.0).square()
    return squares.sum((1, 2)).mean() / (steps * y.shape[2]).clamp(min=TINY)

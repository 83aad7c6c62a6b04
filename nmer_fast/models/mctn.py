"""MCTN: representations learnt by translating each modality into the others and back (Pham et al., AAAI 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NMERConfig
from ..errors import UserError
from .encoders import HIDDEN, LSTM, Classifier
from .interface import Batch, Output, Separable

LAMBDA_TRANSLATION, LAMBDA_CYCLE = 0.1, 0.1  # of the authors' code
TINY = 1e-9  # below any mean of steps


class Decoder(nn.Module):
    """An LSTM that is fed the encoder's last state at every step, and attends to all of its states.

    As in the authors' code its own output is not fed back, so translations in training are those of free running.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = LSTM(HIDDEN)

    def forward(self, states: Tensor, lengths: Tensor, out_lengths: Tensor, steps: int) -> Tensor:
        """Encoder states [B, T, 128], zeros beyond their lengths -> [B, steps, 256], its states and what they see."""
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, HIDDEN)
        decoded = self.lstm(states.gather(1, last).expand(-1, steps, -1), out_lengths)
        seen = valid(states, lengths)
        seen = torch.cat([torch.ones_like(seen[:, :1]), seen[:, 1:]], dim=1)  # an absent source attends to a zero state
        attended = F.scaled_dot_product_attention(
            decoded[:, None], states[:, None], states[:, None], seen[:, None, None]
        )
        return torch.cat([decoded, attended[:, 0]], dim=2)


class Chain(nn.Module):
    """Translations from one modality, the source, to every other, level by level.

    Level 1 translates the source into the first target and, with the same encoder and decoder, what came out back into
    the source. Level k encodes level k - 1's states, which know the source and k - 1 targets, and translates them into
    the next target. The last level's states are the joint representation; they need the source alone.

    Args:
        dims: feature dimensions, the source's first.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        levels = len(dims) - 1
        self.into = nn.ModuleList(nn.Linear(dim, HIDDEN) for dim in dims[:2])
        self.encoders = nn.ModuleList(LSTM(HIDDEN) for _ in range(levels))
        self.decoders = nn.ModuleList(Decoder() for _ in range(levels))
        self.outs = nn.ModuleList(nn.Linear(2 * HIDDEN, dim) for dim in dims)

    def forward(self, source: Tensor, lengths: Tensor) -> list[Tensor]:
        """[B, T, D] -> each level's states, [B, T, 128], zeros beyond the lengths."""
        x, states = self.into[0](torch.where(valid(source, lengths)[..., None], source, 0.0)), []
        for encoder in self.encoders:
            x = encoder(x, lengths)
            states.append(x)
        return states

    def losses(
        self, states: list[Tensor], clean: list[Tensor], lengths: list[Tensor], of_all: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Squared errors of all translations, and of the one back; of modalities in the chain's order.

        Samples without the source, or without the target, are left out. `of_all`: the lengths of the whole batch.
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
        """The first target's translation, as it came out, into the source."""
        states = self.encoders[0](self.into[1](translated), lengths)
        return self.outs[0](self.decoders[0](states, lengths, out_lengths, steps))


class MCTN(Separable):
    """A chain of translations from every modality, and a classifier on all their joint representations.

    The original has one chain: it reads one modality, and under noise on it would have nothing else to go by. How the
    paper compared it is not said; its scores where language is noisy are out of reach for a chain from language alone.
    Targets are complete data, the sources as noisy as they come. Each representation is the maximum of its states over
    valid steps, as in the LSTM encoders. L = L_cls + 0.1 L_translation + 0.1 L_cycle, the latter means over the chains,
    L_translation summed over a chain's levels.

    Raises:
        UserError: there is one modality only.
    """

    def __init__(self, dims: Mapping[str, int], classes: int, config: NMERConfig) -> None:
        super().__init__(dims, classes, config)
        if len(dims) < 2:
            raise UserError(f"model.system: expected two modalities or more for mctn, got {', '.join(dims)}")
        names = list(dims)
        self.orders = [names[i:] + names[:i] for i in range(len(names))]  # each modality is a source once
        self.chains = nn.ModuleList(Chain([dims[name] for name in order]) for order in self.orders)
        self.classifier = Classifier(HIDDEN * len(dims), classes, config)

    def parts(self) -> list[nn.Module]:
        """Each chain, and the classifier."""
        return [*self.chains, self.classifier]

    def encode(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> Tensor:
        """Each modality's joint representation, [B, M, 128]; zeros where absent."""
        return self._pool(self._states(features, lengths), lengths)

    def fuse(self, encoded: Tensor, batch: Batch) -> Output:
        """Logits; the cross-entropy, in float32, but not the translations' losses."""
        logits = self.classifier(encoded.flatten(1)).float()
        return Output(logits, {"cls": F.cross_entropy(logits, batch.labels)} if self.training else {})

    def forward(self, batch: Batch) -> Output:
        """In training the translations too, which prediction does without."""
        states = self._states(batch.features, batch.lengths)
        output = self.fuse(self._pool(states, batch.lengths), batch)
        if not self.training:
            return output
        clean = batch.clean
        assert clean is not None
        translations, cycles = [], []
        for chain, levels, order in zip(self.chains, states, self.orders, strict=True):
            assert isinstance(chain, Chain)
            of_all = [batch.lengths_of_all[m] for m in order]
            errors = chain.losses(levels, [clean[m] for m in order], [batch.lengths[m] for m in order], of_all)
            translations.append(errors[0])
            cycles.append(errors[1])
        translation, cycle = torch.stack(translations).mean(), torch.stack(cycles).mean()
        losses = {**output.losses, "translation": translation, "cycle": cycle}
        losses["total"] = losses["cls"] + LAMBDA_TRANSLATION * translation + LAMBDA_CYCLE * cycle
        return Output(output.logits, losses)

    def _states(self, features: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> list[list[Tensor]]:
        """Every chain's states by level."""
        pairs = zip(self.chains, self.orders, strict=True)
        return [chain(features[order[0]], lengths[order[0]]) for chain, order in pairs]

    def _pool(self, states: list[list[Tensor]], lengths: Mapping[str, Tensor]) -> Tensor:
        """[B, M, 128], the maximum of the last levels over valid steps."""
        pooled = []
        for levels, order in zip(states, self.orders, strict=True):
            there = valid(levels[-1], lengths[order[0]])[..., None]
            most = torch.where(there, levels[-1], -torch.inf).amax(dim=1)
            pooled.append(torch.where(lengths[order[0]][:, None] > 0, most, 0.0))
        return torch.stack(pooled, dim=1)


def valid(x: Tensor, lengths: Tensor) -> Tensor:
    """Bool [B, T], of x [B, T, D]."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def mean_steps(lengths: Tensor, also: Tensor) -> Tensor:
    """Valid steps of a sample on average, of samples that lack one of both modalities none."""
    return torch.where(also > 0, lengths, 0).float().mean()


def squared_error(x: Tensor, y: Tensor, lengths: Tensor, also: Tensor, steps: Tensor) -> Tensor:
    """Mean over the valid elements of samples that have both modalities, in float32; 0 without any.

    `steps` is the whole batch's `mean_steps`: several processes' errors, weighted by their samples, add up to its mean.
    """
    mask = valid(y, torch.where(also > 0, lengths, 0))[..., None]
    squares = torch.where(mask, x.float() - torch.where(mask, y, 0.0), 0.0).square()
    return squares.sum((1, 2)).mean() / (steps * y.shape[2]).clamp(min=TINY)

"""NoiseScheduler adds noise at a chosen SNR to every modality of a batch, in any training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..contract import GENERATED_KINDS, KINDS, SNR_STREAM, STEP_STREAM
from ..ops.reference import noisy_mask, statistics, valid_mask
from .conditions import Conditions
from .schedule import NoiseSchedule, alpha_bar_of_snr, check_variance, noise_power, snr_of_alpha_bar

Given = Tensor | Callable[[Tensor], Tensor]
SNR = float | Sequence[float]
"""An SNR in dB, or a range's lowest and highest."""


class Noised(NamedTuple):
    """The noisy batch that a scheduler returns.

    Attributes:
        features: the features of each modality, by its name, of the shapes and dtypes of the input.
        condition: each sample's condition, an index into `scheduler.conditions.names`, int64 [B].
        stats: sums over the valid noisy elements, float64 [M, 5], or None: their count, alpha_bar, alpha_bar x,
            alpha_bar x^2 and (1 - alpha_bar) eps^2. Sums of several batches may be added, and
            `NoiseScheduler.realised_snr_db` reads the total.
    """

    features: dict[str, Tensor]
    condition: Tensor
    stats: Tensor | None


class NoiseScheduler(nn.Module):
    """Adds noise to the noisy modalities of each sample's condition (paper, sections 2.2 and 3.1).

    Args:
        variances: the variance of each modality's valid elements in the train split (see `noise.variance`); the order
            of the names is the order of the streams.
        snr_db: the signal-to-noise ratio in dB, one for all modalities or one for each. Two numbers are a range (mixed
            intensities), from which each sample's modality draws its own SNR, uniform in dB, anew in every draw.
            Exactly one of snr_db and steps is given; missing modalities need neither.
        steps: the number of steps T of each modality, as in the paper (on CMU-MOSEI, a 140, v 60 and l 5 give -10 dB);
            or "random", which draws one T for each batch and modality, uniform from 1 to the schedule's length, as the
            paper's released code does. The batch's first sample id decides the T, so a batch split changes the noise.
        kind: a name of `noise.KINDS`, of which "missing" gives zeros, the condition of earlier work; or noise of your
            own: a tensor that broadcasts to the features, a callable from features to such a tensor
            (`torch.randn_like`), or a mapping from modality to either.
        p: the share of impulses, 0 to 1.
        snr_convention: "exact" counts the noise's own power (p for impulse noise); "paper" counts 1 for every kind.
        schedule: the betas that `steps` counts; the paper's by default.
        seed: the seed of all noise and conditions, an int.
        power: the mean square of noise of your own.

    Attributes:
        alpha_bars: the alpha_bar of each modality, float64 [M]; with random steps, of each T, [length].
        odds_db: 10 log10(alpha_bar / (1 - alpha_bar)) at both ends of each modality's range, float64 [M, 2]; None if no
            modality has a range. With a range, `alpha_bars` belong to its middle.
        snr_db: the SNR in dB that the alpha_bars give under the exact convention, by modality; nan for random steps and
            for a range.
        rng: the next call's (seed, draw), int64 [2]; every call that names no draw advances it by one draw.

    Raises:
        ValueError: one line that names the argument, what it was and what was expected.
    """

    alpha_bars: Tensor
    odds_db: Tensor | None
    noisy_of_condition: Tensor
    rng: Tensor

    def __init__(
        self,
        variances: Mapping[str, float],
        *,
        snr_db: SNR | Mapping[str, SNR] | None = None,
        steps: Mapping[str, int] | Literal["random"] | None = None,
        kind: str | Given | Mapping[str, Given] = "gaussian",
        p: float = 0.3,
        snr_convention: str = "exact",
        schedule: NoiseSchedule | None = None,
        seed: int = 0,
        power: float = 1.0,
    ) -> None:
        super().__init__()
        self.conditions = Conditions(list(variances))
        self.modalities = self.conditions.modalities
        self.kind, self.p = kind, p
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, a tensor or a callable, got {kind!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"p: expected a number from 0 to 1, got {p!r}")
        if isinstance(kind, Mapping) and set(kind) != set(variances):
            raise ValueError(f"kind: expected noise for each of {', '.join(variances)}, got {', '.join(kind)}")
        for name, value in variances.items():
            check_variance(value, f"variance of modality {name}")
        self.variances = dict(variances)
        asked_power, true_power = self._powers(power, snr_convention)
        ranges = self._ranges(snr_db)
        alpha_bars = self._alpha_bars(ranges, steps, schedule or NoiseSchedule(), asked_power)
        self.random_steps = isinstance(steps, str)
        self.snr_db = dict.fromkeys(self.modalities, math.nan)
        if not self.random_steps:
            for name, alpha_bar in zip(self.modalities, alpha_bars, strict=True):
                if name not in ranges or len(set(ranges[name])) == 1:
                    self.snr_db[name] = snr_of_alpha_bar(alpha_bar, variances[name], true_power)
        odds_db = None
        if any(low < high for low, high in ranges.values()) and kind != "missing":
            ends = torch.tensor([ranges[name] for name in self.modalities], dtype=torch.float64)
            odds_db = ends + 10 * torch.tensor([[math.log10(asked_power / v)] for v in variances.values()]).double()
        self.register_buffer("odds_db", odds_db, persistent=False)
        self.register_buffer("alpha_bars", torch.tensor(alpha_bars, dtype=torch.float64), persistent=False)
        self.register_buffer("noisy_of_condition", self.conditions.noisy, persistent=False)
        self.register_buffer("rng", ops.rng_tensor(seed, 0, torch.device("cpu")))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoiseScheduler:
        """Move alpha_bars and odds_db to the module's device, and keep them float64 when a model is cast."""
        exact, odds_db = self.alpha_bars, self.odds_db
        super()._apply(fn, recurse)
        self.alpha_bars = exact.to(self.alpha_bars.device)
        self.odds_db = None if odds_db is None else odds_db.to(self.alpha_bars.device)
        return self

    def _powers(self, power: float, convention: str) -> tuple[float, float]:
        """The noise's power as the given SNR counts it, and its true power."""
        if isinstance(self.kind, str):
            return noise_power(self.kind, self.p, convention), noise_power(self.kind, self.p)
        return (power if convention == "exact" else 1.0), power

    def _ranges(self, snr_db: SNR | Mapping[str, SNR] | None) -> dict[str, tuple[float, float]]:
        """The lowest and the highest SNR of each modality; empty if no SNR is given."""
        if snr_db is None:
            return {}
        given = snr_db if isinstance(snr_db, Mapping) else dict.fromkeys(self.modalities, snr_db)
        self._check_names("snr_db", given)
        ranges = {}
        for name in self.modalities:
            ratio = given[name]
            ends = (ratio, ratio) if isinstance(ratio, (int, float)) else tuple(ratio)
            if len(ends) != 2 or not (ends[0] == ends[1] or -math.inf < ends[0] < ends[1] < math.inf):
                raise ValueError(f"snr_db: expected decibels, or a range's lower and higher end, got {ratio!r}")
            ranges[name] = ends
        return ranges

    def _check_names(self, argument: str, given: Mapping[str, Any]) -> None:
        if set(given) != set(self.modalities):
            raise ValueError(f"{argument}: expected one each for {', '.join(self.modalities)}, got {dict(given)}")

    def _alpha_bars(
        self,
        ranges: Mapping[str, tuple[float, float]],
        steps: Mapping[str, int] | str | None,
        schedule: NoiseSchedule,
        power: float,
    ) -> list[float]:
        if self.kind == "missing":  # y = 0 x + 1 * 0, whatever SNR is given
            return [0.0] * len(self.modalities)
        if bool(ranges) == (steps is not None):
            raise ValueError(f"snr_db, steps: expected one of the two, got {'both' if ranges else 'neither'}")
        if isinstance(steps, str):
            if steps != "random":
                raise ValueError(f"steps: expected T for each modality or 'random', got {steps!r}")
            return [schedule.alpha_bar(t) for t in range(1, schedule.length + 1)]
        if steps is not None:
            self._check_names("steps", steps)
            return [schedule.alpha_bar(steps[name]) for name in self.modalities]
        middles = {name: low if low == high else (low + high) / 2 for name, (low, high) in ranges.items()}
        return [alpha_bar_of_snr(middles[name], self.variances[name], power) for name in self.modalities]

    def forward(
        self,
        features: Mapping[str, Tensor],
        *,
        lengths: Mapping[str, Tensor | None] | None = None,
        sample_ids: Tensor | None = None,
        draw: int | None = None,
        rng: Tensor | None = None,
        condition: str | Tensor | None = None,
        return_stats: bool = False,
    ) -> Noised:
        """Add noise to a batch.

        Args:
            features: the features [B, T, ...] of each modality, by its name; [B, D] without lengths.
            lengths: the valid steps of each modality, by its name, integers [B] or None.
            sample_ids: the samples' ids in the data set, integers [B]; 0..B-1 by default.
            draw: the number of the draw for these samples (an epoch or a repeat); another draw gives other noise and
                conditions. By default it is the next one, which the buffer `rng` counts, also in compiled steps and in
                a replayed CUDA graph.
            rng: (seed, draw), int64 [2], in place of the scheduler's seed and `draw`, for compiled steps.
            condition: a condition's name for all samples, or indices [B] into `conditions.names`; by default each
                sample draws one of the incomplete conditions, uniformly.
            return_stats: whether to measure what was added.

        Returns:
            The noisy features, each sample's condition, and the statistics or None.

        Raises:
            TypeError, ValueError: one line that names the argument, what it was and what was expected.
        """
        xs = [features[name] for name in self.modalities]
        batch, device = xs[0].shape[0], xs[0].device
        if sample_ids is None:
            sample_ids = torch.arange(batch, device=device)
        if rng is None:
            rng = ops.rng_next(self.rng) if draw is None else self._rng_of(draw)
        elif draw is not None:
            raise ValueError(f"draw: expected none beside rng, which holds it, got {draw!r}")
        if condition is None:
            index = self.conditions.draw(rng, sample_ids)
        elif isinstance(condition, Tensor):
            index = condition
        else:
            index = torch.full((batch,), self.conditions.index(condition), device=device)
        noisy = self.noisy_of_condition[index]
        valid = None if lengths is None else [lengths[name] for name in self.modalities]
        if self.odds_db is not None:
            alpha_bars = self._mixed_alpha_bars(rng, sample_ids)
            ys, _ = self._add(xs, alpha_bars, rng, sample_ids, noisy, valid, False)
            stats = self._mixed_stats(xs, ys, alpha_bars, noisy, valid) if return_stats else None
        else:
            alpha_bars = self._random_alpha_bars(rng, sample_ids) if self.random_steps else self.alpha_bars
            ys, stats = self._add(xs, alpha_bars, rng, sample_ids, noisy, valid, return_stats)
            if stats is not None:
                kept = alpha_bars[:, None]
                stats = torch.cat([stats[:, :1], kept * stats[:, :3], (1 - kept) * stats[:, 3:]], dim=1)
        return Noised(dict(zip(self.modalities, ys, strict=True)), index, stats)

    def _rng_of(self, draw: int) -> Tensor:
        """(seed, draw) with the buffer's seed, which a loaded state may have changed, and the given draw."""
        return torch.stack([self.rng[0], ops.rng_tensor(0, draw, self.rng.device)[1]])

    def _random_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """The alpha_bars [M] of a random step for each modality."""
        words = self._words(rng, sample_ids[:1].sum(), STEP_STREAM)
        return self.alpha_bars[(words * len(self.alpha_bars)) >> 32]

    def _mixed_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """The alpha_bars [B, M] of SNRs that are uniform in each modality's range; an SNR in dB is a log of odds."""
        assert self.odds_db is not None
        words = self._words(rng, sample_ids[:, None], SNR_STREAM)
        low, high = self.odds_db.unbind(1)
        return torch.sigmoid(math.log(10) / 10 * torch.lerp(low, high, (words.double() + 0.5) * 2.0**-32))

    def _words(self, rng: Tensor, sample_ids: Tensor, stream: int) -> Tensor:
        """The contract's words [..., M] of elements 0 to M - 1, for sample ids [..., 1]."""
        quads = torch.arange(-(-len(self.modalities) // 4), device=rng.device)
        words = ops.philox(rng, ops.noise_counter(sample_ids, quads, draw=rng[1], stream=stream))
        return words.flatten(-2)[..., : len(self.modalities)]

    def _mixed_stats(
        self, xs: list[Tensor], ys: list[Tensor], alpha_bars: Tensor, noisy: Tensor, lengths: list[Tensor | None] | None
    ) -> Tensor:
        """The statistics where each sample has its own alpha_bar; the noise is y - sqrt(alpha_bar) x."""
        rows = []
        for m, (x, y) in enumerate(zip(xs, ys, strict=True)):
            chosen = valid_mask(x.shape, None if lengths is None else lengths[m], x.device)
            chosen = chosen & noisy_mask(noisy[:, m], x.dim(), x.device)
            kept, clean = alpha_bars[:, m], torch.where(chosen, x.float(), 0.0).flatten(1)
            noise = torch.where(chosen, y.float(), 0.0).flatten(1).addcmul_(clean, -kept.sqrt().float()[:, None])
            count = chosen.flatten(1).sum(1) * (clean.shape[1] // chosen[:1].numel())
            squares, power = (torch.linalg.vector_norm(t, dim=1).double().square() for t in (clean, noise))
            sums = [count, kept * count, kept * clean.sum(1), kept * squares, power]
            rows.append(torch.stack([one.double().sum() for one in sums]))
        return torch.stack(rows)

    def _add(
        self,
        xs: list[Tensor],
        alpha_bars: Tensor,
        rng: Tensor,
        sample_ids: Tensor,
        noisy: Tensor,
        lengths: list[Tensor | None] | None,
        return_stats: bool,
    ) -> tuple[list[Tensor], Tensor | None]:
        ys: list[Tensor]
        if isinstance(self.kind, str) and self.kind in GENERATED_KINDS:
            options: dict[str, Any] = {"kind": self.kind, "p": self.p, "noisy": noisy, "lengths": lengths}
            options |= {"seed": rng, "sample_ids": sample_ids}
            if return_stats:
                return ops.add_noise_multimodal(xs, alpha_bars, **options, return_stats=True)
            return ops.add_noise_multimodal(xs, alpha_bars, **options), None
        ys, stats = [], []
        for m, x in enumerate(xs):
            eps = self._given(self.modalities[m], x)
            valid = None if lengths is None else lengths[m]
            ys.append(ops.mix_noise(x, eps, alpha_bars[..., m], noisy=noisy[:, m], lengths=valid))
            if return_stats:
                stats.append(statistics(x, eps, noisy[:, m], valid))
        return ys, torch.stack(stats) if return_stats else None

    def _given(self, name: str, x: Tensor) -> Tensor:
        """The user's own noise, or zeros for a missing modality, of x's shape and dtype."""
        if self.kind == "missing":
            return torch.zeros_like(x)
        given = self.kind[name] if isinstance(self.kind, Mapping) else self.kind
        eps = given if isinstance(given, Tensor) else given(x)  # type: ignore[operator]
        return eps.to(x).expand_as(x)

    def realised_snr_db(self, stats: Tensor) -> dict[str, float]:
        """Compute the SNR that was realised.

        Args:
            stats: the statistics of one batch, or the sum of several batches' statistics, float64 [M, 5].

        Returns:
            The SNR in dB, by modality; nan where no element was noisy.
        """
        out = {}
        for name, (count, kept, total, squares, noise) in zip(self.modalities, stats.tolist(), strict=True):
            signal = max(squares - total * total / kept, 0.0) if kept else 0.0
            if count == 0:
                out[name] = math.nan
            elif signal == 0:
                out[name] = -math.inf
            else:
                out[name] = math.inf if noise == 0 else 10 * math.log10(signal / noise)
        return out

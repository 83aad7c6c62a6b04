"""NoiseScheduler: noise at a chosen SNR on every modality of a batch, for a training loop of one's own."""

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
Ratio = float | Sequence[float]
"""An SNR in dB, or the lowest and the highest of a range."""


class Noised(NamedTuple):
    """What a scheduler returns.

    Attributes:
        features: by modality, of the shapes and dtypes that came in.
        condition: int64 [B], each sample's condition, an index into `scheduler.conditions.names`.
        stats: float64 [M, 5] over the valid noisy elements, or None: count, and sums of alpha_bar, alpha_bar x,
            alpha_bar x^2 and (1 - alpha_bar) eps^2. Batches add up; `NoiseScheduler.realised_snr_db` reads the sum.
    """

    features: dict[str, Tensor]
    condition: Tensor
    stats: Tensor | None


class NoiseScheduler(nn.Module):
    """Adds noise to the modalities that a sample's condition leaves unclean (paper, section 2.2 and 3.1).

    Args:
        variances: each modality's variance, of valid elements of the train split (see `noise.variance`); the order
            of the names is the order of the streams.
        snr_db: the signal-to-noise ratio in dB, one for all or one for each modality. Two numbers are a range (mixed
            intensities): each sample's modality draws its own, uniform in dB, anew in every draw. Or else
        steps: T for each modality, as in the paper (CMU-MOSEI: a 140, v 60, l 5 give -10 dB); or "random": one for
            each batch and modality, uniform from 1 to the schedule's length, from the contract's generator (as the
            paper's released code does). The batch's first sample id decides, so a batch split changes the noise.
        kind: "gaussian", "impulse", "uniform", "laplace"; "missing" (zeros, the condition of earlier work); or noise
            of one's own: a tensor that broadcasts to the features, a callable from features to such a tensor
            (`torch.randn_like`), or a mapping from modality to either.
        p: the share of impulses.
        snr_convention: "exact" counts the noise's own power (impulse: p); "paper" takes it as 1.
        schedule: the betas that `steps` counts.
        seed: of all noise and conditions, an int.
        power: the mean square of noise of one's own; 1 unless given.

    Attributes:
        alpha_bars: float64 [M]; of random steps, [length].
        odds_db: float64 [M, 2], where a modality has a range: 10 log10(alpha_bar / (1 - alpha_bar)) at the ends of
            each one's; else None. `alpha_bars` are then those of the middle.
        snr_db: the SNR that the alpha_bars really give, by modality, in dB, under the exact convention; nan for
            random steps and for a range.
        rng: int64 [2] = (seed, draw), the next call's; moved on by every call that names no draw.

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
        snr_db: Ratio | Mapping[str, Ratio] | None = None,
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
        """A model cast to half precision keeps its exact alpha_bars and odds: only their device follows."""
        exact, odds_db = self.alpha_bars, self.odds_db
        super()._apply(fn, recurse)
        self.alpha_bars = exact.to(self.alpha_bars.device)
        self.odds_db = None if odds_db is None else odds_db.to(self.alpha_bars.device)
        return self

    def _powers(self, power: float, convention: str) -> tuple[float, float]:
        """The noise's power as the SNR asked for counts it, and as it is."""
        if isinstance(self.kind, str):
            return noise_power(self.kind, self.p, convention), noise_power(self.kind, self.p)
        return (power if convention == "exact" else 1.0), power

    def _ranges(self, snr_db: Ratio | Mapping[str, Ratio] | None) -> dict[str, tuple[float, float]]:
        """The lowest and the highest SNR of each modality; empty without any."""
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
        if self.kind == "missing":  # y = 0 x + 1 * 0: nothing is left, whatever was asked for
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
        """Noise a batch.

        Args:
            features: by modality, [B, T, ...] (or [B, D] without lengths).
            lengths: by modality, integers [B] or None.
            sample_ids: integers [B], ids in the data set; by default 0..B-1.
            draw: which draw for these samples (an epoch, a repeat): other draws, other noise and conditions. By default
                the next one, which the buffer `rng` counts, compiled and in a replayed CUDA graph too.
            rng: int64 [2] = (seed, draw) instead of the scheduler's seed and `draw`, for compiled steps.
            condition: a name for all samples, or indices [B]; by default one of the incomplete conditions for each
                sample, drawn uniformly.
            return_stats: also measure what was added.
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
        """The buffer's seed, which a loaded state may have changed, and this draw."""
        return torch.stack([self.rng[0], ops.rng_tensor(0, draw, self.rng.device)[1]])

    def _random_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """[M], of a step for each modality."""
        words = self._words(rng, sample_ids[:1].sum(), STEP_STREAM)
        return self.alpha_bars[(words * len(self.alpha_bars)) >> 32]

    def _mixed_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """[B, M], each of an SNR that is uniform in its modality's range: decibels are logarithms of odds."""
        assert self.odds_db is not None
        words = self._words(rng, sample_ids[:, None], SNR_STREAM)
        low, high = self.odds_db.unbind(1)
        return torch.sigmoid(math.log(10) / 10 * torch.lerp(low, high, (words.double() + 0.5) * 2.0**-32))

    def _words(self, rng: Tensor, sample_ids: Tensor, stream: int) -> Tensor:
        """The contract's words of elements 0 to M - 1: [..., M], of sample ids [..., 1]."""
        quads = torch.arange(-(-len(self.modalities) // 4), device=rng.device)
        words = ops.philox(rng, ops.noise_counter(sample_ids, quads, draw=rng[1], stream=stream))
        return words.flatten(-2)[..., : len(self.modalities)]

    def _mixed_stats(
        self, xs: list[Tensor], ys: list[Tensor], alpha_bars: Tensor, noisy: Tensor, lengths: list[Tensor | None] | None
    ) -> Tensor:
        """Statistics where each sample has its own alpha_bar; the noise is what y has beside sqrt(alpha_bar) x."""
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
        """Noise of the user's own, of x's shape and dtype."""
        if self.kind == "missing":
            return torch.zeros_like(x)
        given = self.kind[name] if isinstance(self.kind, Mapping) else self.kind
        eps = given if isinstance(given, Tensor) else given(x)  # type: ignore[operator]
        return eps.to(x).expand_as(x)

    def realised_snr_db(self, stats: Tensor) -> dict[str, float]:
        """SNR in dB that statistics (summed over any number of batches) show, by modality; nan where nothing noisy."""
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

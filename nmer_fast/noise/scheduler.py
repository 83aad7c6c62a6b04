"""NoiseScheduler adds noise at a chosen SNR to every modality of a batch, in any training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from .. import ops
from ..contract import GENERATED_KINDS, KINDS, SEED_BITS, SNR_STREAM, STEP_STREAM, integer, real
from ..ops.reference import noisy_mask, statistics, valid_mask, wide_dtype
from ..processes import in_worker, warn_shared_noise
from .conditions import Conditions
from .inputs import (
    check_condition,
    check_draw_number,
    check_features,
    check_lengths,
    check_rng,
    check_sample_ids,
    is_plain,
)
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


class Tables(NamedTuple):
    """A scheduler's numbers as tensors on a device: float64, or float32 where the device has no float64.

    Attributes:
        alpha_bars: [M]; with random steps, [length].
        odds_db: [M, 2], or None.
        noisy: bool [conditions, M].
    """

    alpha_bars: Tensor
    odds_db: Tensor | None
    noisy: Tensor


class NoiseScheduler(nn.Module):
    """Adds noise to the noisy modalities of each sample's condition (paper, sections 2.2 and 3.1).

    A scheduler is configuration: its numbers are Python's, so no cast, default dtype, meta device, averaging of weights
    or loading of a state changes the SNR, the conditions or the seed. Its state is the number of the next draw.

    Noise is a function of seed, draw, sample id and element, so two schedulers that are made alike give the same noise;
    give them two seeds to make them independent. `torch.manual_seed` does not reach the noise, except through
    `seed=None` (and through noise of your own, such as `torch.randn_like`). `eval()` changes nothing: a scheduler adds
    noise whenever it is called.

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
        seed: the seed of all noise and conditions, an int, taken mod 2^64; or None, which takes one from torch's
            default generator now.
        power: the mean square of noise of your own.

    A number may be of any type: Python's, NumPy's, or an array or tensor without dims.

    Attributes:
        alpha_bars: the alpha_bar of each modality, float64 [M] on the CPU; with random steps, of each T, [length].
        odds_db: 10 log10(alpha_bar / (1 - alpha_bar)) at both ends of each modality's range, float64 [M, 2] on the CPU;
            None if no modality has a range. With a range, `alpha_bars` belong to its middle.
        snr_db: the SNR in dB that the alpha_bars give under the exact convention, by modality; nan for random steps and
            for a range.
        seed: the seed, an int.
        rng: the buffer (seed, draw), int64 [2], which counts the draws: every call that names neither `draw` nor `rng`
            takes the next. A state's draw is loaded, and a state without `rng` loads too; a state's other seed is not
            loaded, and a warning says so. The seed counts in another tensor that takes the buffer's place, as
            `torch.func.functional_call` and `scheduler.rng = tensor` do: then its seed is the noise's.

    Raises:
        TypeError, ValueError: one line that names the argument, what it was and what was expected.
    """

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
        seed: int | None = 0,
        power: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(variances, Mapping):
            raise TypeError(f"variances: expected a mapping from modality to variance, got {variances!r}")
        self.conditions = Conditions(list(variances))
        self.modalities = self.conditions.modalities
        self.kind, self.p = kind, real("p", p)
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, a tensor or a callable, got {kind!r}")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p: expected a number from 0 to 1, got {p!r}")
        if isinstance(kind, Mapping) and set(kind) != set(variances):
            raise ValueError(f"kind: expected noise for each of {', '.join(variances)}, got {', '.join(kind)}")
        self.variances = {name: check_variance(v, f"variance of modality {name}") for name, v in variances.items()}
        asked_power, true_power = self._powers(real("power", power), snr_convention)
        ranges = self._ranges(snr_db)
        self._alpha_bars = self._alpha_bars_of(ranges, steps, schedule or NoiseSchedule(), asked_power)
        self.random_steps = isinstance(steps, str)
        self.snr_db = dict.fromkeys(self.modalities, math.nan)
        if not self.random_steps:
            for name, alpha_bar in zip(self.modalities, self._alpha_bars, strict=True):
                if name not in ranges or len(set(ranges[name])) == 1:
                    self.snr_db[name] = snr_of_alpha_bar(alpha_bar, self.variances[name], true_power)
        self._odds_db: tuple[tuple[float, float], ...] | None = None
        if any(low < high for low, high in ranges.values()) and kind != "missing":
            shifts = {name: 10 * math.log10(asked_power / v) for name, v in self.variances.items()}
            self._odds_db = tuple((ranges[m][0] + shifts[m], ranges[m][1] + shifts[m]) for m in self.modalities)
        self.seed = _drawn_seed() if seed is None else integer("seed", seed) % 2**SEED_BITS
        self._tables: dict[tuple[str, int | None], Tables] = {}
        with torch.inference_mode(False):
            self.register_buffer("rng", ops.rng_tensor(self.seed, 0, _first_device()))
        self._own_rng = self.rng
        self._tables_on(self.rng.device)

    # ---------------------------------------------------------------- configuration

    @property
    def alpha_bars(self) -> Tensor:
        """The alpha_bar of each modality, float64 [M] on the CPU; with random steps, of each T, [length]."""
        return torch.tensor(self._alpha_bars, dtype=torch.float64, device="cpu")

    @property
    def odds_db(self) -> Tensor | None:
        """The log of the odds at both ends of each modality's range, float64 [M, 2] on the CPU; None without one."""
        return None if self._odds_db is None else torch.tensor(self._odds_db, dtype=torch.float64, device="cpu")

    @property
    def noisy_of_condition(self) -> Tensor:
        """True where a modality is noisy, bool [conditions, M], on the scheduler's device."""
        return self._tables_on(self.rng.device).noisy

    def _tables_on(self, device: torch.device) -> Tables:
        """The numbers on a device; kept there, so that a step copies nothing, unless a tensor made now is not real."""
        key, plain = (device.type, device.index), is_plain()
        if (plain or torch.compiler.is_compiling()) and key in self._tables:
            return self._tables[key]
        if not plain or device.type == "meta":
            return self._make_tables(device)
        with torch.inference_mode(False):  # what is made in evaluation serves in training too
            self._tables[key] = self._make_tables(device)
        return self._tables[key]

    def _make_tables(self, device: torch.device) -> Tables:
        dtype = wide_dtype(device)
        odds_db = None if self._odds_db is None else torch.tensor(self._odds_db, dtype=dtype, device=device)
        noisy = torch.tensor(self.conditions.table, dtype=torch.bool, device=device)
        return Tables(torch.tensor(self._alpha_bars, dtype=dtype, device=device), odds_db, noisy)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tables, which the copy makes again."""
        return {**self.__dict__, "_tables": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the tables, so that a copy that is compiled before its first call has them."""
        super().__setstate__(state)
        self._tables_on(self.rng.device)

    # ---------------------------------------------------------------- the state: (seed, draw)

    def next_rng(self) -> Tensor:
        """Return the next call's (seed, draw), int64 [2], and advance `rng` by one draw, without a host sync.

        Take it outside a function that activation checkpointing runs again, and call the scheduler there with `rng=`.

        Raises:
            RuntimeError: a backward pass runs, which is how activation checkpointing runs a forward again.
        """
        if self.rng is self._own_rng:
            self._restore_seed()
        return ops.rng_next(self.rng)

    def reset_parameters(self) -> None:
        """Begin at draw 0 again; what materialises modules from the meta device calls it."""
        self.rng.copy_(ops.rng_tensor(self.seed, 0, self.rng.device))

    def _restore_seed(self) -> None:
        """Write the seed into the buffer, where averaging, broadcasting or loading may have changed it."""
        self.rng.select(0, 0).fill_(_signed(self.seed))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoiseScheduler:
        """Move the buffer with the module, and keep its values whatever `fn` makes of them, as `to_empty` does."""
        before = self.rng
        super()._apply(fn, recurse)
        if before is self._own_rng and self.rng is not before:
            if self.rng.dtype != before.dtype:
                self.rng = torch.empty_like(self.rng, dtype=before.dtype)
            if before.is_meta:
                self.reset_parameters()
            else:
                self.rng.copy_(before)
            self._own_rng = self.rng
        self._tables_on(self.rng.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save the draw with the right seed, whatever averaging made of the buffer."""
        if self.rng is self._own_rng:
            self._restore_seed()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load the draw; keep the seed, and the draw of a state that has none, as an older one."""
        key, own = prefix + "rng", self.rng is self._own_rng
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)
        if not own or key not in state_dict:
            return
        if self.rng is not self._own_rng:  # load_state_dict(assign=True)
            self._own_rng = self.rng = self.rng.to(torch.int64, copy=True)
            self._tables_on(self.rng.device)
        if is_plain() and not self.rng.is_meta and int(self.rng[0]) != _signed(self.seed):
            loaded = int(self.rng[0]) % 2**SEED_BITS
            warnings.warn(
                f"{key}: the state's seed {loaded} is not this scheduler's {self.seed}, which stays: "
                f"make the scheduler with seed={loaded} to continue that noise",
                UserWarning,
                stacklevel=2,
            )
        self._restore_seed()

    # ---------------------------------------------------------------- checks of the constructor's arguments

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
        return {name: _range_of(given[name]) for name in self.modalities}

    def _check_names(self, argument: str, given: Mapping[str, Any]) -> None:
        if set(given) != set(self.modalities):
            raise ValueError(f"{argument}: expected one each for {', '.join(self.modalities)}, got {dict(given)}")

    def _alpha_bars_of(
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
            if not isinstance(steps, Mapping):
                raise TypeError(f"steps: expected T for each modality or 'random', got {steps!r}")
            self._check_names("steps", steps)
            return [schedule.alpha_bar(steps[name]) for name in self.modalities]
        middles = {name: low if low == high else (low + high) / 2 for name, (low, high) in ranges.items()}
        return [alpha_bar_of_snr(middles[name], self.variances[name], power) for name in self.modalities]

    # ---------------------------------------------------------------- adding noise

    def forward(
        self,
        features: Mapping[str, Tensor],
        *,
        lengths: Mapping[str, Tensor | None] | None = None,
        sample_ids: Tensor | None = None,
        draw: int | Tensor | None = None,
        rng: Tensor | None = None,
        condition: str | int | Tensor | None = None,
        return_stats: bool = False,
    ) -> Noised:
        """Add noise to a batch.

        Args:
            features: the features [B, T, ...] of each modality, by its name; [B, D] without lengths. Other names are
                ignored.
            lengths: the valid steps of each modality, by its name, integers [B] or None.
            sample_ids: the samples' ids in the data set, integers [B]; 0..B-1 by default, with which all ranks, workers
                and micro-batches share their noise: the first such call in a DataLoader worker or in a process group
                warns.
            draw: the number of the draw for these samples (an epoch or a repeat), an int or an integer tensor [];
                another draw gives other noise and conditions. By default it is the next one, which the buffer `rng`
                counts, also in compiled steps and in a replayed CUDA graph.
            rng: (seed, draw), int64 [2], in place of the scheduler's seed and `draw`, for compiled steps.
            condition: a condition's name or index for all samples, or indices [B] into `conditions.names`; by default
                each sample draws one of the incomplete conditions, uniformly.
            return_stats: whether to measure what was added.

        Returns:
            The noisy features, each sample's condition, and the statistics or None.

        Raises:
            TypeError, ValueError: one line that names the argument, what it was and what was expected; among them
                neither `draw` nor `rng` in a DataLoader worker.
            RuntimeError: neither `draw` nor `rng` where a backward pass runs, which is how activation checkpointing
                runs a forward again.
        """
        generated = isinstance(self.kind, str) and self.kind in GENERATED_KINDS
        xs = check_features(features, self.modalities, one_dtype=generated)
        valid = check_lengths(lengths, self.modalities)
        batch, device = xs[0].shape[0], xs[0].device
        if sample_ids is None and not torch.compiler.is_compiling():
            warn_shared_noise()
        sample_ids = check_sample_ids(sample_ids, batch, device)
        tables, rng = self._tables_on(device), self._rng_of(rng, draw, device)
        if condition is None:
            index = self.conditions.draw(rng, sample_ids)
        else:
            index = check_condition(condition, self.conditions, batch, device)
        noisy = tables.noisy[index]
        if self._odds_db is not None:
            alpha_bars = self._mixed_alpha_bars(rng, sample_ids)
            ys, _ = self._add(xs, alpha_bars, rng, sample_ids, noisy, valid, False)
            stats = self._mixed_stats(xs, ys, alpha_bars, noisy, valid) if return_stats else None
        else:
            alpha_bars = self._random_alpha_bars(rng, sample_ids) if self.random_steps else tables.alpha_bars
            ys, stats = self._add(xs, alpha_bars, rng, sample_ids, noisy, valid, return_stats)
            if stats is not None:
                kept = alpha_bars[:, None]
                stats = torch.cat([stats[:, :1], kept * stats[:, :3], (1 - kept) * stats[:, 3:]], dim=1)
        return Noised(dict(zip(self.modalities, ys, strict=True)), index, stats)

    def _rng_of(self, rng: Tensor | None, draw: int | Tensor | None, device: torch.device) -> Tensor:
        """(seed, draw) of a call, int64 [2] on the device."""
        if rng is not None:
            if draw is not None:
                raise ValueError(f"draw: expected none beside rng, which holds it, got {draw!r}")
            return check_rng(rng, device)
        if draw is None:
            if not torch.compiler.is_compiling() and in_worker():
                raise ValueError(
                    "draw: expected a number in a DataLoader worker, where the count of draws is a copy that every "
                    "epoch starts anew: pass draw, the epoch, and sample_ids, the samples' indices in the data set"
                )
            return self.next_rng().to(device)
        draw = check_draw_number(draw, device)
        if self.rng is self._own_rng and isinstance(draw, int):
            return ops.rng_tensor(self.seed, draw, device)
        seed = ops.rng_tensor(self.seed, 0, device)[0] if self.rng is self._own_rng else self.rng[0].to(device)
        return torch.stack([seed, draw if isinstance(draw, Tensor) else ops.rng_tensor(0, draw, device)[1]])

    def _random_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """The alpha_bars [M] of a random step for each modality."""
        words = self._words(rng, sample_ids[:1].sum(), STEP_STREAM)
        return self._tables_on(rng.device).alpha_bars[(words * len(self._alpha_bars)) >> 32]

    def _mixed_alpha_bars(self, rng: Tensor, sample_ids: Tensor) -> Tensor:
        """The alpha_bars [B, M] of SNRs that are uniform in each modality's range; an SNR in dB is a log of odds."""
        odds_db = self._tables_on(rng.device).odds_db
        assert odds_db is not None
        words = self._words(rng, sample_ids[:, None], SNR_STREAM)
        low, high = odds_db.unbind(1)
        return torch.sigmoid(math.log(10) / 10 * torch.lerp(low, high, (words.to(low.dtype) + 0.5) * 2.0**-32))

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
            squares, power = (torch.linalg.vector_norm(t, dim=1).to(kept.dtype).square() for t in (clean, noise))
            sums = [count, kept * count, kept * clean.sum(1), kept * squares, power]
            rows.append(torch.stack([one.to(kept.dtype).sum() for one in sums]))
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


def _signed(seed: int) -> int:
    """The seed as the int64 of the same bits."""
    return (seed + 2**63) % 2**64 - 2**63


def _drawn_seed() -> int:
    """A seed from torch's default generator."""
    with _disable_current_modes():
        return int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu"))


def _first_device() -> torch.device:
    """Torch's default device; the CPU in place of the meta device, on which the count of draws would have no value."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def _range_of(ratio: Any) -> tuple[float, float]:
    """The lowest and the highest SNR that a number, or a pair of them, gives."""
    if isinstance(ratio, Real) or getattr(ratio, "ndim", 1) == 0:
        ratio = [ratio, ratio]
    if isinstance(ratio, str) or not isinstance(ratio, Iterable):
        raise TypeError(f"snr_db: expected decibels, or a range's lower and higher end, got {ratio!r}")
    numbers = [real("snr_db", end) for end in ratio]
    if len(numbers) != 2 or not (numbers[0] == numbers[1] or -math.inf < numbers[0] < numbers[1] < math.inf):
        raise ValueError(f"snr_db: expected decibels, or a range's lower and higher end, got {ratio!r}")
    return numbers[0], numbers[1]

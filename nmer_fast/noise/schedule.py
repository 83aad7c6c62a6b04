"""Schedules of beta, the alpha_bar of a number of steps, and the conversion between alpha_bar and SNR.

All arithmetic is float64 on the host, whatever torch's default dtype, default device and dispatch modes are. A number
may be of any type: Python's, NumPy's, or an array or tensor without dims. An SNR is in dB:
10 log10(alpha_bar var / ((1 - alpha_bar) v)), where `var` is the data's variance and `v` the noise's own power (paper,
Eq. 4 and 5, which leave v out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..contract import CONVENTIONS, SCHEDULES, ScheduleKind, integer, real


@dataclass(frozen=True)
class NoiseSchedule:
    """Betas, and alpha_bar(T) = prod of (1 - beta_t) over t = 1..T (paper, Eq. 1 and 2).

    Attributes:
        kind: "paper" spreads beta_start..beta_end linearly over a chosen T, so more steps mean more noise. The other
            kinds have a fixed length, of which T picks a step: "linear", "scaled_linear" (linear in the square root),
            "cosine" (Nichol and Dhariwal, arXiv 2102.09672) and "sigmoid".
        beta_start: the first beta; 0 < beta_start <= beta_end < 1.
        beta_end: the last beta.
        length: the number of steps of a schedule of fixed length.

    Raises:
        TypeError, ValueError: one line that names the attribute, what it was and what was expected.
    """

    kind: ScheduleKind = "paper"
    beta_start: float = 0.001
    beta_end: float = 0.1
    length: int = 100

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ValueError(f"kind: expected one of {', '.join(SCHEDULES)}, got {self.kind!r}")
        for name, read in (("beta_start", real), ("beta_end", real), ("length", integer)):
            object.__setattr__(self, name, read(name, getattr(self, name)))
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"beta: expected 0 < beta_start <= beta_end < 1, got {self.beta_start}, {self.beta_end}")
        if self.length < 1:
            raise ValueError(f"length: expected at least 1 step, got {self.length}")

    def betas(self, steps: int) -> Tensor:
        """beta_1..beta_T, float64 [T] on the CPU, for T = steps; ValueError if the schedule has no such step."""
        steps = integer("steps", steps)
        if steps < 1 or (self.kind != "paper" and steps > self.length):
            bound = "1 or more" if self.kind == "paper" else f"1 to {self.length}"
            raise ValueError(f"steps: expected {bound}, got {steps}")
        n = steps if self.kind == "paper" else self.length
        return self._all_betas(n)[:steps]

    def _all_betas(self, n: int) -> Tensor:
        start, end = self.beta_start, self.beta_end
        linspace = partial(torch.linspace, steps=n, dtype=torch.float64, device="cpu")
        if self.kind == "scaled_linear":
            return linspace(math.sqrt(start), math.sqrt(end)) ** 2
        if self.kind == "cosine":
            t = torch.arange(n + 1, dtype=torch.float64, device="cpu") / n
            alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        if self.kind == "sigmoid":
            return torch.sigmoid(linspace(-6, 6)) * (end - start) + start
        return linspace(start, end)

    def alpha_bar(self, steps: int) -> float:
        """The share of the signal's power that is left after T = steps."""
        with _disable_current_modes():  # a model that is made of fake tensors has a schedule of numbers all the same
            return (1 - self.betas(steps)).prod().item()

    def nearest_steps(self, snr_db: float, variance: float, noise_power: float = 1.0) -> tuple[int, float]:
        """Find the number of steps T whose SNR is nearest to snr_db.

        Args:
            snr_db: the wanted SNR, in dB.
            variance: the data's variance.
            noise_power: the noise's own power.

        Returns:
            (T, the SNR that T gives, in dB).
        """

        def snr(steps: int) -> float:
            return snr_of_alpha_bar(self.alpha_bar(steps), variance, noise_power)

        snr_db = real("snr_db", snr_db)
        low, high = 1, 1
        while snr(high) > snr_db and (self.kind == "paper" or high < self.length):
            low, high = high, 2 * high if self.kind == "paper" else min(2 * high, self.length)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if snr(middle) > snr_db else (low, middle)
        return min(((t, snr(t)) for t in (low, high)), key=lambda pair: abs(pair[1] - snr_db))


def check_variance(variance: float, name: str = "variance") -> float:
    """Return the variance; raise ValueError if it is 0, negative, infinite or NaN: there is no SNR with it."""
    variance = real(name, variance)
    if not (math.isfinite(variance) and variance > 0):
        raise ValueError(f"{name}: expected a variance above 0 (the features must vary), got {variance}")
    return variance


def snr_of_alpha_bar(alpha_bar: float, variance: float, noise_power: float = 1.0) -> float:
    """The SNR in dB at an alpha_bar, of data of a variance in noise of a power; infinite at alpha_bar 0 and 1."""
    variance, alpha_bar = check_variance(variance), real("alpha_bar", alpha_bar)
    signal, noise = alpha_bar * variance, (1 - alpha_bar) * real("noise_power", noise_power)
    if signal == 0:
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def alpha_bar_of_snr(snr_db: float, variance: float, noise_power: float = 1.0) -> float:
    """The alpha_bar that gives an SNR in dB: s v / (var + s v) with s = 10^(snr_db / 10).

    Raises:
        TypeError: an argument is no number.
        ValueError: snr_db is NaN, the variance is not above 0 and finite, or the noise has no power.
    """
    variance, snr_db = check_variance(variance), real("snr_db", snr_db)
    noise_power = real("noise_power", noise_power)
    if math.isnan(snr_db):
        raise ValueError("snr_db: expected a number of decibels, got nan")
    if noise_power <= 0:
        raise ValueError(f"noise_power: expected a power above 0, got {noise_power}: no alpha_bar gives an SNR")
    if snr_db > 0:  # the same fraction, in a form that cannot overflow
        return noise_power / (variance * 10 ** (-snr_db / 10) + noise_power)
    s = 10 ** (snr_db / 10)
    return s * noise_power / (variance + s * noise_power)


def noise_power(kind: str, p: float, convention: str = "exact") -> float:
    """The power v that an SNR counts: p for impulse noise and 1 for other kinds; 1 for all kinds in the paper.

    Raises:
        ValueError: there is no such convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"snr_convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
    return real("p", p) if kind == "impulse" and convention == "exact" else 1.0


def variance(x: Tensor, lengths: Tensor | None = None) -> float:
    """The population variance of x's valid elements, computed in float64.

    Args:
        x: the features [B, ...].
        lengths: the valid steps along dim 1, integers [B]; all steps are valid by default.
    """
    values = x.double()
    if lengths is not None:
        values = values[torch.arange(x.shape[1], device=x.device) < lengths[:, None]]
    return values.var(correction=0).item()

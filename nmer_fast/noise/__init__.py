"""The paper's noise and other kinds: schedules, SNR, conditions, and NoiseScheduler for any training loop."""

from ..contract import KINDS
from .conditions import Conditions
from .schedule import NoiseSchedule, alpha_bar_of_snr, noise_power, snr_of_alpha_bar, variance
from .scheduler import Noised, NoiseScheduler

__all__ = [
    "KINDS",
    "Conditions",
    "NoiseSchedule",
    "NoiseScheduler",
    "Noised",
    "alpha_bar_of_snr",
    "noise_power",
    "snr_of_alpha_bar",
    "variance",
]

"""MultiBench's two summaries of accuracy under noise (Liang et al., NeurIPS 2021; its eval_scripts/robustness.py).

Three things differ from MultiBench:

- Its noise goes from 0 to 1 in steps of 0.1. Here noise is an SNR in dB, and the steps need not be equal, so the area
  under a curve is divided by its width, which gives a mean.
- It trains one model on clean data and tests it under all noise. Here a system may be trained under noise, and is then
  another model at every SNR, with its own accuracy on clean data. Clean data has no SNR and is no point of a curve:
  effective robustness is measured from it.
- It scales the results to 0 for the worst and 1 for the best of its systems. Here nothing is scaled, because the scale
  would depend on which systems are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

Curve = Mapping[float, float]
"""Accuracy by SNR in dB."""


def relative_robustness(curve: Curve) -> float:
    """The area under accuracy against SNR by trapezoids, divided by its width; NaN for fewer than two points."""
    points = sorted(curve.items())
    if len(points) < 2:
        return math.nan
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def effective_robustness(curve: Curve, clean: Curve, baseline: Curve, baseline_clean: Curve) -> float:
    """How much less accuracy the system loses to noise than the baseline (late fusion) loses.

    The result is the relative robustness of (f - f_clean) - (g - g_clean); MultiBench takes the sum over the points. If
    it is positive, the system loses less than a system of equal clean accuracy whose accuracy falls like late fusion's.

    Args:
        curve: f, the system's accuracy.
        clean: f_clean, the accuracy of the same models on clean data.
        baseline: g, late fusion's accuracy.
        baseline_clean: g_clean, late fusion's accuracy on clean data.

    Returns:
        a fraction, over the SNRs that all four curves have; NaN if they have fewer than two in common.
    """
    common = [snr for snr in curve if snr in clean and snr in baseline and snr in baseline_clean]
    return relative_robustness(
        {snr: (curve[snr] - clean[snr]) - (baseline[snr] - baseline_clean[snr]) for snr in common}
    )

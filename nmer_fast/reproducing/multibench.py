"""MultiBench's two summaries of accuracy under noise (Liang et al., NeurIPS 2021; its eval_scripts/robustness.py).

Its noise goes from 0 to 1 in steps of 0.1, and one model, trained on clean data, is tested under all of it. Here noise
is an SNR in dB, whose steps need not be equal, so an area is taken over the axis and divided by its width: a mean.
Clean data have no place on that axis; they are the beginning that effective robustness measures from. A system that is
trained under noise is another model at every SNR, with a clean accuracy of its own. MultiBench then scales to 0 for the
worst and 1 for the best of its systems; not here, where that would depend on which ones are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

Curve = Mapping[float, float]
"""Accuracy by SNR in dB."""


def relative_robustness(curve: Curve) -> float:
    """The area under accuracy against noise over its width, by trapezoids; nan of fewer than two points."""
    points = sorted(curve.items())
    if len(points) < 2:
        return math.nan
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def effective_robustness(curve: Curve, clean: Curve, baseline: Curve, baseline_clean: Curve) -> float:
    """How much less noise costs the system than the baseline (late fusion), each measured from its own clean accuracy.

    The relative robustness of (f - f_clean) - (g - g_clean), where MultiBench takes the sum: above 0, the system loses
    less than one of the same clean accuracy that falls as late fusion does.

    Args:
        curve: f, the system's.
        clean: f_clean, the same model's on clean data.
        baseline: g, late fusion's.
        baseline_clean: g_clean.

    Returns:
        a fraction, over the SNRs that all four have; nan of fewer than two.
    """
    common = [snr for snr in curve if snr in clean and snr in baseline and snr in baseline_clean]
    return relative_robustness(
        {snr: (curve[snr] - clean[snr]) - (baseline[snr] - baseline_clean[snr]) for snr in common}
    )

"""MultiBench's two summaries, against its own formulas and by hand."""

import math

import numpy as np
import pytest

from nmer_fast.reproducing.multibench import effective_robustness, relative_robustness

SNRS = (-10.0, -20.0, -30.0, -40.0)
F, G = (0.8, 0.7, 0.6, 0.5), (0.75, 0.6, 0.5, 0.45)


def curve(values):
    return dict(zip(SNRS, values, strict=True))


def test_by_hand():
    assert relative_robustness(curve(F)) == pytest.approx((0.75 + 0.65 + 0.55) / 3)
    assert relative_robustness({0.0: 0.9, -10.0: 0.7, -40.0: 0.1}) == pytest.approx((10 * 0.8 + 30 * 0.4) / 40)
    clean, baseline_clean = curve((0.85,) * 4), curve((0.8,) * 4)
    drops = [(f - 0.85) - (g - 0.8) for f, g in zip(F, G, strict=True)]
    expected = (drops[0] / 2 + drops[1] + drops[2] + drops[3] / 2) / 3
    assert effective_robustness(curve(F), clean, curve(G), baseline_clean) == pytest.approx(expected)


def test_against_multibenchs_formulas():
    """Eleven equal steps: its area of [0, 1] is this mean; its sum of f - beta, with f at the first step for clean."""
    rng = np.random.default_rng(0)
    f, g = np.sort(rng.uniform(size=(2, 11)))[:, ::-1]
    axis = [-10.0 * i for i in range(11)]
    area = sum((f[i] + f[i + 1]) * 0.1 / 2 for i in range(10))
    assert relative_robustness(dict(zip(axis, f, strict=True))) == pytest.approx(area)
    beta = g + (f[0] - g[0])
    gain = f - beta
    ours = effective_robustness(
        dict(zip(axis, f, strict=True)),
        dict.fromkeys(axis, f[0]),
        dict(zip(axis, g, strict=True)),
        dict.fromkeys(axis, g[0]),
    )
    assert ours == pytest.approx((gain.sum() - (gain[0] + gain[-1]) / 2) / 10)


def test_what_changes_nothing():
    """The order of points; a system that is better by as much everywhere, clean data too; late fusion against itself."""
    turned = dict(reversed(curve(F).items()))
    assert relative_robustness(turned) == relative_robustness(curve(F))
    clean, baseline_clean = curve((0.9, 0.85, 0.85, 0.8)), curve((0.8,) * 4)
    one = effective_robustness(curve(F), clean, curve(G), baseline_clean)
    raised = effective_robustness(
        {k: v + 0.05 for k, v in curve(F).items()}, {k: v + 0.05 for k, v in clean.items()}, curve(G), baseline_clean
    )
    assert raised == pytest.approx(one)
    assert effective_robustness(curve(G), baseline_clean, curve(G), baseline_clean) == 0


def test_one_point_is_no_curve():
    assert math.isnan(relative_robustness({-10.0: 0.5}))
    assert math.isnan(relative_robustness({}))
    one = {-10.0: 0.5}
    assert math.isnan(effective_robustness(curve(F), curve(F), one, one))

"""Dropout on a CPU: the masks come from this library's noise; distribution and scale are those of torch's dropout."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nmer_fast.config import model_config
from nmer_fast.models import SYSTEMS, make_system
from nmer_fast.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_value_is_dropped_with_probability_p_or_scaled(p):
    """The share of zeros, over all values and in each row, is within 5 standard errors of p."""
    y = Dropout(p)(torch.full((64, 5000), 3.0))
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 3 / (1 - p)))
    zeros, error = (y == 0).double(), (p * (1 - p)) ** 0.5
    assert abs(zeros.mean() - p) < 5 * error / y.numel() ** 0.5
    assert (zeros.mean(1) - p).abs().max() < 5 * error / y.shape[1] ** 0.5


def test_values_rows_and_calls_are_dropped_apart():
    """Masks of neighbours, of rows and of consecutive calls are uncorrelated, within 5 standard errors."""
    drop, x = Dropout(0.5), torch.ones(64, 5000)
    a, b = (drop(x) - 1 for _ in "ab")
    for one, other in ((a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1])):
        assert abs((one * other).mean()) < 5 / one.numel() ** 0.5


def test_gradients_have_the_outputs_zeros():
    x = torch.randn(8, 300, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert 0.1 < (y == 0).float().mean() < 0.4
    torch.testing.assert_close(x.grad * x, y)


def test_torchs_generator_governs():
    drop, x = Dropout(0.5), torch.ones(8, 300)
    torch.manual_seed(3)
    first, second = drop(x), drop(x)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_at_0():
    x = torch.randn(8, 300)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype):
    y = Dropout(0.5)(torch.ones(8, 300, dtype=dtype))
    assert y.dtype == dtype
    assert set(y.unique().tolist()) == {0.0, 2.0}


def test_elsewhere_it_is_torchs(monkeypatch):
    """On other devices torch's dropout is used, where one kernel draws the mask and scales."""
    calls, real = [], F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, p: calls.append((x.device.type, p)) or real(x, p))
    Dropout(0.5)(torch.ones(2, 3, device="meta"))
    Dropout(0.5)(torch.ones(2, 3))
    assert calls == [("meta", 0.5)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_drops_so(name):
    config = model_config({"system": name, **({"modality": "l"} if name == "unimodal" else {})})
    model = make_system({"a": 2, "l": 3}, 2, config)
    assert any(isinstance(m, Dropout) for m in model.modules())
    assert not any(isinstance(m, nn.Dropout) for m in model.modules())

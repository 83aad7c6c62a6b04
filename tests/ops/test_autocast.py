"""Under autocast the ops use autocast's dtypes: products in bfloat16, sums in float32, noise in x's own dtype."""

import pytest
import torch

from nmer_fast import ops

LOW = torch.bfloat16


def lstm_case():
    lstm = torch.nn.LSTM(12, 16, batch_first=True)
    x, lengths = torch.randn(6, 9, 12), torch.tensor([9, 1, 0, 4, 6, 3])
    return x, lengths, [p.detach().requires_grad_() for p in (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0)]


def test_the_lstm_works_in_autocasts_dtype_and_its_weights_get_float32_gradients():
    x, lengths, weights = lstm_case()
    exact = ops.lstm_max_pool(x, lengths, *weights)
    wanted = torch.autograd.grad(exact.sum(), weights)
    with torch.autocast("cpu", LOW):
        pooled = ops.lstm_max_pool(x, lengths, *weights)
    assert pooled.dtype == LOW
    grads = torch.autograd.grad(pooled.float().sum(), weights)
    assert all(g.dtype == torch.float32 for g in grads)
    # bf16 keeps 8 bits: some rounding steps of 2^-9 each, relative to values near 1
    torch.testing.assert_close(pooled.float(), exact, rtol=0, atol=0.02)
    for got, expected in zip(grads, wanted, strict=True):
        assert (got - expected).norm() < 0.03 * expected.norm()


def test_float64_is_left_alone():
    x, lengths, weights = lstm_case()
    double = [t.double() for t in (x, *weights)]
    with torch.autocast("cpu", LOW):
        pooled = ops.lstm_max_pool(double[0], lengths, *double[1:])
        z, kl = ops.reparameterize_kl(torch.zeros(2, 3).double(), torch.zeros(2, 3).double(), seed=1)
    assert pooled.dtype == z.dtype == kl.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_noise_stays_in_the_features_dtype(dtype):
    x = torch.randn(3, 5, 4).to(dtype)
    plain = ops.add_noise(x, 0.3, seed=1)
    with torch.autocast("cpu", LOW):
        assert torch.equal(ops.add_noise(x, 0.3, seed=1), plain)
        (y,) = ops.add_noise_multimodal([x], torch.tensor([0.3], dtype=torch.float64), seed=1)
    assert torch.equal(y, plain)
    assert plain.dtype == dtype


def test_mixing_promotes_to_the_wider_dtype():
    x, eps = torch.randn(3, 5), torch.randn(3, 5, dtype=LOW, requires_grad=True)
    with pytest.raises(ValueError, match=r"^eps: expected the same as x"):
        ops.mix_noise(x, eps, 0.3)
    with torch.autocast("cpu", LOW):
        y = ops.mix_noise(x, eps, 0.3)
    assert y.dtype == torch.float32
    assert torch.equal(y, ops.mix_noise(x, eps.float(), 0.3))
    y.sum().backward()
    assert eps.grad.dtype == LOW


def test_sampling_and_kl_are_in_float32():
    mu, logvar = (torch.randn(4, 6, dtype=LOW, requires_grad=True) for _ in range(2))
    with torch.autocast("cpu", LOW):
        z, kl = ops.reparameterize_kl(mu, logvar, seed=1)
    assert z.dtype == kl.dtype == torch.float32
    expected = ops.reparameterize_kl(mu.detach().float(), logvar.detach().float(), seed=1)
    assert torch.equal(z, expected[0])
    assert torch.equal(kl, expected[1])
    (z.sum() + kl.sum()).backward()
    assert mu.grad.dtype == logvar.grad.dtype == LOW


def test_under_compile_as_in_eager():
    """Compiled code is one graph and gives the same numbers."""
    x, lengths, weights = lstm_case()

    def step(x, lengths, *weights):
        with torch.autocast("cpu", LOW):
            pooled = ops.lstm_max_pool(ops.add_noise(x, 0.3, seed=1, lengths=lengths), lengths, *weights)
            return ops.reparameterize_kl(pooled, pooled, seed=2)

    eager, compiled = (f(x, lengths, *weights) for f in (step, torch.compile(step, fullgraph=True)))
    for a, b in zip(eager, compiled, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_the_lstm_in_bfloat16_passes_opcheck(training):
    x, lengths, weights = lstm_case()
    args = [x.detach().to(LOW), lengths, *(w.detach().to(LOW)[None] for w in weights)]
    op = torch.ops.nmer_fast.lstm_max_pool.default
    torch.library.opcheck(op, tuple(args), test_utils=("test_schema", "test_faketensor"))
    if training:
        grad = torch.randn(6, 1, 16).to(LOW)
        _, argmax, *rows = op(*args)
        backward = torch.ops.nmer_fast.lstm_backward.default
        given = (grad, *args[:4], *rows, True, argmax)
        torch.library.opcheck(backward, given, test_utils=("test_schema", "test_faketensor"))

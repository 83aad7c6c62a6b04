"""Every Triton kernel, with its launch code, equals the reference: on a GPU if there is one, else interpreted.

`make test` runs it in Triton's interpreter (TRITON_INTERPRET=1), where the 16-bit kernels' special-function instructions
are substituted. On a GPU they are the real ones.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU here, and TRITON_INTERPRET=1 is not set; make test sets it", allow_module_level=True)

from triton.errors import TritonError

from nmer_fast.contract import GENERATED_KINDS as KINDS
from nmer_fast.kernels import add_noise, launch, lstm, mix_noise, noise, philox, reparameterize_kl
from nmer_fast.kernels import add_noise_multimodal as multimodal
from nmer_fast.ops import reference
from tests.kernels import chosen
from tests.ops import contract

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
DEVICE = "cpu" if INTERPRETED else "cuda"
RNG = torch.tensor([-(2**63) + 77, 2**32 - 3], device=DEVICE)
P = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
# The interpreter truncates where bfloat16 rounds: up to an ulp more.
TRUNCATED = {torch.bfloat16: 2.0**-8} if INTERPRETED else {}
# What the special-function unit adds to "fast" values of 16 bits, and one float32 factor where float32 itself has two.
FAST = {} if INTERPRETED else {torch.bfloat16: 100, torch.float16: 100}


@pytest.fixture(autouse=True)
def _on_the_device():
    with torch.device(DEVICE):
        yield


def within(got, exact, error=2e-6):
    error = error * FAST.get(got.dtype, 1) + TRUNCATED.get(got.dtype, 0) * exact.abs()
    contract.assert_within(got, exact, (1e-12 if got.dtype == torch.float64 else 0) + error)


def selection():
    """Return ids, flags of both kinds, and lengths from none to all steps, one negative and one too long."""
    return (
        torch.tensor([5, 2**48 - 1, 2**32, 0, -1, 7]),
        torch.tensor([True, True, True, False, True, True]),
        torch.tensor([9, 0, 4, 1, 12, -3]),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_noise(dtype, kind):
    x = torch.randn(6, 9, 37).to(dtype)
    alpha_bar = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 0.3], dtype=torch.float64)
    args = (*selection(), P if kind == "impulse" else None, 200, kind)
    y, eps = add_noise.add_noise(x, alpha_bar, RNG, *args, True)
    exact_y, exact_eps = reference.add_noise(x.double(), alpha_bar, RNG, *args, True)
    within(eps, exact_eps)
    within(y, exact_y)
    assert torch.equal(y[3, :1], x[3, :1])  # not noisy, of length 1
    assert torch.equal(y[4], x[4])  # alpha_bar 1
    assert y[3, 1:].abs().max() == 0
    assert torch.equal(noise.noise([6, 9, 37], RNG, *args, dtype), eps)
    if kind == "impulse":
        assert torch.equal(eps.double(), exact_eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_unknown_kind_is_refused(dtype):
    with pytest.raises(TritonError) as caught:
        noise.noise([6, 9, 37], RNG, None, None, None, None, 200, "cauchy", dtype)
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert f"kind: expected one of {', '.join(KINDS)}, got cauchy" in str(error)


@pytest.mark.parametrize("dims", [(130, 342, 1024), (74, 35, 300), (1,), (5, 8, 1, 2, 3, 4, 7, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_sample", [False, True])
def test_add_noise_multimodal(dtype, dims, per_sample):
    """Steps are a multiple of 8, as the batcher makes them, or not; every condition and every length occurs."""
    count = len(dims)
    xs = [torch.randn(3, 8 if d > 100 or m % 2 else 3, d).to(dtype) for m, d in enumerate(dims)]
    lengths = torch.stack([torch.tensor([x.shape[1], 0, 2]) for x in xs], dim=1)
    noisy = (torch.arange(3 * count).reshape(3, count) * 5) % 3 != 0
    alpha_bars = torch.rand(3, count, dtype=torch.float64) if per_sample else torch.rand(count, dtype=torch.float64)
    args = (alpha_bars, RNG, selection()[0][:3], noisy, lengths, None, list(range(count))[::-1], "gaussian", True)
    ys, stats = multimodal.add_noise_multimodal(xs, *args)
    exact, exact_stats = reference.add_noise_multimodal([x.double() for x in xs], *args)
    for y, expected in zip(ys, exact, strict=True):
        within(y, expected)
    assert torch.equal(stats[:, 0], exact_stats[:, 0])
    torch.testing.assert_close(stats, exact_stats, rtol=1e-6, atol=2e-6 * stats[:, 0].max().item())
    again, none = multimodal.add_noise_multimodal(xs, *args[:-1], False)
    assert all(torch.equal(a, b) for a, b in zip(ys, again, strict=True))
    assert none.shape == (0, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mix_noise_and_its_gradients(dtype):
    x, eps = (torch.randn(6, 9, 37).to(dtype) for _ in range(2))
    alpha_bar, masks = torch.rand(6, dtype=torch.float64), selection()[1:]
    within(
        mix_noise.mix_noise(x, eps, alpha_bar, *masks),
        reference.mix_noise(x.double(), eps.double(), alpha_bar, *masks),
    )
    for wrt_noise in (False, True):
        got = mix_noise.mix_noise_backward(x, alpha_bar, *masks, wrt_noise)
        within(got, reference.mix_noise_backward(x.double(), alpha_bar, *masks, wrt_noise), 1e-6)


@pytest.mark.parametrize("row", [1, 64, 700, 2056])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reparameterize_kl_and_its_gradients(dtype, row):
    mu, logvar = torch.randn(3, row).to(dtype), (2 * torch.randn(3, row)).to(dtype)
    args = (RNG, selection()[0][:3], 240)
    z, kl = reparameterize_kl.reparameterize_kl(mu, logvar, *args)
    exact_z, exact_kl = reference.reparameterize_kl(mu.double(), logvar.double(), *args)
    sigma, wide = (logvar.double() / 2).exp(), dtype == torch.float64
    within(z, exact_z, (1e-12 if wide else 2e-6) * (1 + 8 * sigma))
    magnitudes = 0.5 * (1 + logvar.double().abs() + mu.double() ** 2 + sigma**2).sum(1)
    assert ((kl.double() - exact_kl).abs() <= (1e-13 if wide else 1e-6) * magnitudes).all()
    gz, gk = torch.randn(3, row).to(dtype), torch.randn(3, dtype=kl.dtype)
    got = reparameterize_kl.reparameterize_kl_backward(gz, gk, mu, logvar, *args)
    exact = reference.reparameterize_kl_backward(gz.double(), gk.double(), mu.double(), logvar.double(), *args)
    for g, e in zip(got, exact, strict=True):
        size = gz.double().abs() * (1 + 8 * sigma) + gk.double().abs()[:, None] * (mu.double().abs() + sigma**2 + 1)
        within(g, e, (1e-12 if wide else 1e-6) * size)


def lstm_case(width, dtype):
    """Return (x, lengths, weights) of two encoders and two groups of samples. x is NaN beyond each length."""
    x, lengths = torch.randn(11, 6, 5).to(dtype), torch.tensor([6, 0, 3, 1, 5, 6, 2, 4, 9, -3, 6])
    x = x.masked_fill((torch.arange(6) >= lengths[:, None])[..., None], float("nan"))
    sizes = ((2, 4 * width, 5), (2, 4 * width, width), (2, 4 * width))
    return x, lengths, [(torch.randn(size) / size[-1] ** 0.5).to(dtype) for size in sizes]


def lstm_run(module, name, x, lengths, weights, grad):
    """Return (output, gradients), computed by the functions of a module."""
    out, *argmax, hidden, cell, gates = getattr(module, name)(x, lengths, *weights)
    grad = (grad[:, 0] if argmax else grad).to(x.dtype)
    return out, module.lstm_backward(grad, x, lengths, *weights[:2], hidden, cell, gates, True, *argmax)


@pytest.mark.parametrize("name", ["lstm_max_pool", "lstm_states"])
@pytest.mark.parametrize("width", [16, 128])
def test_the_lstm_and_its_gradients(name, width):
    x, lengths, weights = lstm_case(width, torch.float32)
    grad = torch.randn(11, 6, 2, width)
    out, grads = lstm_run(lstm, name, x, lengths, weights, grad)
    exact, exact_grads = lstm_run(
        reference, name, x.double(), lengths.clamp(0, 6), [w.double() for w in weights], grad.double()
    )
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-6)
    assert (out[[1, 9]] == 0).all()
    for got, expected in zip(grads, exact_grads, strict=True):
        assert (got.double() - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert lstm_run(lstm, name, x, lengths, weights, grad)[1][1].equal(grads[1])


@pytest.mark.parametrize("name", ["lstm_max_pool", "lstm_states"])
def test_the_lstm_in_bfloat16_errs_no_more_than_the_reference(name):
    x, lengths, weights = lstm_case(32, torch.bfloat16)
    grad = torch.randn(11, 6, 2, 32)
    out, grads = lstm_run(lstm, name, x, lengths, weights, grad)
    plain, exact = (
        lstm_run(reference, name, x.to(dtype), lengths.clamp(0, 6), [w.to(dtype) for w in weights], grad)
        for dtype in (torch.bfloat16, torch.float64)
    )
    for got, usual, expected in zip((out, *grads), (plain[0], *plain[1]), (exact[0], *exact[1]), strict=True):
        assert got.dtype == torch.bfloat16
        more = 3 if INTERPRETED else 1.5  # the interpreter truncates
        assert (got - expected).abs().mean() <= more * (usual - expected).abs().mean()


def test_the_lstm_serves_what_it_cannot_by_the_reference():
    """The results are the reference's for widths that are no power of two or too wide for a program, and for float64."""
    for width, dtype in ((6, torch.float32), (256, torch.float32), (16, torch.float64)):
        x, lengths, weights = lstm_case(width, dtype)
        given = (x, lengths.clamp(0, 6), weights, torch.randn(11, 6, 2, width))
        for name in ("lstm_max_pool", "lstm_states"):
            ours, theirs = lstm_run(lstm, name, *given), lstm_run(reference, name, *given)
            assert torch.equal(ours[0], theirs[0])
            assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


@pytest.mark.parametrize(("batch", "steps"), [(0, 6), (11, 0)])
def test_the_lstm_of_nothing(batch, steps):
    x, lengths, weights = lstm_case(16, torch.float32)
    for name, shape in (("lstm_max_pool", (batch, 2, 16)), ("lstm_states", (batch, steps, 2, 16))):
        out, grads = lstm_run(lstm, name, x[:batch, :steps], lengths[:batch], weights, torch.ones(batch, 1, 2, 16))
        assert out.shape == shape
        assert (out == 0).all()
        assert all((g == 0).all() for g in grads)


def test_what_is_no_number_reaches_the_lstms_output():
    x, lengths, weights = torch.randn(3, 4, 5), torch.full((3,), 4), lstm_case(16, torch.float32)[2]
    x[1, 2] = float("nan")
    pooled, states = lstm.lstm_max_pool(x, lengths, *weights)[0], lstm.lstm_states(x, lengths, *weights)[0]
    assert pooled[1].isnan().all()
    assert states[1, 2:].isnan().all()
    assert pooled[[0, 2]].isfinite().all()
    assert states[[0, 2]].isfinite().all()


def test_exponentials_at_their_ends():
    logvar = torch.tensor([[0.0, -400.0, 100.0, float("nan"), -1e-5, 1e-3, -float("inf"), 170.0]])
    mu, ones = torch.zeros_like(logvar), torch.full((1,), 2.0)
    _, expm1 = reparameterize_kl.reparameterize_kl_backward(mu, ones, mu, logvar, torch.tensor([1, 0]), None, 240)
    torch.testing.assert_close(expm1, torch.expm1(logvar), rtol=1e-6, atol=5e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_features_stay_infinite(dtype):
    x = torch.tensor([[float("inf"), -float("inf"), 1.0, 3e38]], dtype=dtype)
    for alpha_bar in (0.25, 0.3, 1.0):
        keep = torch.tensor(alpha_bar, dtype=torch.float64)
        y, _ = add_noise.add_noise(x, keep, RNG, None, None, None, None, 1, "gaussian", False)
        assert y[0, :2].tolist() == [float("inf"), -float("inf")]
        assert y[0, 2:].isfinite().all()
        assert torch.equal(mix_noise.mix_noise_backward(x, keep, None, None, False)[0, :2], x[0, :2])


@pytest.mark.parametrize("exact", [True, False])
def test_chosen_words(exact):
    plan, results, expected = chosen.case(exact)
    launch.run(plan)
    chosen.check(results, expected, exact)


def test_philox():
    counter = torch.randint(0, 2**32, (3, 777, 4))
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        assert torch.equal(philox.philox(torch.tensor(seed), counter), reference.philox(torch.tensor(seed), counter))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 5), (1,), (1, 1), (7, 3), (2, 3, 4, 5)])
def test_shapes(shape):
    x = torch.randn(shape)
    args = (torch.tensor(0.3, dtype=torch.float64), RNG, None, None, None, None, 1, "gaussian", True)
    y, eps = add_noise.add_noise(x, *args)
    exact_y, exact_eps = reference.add_noise(x.double(), *args)
    within(y, exact_y)
    within(eps, exact_eps)


def test_strides_change_no_bit():
    x = torch.randn(10, 9, 6).transpose(0, 2)
    alpha_bar = torch.rand(6, 2, dtype=torch.float64)[:, 1]
    ids, noisy, lengths = (torch.stack([t, t], dim=1)[:, 0] for t in selection())
    args = (RNG.expand(2, 2).t()[:, 0], ids, noisy, lengths, None, 1, "gaussian", False)
    y, _ = add_noise.add_noise(x, alpha_bar, *args)
    whole = [a.contiguous() if isinstance(a, torch.Tensor) else a for a in args]
    assert torch.equal(y, add_noise.add_noise(x.contiguous(), alpha_bar.contiguous(), *whole)[0])
    one = torch.tensor(0.3, dtype=torch.float64)
    expanded = add_noise.add_noise(x[:1].expand(6, 9, 10), one.expand(6), *args)[0]
    assert torch.equal(expanded, add_noise.add_noise(x[:1].expand(6, 9, 10).contiguous(), one, *args)[0])


@pytest.mark.parametrize("block", [256, 512, 4096])
def test_block_sizes_change_no_bit(monkeypatch, block):
    x, lengths = torch.randn(2, 16, 130), torch.tensor([16, 9])
    args = (torch.rand(2, dtype=torch.float64), RNG, None, None, lengths, None, 3, "gaussian", True)
    expected = add_noise.add_noise(x, *args)
    tiling = launch.tiling
    monkeypatch.setattr(multimodal, "tiling", lambda *a: {**tiling(*a), "BLOCK": block})
    assert all(torch.equal(a, b) for a, b in zip(add_noise.add_noise(x, *args), expected, strict=True))


def test_statistics_do_not_depend_on_the_run():
    x = torch.randn(40, 1100)
    args = (torch.tensor([0.5], dtype=torch.float64), RNG, None, None, None, None, [0], "laplace", True)
    _, stats = multimodal.add_noise_multimodal([x], *args)
    assert torch.equal(stats, multimodal.add_noise_multimodal([x], *args)[1])

"""The C++ kernels of every instruction set agree with the reference, for any number of threads and chunks."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from nmer_fast import _native, ops
from nmer_fast.contract import GENERATED_KINDS as KINDS
from nmer_fast.ops import _library, reference

from . import contract

ISAS = _library.isas()
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
RNG = torch.tensor([-(2**63) + 77, 2**32 - 3])
P = torch.tensor(0.3, dtype=torch.float64)
UNKNOWN = f"kind: expected one of {', '.join(KINDS)}, got cauchy"

if not ISAS:
    pytest.skip("the C++ library is not built", allow_module_level=True)


@pytest.fixture(params=ISAS)
def isa(request):
    before = _library.isa()
    _library.use_isa(request.param)
    yield request.param
    _library.use_isa(before)


def selection(batch=6, steps=9):
    """Return ids, flags of both kinds, and lengths from none to all steps, one negative and one too long."""
    lengths = torch.tensor([9, 0, 4, 1, 12, -3])[:batch]
    return {
        "sample_ids": torch.tensor([5, 2**48 - 1, 2**32, 0, -1, 7])[:batch],
        "noisy": torch.tensor([True, True, True, False, True, True])[:batch],
        "lengths": lengths,
    }


def bounds(dtype):
    return contract.EPS_ERROR[dtype]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_noise(isa, dtype, kind):
    x = torch.randn(6, 9, 130).to(dtype)
    alpha_bar = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 0.3], dtype=torch.float64)
    args = (*selection().values(), P if kind == "impulse" else None, 200, kind)
    y, eps = torch.ops.nmer_fast.add_noise(x, alpha_bar, RNG, *args, True)
    exact_y, exact_eps = reference.add_noise(x.double(), alpha_bar, RNG, *args, True)
    contract.assert_within(eps, exact_eps, bounds(dtype))
    contract.assert_within(y, exact_y, bounds(dtype) * (1 - alpha_bar).sqrt().reshape(-1, 1, 1))
    assert torch.equal(torch.ops.nmer_fast.noise(x.shape, RNG, *args, dtype), eps)
    if kind == "impulse":
        assert torch.equal(eps.double(), exact_eps)
    assert torch.equal(y == 0, exact_y.to(dtype) == 0)  # what selection makes 0 is 0


def test_the_kinds_of_cpp_are_the_contracts():
    assert _native.KINDS == KINDS


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_unknown_kind_is_refused_by_every_op(dtype):
    """No backend takes it for another kind, called without the checks of the public functions."""
    x, alpha_bar = torch.ones(2, 3).to(dtype), torch.tensor(0.5, dtype=torch.float64)
    given = {
        "noise": ([2, 3], RNG, None, None, None, None, 0, "cauchy", dtype),
        "add_noise": (x, alpha_bar, RNG, None, None, None, None, 0, "cauchy", False),
        "add_noise_multimodal": ([x], alpha_bar[None], RNG, None, None, None, None, [0], "cauchy", False),
    }
    for name, args in given.items():
        with pytest.raises(RuntimeError, match=UNKNOWN):
            getattr(torch.ops.nmer_fast, name)(*args)
        with pytest.raises(ValueError, match=UNKNOWN.replace("got ", "got '")):
            getattr(reference, name)(*args)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_an_unknown_kind_is_refused_by_numpys_binding(dtype):
    key, x, keep = (1, 2, "cauchy", 0.0, None), np.ones((2, 3), dtype), np.array([0.5])
    for call in (
        lambda: _native.noise(key, 0, None, None, x),
        lambda: _native.add_noise(x, keep, key, 0, None, None, x, None),
        lambda: _native.add_noise_multimodal([x], keep, key, [0], None, None, [x], None),
    ):
        with pytest.raises(ValueError, match=UNKNOWN):
            call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_noise_multimodal_and_its_statistics(isa, dtype):
    xs = [torch.randn(6, 9, d).to(dtype) for d in (130, 35, 1)]
    alpha_bars = torch.rand(6, 3, dtype=torch.float64)
    noisy = torch.rand(6, 3) < 0.7
    lengths = torch.stack([selection()["lengths"], torch.full((6,), 9), torch.arange(6)], dim=1)
    args = (RNG, None, noisy, lengths, None, [3, 0, 239], "gaussian", True)
    ys, stats = torch.ops.nmer_fast.add_noise_multimodal(xs, alpha_bars, *args)
    exact, exact_stats = reference.add_noise_multimodal([x.double() for x in xs], alpha_bars, *args)
    for m, (y, expected) in enumerate(zip(ys, exact, strict=True)):
        contract.assert_within(y, expected, bounds(dtype) * (1 - alpha_bars[:, m]).sqrt().reshape(-1, 1, 1))
    assert torch.equal(stats[:, 0], exact_stats[:, 0])
    torch.testing.assert_close(stats, exact_stats, rtol=1e-6, atol=1e-6 * stats[:, 0].max().item())
    again, none = torch.ops.nmer_fast.add_noise_multimodal(xs, alpha_bars, *args[:-1], False)
    assert all(torch.equal(a, b) for a, b in zip(ys, again, strict=True))
    assert none.shape == (0, 4)
    by_modality = torch.ops.nmer_fast.add_noise_multimodal(xs, alpha_bars[0], *args)[0]
    repeated = torch.ops.nmer_fast.add_noise_multimodal(xs, alpha_bars[:1].expand(6, 3), *args)[0]
    assert all(torch.equal(a, b) for a, b in zip(by_modality, repeated, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mix_noise_and_its_gradients(isa, dtype):
    x, eps = (torch.randn(6, 9, 37).to(dtype) for _ in range(2))
    alpha_bar, masks = torch.rand(6, dtype=torch.float64), (selection()["noisy"], selection()["lengths"])
    y = torch.ops.nmer_fast.mix_noise(x, eps, alpha_bar, *masks)
    # scale is float32's: relative 2^-24 of scale eps
    contract.assert_within(y, reference.mix_noise(x.double(), eps.double(), alpha_bar, *masks), 1e-6)
    for wrt_noise in (False, True):
        got = torch.ops.nmer_fast.mix_noise_backward(x, alpha_bar, *masks, wrt_noise)
        exact = reference.mix_noise_backward(x.double(), alpha_bar, *masks, wrt_noise)
        unfused = 2.0**-22 * exact.abs() if isa == "baseline" and dtype != torch.float64 else 0
        contract.assert_within(got, exact, 1e-12 + unfused)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reparameterize_kl_and_its_gradients(isa, dtype):
    """Log variances go from -30 to 30, where exp spans 26 powers of ten."""
    wide = dtype in (torch.float32, torch.float64)
    mu = torch.randn(6, 700).to(dtype)
    logvar = (torch.randn(6, 700) * (10 if wide else 2)).clamp(-30, 30).to(dtype)
    args = (RNG, selection()["sample_ids"], 240)
    z, kl = torch.ops.nmer_fast.reparameterize_kl(mu, logvar, *args)
    exact_z, exact_kl = reference.reparameterize_kl(mu.double(), logvar.double(), *args)
    sigma = (logvar.double() / 2).exp()
    relative = 2.0 ** (-50 if dtype == torch.float64 else -21)
    contract.assert_within(z, exact_z, bounds(dtype) * sigma + relative * (exact_z - mu.double()).abs())
    magnitudes = 0.5 * (1 + logvar.double().abs() + mu.double() ** 2 + sigma**2).sum(1)
    assert ((kl.double() - exact_kl).abs() <= (1e-13 if dtype == torch.float64 else 1e-6) * magnitudes).all()
    gz, gk = torch.randn(6, 700).to(dtype), torch.randn(6, dtype=kl.dtype)
    got = torch.ops.nmer_fast.reparameterize_kl_backward(gz, gk, mu, logvar, *args)
    exact = reference.reparameterize_kl_backward(gz.double(), gk.double(), mu.double(), logvar.double(), *args)
    size = gz.double().abs() + (gk.double()[:, None] * mu.double()).abs()
    contract.assert_within(got[0], exact[0], relative * size)
    terms = gz.double().abs() * sigma * 7 + gk.double().abs()[:, None] * torch.expm1(logvar.double()).abs()
    contract.assert_within(got[1], exact[1], relative * terms + bounds(dtype) * gz.double().abs() * sigma)


def test_exponentials_at_their_ends(isa):
    """Zero, infinity and NaN come out as in plain PyTorch."""
    logvar = torch.tensor([[0.0, -400.0, 100.0, math.nan, -1e-5, 1e-3, -math.inf, 170.0]])
    mu, rng = torch.zeros_like(logvar), torch.tensor([1, 0])
    _, expm1 = torch.ops.nmer_fast.reparameterize_kl_backward(mu, torch.full((1,), 2.0), mu, logvar, rng, None, 240)
    torch.testing.assert_close(expm1, torch.expm1(logvar), rtol=1e-6, atol=0, equal_nan=True)
    z, kl = torch.ops.nmer_fast.reparameterize_kl(mu, logvar[:, [0, 1, 4]].repeat(1, 3)[:, :8], rng, None, 240)
    assert z.isfinite().all()
    assert torch.ops.nmer_fast.reparameterize_kl(mu, logvar, rng, None, 240)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_value_converts_as_torch_does(isa, dtype):
    """A mix that keeps x keeps all bits, subnormals, infinities and NaN; scaled values round as torch rounds them."""
    values = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, -1)
    kept = torch.ops.nmer_fast.mix_noise_backward(values, torch.tensor(1.0, dtype=torch.float64), None, None, False)
    number = ~values.isnan()
    assert torch.equal(kept[number].view(torch.int16), values[number].view(torch.int16))
    assert kept[~number].isnan().all()
    for factor in (0.7, 1e-3, 2.0**-20):
        scale = torch.tensor(factor**2, dtype=torch.float64)
        got = torch.ops.nmer_fast.mix_noise_backward(values, scale, None, None, False)[number]
        expected = (values.float() * scale.sqrt().float()).to(dtype)[number]  # one float32 product, one rounding
        ties = (got.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
        assert ties.max() <= 1
        assert (ties > 0).float().mean() < 1e-3  # where float32's own rounding makes a tie


def test_infinite_features_stay_infinite(isa):
    x = torch.tensor([[math.inf, -math.inf, 1.0, 3e38]])
    for alpha_bar in (0.25, 0.3, 1.0):
        y = ops.add_noise(x, alpha_bar, seed=1)
        assert y[0, :2].tolist() == [math.inf, -math.inf]
        assert y[0, 2:].isfinite().all()


@pytest.mark.parametrize("row", [1, 3, 4, 31, 32, 33, 511, 512, 513, 16383, 16384, 16385, 32769])
def test_chunks_and_blocks_meet(isa, row):
    """Features and statistics are right for every length around the sizes that the work is cut into."""
    x = torch.randn(3, row)
    y, eps = ops.add_noise(x, 0.5, seed=3, return_noise=True)
    exact = reference.eps64(x.shape, torch.tensor([3, 0]), None, None, 0, "gaussian")
    contract.assert_within(eps, exact, 2e-6)
    (z,), stats = ops.add_noise_multimodal([x], torch.tensor([0.5], dtype=torch.float64), seed=3, return_stats=True)
    assert torch.equal(y, z)
    expected = torch.tensor([x.numel(), x.double().sum(), x.double().square().sum(), eps.double().square().sum()])
    torch.testing.assert_close(stats[0], expected.double(), rtol=1e-6, atol=1e-6 * x.numel())


def strided(t):
    """Return the same values two apart in memory, with the first two dims swapped in memory if there are two."""
    if not isinstance(t, torch.Tensor) or t.dim() == 0:
        return t
    wide = torch.stack([t, t], dim=-1).flatten(-2)
    wide = wide[..., ::2] if t.dim() < 2 else wide[..., ::2].transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(wide, t)
    return wide


def test_strides_change_no_bit(isa):
    """Every tensor argument of every op is non-contiguous, then expanded along the batch."""
    x, eps, ab = torch.randn(6, 9, 37), torch.randn(6, 9, 37), torch.rand(6, dtype=torch.float64)
    ids, noisy, lengths = selection().values()
    mu, logvar, gz = (torch.randn(6, 37) for _ in range(3))
    columns = torch.stack([lengths, lengths.flip(0)], dim=1)
    flags = torch.stack([noisy, ~noisy], dim=1)
    cases = {
        "noise": ([6, 9, 37], RNG, ids, noisy, lengths, P, 3, "impulse", torch.float32),
        "add_noise": (x, ab, RNG, ids, noisy, lengths, P, 3, "laplace", True),
        "add_noise_multimodal": ([x, eps], ab.repeat(2, 1).t(), RNG, ids, flags, columns, P, [0, 1], "gaussian", True),
        "mix_noise": (x, eps, ab, noisy, lengths),
        "mix_noise_backward": (x, ab, noisy, lengths, True),
        "reparameterize_kl": (mu, logvar, RNG, ids, 240),
        "reparameterize_kl_backward": (gz, torch.randn(6), mu, logvar, RNG, ids, 240),
        "philox": (torch.tensor(3), torch.randint(0, 2**32, (6, 4))),
    }

    def expanded(t):
        """Expand row 0 to all rows, with stride 0."""
        rows = isinstance(t, torch.Tensor) and t.dim() > 0 and t.shape[0] == 6
        return t[:1].expand(6, *t.shape[1:]) if rows else t

    def mapped(f, args):
        return [[f(t) for t in a] if isinstance(a, list) else f(a) for a in args]

    for name, args in cases.items():
        op = getattr(torch.ops.nmer_fast, name)
        torch.testing.assert_close(op(*mapped(strided, args)), op(*args), rtol=0, atol=0)
        rows = mapped(expanded, args)
        whole = mapped(lambda t: t.contiguous() if isinstance(t, torch.Tensor) else t, rows)
        torch.testing.assert_close(op(*rows), op(*whole), rtol=0, atol=0)


def test_instruction_sets_agree():
    """Sets with fused multiply-add agree to the bit; the baseline agrees within 4 ulp of values and of the largest radius."""
    results = {}
    before = _library.isa()
    try:
        for name in ISAS:
            _library.use_isa(name)
            results[name] = {kind: ops.noise((64, 9000), seed=5, kind=kind) for kind in KINDS}
            results[name]["kl"] = torch.stack(ops.reparameterize_kl(torch.ones(8, 1), torch.ones(8, 1), seed=1)[1:])
    finally:
        _library.use_isa(before)
    fused = [name for name in ISAS if name != "baseline"]
    for kind in KINDS:
        for name in fused[1:]:
            assert torch.equal(results[name][kind], results[fused[0]][kind])
        for name in fused[:1]:
            a, b = results[name][kind], results["baseline"][kind]
            assert ((a - b).abs() <= 4 * torch.finfo(torch.float32).eps * a.abs().clamp(min=0.5)).all()
    assert torch.equal(results["baseline"]["impulse"], results[ISAS[-1]]["impulse"])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    xs, alpha_bars = [torch.randn(40, 50, 130), torch.randn(40, 20, 1024)], torch.tensor([0.3, 0.6])
    lengths, noisy = [torch.randint(0, 51, (40,)), torch.randint(0, 21, (40,))], torch.rand(40, 2) < 0.7

    def run():
        ys, stats = ops.add_noise_multimodal(xs, alpha_bars, seed=1, noisy=noisy, lengths=lengths, return_stats=True)
        z, kl = ops.reparameterize_kl(xs[0], xs[0], seed=1)
        return [*ys, stats, z, kl]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, run(), strict=True))
    finally:
        torch.set_num_threads(before)


def test_what_serves_is_printed():
    done = subprocess.run([sys.executable, "-m", "nmer_fast.ops"], capture_output=True, text=True, check=True)
    assert f"C++, {ISAS[-1]} of {', '.join(ISAS)}" in done.stdout
    assert torch.__version__ in done.stdout


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match=rf"^isa: expected one of {', '.join(ISAS)}, got 'abacus'"):
        _library.use_isa("abacus")


@pytest.mark.slow
def test_past_2_to_the_31_elements():
    """The last elements of one sample of 2^31 + 70 elements in bfloat16 follow the contract."""
    row = 2**31 + 70
    eps = ops.noise((1, row), seed=3, dtype=torch.bfloat16)
    for element in (0, 2**31 - 1, 2**31, row - 1):
        exact = torch.tensor(contract.value("gaussian", seed=3, sample=0, element=element), dtype=torch.float64)
        contract.assert_within(eps[0, element], exact, 2e-6)


@pytest.mark.slow
def test_tails_of_a_billion_values():
    """Values lie beyond 4 and 5 sigma as often as the normal law says, within 5 standard errors."""
    beyond = {4.0: 0, 5.0: 0}
    for draw in range(64):
        eps = ops.noise((1, 2**24), seed=11, draw=draw)
        for sigma in beyond:
            beyond[sigma] += int((eps.abs() > sigma).sum())
    for sigma, count in beyond.items():
        expected = 64 * 2**24 * math.erfc(sigma / math.sqrt(2))
        assert abs(count - expected) < 5 * math.sqrt(expected)


MEMORY = """
import re, torch
from nmer_fast import ops
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
x = torch.ones(64, 2**19)  # 128 MiB
ops.add_noise(x[:, :4096], 0.5, seed=1)
before = peak()
{call}
print((peak() - before) / x.nbytes)
"""


@pytest.mark.parametrize(
    "call",
    [
        "ops.add_noise(x, 0.5, seed=1)",
        "ops.add_noise_multimodal([x], torch.tensor([0.5]), seed=1, return_stats=True)",
        "ops.mix_noise(x, x, 0.5)",
        "ops.reparameterize_kl(x, x, seed=1)",
    ],
)
def test_peak_memory_is_the_output(call):
    """Peak memory grows by the output alone; memory that importing freed lowers the measure a little."""
    done = subprocess.run([sys.executable, "-c", MEMORY.format(call=call)], capture_output=True, text=True, check=True)
    assert 0.6 < float(done.stdout) < 1.1


def test_a_direct_call_does_not_read_beyond_a_tensor():
    """The public functions check first; torch.ops can be called without them."""
    op, x, half = torch.ops.nmer_fast, torch.ones(3, 4), P * 0 + 0.5
    rest = (None, None, None, None, 0, "gaussian", False)
    calls = {
        "alpha_bar: expected one value, or one for each of 3 samples": lambda: op.add_noise(
            x, half.expand(2), RNG, *rest
        ),
        "sample_ids: expected one value, or one": lambda: op.add_noise(x, half, RNG, torch.arange(2), *rest[1:]),
        r"rng: expected int64 \[2\]": lambda: op.add_noise(x, half, RNG[:1], *rest),
        "expected scalar type Bool": lambda: op.mix_noise(x, x, half, torch.ones(3), None),
        "eps: expected the shape and dtype": lambda: op.mix_noise(x, x[:2], half, None, None),
        "noisy: expected one value, or one": lambda: op.mix_noise(x, x, half, torch.ones(2) == 1, None),
        "xs: expected tensors of one batch": lambda: op.add_noise_multimodal(
            [x, x[:2]], half.expand(2), RNG, None, None, None, None, [0, 1], "gaussian", False
        ),
        "lengths: expected one value.*and 2 modalities": lambda: op.add_noise_multimodal(
            [x, x], half.expand(2), RNG, None, None, torch.ones(3, 3).long(), None, [0, 1], "gaussian", False
        ),
        "logvar: expected the shape": lambda: op.reparameterize_kl(x, x.double(), RNG, None, 0),
        "grad_kl: expected one value": lambda: op.reparameterize_kl_backward(x, x[0, :2], x, x, RNG, None, 0),
    }
    for message, call in calls.items():
        with pytest.raises(RuntimeError, match=message):
            call()

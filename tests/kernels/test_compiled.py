"""The compiled code itself: ../shared/tools/ptx_run.py executes, on the CPU, the PTX that a launch makes for sm_80.

Out-of-bounds, misaligned, racing and undefined accesses are errors there, and approximate instructions err at random up to
their documented bounds. Timing is not modelled; ptxas comes after it.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "tools"
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, which Triton does not do where TRITON_INTERPRET is set", allow_module_level=True)
if not (TOOLS / "ptx_run.py").exists():
    pytest.skip("../shared/tools/ptx_run.py is not here", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

from ptx_run import run_triton

from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS as KINDS
from nmer_fast.kernels import add_noise_multimodal as multimodal
from nmer_fast.kernels import lstm, mix_noise, noise, philox, reparameterize_kl
from nmer_fast.kernels.ahead_of_time import compiled, runtime_arguments
from nmer_fast.ops import reference
from tests.kernels import chosen
from tests.ops import contract

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RNG = torch.tensor([-(2**63) + 77, 2**32 - 3])
IDS = torch.tensor([5, 2**48 - 1, 2**32])
P = torch.tensor(0.3, dtype=torch.float64)
# "fast" values of 16 bits: what the special-function unit may err by. float32 is exact.
EPS_ERROR = {torch.float32: 2e-6, torch.bfloat16: 2e-4, torch.float16: 2e-4, torch.float64: 1e-12}


def execute(launch):
    """Run a launch as a GPU would, with approximate instructions at their worst; return counts of what it did."""
    kernel = compiled(launch, 80)
    return run_triton(kernel, launch.programs, runtime_arguments(launch, kernel), noise=1.0)


def features_by_width(counted, kind):
    """Return {bytes of an access: bytes moved} for the loads ("ld") or stores ("st") of four bytes and more."""
    return {width: moved for (what, width), moved in counted.bytes.items() if what == kind and width >= 4}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_noise(dtype, kind):
    """float32 values are the CPU's bit for bit; 16-bit values err by no more than the special-function unit may.

    float64 values show that the compiled polynomials' constants are float64.
    """
    eps = torch.full((3, 8, 130), float("nan"), dtype=dtype)
    execute(noise.planned(eps, RNG, IDS, None, None, P, 200, kind))
    args = (eps.shape, RNG, IDS, None, None, P, 200, kind)
    if dtype == torch.float32:
        assert torch.equal(eps, torch.ops.nmer_fast.noise(*args, dtype))
    contract.assert_within(eps, reference.noise(*args, torch.float64), EPS_ERROR[dtype])


def modalities(dims, dtype):
    xs = [torch.randn(3, 8, d).to(dtype) for d in dims]
    lengths = torch.tensor([[8, 3, 0], [5, 0, 8], [1, 8, 8]])
    noisy = torch.tensor([[True, True, False], [True, True, True], [True, False, True]])
    return xs, torch.tensor([[0.1, 0.9, 0.5], [1.0, 0.3, 0.7], [0.0, 0.2, 0.4]], dtype=torch.float64), noisy, lengths


@pytest.mark.parametrize("dims", [(130, 342, 1024), (74, 35, 300)])
@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_noise_multimodal(dtype, stats, dims):
    """Values, selections and statistics are right; features move in 128-bit accesses, and no byte moves twice."""
    xs, alpha_bars, noisy, lengths = modalities(dims, dtype)
    ys = [torch.full_like(x, float("nan")) for x in xs]
    args = (alpha_bars, RNG, IDS, noisy, lengths, None, [3, 0, 239], "gaussian", stats)
    launch = multimodal.planned(xs, ys, None, *args)
    counted = execute(launch)
    exact, exact_stats = reference.add_noise_multimodal([x.double() for x in xs], *args)
    for m, (y, expected) in enumerate(zip(ys, exact, strict=True)):
        error = EPS_ERROR[dtype] * (1 - alpha_bars[:, m]).sqrt().reshape(-1, 1, 1)
        slack = 0 if dtype == torch.float32 else 2.0**-20 * expected.abs()  # the factor of x is one float32
        contract.assert_within(y, expected, error + slack)
    if stats:
        found = torch.empty(3, 4, dtype=torch.float64)
        execute(multimodal.summed(launch, found))
        assert torch.equal(found[:, 0], exact_stats[:, 0])
        rtol = 1e-6 if dtype == torch.float32 else 1e-4
        torch.testing.assert_close(found, exact_stats, rtol=rtol, atol=rtol * found[:, 0].max().item())
    written = sum(y.nbytes for y in ys)
    assert features_by_width(counted, "st")[16] == written
    assert features_by_width(counted, "ld")[16] <= written


def test_steps_that_are_no_multiple_of_eight():
    """The general path serves rows that have no known divisor."""
    x, y = torch.randn(3, 5, 37), torch.full((3, 5, 37), float("nan"))
    args = (
        torch.rand(3, 1, dtype=torch.float64),
        RNG,
        None,
        None,
        torch.tensor([[5], [2], [0]]),
        None,
        [1],
        "gaussian",
    )
    execute(multimodal.planned([x], [y], None, *args, False))
    (exact,), _ = reference.add_noise_multimodal([x.double()], *args, False)
    contract.assert_within(y, exact, 2e-6)


def test_eps_is_returned_bit_for_bit():
    x = torch.randn(3, 8, 35)
    y, eps = torch.empty_like(x), torch.empty_like(x)
    lengths = torch.tensor([[8], [2], [0]])
    args = (torch.full((3, 1), 0.3, dtype=torch.float64), RNG, IDS, None, lengths, None, [7], "gaussian", False)
    execute(multimodal.planned([x], [y], eps, *args))
    expected = torch.ops.nmer_fast.noise(x.shape, RNG, IDS, None, lengths[:, 0], None, 7, "gaussian", x.dtype)
    assert torch.equal(eps, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mix_noise_and_its_gradients(dtype):
    x, eps = (torch.randn(3, 8, 35).to(dtype) for _ in range(2))
    alpha_bar, masks = torch.rand(3, dtype=torch.float64), (torch.tensor([True, False, True]), torch.tensor([8, 3, 0]))
    y = torch.empty_like(x)
    slack = 1e-6 if dtype == torch.float32 else 1e-5
    execute(mix_noise.planned(x, eps, y, alpha_bar, *masks, False))
    contract.assert_within(y, reference.mix_noise(x.double(), eps.double(), alpha_bar, *masks), slack)
    for wrt_noise in (False, True):
        execute(mix_noise.planned(x, None, y, alpha_bar, *masks, wrt_noise))
        contract.assert_within(y, reference.mix_noise_backward(x.double(), alpha_bar, *masks, wrt_noise), slack)


@pytest.mark.parametrize("row", [64, 512, 1100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reparameterize_kl_and_its_gradients(dtype, row):
    mu, logvar, gz = torch.randn(3, row).to(dtype), (2 * torch.randn(3, row)).to(dtype), torch.randn(3, row).to(dtype)
    z, kl, gk = torch.empty_like(mu), torch.empty(3), torch.randn(3)
    args = (RNG, IDS, 240)
    execute(reparameterize_kl.planned(mu, logvar, z, kl, *args))
    exact_z, exact_kl = reference.reparameterize_kl(mu.double(), logvar.double(), *args)
    sigma = (logvar.double() / 2).exp()
    contract.assert_within(z, exact_z, 2 * EPS_ERROR[dtype] * sigma + 2.0**-20 * (exact_z - mu.double()).abs())
    magnitudes = 0.5 * (1 + logvar.double().abs() + mu.double() ** 2 + sigma**2).sum(1)
    assert ((kl.double() - exact_kl).abs() <= 2e-6 * magnitudes).all()
    grad_mu, grad_logvar = torch.empty_like(mu), torch.empty_like(mu)
    execute(reparameterize_kl.planned_backward(gz, gk, mu, logvar, grad_mu, grad_logvar, *args))
    exact = reference.reparameterize_kl_backward(gz.double(), gk.double(), mu.double(), logvar.double(), *args)
    size = gz.double().abs() * (1 + sigma) + gk.double().abs()[:, None] * (mu.double().abs() + sigma**2 + 1)
    contract.assert_within(grad_mu, exact[0], 2e-6 * size)
    contract.assert_within(grad_logvar, exact[1], 2 * EPS_ERROR[dtype] * size)


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("width", [16, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lstms_walk_forth_and_back(dtype, width, pools):
    """A step reads what other threads wrote in the step before, reads nothing unwritten, and writes nothing beyond its rows."""
    x, lengths, encoders = torch.randn(10, 4, 5).to(dtype), torch.tensor([4, 0, 3, 1, 4, 2, 4, 4, 1, 3]), 2
    sizes = ((encoders, 4 * width, 5), (encoders, 4 * width, width), (encoders, 4 * width))
    ih, hh, bias = ((torch.randn(size) / size[-1] ** 0.5).to(dtype) for size in sizes)
    gates = torch.addmm(bias.flatten(), lstm._rows(x, lengths), ih.flatten(0, 1).t()).view(-1, encoders, 4 * width)
    hidden = torch.zeros(50, encoders, width, dtype=dtype)
    cell, pooled, argmax = torch.full_like(hidden, float("nan"), dtype=torch.float32), None, None
    if pools:
        pooled = torch.full((10, encoders, width), float("nan"), dtype=dtype)
        argmax = torch.empty_like(pooled, dtype=torch.int64)
    execute(lstm.planned(gates, hh.mT.contiguous(), hidden, cell, pooled, argmax, lengths))
    exact = reference.lstm_states(x.double(), lengths, ih.double(), hh.double(), bias.double())
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(hidden.double(), exact[1] * (hidden != 0), rtol=0, atol=tolerance)
    if pools:
        top, when, *_ = reference.lstm_max_pool(x.double(), lengths, ih.double(), hh.double(), bias.double())
        torch.testing.assert_close(pooled.double(), top, rtol=0, atol=tolerance)
        assert dtype != torch.float32 or torch.equal(argmax, when)
    grad = torch.randn(10, encoders, width) if pools else torch.randn(10, 4, encoders, width)
    d_gates = torch.zeros_like(gates)
    execute(lstm.planned_backward(grad.to(dtype), argmax, hh, cell, gates, d_gates, lengths))
    saved = (x.double(), lengths, ih.double(), hh.double())
    expected = reference.lstm_backward(grad.to(dtype).double(), *saved, *exact[1:], False, argmax)[1]
    got = (d_gates.flatten(1).double().t() @ lstm._rows(x, lengths).double()).view_as(ih)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("exact", [True, False])
def test_chosen_words(exact):
    launch, results, expected = chosen.case(exact)
    execute(launch)
    chosen.check(results, expected, exact)


def test_philox():
    counter = torch.randint(0, 2**32, (777, 4))
    words = torch.empty_like(counter)
    execute(philox.planned(torch.tensor(-(2**63) + 5), counter, words))
    assert torch.equal(words, ops.philox(-(2**63) + 5, counter))

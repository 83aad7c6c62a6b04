"""On a GPU: the ops are the CPU's to the bit in float32, wait for nothing, index in 64 bits, compile and replay."""

import math
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS as KINDS
from nmer_fast.engine.trainer import train
from nmer_fast.kernels.launch import READY
from nmer_fast.noise import NoiseScheduler
from tests.engine.test_engine import QUIET, SMALL, config, dataset
from tests.ops import contract

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CUDA = torch.device("cuda")
# 16 bits: the contract's "fast". float64: CUDA's own logarithm and sine.
ERROR = {torch.bfloat16: 2e-4, torch.float16: 2e-4, torch.float64: 1e-12}


def to(value, device):
    """Move arguments to another device; leaves stay leaves."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, list):
        return [to(v, device) for v in value]
    return {k: to(v, device) for k, v in value.items()} if isinstance(value, dict) else value


@contextmanager
def no_wait():
    """Make everything that waits for the device an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_the_cpus(dtype, kind):
    options = {"seed": -5, "draw": 7, "kind": kind, "stream": 9, "lengths": torch.tensor([300, 0, 123])}
    eps = ops.noise((3, 300, 35), dtype=dtype, device=CUDA, **to(options, CUDA))
    if dtype == torch.float32:
        assert torch.equal(eps.cpu(), ops.noise((3, 300, 35), **options))
    exact = ops.noise((3, 300, 35), dtype=torch.float64, **options)
    contract.assert_within(eps.cpu(), exact, ERROR.get(dtype, 2e-6))


@pytest.mark.parametrize(("kind", "dims"), [*[(kind, (130, 342, 1024)) for kind in KINDS], ("gaussian", (35,))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_multimodal_is_the_cpus(dtype, kind, dims):
    """Values and statistics are the CPU's, and the statistics have the same bits in every run."""
    count = len(dims)
    xs = [torch.randn(70, 16, d).to(dtype) for d in dims]
    options = {
        "seed": 3,
        "draw": 4,
        "kind": kind,
        "sample_ids": torch.randint(0, 2**48, (70,)),
        "noisy": torch.rand(70, count) < 0.6,
        "lengths": [torch.randint(0, 17, (70,)) for _ in dims],
        "return_stats": True,
    }
    alpha_bars = torch.rand(70, count, dtype=torch.float64)
    exact, exact_stats = ops.add_noise_multimodal([x.double() for x in xs], alpha_bars, **options)
    on_device, there = to(xs, CUDA), to({**options, "alpha_bars": alpha_bars}, CUDA)
    ops.add_noise_multimodal(on_device, **there)  # compiles
    with no_wait():
        found, found_stats = ops.add_noise_multimodal(on_device, **there)
    for m, (y, expected) in enumerate(zip(found, exact, strict=True)):
        error = ERROR.get(dtype, 2e-6) * (1 - alpha_bars[:, m]).sqrt().reshape(-1, 1, 1)
        slack = 2.0**-20 * expected.abs() if dtype.itemsize == 2 else 1e-12  # the factor of x is one float32
        contract.assert_within(y.cpu(), expected, error + slack)
    rtol = 1e-4 if dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close(found_stats.cpu(), exact_stats, rtol=rtol, atol=rtol * exact_stats[:, 0].max().item())
    for _ in range(3):
        assert torch.equal(ops.add_noise_multimodal(on_device, **there)[1], found_stats)


def test_another_batch_compiles_nothing():
    """No kernel is compiled for the value of an int: lengths, batch sizes and steps vary freely."""

    def noised(batch, *steps):
        xs = [torch.randn(batch, t, d, device=CUDA) for t, d in zip(steps, (130, 342, 1024), strict=True)]
        noisy = torch.rand(batch, 3, device=CUDA) < 0.5
        ops.add_noise_multimodal(xs, torch.full((3,), 0.3), seed=1, noisy=noisy, return_stats=True)

    noised(7, 8, 16, 24)
    before = set(READY)
    for batch, *steps in ((1, 8, 8, 8), (16, 16, 16, 16), (128, 312, 48, 32), (33, 8, 200, 40)):
        noised(batch, *steps)
    assert set(READY) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_cpus(dtype):
    leaf = torch.randn(9, 16, 130).to(dtype).requires_grad_()
    mu, logvar = (torch.randn(9, 64).to(dtype).requires_grad_() for _ in range(2))
    lengths, weight = torch.randint(0, 17, (9,)), torch.randn(9, 16, 130).to(dtype)

    def gradients(leaf, mu, logvar, lengths, weight):
        y = ops.add_noise(leaf, 0.3, seed=1, lengths=lengths)
        mixed = ops.mix_noise(leaf, weight, 0.7, lengths=lengths)
        z, kl = ops.reparameterize_kl(mu, logvar, seed=2)
        loss = (y * weight).sum() + (mixed * weight).sum() + z.square().sum() + kl.to(dtype).sum()
        return torch.autograd.grad(loss, (leaf, mu, logvar))

    arguments = [leaf, mu, logvar, lengths, weight]
    expected, there = gradients(*arguments), to(arguments, CUDA)
    gradients(*there)  # compiles
    with no_wait():
        found = gradients(*there)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-11}.get(dtype, 5e-2)
    for got, value in zip(found, expected, strict=True):
        torch.testing.assert_close(got.cpu(), value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", [ops.lstm_max_pool, ops.lstm_states], ids=lambda op: op.__name__)
def test_the_lstm_is_the_cpus(op, dtype):
    """Values and gradients of two encoders of one input agree with float64; nothing waits for the device."""
    x, lengths = torch.randn(70, 41, 130), torch.randint(0, 42, (70,))
    leaves = [x, *(torch.randn(2, 512, *n) / n[0] ** 0.5 for n in ((130,), (128,))), torch.randn(2, 512)]

    def outcome(leaves, lengths):
        out = op(leaves[0], lengths, *leaves[1:])
        return out, torch.autograd.grad(out.square().sum(), leaves)

    exact, exact_grads = outcome([t.to(dtype).double().requires_grad_() for t in leaves], lengths)
    there = [t.to(CUDA, dtype).requires_grad_() for t in leaves]
    outcome(there, lengths.to(CUDA))  # compiles
    on_device = lengths.to(CUDA)
    with no_wait():
        out, grads = outcome(there, on_device)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for got, expected in zip((out, *grads), (exact, *exact_grads), strict=True):
        assert (got.cpu().double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_more_than_2_31_elements():
    """The last samples of 2^31 + 2^13 elements are right, and so are the last elements of a sample of 2^32 + 16."""
    x = torch.ones(2**18 + 1, 2**13, dtype=torch.bfloat16, device=CUDA)
    y = ops.add_noise(x, 0.0, seed=1, kind="impulse", p=0.5)
    last = torch.arange(2**18 - 1, 2**18 + 1)
    assert torch.equal(y[-2:].cpu().float(), ops.noise((2, 2**13), seed=1, kind="impulse", p=0.5, sample_ids=last))
    del x, y
    y = ops.add_noise(torch.ones(1, 2**32 + 16, dtype=torch.bfloat16, device=CUDA), 0.0, seed=1, kind="impulse", p=0.5)
    expected = [contract.value("impulse", seed=1, sample=0, element=e, p=0.5) for e in range(2**32, 2**32 + 16)]
    assert y[0, -16:].tolist() == expected
    assert set(expected) == {-1.0, 0.0, 1.0}


def test_a_stream_of_ones_own_and_views():
    """The launch is on the current stream; strides are read."""
    x, side = torch.randn(64, 40, 130, device=CUDA), torch.cuda.Stream()
    expected = ops.add_noise(x.transpose(1, 2).contiguous(), 0.5, seed=1)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        late = torch.empty_like(x)
        torch.cuda._sleep(10**7)
        late.copy_(x)
        y = ops.add_noise(late.transpose(1, 2), 0.5, seed=1)
    side.synchronize()
    assert torch.equal(y, expected)


def test_noise_has_its_moments():
    """Mean, variance and kurtosis of a hundred million values are within five standard errors."""
    eps = ops.noise((100, 10**6), seed=3, device=CUDA).double()
    n = eps.numel()
    assert abs(eps.mean()) < 5 / math.sqrt(n)
    assert abs(eps.square().mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs(eps.pow(4).mean() - 3) < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("amp", [False, True])
def test_training_is_the_cpus_and_compiled_the_same(amp):
    """The losses of each epoch agree on the CPU, on the GPU and compiled; without dropout no other random numbers differ."""
    model = replace(SMALL, dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)
    noise, losses = partial(NoiseScheduler, dict.fromkeys("avl", 1.0), snr_db=-10), []
    for device, compiled in (("cpu", False), ("cuda", False), ("cuda", True)):
        cfg, device = config(model=model, epochs=3, compile=compiled, amp=amp), torch.device(device)
        losses.append(train(dataset(), noise().to(device), cfg, device, QUIET).losses)
    for other in losses[1:]:
        for a, b in zip(losses[0], other, strict=True):
            assert a == pytest.approx(b, rel=0.1 if amp else 2e-3)

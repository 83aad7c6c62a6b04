"""The host's side of a launch: a later launch passes the launcher the same arguments as Triton's own way does."""

import os
from dataclasses import replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, which Triton does not do where TRITON_INTERPRET is set", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import driver

from nmer_fast.kernels import add_noise, launch, lstm, mix_noise, noise, philox, reparameterize_kl
from nmer_fast.kernels import add_noise_multimodal as multimodal
from nmer_fast.kernels.ahead_of_time import _NoDriver

RNG, ALPHA_BAR = torch.tensor([1, 2]), torch.tensor(0.3, dtype=torch.float64)


@triton.jit(do_not_specialize=mix_noise.INTS)
def twin_kernel(
    x, eps, y, alpha_bar, noisy, lengths, row, steps, step_size, alpha_row, noisy_row, lengths_row,
    OF_NOISE: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take mix_noise_kernel's arguments."""
    return


class Recorder(_NoDriver):
    """A driver without a GPU, whose launcher records its arguments."""

    def __init__(self):
        super().__init__(80)
        self.given, self.utils, self.launcher_cls = [], self, lambda source, metadata: self.launch

    def launch(self, grid, y, z, stream, function, metadata, data, enter, leave, *args):
        self.given.append((grid, y, z, stream, function, flat(args)))

    def load_binary(self, name, binary, shared, device):
        return name, name, 48, 0, 1024

    def get_device_properties(self, device):
        return {"max_shared_mem": 2**17}


def flat(args):
    """Replace tensors by their dtype and shape, so that two calls can be compared."""
    values = [v for a in args for v in (a if isinstance(a, tuple) else (a,))]
    return [(v.dtype, v.shape) if isinstance(v, torch.Tensor) else v for v in values]


@pytest.fixture
def recorder(monkeypatch):
    active, recorder = driver._active, Recorder()
    driver.set_active(recorder)
    monkeypatch.setattr(launch, "READY", {})
    monkeypatch.setattr(launch, "_stream", lambda device: 7)
    yield recorder
    driver._active = active


def noised(batch, *steps, stats=True):
    xs = [torch.randn(batch, t, d) for t, d in zip(steps, (130, 342, 1024), strict=False)]
    alpha_bars, noisy = torch.full((len(xs),), 0.3, dtype=torch.float64), torch.ones(batch, len(xs), dtype=torch.bool)
    args = (alpha_bars, RNG, torch.arange(batch), noisy, None, None, list(range(len(xs))), "gaussian", stats)
    multimodal.add_noise_multimodal(xs, *args)


def lstm_of(batch, steps, name="lstm_max_pool"):
    x, lengths = torch.randn(batch, steps, 5), torch.full((batch,), steps)
    weights = torch.randn(2, 64, 5), torch.randn(2, 64, 16), torch.randn(2, 64)
    out, *argmax, hidden, cell, gates = getattr(lstm, name)(x, lengths, *weights)
    lstm.lstm_backward(torch.ones_like(out), x, lengths, *weights[:2], hidden, cell, gates, True, *argmax)


CALLS = {
    "lstm_max_pool and lstm_backward": lambda x: lstm_of(9, 4),
    "lstm_states and lstm_backward": lambda x: lstm_of(9, 4, "lstm_states"),
    "add_noise": lambda x: add_noise.add_noise(x, ALPHA_BAR, RNG, None, None, None, None, 0, "gaussian", True),
    "add_noise_multimodal": lambda x: noised(3, 8, 16, 8),
    "mix_noise": lambda x: mix_noise.mix_noise(x, x, ALPHA_BAR, None, None),
    "mix_noise_backward": lambda x: mix_noise.mix_noise_backward(x, ALPHA_BAR, None, None, True),
    "noise": lambda x: noise.noise([3, 40], RNG, None, None, None, ALPHA_BAR, 7, "impulse", torch.bfloat16),
    "philox": lambda x: philox.philox(RNG[0], torch.zeros(9, 4, dtype=torch.int64)),
    "reparameterize_kl": lambda x: reparameterize_kl.reparameterize_kl(x, x, RNG, None, 240),
    "reparameterize_kl_backward": lambda x: reparameterize_kl.reparameterize_kl_backward(
        x, torch.ones(3), x, x, RNG, None, 240
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_later_launch_is_the_first_ones(recorder, name):
    """Grid, stream, function and every argument are in their places, constants included."""
    for _ in range(3):
        CALLS[name](torch.randn(3, 40))
    launches = len(recorder.given) // 3
    first, *later = (recorder.given[i : i + launches] for i in range(0, len(recorder.given), launches))
    assert len(launch.READY) == launches
    assert later[0] == later[1]
    streams = [launched[3] for launched in (*first, *later[0])]
    assert streams == [0] * launches + [7] * launches  # the driver's, then the device's current one
    assert [(*a[:3], *a[4:]) for a in first] == [(*a[:3], *a[4:]) for a in later[0]]


def test_another_batch_compiles_nothing(recorder):
    """No kernel is compiled for the value of an int: batch sizes and steps vary, 1 and multiples of 16 included."""
    noised(7, 8, 24, 40)
    ready, variants = dict(launch.READY), len(multimodal.add_noise_multimodal_kernel.device_caches[80][0])
    for batch, *steps in ((1, 8, 8, 8), (16, 16, 16, 16), (4, 312, 48, 32), (128, 8, 200, 16)):
        noised(batch, *steps)
    assert ready == launch.READY
    launch.READY.clear()
    noised(16, 16, 16, 16)  # Triton agrees
    assert len(multimodal.add_noise_multimodal_kernel.device_caches[80][0]) == variants
    launch.READY.clear()
    for batch, steps in ((7, 5), (1, 1), (16, 16), (128, 312)):
        lstm_of(batch, steps)
    assert len(launch.READY) == 2


def test_what_a_kernel_is_compiled_for_is_told_apart(recorder):
    """A type, an alignment, an absent tensor, and an int that needs 64 bits each have a kernel of their own."""
    x = torch.randn(4, 40)

    def made(t, ids=None):
        noise_of = mix_noise.mix_noise_backward(t, ALPHA_BAR, ids, None, False)
        assert noise_of.shape == t.shape
        return len(launch.READY)

    assert made(x) == 1
    assert made(x.bfloat16()) == 2
    assert made(torch.randn(161)[1:].view(4, 40)) == 3  # no address of 16 bytes
    assert made(x, torch.ones(4, dtype=torch.bool)) == 4
    assert made(x) == 4
    plan = mix_noise.planned(x, None, torch.empty_like(x), ALPHA_BAR, None, None, False)
    plan.args["alpha_row"] = 2**31
    launch.run(plan)
    assert len(launch.READY) == 5


def test_one_thing_that_differs_is_another_kernel(recorder):
    """A launch that differs in one constant, in warps, registers, device or kernel has a kernel of its own."""
    x = torch.randn(4, 40)
    plan = mix_noise.planned(x, None, torch.empty_like(x), ALPHA_BAR, None, None, False)
    others = [
        plan,
        replace(plan, constants={**plan.constants, "OF_NOISE": True}),
        replace(plan, constants={**plan.constants, "BLOCK": plan.constants["BLOCK"] // 2}),
        replace(plan, warps=8),
        replace(plan, registers=40),
        replace(plan, kernel=twin_kernel),
    ]
    for _ in range(2):
        for other in others:
            launch.run(other)
    assert len(launch.READY) == len(others)
    kinds = ["gaussian", "uniform", "laplace"]
    for kind in kinds * 2:
        noise.noise([3, 40], RNG, None, None, None, None, 7, kind, torch.float32)
    assert len(launch.READY) == len(others) + len(kinds)
    devices = {key[1] for key in launch.READY}
    assert devices == {torch.device("cpu")}

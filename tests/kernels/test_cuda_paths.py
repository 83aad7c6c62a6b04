"""What tests can check of CUDA without a GPU: the Triton kernels are registered, and shapes are right on fake CUDA tensors."""

import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.compiler.errors import CompilationError

from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS
from nmer_fast.kernels import noise
from nmer_fast.kernels.ahead_of_time import compiled
from nmer_fast.ops import _cuda

SERVED = {
    "philox": "philox",
    "noise": "noise",
    "add_noise": "add_noise",
    "add_noise_multimodal": "add_noise_multimodal",
    "mix_noise": "mix_noise",
    "mix_noise_backward": "mix_noise",
    "reparameterize_kl": "reparameterize_kl",
    "reparameterize_kl_backward": "reparameterize_kl",
    "lstm_max_pool": "lstm",
    "lstm_states": "lstm",
    "lstm_backward": "lstm",
}


def test_every_op_finds_the_file_of_its_kernel():
    assert _cuda.files() == SERVED


@pytest.mark.parametrize("name", SERVED)
def test_triton_serves_on_cuda(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nmer_fast::{name}", "CUDA")
    assert callable(getattr(import_module(f"nmer_fast.kernels.{SERVED[name]}"), name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_unknown_kind_does_not_compile(dtype):
    rng = torch.tensor([1, 2])
    with pytest.raises(CompilationError) as caught:
        compiled(noise.planned(torch.empty(2, 9, dtype=dtype), rng, None, None, None, None, 0, "cauchy"))
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert str(error).endswith(f"kind: expected one of {', '.join(GENERATED_KINDS)}, got cauchy")


def test_triton_is_imported_at_the_first_call_only():
    code = "import sys, nmer_fast.ops; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_shapes_dtypes_and_devices_on_fake_cuda_tensors(dtype):
    with FakeTensorMode():
        x = torch.empty(4, 8, 35, dtype=dtype, device="cuda")
        flags, lengths = (torch.empty(4, dtype=t, device="cuda") for t in (torch.bool, torch.int64))
        rng = torch.empty(2, dtype=torch.int64, device="cuda")
        y, eps = ops.add_noise(x, 0.3, seed=rng, noisy=flags, lengths=lengths, return_noise=True)
        ys, stats = ops.add_noise_multimodal([x, x], torch.empty(2, device="cuda"), seed=1, draw=3, return_stats=True)
        mixed = ops.mix_noise(x, eps, torch.empty(4, device="cuda"), lengths=lengths)
        z, kl = ops.reparameterize_kl(x, x, seed=5)
        made = ops.noise((4, 9), seed=3, dtype=dtype, device="cuda")
        ih, hh, bias = (torch.empty(2, *s, dtype=dtype, device="cuda") for s in ((64, 35), (64, 16), (64,)))
        if dtype != torch.float16:
            pooled, states = (op(x, lengths, ih, hh, bias) for op in (ops.lstm_max_pool, ops.lstm_states))
            assert (pooled.shape, pooled.dtype, pooled.device.type) == ((4, 2, 16), dtype, "cuda")
            assert (states.shape, states.dtype, states.device.type) == ((4, 8, 2, 16), dtype, "cuda")
        words = ops.philox(
            torch.empty((), dtype=torch.int64, device="cuda"), torch.empty(5, 4, dtype=torch.int64, device="cuda")
        )
    for t in (y, eps, *ys, mixed, z):
        assert (t.shape, t.dtype, t.device.type) == (x.shape, dtype, "cuda")
    assert (stats.shape, stats.dtype, stats.device.type) == ((2, 4), torch.float64, "cuda")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (kl.shape, kl.dtype, kl.device.type) == ((4,), wide, "cuda")
    assert (made.dtype, made.device.type, words.device.type) == (dtype, "cuda", "cuda")

"""nmer_fast.numpy gives the bits of nmer_fast.ops, imports no torch, and refuses bad input in one line."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from nmer_fast import numpy as nf
from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS

DTYPES = [np.float32, np.float16, np.float64]
RNG = np.random.default_rng(0)


def same(array, tensor):
    expected = tensor.numpy()
    return array.dtype == expected.dtype and array.tobytes() == expected.tobytes() and array.shape == expected.shape


def selection(batch=6, steps=9):
    return {
        "sample_ids": np.array([5, 2**48 - 1, 2**32, 0, -1, 7])[:batch],
        "noisy": np.array([True, True, True, False, True, True])[:batch],
        "lengths": np.array([9, 0, 4, 1, 8, 2], dtype=np.int32)[:batch],
    }


def tensors(options):
    return {name: torch.from_numpy(value) for name, value in options.items()}


def test_it_does_not_import_torch():
    code = "import sys, nmer_fast.numpy as n; n.noise((2, 3), seed=1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("kind", GENERATED_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_has_the_same_bits(kind, dtype):
    x, alpha_bar = RNG.normal(size=(6, 9, 130)).astype(dtype), RNG.random(6)
    key = {"seed": 2**64 - 3, "draw": 2**32 - 1, "stream": 200, "kind": kind, "p": 0.4}
    y, eps = nf.add_noise(x, alpha_bar, **key, **selection(), return_noise=True)
    expected = ops.add_noise(
        torch.from_numpy(x), torch.from_numpy(alpha_bar), **key, **tensors(selection()), return_noise=True
    )
    assert same(y, expected[0])
    assert same(eps, expected[1])
    assert nf.noise_like(x, **key, **selection()).tobytes() == eps.tobytes()
    assert np.array_equal(nf.mix_noise(x, eps, 0.3), ops.mix_noise(torch.from_numpy(x), expected[1], 0.3).numpy())


def test_all_cores_change_nothing():
    """The array is so large that every thread gets work."""
    x = RNG.normal(size=(3, 2**20 + 5)).astype(np.float32)
    assert same(nf.add_noise(x, 0.1, seed=3), ops.add_noise(torch.from_numpy(x), 0.1, seed=3))


@pytest.mark.parametrize("per_sample", [False, True])
def test_multimodal(per_sample):
    xs = [RNG.normal(size=(6, steps, dim)).astype(np.float32) for steps, dim in ((9, 130), (4, 35), (2, 1))]
    lengths = [selection()["lengths"], None, np.array([0, 1, 2, 2, 1, 0])]
    alpha_bars, noisy = RNG.random((6, 3) if per_sample else 3), RNG.random((6, 3)) < 0.6
    options = {"seed": 1, "draw": 2, "streams": [9, 0, 4], "return_stats": True}
    ys, stats = nf.add_noise_multimodal(xs, alpha_bars, noisy=noisy, lengths=lengths, **options)
    expected, expected_stats = ops.add_noise_multimodal(
        [torch.from_numpy(x) for x in xs],
        torch.from_numpy(alpha_bars),
        noisy=torch.from_numpy(noisy),
        lengths=[None if n is None else torch.from_numpy(n) for n in lengths],
        **options,
    )
    assert all(same(y, e) for y, e in zip(ys, expected, strict=True))
    assert same(stats, expected_stats)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reparameterize_kl(dtype):
    mu, logvar = (RNG.normal(size=(6, 700)).astype(dtype) for _ in range(2))
    got = nf.reparameterize_kl(mu, logvar, seed=4, sample_ids=selection()["sample_ids"])
    ids = torch.from_numpy(selection()["sample_ids"])
    expected = ops.reparameterize_kl(torch.from_numpy(mu), torch.from_numpy(logvar), seed=4, sample_ids=ids)
    assert all(same(a, b) for a, b in zip(got, expected, strict=True))


def test_byte_order_and_alignment():
    """Big-endian and unaligned arrays are read correctly; results have the machine's byte order."""
    x = RNG.normal(size=(4, 9)).astype(np.float32)
    expected = nf.add_noise(x, 0.5, seed=1)
    assert np.array_equal(nf.add_noise(x.astype(">f4"), 0.5, seed=1), expected)
    assert np.array_equal(nf.mix_noise(x, x.astype(">f4"), 0.5), nf.mix_noise(x, x, 0.5))
    assert np.array_equal(nf.noise((4, 9), seed=1, dtype=">f4"), nf.noise((4, 9), seed=1))
    unaligned = np.frombuffer(b"?" + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    assert np.array_equal(nf.add_noise(unaligned, 0.5, seed=1), expected)


def test_strided_arrays_and_lists():
    x = RNG.normal(size=(8, 5, 6))[::2].swapaxes(1, 2)
    assert np.array_equal(nf.add_noise(x, 0.5, seed=1), nf.add_noise(x.copy(), 0.5, seed=1))
    assert np.array_equal(nf.add_noise([[1.0, 2.0]], [0.5], seed=1), nf.add_noise(np.array([[1.0, 2.0]]), 0.5, seed=1))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 5), (1,)])
def test_empty_and_tiny(shape):
    assert nf.noise(shape, seed=1).shape == shape


def test_no_seed_follows_numpys_global_generator():
    draws = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        draws.append(nf.noise((2, 50)))
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


SCALARS = [int, np.int64, np.uint8, np.array, torch.tensor]


@pytest.mark.parametrize("integer", SCALARS)
def test_integers_of_any_type(integer):
    expected = nf.noise((2, 9), seed=3, draw=5, stream=7)
    got = nf.noise((integer(2), integer(9)), seed=integer(3), draw=integer(5), stream=integer(7))
    assert np.array_equal(got, expected)
    x = np.zeros((2, 9), np.float32)
    streams = {"streams": [integer(7), integer(8)]}
    ys = nf.add_noise_multimodal([x, x], [0, 1], seed=integer(3), draw=integer(5), **streams)
    assert np.array_equal(ys[0], expected)
    z, _ = nf.reparameterize_kl(x, x, seed=integer(3), draw=integer(5), stream=integer(7))
    assert np.array_equal(z, expected)
    assert np.array_equal(nf.philox(integer(3), [[1, 2, 3, 4]]), nf.philox(3, [[1, 2, 3, 4]]))
    assert np.array_equal(nf.noise((2, 9), seed=np.uint64(2**64 - 1)), nf.noise((2, 9), seed=-1))


@pytest.mark.parametrize("number", [float, np.float32, np.float64, np.float16, Fraction, np.array, torch.tensor])
def test_numbers_of_any_type(number):
    """0.25 has the same value in all of them."""
    x = RNG.normal(size=(3, 50))
    expected = nf.add_noise(x, 0.25, seed=1, kind="impulse", p=0.25)
    assert np.array_equal(nf.add_noise(x, number(0.25), seed=1, kind="impulse", p=number(0.25)), expected)
    assert np.array_equal(nf.mix_noise(x, x, number(0.25)), nf.mix_noise(x, x, 0.25))


def test_a_subclass_gives_an_ndarray():
    y = nf.add_noise(np.ones((2, 3)).view(type("Sub", (np.ndarray,), {})), 0.5, seed=1)
    assert type(y) is np.ndarray


@pytest.mark.parametrize("shape", [(3, 1), (3, 4, 2), (0, 4)])
def test_lengths_of_1_that_are_steps(shape):
    x = RNG.normal(size=shape)
    y = nf.add_noise(x, 1.0, seed=1, lengths=np.ones(shape[0], int))
    assert np.array_equal(y[:, :1], x[:, :1])
    assert not y[:, 1:].any()


X = np.zeros((3, 4, 2))
MASKED = np.ma.masked_array(X, mask=X == 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nf.add_noise(X.astype(int), 0.5),
            r"^x: expected float32, float16 or float64, got int64 of shape \(3, 4, 2\)",
        ),
        (lambda: nf.add_noise(1.0, 0.5), r"^x: expected \[B, \.\.\.\]"),
        (lambda: nf.add_noise(X, 1.5), r"^alpha_bar: expected a number or shape \(3,\), from 0 to 1, got 1\.5"),
        (
            lambda: nf.add_noise(X, np.ones(2)),
            r"^alpha_bar: expected a number or shape \(3,\), from 0 to 1, got float64",
        ),
        (lambda: nf.add_noise(X, float("nan")), r"^alpha_bar: "),
        (
            lambda: nf.add_noise(X, 0.5, kind="pink"),
            r"^kind: expected one of gaussian, impulse, uniform, laplace, got 'pink'",
        ),
        (lambda: nf.add_noise(X, 0.5, kind="impulse", p=2), r"^p: expected a number from 0 to 1, got 2"),
        (lambda: nf.add_noise(X, 0.5, seed=1.5), r"^seed: expected an int, got 1\.5 \(float\)"),
        (lambda: nf.add_noise(X, 0.5, seed=1, draw=2**32), r"^draw: expected an int from 0 to 2\^32-1"),
        (lambda: nf.add_noise(X, 0.5, stream=256), r"^stream: expected an int from 0 to 255, got 256"),
        (lambda: nf.add_noise(X, 0.5, sample_ids=[1, 2]), r"^sample_ids: expected integers of shape \(3,\)"),
        (lambda: nf.add_noise(X, 0.5, noisy=[1, 1, 1]), r"^noisy: expected bools of shape \(3,\)"),
        (lambda: nf.add_noise(X[:, 0, 0], 0.5, lengths=[1, 1, 1]), r"^lengths: expected two or more dims"),
        (lambda: nf.mix_noise(X, X[:2], 0.5), r"^eps: expected the same as x"),
        (lambda: nf.noise((-1, 2)), r"^shape: expected \(B, \.\.\.\)"),
        (lambda: nf.noise((2, 2), dtype=int), r"^dtype: expected float32"),
        (lambda: nf.noise((1, 2**34 + 1)), r"^shape: expected at most 2\^34 elements a sample"),
        (lambda: nf.add_noise_multimodal([], [0.5]), r"^xs: expected at least one"),
        (lambda: nf.add_noise_multimodal([X, X[:2]], [0.5, 0.5]), r"^xs\[1\]: expected xs\[0\]'s batch"),
        (lambda: nf.add_noise_multimodal([X], [0.5], streams=[0, 1]), r"^streams: expected 1"),
        (lambda: nf.add_noise_multimodal([X], [0.5], lengths=[]), r"^lengths: expected 1"),
        (
            lambda: nf.add_noise_multimodal([X[:, 0, 0]], [0.5], lengths=[[1, 1, 1]]),
            r"^lengths: expected every x of two",
        ),
        (
            lambda: nf.add_noise(X, 0.5, lengths=[4, 5, 0]),
            r"^lengths: expected 0 to T = 4 valid steps along dim 1, got 5",
        ),
        (lambda: nf.mix_noise(X, X, 0.5, lengths=[4, -1, 0]), r"^lengths: expected 0 to T = 4 .*, got -1"),
        (lambda: nf.noise((3, 4), lengths=np.uint8([4, 5, 0])), r"^lengths: expected 0 to T = 4 .*, got 5"),
        (
            lambda: nf.add_noise_multimodal([X, X[:, :2]], [0.5, 0.5], lengths=[None, [1, 2, 3]]),
            r"^lengths: expected 0 to T = 2 .*, got 3",
        ),
        (
            lambda: nf.add_noise(X[:, :, 0], 0.5, lengths=[1, 1, 1]),
            r"^lengths: expected steps along dim 1 of x \[B, T, \.\.\.\], got all 1 for shape \(3, 4\): one step of 4 "
            r"features is x\[:, None\]",
        ),
        (lambda: nf.noise(5), r"^shape: expected \(B, \.\.\.\), .* got 5"),
        (lambda: nf.noise((2, 1.5)), r"^shape: expected an int, got 1\.5"),
        (lambda: nf.noise((2, 2), dtype="bfloat16"), r"^dtype: expected float32, float16 or float64, got 'bfloat16'"),
        (lambda: nf.noise((2, 2), dtype="int8"), r"^dtype: expected float32, float16 or float64, got 'int8'"),
        (lambda: nf.add_noise(X, 0.5, kind="impulse", p="most"), r"^p: expected a number, got 'most'"),
        (lambda: nf.add_noise(X, 0.5, kind="impulse", p=np.nan), r"^p: expected a number from 0 to 1, got nan"),
        (lambda: nf.add_noise(MASKED, 0.5), r"^x: expected an array without a mask, which would be lost, got a masked"),
        (lambda: nf.noise_like(MASKED), r"^x: expected an array without a mask"),
        (lambda: nf.mix_noise(X, MASKED, 0.5), r"^eps: expected an array without a mask"),
        (lambda: nf.add_noise_multimodal([X, MASKED], [0.5, 0.5]), r"^xs\[1\]: expected an array without a mask"),
        (lambda: nf.reparameterize_kl(X, MASKED), r"^logvar: expected an array without a mask"),
        (lambda: nf.add_noise(X, MASKED[:, 0, 0]), r"^alpha_bar: expected an array without a mask"),
        (lambda: nf.noise((3, 2), sample_ids=MASKED[:, 0, 0]), r"^sample_ids: expected an array without a mask"),
        (lambda: nf.noise((3, 2), noisy=MASKED[:, 0, 0]), r"^noisy: expected an array without a mask"),
        (lambda: nf.noise((3, 2), lengths=MASKED[:, 0, 0]), r"^lengths: expected an array without a mask"),
        (lambda: nf.philox(1, MASKED), r"^counter: expected an array without a mask"),
        (lambda: nf.philox(1, np.zeros(4)), r"^counter: expected integers \[\.\.\., 4\]"),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# Counts the threads that a process starts, and refuses those beyond a number.
COUNTED = """
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
int started = 0, refused = 0;
int pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*f)(void*), void* x) {
  typedef int Create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  const char* most = getenv("MOST_THREADS");
  if (most && started >= atoi(most)) return ++refused, EAGAIN;
  return ++started, ((Create*)dlsym(RTLD_NEXT, "pthread_create"))(t, a, f, x);
}
"""

CALLS = """
import ctypes, hashlib, os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import numpy as np
from nmer_fast import numpy as nf
here = ctypes.CDLL(None)
count = lambda name: ctypes.c_int.in_dll(here, name).value
before = count("started")
x = np.linspace(-3, 3, 3 * (2**20 + 5), dtype=np.float32).reshape(3, -1)
y = nf.add_noise(x, 0.1, seed=3)
print(count("started") - before, count("refused"), hashlib.sha256(y.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A library for LD_PRELOAD that counts threads in place of libc's pthread_create."""
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD and a process's affinity are Linux's")
    folder = tmp_path_factory.mktemp("counted")
    (folder / "counted.c").write_text("#define _GNU_SOURCE\n" + COUNTED)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "counted.so", folder / "counted.c", "-ldl"], check=True)
    return folder / "counted.so"


def threads(counted, *arguments, **environment):
    """A call's threads started and refused, and its bits, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, *arguments],
        env={**kept, "OPENBLAS_NUM_THREADS": "1", "LD_PRELOAD": str(counted), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    started, refused, bits = done.stdout.split()
    return int(started), int(refused), bits


def test_threads_are_those_of_omp_num_threads_or_of_the_process(counted):
    """The caller works too, so a call of n threads starts n - 1."""
    *_, alone = threads(counted, OMP_NUM_THREADS="1")
    assert threads(counted, OMP_NUM_THREADS="1") == (0, 0, alone)
    assert threads(counted, OMP_NUM_THREADS="5") == (4, 0, alone)
    assert threads(counted, OMP_NUM_THREADS="3,2") == (2, 0, alone)  # the first is that of the outermost level
    assert threads(counted, "one processor") == (0, 0, alone)
    for invalid in ("", "none", "-4", "0"):
        assert threads(counted, "one processor", OMP_NUM_THREADS=invalid) == (0, 0, alone)
    assert threads(counted, OMP_NUM_THREADS="1000")[0] == 11  # no more than have work


@pytest.mark.parametrize("most", [0, 2])
def test_a_refused_thread_costs_nothing_but_time(counted, most):
    *_, alone = threads(counted, OMP_NUM_THREADS="1")
    assert threads(counted, OMP_NUM_THREADS="5", MOST_THREADS=str(most)) == (most, 1, alone)

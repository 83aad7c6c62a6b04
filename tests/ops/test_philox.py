"""Philox against Random123's known answers, on every backend, and the contract's counter."""

import numpy as np
import pytest
import torch

import nmer_fast.numpy
from nmer_fast import ops
from nmer_fast.ops import reference

from . import contract

KNOWN_ANSWERS = [  # Random123's kat_vectors: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def reference_words(seed, counter):
    signed = seed - 2**64 if seed >= 2**63 else seed
    return reference.philox(torch.tensor(signed), counter)


def native_words(seed, counter):
    return torch.from_numpy(nmer_fast.numpy.philox(seed, counter.numpy()))


BACKENDS = {"reference": reference_words, "numpy": native_words, "torch": ops.philox}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(backend, counter, key, words):
    out = BACKENDS[backend](key[0] | key[1] << 32, torch.tensor([counter]))
    assert out.tolist() == [list(words)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_on_random_counters(backend):
    counter = torch.randint(0, 2**32, (3, 20000, 4))
    for seed in (0, 1, 2**32, 2**63 + 7, 2**64 - 1):
        out = BACKENDS[backend](seed, counter)
        assert out.shape == counter.shape
        assert torch.equal(out, reference_words(seed, counter))
        at = 12345
        assert out[1, at].tolist() == contract.philox_words(seed, counter[1, at].tolist())


def test_the_compiled_library_is_loaded():
    assert ops.compiled
    assert torch._C._dispatch_has_kernel_for_dispatch_key("nmer_fast::philox", "CPU")


@pytest.mark.parametrize("shape", [(4,), (0, 4), (1, 4), (7, 3, 4)])
def test_shapes(shape):
    assert ops.philox(5, torch.zeros(shape, dtype=torch.int32)).shape == shape


def test_non_contiguous_counters():
    counter = torch.randint(0, 2**32, (4, 50))
    assert torch.equal(ops.philox(3, counter.t()), ops.philox(3, counter.t().contiguous()))


def test_seed_forms():
    counter = torch.randint(0, 2**32, (5, 4))
    expected = ops.philox(-3, counter)
    assert torch.equal(ops.philox(2**64 - 3, counter), expected)
    assert torch.equal(ops.philox(torch.tensor(-3), counter), expected)
    assert torch.equal(ops.philox(torch.tensor([-3, 9]), counter), expected)


def test_noise_counter_is_the_contract():
    sample, draw, stream = 0xABCD12345678, 2**32 - 1, 241
    words = ops.philox(17, ops.noise_counter(torch.tensor(sample), torch.arange(3), draw=draw, stream=stream))
    expected = [contract.quad_words(17, draw, stream, sample, 4 * q) for q in range(3)]
    assert words.tolist() == expected


def test_words_are_uniform():
    """Each byte of each word passes a chi-square test over 2^20 counters: 16 tests at the 1e-6 level."""
    from scipy.stats import chisquare

    words = ops.philox(99, ops.noise_counter(torch.arange(1024)[:, None], torch.arange(1024)))
    for w in range(4):
        for byte in range(4):
            counts = np.bincount((words[..., w] >> 8 * byte & 0xFF).flatten().numpy(), minlength=256)
            assert chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, torch.zeros(3, dtype=torch.int64)), r"counter: expected an integer tensor \[\.\.\., 4\]"),
        ((0, torch.zeros(4)), r"counter: expected an integer tensor"),
        ((None, torch.zeros(4, dtype=torch.int64)), r"seed: expected an int"),
        (("1", torch.zeros(4, dtype=torch.int64)), r"seed: expected an int"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ops.philox(*arguments)


def test_opcheck():
    torch.library.opcheck(torch.ops.nmer_fast.philox, (torch.tensor(1), torch.randint(0, 9, (6, 4))))

"""The reference in pieces is the reference whole; its memory is bounded; it runs without float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmer_fast.contract import GENERATED_KINDS as KINDS
from nmer_fast.ops import reference

RNG = torch.tensor([-(2**63) + 77, 2**32 - 3])
IDS = torch.tensor([5, 2**48 - 1, 2**32, 0, 7])
NOISY = torch.tensor([True, True, False, True, True])
LENGTHS = torch.tensor([6, 0, 4, 1, 5])
ALPHA_BARS = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
P = torch.tensor([0.3], dtype=torch.float64)
SHAPES = [(5, 6, 7), (5, 6), (5, 6, 1), (0, 6, 7), (5, 0, 7)]


def calls(shape, dtype=torch.float32, kind="gaussian", wide=torch.float64):
    """Every op on made-up features, with all options."""
    x, y = (torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2))
    batch = shape[0]
    ids, noisy, lengths = IDS[:batch], NOISY[:batch], LENGTHS[:batch].clamp(max=shape[1])
    alpha_bars, p = ALPHA_BARS[:batch].to(wide), P[0] if wide == torch.float32 else P
    one = torch.tensor(0.3 if wide == torch.float32 else [0.3], dtype=torch.float64)  # as a Python number arrives
    shared = (RNG, ids, noisy, lengths, p)
    both = torch.stack([noisy, ~noisy], 1), torch.stack([lengths, lengths // 2], 1)
    gk = torch.linspace(-1, 1, batch).to(reference.kl_dtype(dtype))
    return {
        "noise": lambda: reference.noise(torch.Size(shape), *shared, 3, kind, dtype),
        "add_noise": lambda: reference.add_noise(x, alpha_bars, *shared, 3, kind, True),
        "add_noise, one alpha_bar": lambda: reference.add_noise(x, one, *shared, 3, kind, False)[0],
        "add_noise_multimodal": lambda: reference.add_noise_multimodal(
            [x, y], torch.stack([alpha_bars, 1 - alpha_bars], 1), RNG, None, *both, p, [3, 0], kind, True
        ),
        "mix_noise": lambda: reference.mix_noise(x, y, alpha_bars, noisy, lengths),
        "mix_noise_backward": lambda: reference.mix_noise_backward(x, alpha_bars, noisy, lengths, True),
        "reparameterize_kl": lambda: reference.reparameterize_kl(x, y, RNG, ids, 240),
        "reparameterize_kl_backward": lambda: reference.reparameterize_kl_backward(x, gk, y, x, RNG, ids, 240),
        "statistics": lambda: reference.statistics(x, y, noisy, lengths),
    }


@pytest.mark.parametrize("piece", [4, 8, 20, 100])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", calls(SHAPES[0]))
def test_pieces_are_the_whole(name, shape, piece, monkeypatch):
    """Elements have the same bits; sums over elements are added in another order."""
    for kind in KINDS if "noise" in name else KINDS[:1]:
        whole = tree_leaves(calls(shape, kind=kind)[name]())
        monkeypatch.setattr(reference, "piece_size", lambda device: piece)
        pieces = tree_leaves(calls(shape, kind=kind)[name]())
        monkeypatch.undo()
        for got, expected in zip(pieces, whole, strict=True):
            assert got.is_contiguous()
            assert got.shape == expected.shape
            if got.shape == shape:
                assert torch.equal(got, expected)
            else:
                torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the most bytes of a tensor that an op makes, results aside. `in_pieces` must not see the mode."""

    def __init__(self, result):
        super().__init__()
        self.result, self.most = result, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if any(returned.alias_info for returned in function._schema.returns):
            return out  # a view
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.numel() != self.result:
                self.most = max(self.most, t.numel() * t.element_size())
        return out


@pytest.mark.parametrize("name", calls(SHAPES[0]))
def test_memory_does_not_grow_with_the_batch(name, monkeypatch):
    """Beside inputs and results no tensor is larger than a piece's words: four int64 for each quad."""
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    monkeypatch.setattr(reference, "piece_size", lambda device: 64)
    x = calls((5, 64, 32))[name]
    with Largest(5 * 64 * 32) as largest:
        x()
    assert 0 < largest.most <= 64 * 8 + 8 * 8


class NoFloat64(TorchDispatchMode):
    """Refuses float64 tensors with dims, as a device without float64 does; a number of the CPU has no dims."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            assert not isinstance(t, torch.Tensor) or t.dtype != torch.float64 or t.dim() == 0, str(function)
        return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", calls(SHAPES[0]))
def test_without_float64(name, kind, monkeypatch):
    """Noise errs by 2e-6 at most; the other formulas are float32's, on values of a few units."""
    exact = tree_leaves(calls(SHAPES[0], torch.float64, kind)[name]())
    ready = calls(SHAPES[0], torch.float32, kind, wide=torch.float32)[name]
    monkeypatch.setattr(reference, "has_float64", lambda device: False)
    with NoFloat64():
        got = tree_leaves(ready())
    for value, expected in zip(got, exact, strict=True):
        assert value.dtype == torch.float32
        tolerance = 2e-6 if name == "noise" else 2e-6 + 2.0**-22 * expected.abs().max().item()
        assert (value.double() - expected).abs().max() <= (tolerance if value.shape == SHAPES[0] else 20 * tolerance)


def test_noise_without_float64_over_many_values(monkeypatch):
    size = torch.Size((64, 4096))
    exact = reference.noise(size, RNG, None, None, None, None, 0, "gaussian", torch.float64)
    monkeypatch.setattr(reference, "has_float64", lambda device: False)
    assert (reference.noise(size, RNG, None, None, None, None, 0, "gaussian", torch.float32) - exact).abs().max() < 2e-6

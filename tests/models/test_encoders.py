"""Encoders agree with PyTorch's own layers on single unpadded samples; padding and other samples have no effect."""

import pytest
import torch
import torch.nn.functional as F

from nmer_fast.models.encoders import Encoders, LSTMEncoder, TextCNN

DIMS = {"a": 7, "v": 5, "l": 6}


def plain_text_cnn(cnn, x):
    """Return the TextCNN's output for one sample [T, D], computed with F.conv1d."""
    x = F.pad(x, (0, 0, 0, max(5 - len(x), 0)))
    pooled = []
    for kernel, weight, bias in zip((3, 4, 5), cnn.weights, cnn.biases, strict=True):
        pooled.append(F.conv1d(x[: max(len(x), kernel)].t(), weight.mT, bias).relu().amax(1))
    return cnn.linear(torch.cat(pooled)).relu()


@pytest.mark.parametrize("steps", [5, 6, 11])
def test_text_cnn_is_convolutions(steps):
    cnn = TextCNN(6, 0.5).eval()
    x = torch.randn(4, steps, 6)
    out = cnn(x, torch.full((4,), steps))
    torch.testing.assert_close(out, torch.stack([plain_text_cnn(cnn, sample) for sample in x]))


@pytest.mark.parametrize(("steps", "length"), [(8, 1), (8, 3), (8, 4), (2, 2)])
def test_text_cnn_zero_pads_short_samples(steps, length):
    """Only windows inside the sample count; a sample shorter than the kernel has a single window, from step 0."""
    cnn = TextCNN(6, 0.5).eval()
    x = torch.randn(1, steps, 6)
    padded = F.pad(x[:, :length], (0, 0, 0, 5))
    pooled = []
    for kernel, weight, bias in zip((3, 4, 5), cnn.weights, cnn.biases, strict=True):
        whole = padded[0, : max(length, kernel)].t()
        pooled.append(F.conv1d(whole, weight.mT, bias).relu().amax(1))
    expected = cnn.linear(torch.cat(pooled)).relu()
    torch.testing.assert_close(cnn(x, torch.tensor([length]))[0], expected)


@pytest.mark.parametrize("make", [lambda: LSTMEncoder(6), lambda: TextCNN(6, 0.5)])
@pytest.mark.parametrize("poison", [0.0, float("nan"), 1e30])
def test_padding_and_batch_mates_change_nothing(make, poison):
    encoder = make().eval()
    x, lengths = torch.randn(5, 16, 6), torch.tensor([16, 1, 4, 0, 9])
    poisoned = x.masked_fill((torch.arange(16) >= lengths[:, None])[..., None], poison)
    out = encoder(poisoned, lengths)
    assert (out[3] == 0).all()
    for i, n in enumerate(lengths.tolist()):
        if n:
            alone = encoder(x[i : i + 1, :n], lengths[i : i + 1])
            torch.testing.assert_close(out[i], alone[0], rtol=0, atol=1e-5)
    encoder.zero_grad()
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_all_modalities():
    encoders = Encoders(DIMS, 0.5).eval()
    features = {m: torch.randn(3, 8, dim) for m, dim in DIMS.items()}
    lengths = {"a": torch.tensor([8, 0, 3]), "v": torch.tensor([1, 2, 3]), "l": torch.tensor([8, 8, 0])}
    out = encoders(features, lengths)
    assert out.shape == (3, 3, 2, 128)
    assert (out[1, 0] == 0).all()
    assert (out[2, 2] == 0).all()
    specific = encoders.specific[1](features["v"], lengths["v"])
    invariant = encoders.shared(encoders.invariant[1](features["v"], lengths["v"]))
    torch.testing.assert_close(out[:, 1, 0], specific)
    torch.testing.assert_close(out[:, 1, 1], invariant)

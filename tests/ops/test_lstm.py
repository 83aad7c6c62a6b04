"""lstm_max_pool against nn.LSTM and a masked max."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck

from nmer_fast import ops
from nmer_fast.ops._library import isas, use_isa


def case(batch=5, steps=7, dim=4, hidden=6, dtype=torch.float64):
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(dim, hidden, batch_first=True, dtype=dtype)
    x = torch.randn(batch, steps, dim, dtype=dtype)
    lengths = torch.tensor([7, 1, 0, 4, 6])[:batch].clamp(max=steps)
    return lstm, x, lengths


def weights(lstm):
    return lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0


def one_by_one(lstm, x, lengths):
    """Each sample alone, unpadded, through nn.LSTM."""
    rows = [lstm(x[i : i + 1, :n])[0].amax(1)[0] if n else x.new_zeros(lstm.hidden_size) for i, n in enumerate(lengths)]
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_nn_lstm_on_valid_steps(dtype, tolerance):
    lstm, x, lengths = case(dtype=dtype)
    torch.testing.assert_close(
        ops.lstm_max_pool(x, lengths, *weights(lstm)), one_by_one(lstm, x, lengths), rtol=0, atol=tolerance
    )
    with torch.no_grad():
        hidden = torch.ops.nmer_fast.lstm_max_pool(x, lengths, *(w[None] for w in weights(lstm)))[2]
    hidden = hidden[:, 0].unflatten(0, (5, 8))[:, 1:]
    valid = torch.arange(7) < lengths[:, None]
    torch.testing.assert_close(hidden[valid], lstm(x)[0][valid], rtol=0, atol=tolerance)


def stacked(dim, hidden, count=2):
    """Weights of some LSTMs of one input, as leaves."""
    lstms = [torch.nn.LSTM(dim, hidden, batch_first=True) for _ in range(count)]
    return [torch.stack(w).detach().requires_grad_() for w in zip(*map(weights, lstms), strict=True)]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("hidden", [16, 48, 128])
def test_the_cpu_kernels_are_the_definition(monkeypatch, isa, hidden):
    """Both encoders of an input, groups of samples, every length; forward, and all gradients, to float32's rounding."""
    use_isa(isa)
    lengths = torch.cat([torch.randint(0, 41, (70,)), torch.tensor([41, 0, 1])])
    x, w, target = torch.randn(73, 41, 13), stacked(13, hidden), torch.randn(73, 2, hidden)
    leaves = [x.requires_grad_(), *w]
    out = ops.lstm_max_pool(x, lengths, *w)
    got = torch.autograd.grad((out * target).sum(), leaves)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = ops.lstm_max_pool(exact[0], lengths, *exact[1:])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
    for g, e in zip(got, torch.autograd.grad((expected * target.double()).sum(), exact), strict=True):
        assert (g.double() - e).abs().max() <= 2e-6 * e.abs().max()
    with torch.no_grad():
        alone = [ops.lstm_max_pool(x, lengths, *(t[e] for t in w)) for e in (0, 1)]
    assert torch.equal(torch.stack(alone, 1), out)
    use_isa(isas()[-1])


def test_the_gates_at_their_ends():
    """Saturated gates, and what is no number: it reaches the output, so that a loss shows it."""
    w = [t.detach()[:1] for t in stacked(3, 16)]
    x = torch.randn(4, 5, 3)
    for scale in (1e4, 1e30):
        exact = ops.lstm_max_pool(scale * x.double(), torch.full((4,), 5), *(t.double() for t in w))
        torch.testing.assert_close(
            ops.lstm_max_pool(scale * x, torch.full((4,), 5), *w).double(), exact, rtol=0, atol=1e-5
        )
    x[2, 1] = float("nan")
    out = ops.lstm_max_pool(x, torch.tensor([5, 5, 5, 5]), *w)
    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()


def test_real_sizes_in_float32():
    lstm = torch.nn.LSTM(130, 128, batch_first=True)
    x, lengths = torch.randn(16, 100, 130), torch.randint(1, 101, (16,))
    expected = one_by_one(lstm, x, lengths)
    torch.testing.assert_close(ops.lstm_max_pool(x, lengths, *weights(lstm)), expected, rtol=0, atol=1e-5)
    got = torch.autograd.grad(ops.lstm_max_pool(x, lengths, *weights(lstm)).sum(), lstm.parameters())
    for g, e in zip(got, torch.autograd.grad(expected.sum(), lstm.parameters()), strict=True):
        assert (g - e).abs().max() <= 1e-5 * e.abs().max()


def test_gradients_equal_nn_lstm():
    lstm, x, lengths = case()
    parameters = list(lstm.parameters())
    target = torch.randn(5, 6, dtype=torch.float64)
    leaf = x.requires_grad_()
    ours = torch.autograd.grad((ops.lstm_max_pool(leaf, lengths, *weights(lstm)) * target).sum(), [leaf, *parameters])
    theirs = torch.autograd.grad((one_by_one(lstm, leaf, lengths) * target).sum(), [leaf, *parameters])
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("lengths", [[7, 1, 0, 4, 6], [0, 0, 0, 0, 0], [7, 7, 7, 7, 7]])
def test_gradcheck(lengths):
    lstm, x, _ = case()
    args = [t.detach().requires_grad_() for t in (x, *weights(lstm))]
    assert gradcheck(lambda x, *w: ops.lstm_max_pool(x, torch.tensor(lengths), *w), args)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_padding_and_batch_mates_change_nothing(poison):
    lstm, x, lengths = case()
    beyond = (torch.arange(7) >= lengths[:, None])[..., None]
    poisoned = x.masked_fill(beyond, poison).requires_grad_()
    out = ops.lstm_max_pool(poisoned, lengths, *weights(lstm))
    assert torch.equal(out, ops.lstm_max_pool(x, lengths, *weights(lstm)))
    out.sum().backward()
    assert (poisoned.grad.masked_select(beyond) == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in lstm.parameters())
    alone = ops.lstm_max_pool(x[3:4, :4], lengths[3:4], *weights(lstm))
    torch.testing.assert_close(alone[0], out[3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("batch", "steps"), [(0, 7), (5, 0), (1, 1)])
def test_shapes(batch, steps):
    lstm, x, lengths = case(batch, steps)
    out = ops.lstm_max_pool(x, lengths, *weights(lstm))
    assert out.shape == (batch, 6)
    out.sum().backward()


def test_compiles_as_one_graph_with_changing_sizes():
    lstm = torch.nn.LSTM(4, 6, batch_first=True)
    parameters = [w.detach().requires_grad_() for w in weights(lstm)]

    def f(x, lengths, *w):
        return ops.lstm_max_pool(x, lengths, *w).tanh()

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(f, backend=counter, fullgraph=True)
    for i in range(10):
        x, lengths = torch.randn(3 + i, 20 - i, 4), torch.randint(0, 11, (3 + i,))
        got, expected = compiled(x, lengths, *parameters), f(x, lengths, *parameters)
        torch.testing.assert_close(got, expected)
        for g, e in zip(*(torch.autograd.grad(out.sum(), parameters) for out in (got, expected)), strict=True):
            torch.testing.assert_close(g, e)
    assert counter.frame_count <= 2


def test_a_transform_inside_compiled_code_is_refused():
    lstm, x, lengths = case()
    w = [t.detach() for t in weights(lstm)]

    def gradient(x):
        return torch.func.grad(lambda q: ops.lstm_max_pool(q, lengths, *w).sum())(x)

    assert gradient(x).abs().max() > 0
    with pytest.raises(Exception, match="would lose its gradient"):
        torch.compile(gradient, backend="aot_eager", fullgraph=True)(x)


def test_opcheck():
    lstm, x, lengths = case()
    args = (x, lengths, *(w.detach()[None] for w in weights(lstm)))
    torch.library.opcheck(torch.ops.nmer_fast.lstm_max_pool, args)
    _, argmax, hidden, cell, gates = torch.ops.nmer_fast.lstm_max_pool(*args)
    grad = torch.ones((), dtype=x.dtype).expand(5, 1, 6)
    for need_x in (True, False):
        saved = (grad, *args[:4], argmax, hidden, cell, gates, need_x)
        torch.library.opcheck(torch.ops.nmer_fast.lstm_max_pool_backward, saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 7)}, r"^x: expected \[B, T, D\]"),
        ({"lengths": None}, r"^lengths: expected an integer tensor of shape \[5\], got None"),
        ({"lengths": torch.zeros(4).long()}, r"^lengths: expected an integer tensor of shape \[5\]"),
        ({"weight_ih": torch.zeros(24, 5)}, r"^weight_ih: expected \[24, 4\]"),
        ({"bias": torch.zeros(24)}, r"^bias: expected the same as x's dtype"),
    ],
)
def test_refusals_name_the_argument(change, message):
    lstm, x, lengths = case()
    names = ("x", "lengths", "weight_ih", "weight_hh", "bias")
    arguments = {**dict(zip(names, (x, lengths, *weights(lstm)), strict=True)), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        ops.lstm_max_pool(**arguments)

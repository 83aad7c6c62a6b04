"""lstm_max_pool and lstm_states against nn.LSTM and a masked max."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck

from nmer_fast import ops
from nmer_fast.ops._library import isas, use_isa

EITHER = pytest.mark.parametrize("op", [ops.lstm_max_pool, ops.lstm_states], ids=lambda op: op.__name__)


def case(batch=5, steps=7, dim=4, hidden=6, dtype=torch.float64):
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(dim, hidden, batch_first=True, dtype=dtype)
    x = torch.randn(batch, steps, dim, dtype=dtype)
    lengths = torch.tensor([7, 1, 0, 4, 6])[:batch].clamp(max=steps)
    return lstm, x, lengths


def weights(lstm):
    return lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0


def one_by_one(op, lstm, x, lengths):
    """Run each sample alone and unpadded through nn.LSTM; all states are padded with zeros."""
    rows, width = [], lstm.hidden_size
    for i, n in enumerate(lengths.tolist()):
        states = lstm(x[i : i + 1, :n])[0][0] if n else x.new_zeros(0, width)
        if op is ops.lstm_states:
            rows.append(torch.cat([states, x.new_zeros(x.shape[1] - n, width)]))
        else:
            rows.append(states.amax(0) if n else x.new_zeros(width))
    return torch.stack(rows)


@EITHER
@pytest.mark.parametrize("hidden", [6, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_nn_lstm_on_valid_steps(op, hidden, dtype, tolerance):
    lstm, x, lengths = case(dtype=dtype, hidden=hidden)
    expected = one_by_one(op, lstm, x, lengths)
    torch.testing.assert_close(op(x, lengths, *weights(lstm)), expected, rtol=0, atol=tolerance)


def stacked(dim, hidden, count=2):
    """The weights of several LSTMs of one input, as leaves."""
    lstms = [torch.nn.LSTM(dim, hidden, batch_first=True) for _ in range(count)]
    return [torch.stack(w).detach().requires_grad_() for w in zip(*map(weights, lstms), strict=True)]


@pytest.fixture(params=isas())
def chosen_isa(request):
    use_isa(request.param)
    yield
    use_isa(isas()[-1])


@EITHER
@pytest.mark.parametrize("hidden", [16, 48, 128])
def test_the_cpu_kernels_are_the_definition(chosen_isa, op, hidden):
    """Both encoders of an input, at every length, have outputs and gradients that are exact to float32's rounding."""
    lengths = torch.cat([torch.randint(0, 41, (70,)), torch.tensor([41, 0, 1])])
    x, w = torch.randn(73, 41, 13), stacked(13, hidden)
    leaves = [x.requires_grad_(), *w]
    out = op(x, lengths, *w)
    target = torch.randn_like(out)
    got = torch.autograd.grad((out * target).sum(), leaves)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = op(exact[0], lengths, *exact[1:])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
    for g, e in zip(got, torch.autograd.grad((expected * target.double()).sum(), exact), strict=True):
        assert (g.double() - e).abs().max() <= 2e-6 * e.abs().max()
    with torch.no_grad():
        alone = [op(x, lengths, *(t[e] for t in w)) for e in (0, 1)]
    assert torch.equal(torch.stack(alone, -2), out)


def test_the_pooled_states_are_the_states_maximum():
    x, lengths, w = torch.randn(40, 9, 5), torch.randint(1, 10, (40,)), [t.detach() for t in stacked(5, 32)]
    states = ops.lstm_states(x, lengths, *w)
    beyond = (torch.arange(9) >= lengths[:, None])[..., None, None]
    assert (states.masked_select(beyond) == 0).all()
    assert torch.equal(states.masked_fill(beyond, -torch.inf).amax(1), ops.lstm_max_pool(x, lengths, *w))


def test_the_gates_at_their_ends():
    """Saturated gates stay exact, and NaN propagates to the output, so that a loss shows it."""
    w = [t.detach()[:1] for t in stacked(3, 16)]
    x = torch.randn(4, 5, 3)
    for scale in (1e4, 1e30):
        exact = ops.lstm_max_pool(scale * x.double(), torch.full((4,), 5), *(t.double() for t in w))
        torch.testing.assert_close(
            ops.lstm_max_pool(scale * x, torch.full((4,), 5), *w).double(), exact, rtol=0, atol=1e-5
        )
    x[2, 1] = float("nan")
    for op in (ops.lstm_max_pool, ops.lstm_states):
        out = op(x, torch.tensor([5, 5, 5, 5]), *w)
        assert out[2].flatten(0, -2)[-1].isnan().all()
        assert out[[0, 1, 3]].isfinite().all()


def test_real_sizes_in_float32():
    lstm = torch.nn.LSTM(130, 128, batch_first=True)
    x, lengths = torch.randn(16, 100, 130), torch.randint(1, 101, (16,))
    expected = one_by_one(ops.lstm_max_pool, lstm, x, lengths)
    torch.testing.assert_close(ops.lstm_max_pool(x, lengths, *weights(lstm)), expected, rtol=0, atol=1e-5)
    got = torch.autograd.grad(ops.lstm_max_pool(x, lengths, *weights(lstm)).sum(), lstm.parameters())
    for g, e in zip(got, torch.autograd.grad(expected.sum(), lstm.parameters()), strict=True):
        assert (g - e).abs().max() <= 1e-5 * e.abs().max()


@EITHER
def test_gradients_equal_nn_lstm(op):
    lstm, x, lengths = case()
    leaves = [x.requires_grad_(), *lstm.parameters()]
    outs = op(x, lengths, *weights(lstm)), one_by_one(op, lstm, x, lengths)
    target = torch.randn_like(outs[0])
    ours, theirs = (torch.autograd.grad((out * target).sum(), leaves) for out in outs)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


@EITHER
@pytest.mark.parametrize("lengths", [[7, 1, 0, 4, 6], [0, 0, 0, 0, 0], [7, 7, 7, 7, 7]])
def test_gradcheck(op, lengths):
    lstm, x, _ = case()
    args = [t.detach().requires_grad_() for t in (x, *weights(lstm))]
    assert gradcheck(lambda x, *w: op(x, torch.tensor(lengths), *w), args)


@EITHER
@pytest.mark.parametrize(("hidden", "dtype", "tolerance"), [(6, torch.float64, 1e-12), (16, torch.float32, 1e-6)])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_padding_and_batch_mates_change_nothing(op, poison, hidden, dtype, tolerance):
    lstm, x, lengths = case(hidden=hidden, dtype=dtype)
    beyond = (torch.arange(7) >= lengths[:, None])[..., None]
    poisoned = x.masked_fill(beyond, poison).requires_grad_()
    out = op(poisoned, lengths, *weights(lstm))
    assert torch.equal(out, op(x, lengths, *weights(lstm)))
    out.sum().backward()
    assert (poisoned.grad.masked_select(beyond) == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in lstm.parameters())
    alone = op(x[3:4, :4], lengths[3:4], *weights(lstm))[0]
    torch.testing.assert_close(alone, out[3][:4] if alone.dim() == 2 else out[3], rtol=0, atol=tolerance)
    beyond = torch.where(lengths == 0, -3, torch.where(lengths == 7, 99, lengths))
    with pytest.raises(ValueError, match="lengths: expected 0 to T = 7 valid steps along dim 1, got -3"):
        op(poisoned, beyond, *weights(lstm))
    registered = getattr(torch.ops.nmer_fast, op.__name__)  # compiled code does not check, and clamps
    assert torch.equal(registered(x, beyond, *(w[None] for w in weights(lstm)))[0].squeeze(-2), out)


@EITHER
@pytest.mark.parametrize(("hidden", "dtype"), [(6, torch.float64), (16, torch.float32)])
@pytest.mark.parametrize(("batch", "steps"), [(0, 7), (5, 0), (1, 1)])
def test_shapes(op, batch, steps, hidden, dtype):
    lstm, x, lengths = case(batch, steps, hidden=hidden, dtype=dtype)
    out = op(x, lengths, *weights(lstm))
    over = (batch, steps) if op is ops.lstm_states else (batch,)
    assert out.shape == (*over, hidden)
    out.sum().backward()
    pairs = [torch.stack([w, w]).detach().requires_grad_() for w in weights(lstm)]
    f = torch.compile(op, fullgraph=True)
    assert f(x, lengths, *pairs).shape == (*over, 2, hidden)


@EITHER
@pytest.mark.parametrize("hidden", [6, 16])
def test_strides_change_nothing(op, hidden):
    """Weights, inputs, lengths and gradients may be views."""
    lstm, x, lengths = case(hidden=hidden, dtype=torch.float32)
    w = [t.detach().requires_grad_() for t in weights(lstm)]
    views = [
        w[0].t().contiguous().t(),
        torch.stack([w[1], w[1]], dim=-1)[..., 0],
        torch.stack([w[2], w[2]], dim=1)[:, 0],
    ]
    wide = torch.stack([lengths, lengths], dim=1)[:, 0].int()
    for reduce in (lambda y: y.sum(), lambda y: (y.mT * 2).mT.square().sum()):
        got, expected = (
            torch.autograd.grad(reduce(op(*a)), w)
            for a in ((x.transpose(0, 1).contiguous().transpose(0, 1), wide, *views), (x, lengths, *w))
        )
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=0, atol=1e-6)


@EITHER
def test_backward_inside_autocast_is_the_forwards(op):
    """An output that was computed in float32 has its gradients computed in float32, as for nn.LSTM."""
    for hidden in (6, 16):
        lstm, x, lengths = case(hidden=hidden, dtype=torch.float32)
        x.requires_grad_()
        leaves = [x, *lstm.parameters()]
        plain = torch.autograd.grad(op(x, lengths, *weights(lstm)).sum(), leaves)
        out = op(x, lengths, *weights(lstm))
        with torch.autocast("cpu", torch.bfloat16):
            inside = torch.autograd.grad(out.sum(), leaves)
        assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@EITHER
def test_compiles_as_one_graph_with_changing_sizes(op):
    lstm = torch.nn.LSTM(4, 6, batch_first=True)
    parameters = [w.detach().requires_grad_() for w in weights(lstm)]

    def f(x, lengths, *w):
        return op(x, lengths, *w).tanh()

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(f, backend=counter, fullgraph=True)
    for i in range(10):
        x, lengths = torch.randn(3 + i, 20 - i, 4), torch.randint(0, 11, (3 + i,))
        got, expected = compiled(x, lengths, *parameters), f(x, lengths, *parameters)
        torch.testing.assert_close(got, expected)
        for g, e in zip(*(torch.autograd.grad(out.sum(), parameters) for out in (got, expected)), strict=True):
            torch.testing.assert_close(g, e)
    assert counter.frame_count <= 2


@EITHER
def test_a_second_derivative_is_refused(op):
    lstm, x, lengths = case()
    loss = op(x.requires_grad_(), lengths, *weights(lstm)).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="nmer_fast::lstm_backward: it has no derivative in grad"):
        gradient.sum().backward()


@EITHER
def test_opcheck(op):
    lstm, x, lengths = case()
    args = (x, lengths, *(w.detach()[None] for w in weights(lstm)))
    registered = getattr(torch.ops.nmer_fast, op.__name__)
    torch.library.opcheck(registered, args)
    out, *saved = registered(*args)
    grad = torch.ones((), dtype=x.dtype).expand(out.shape)
    for need_x in (True, False):
        *argmax, hidden, cell, gates = saved
        given = (grad, *args[:4], hidden, cell, gates, need_x, *argmax)
        torch.library.opcheck(torch.ops.nmer_fast.lstm_backward, given)


@EITHER
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
def test_refusals_name_the_argument(op, change, message):
    lstm, x, lengths = case()
    names = ("x", "lengths", "weight_ih", "weight_hh", "bias")
    arguments = {**dict(zip(names, (x, lengths, *weights(lstm)), strict=True)), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        op(**arguments)

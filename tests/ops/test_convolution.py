"""conv_max_pool against nn.Conv1d, ReLU and a max, one unpadded sample at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck

from nmer_fast import ops
from nmer_fast.ops._library import isas, use_isa

KERNELS = (3, 4, 5)


def weights(dim, filters, encoders=2, kernels=KERNELS, dtype=torch.float64):
    w = [torch.randn(encoders, filters, dim, k, dtype=dtype) / (dim * k) ** 0.5 for k in kernels]
    return w, [torch.randn(encoders, filters, dtype=dtype) / 4 for _ in kernels]


def one_by_one(x, lengths, w, b):
    rows = []
    for sample, n in zip(x, lengths.tolist(), strict=True):
        row = [
            F.conv1d(F.pad(sample[:n], (0, 0, 0, max(weight.shape[-1] - n, 0))).t(), weight, bias).relu().amax(1)
            for weight, bias in zip(w, b, strict=True)
        ]
        rows.append(torch.cat(row) if n else x.new_zeros(sum(map(len, b))))
    return torch.stack(rows)


@pytest.mark.parametrize("kernels", [(3, 4, 5), (1,), (2, 7), (5, 3)])
def test_equals_conv1d(kernels):
    x, lengths = torch.randn(6, 9, 5, dtype=torch.float64), torch.tensor([9, 1, 0, 4, 6, 2])
    w, b = weights(5, 3, kernels=kernels)
    out = ops.conv_max_pool(x, lengths, w, b)
    for e in (0, 1):
        alone = one_by_one(x, lengths, [t[e] for t in w], [t[e] for t in b])
        torch.testing.assert_close(out[:, e], alone)
        torch.testing.assert_close(ops.conv_max_pool(x, lengths, [t[e] for t in w], [t[e] for t in b]), alone)


@pytest.fixture(params=isas())
def chosen_isa(request):
    use_isa(request.param)
    yield
    use_isa(isas()[-1])


@pytest.mark.parametrize(("dim", "filters"), [(7, 8), (70, 16), (300, 128)])
def test_the_cpu_kernels_are_the_definition(chosen_isa, dim, filters):
    """The output and all gradients are exact to float32's rounding; a maximum that ReLU sets to 0 has no gradient."""
    lengths = torch.cat([torch.randint(0, 13, (30,)), torch.tensor([13, 0, 1])])
    (w, b), x = weights(dim, filters, dtype=torch.float32), torch.randn(33, 13, dim)
    b[1] -= 1.5
    target, leaves = torch.randn(33, 2, 3 * filters), [t.requires_grad_() for t in (*w, *b)]
    out = ops.conv_max_pool(x, lengths, w, b)
    assert (out == 0).float().mean() > 0.05
    got = torch.autograd.grad((out * target).sum(), leaves)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = ops.conv_max_pool(x.double(), lengths, exact[:3], exact[3:])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-6)
    for g, e in zip(got, torch.autograd.grad((expected * target.double()).sum(), exact), strict=True):
        assert (g.double() - e).abs().max() <= 2e-6 * e.abs().max()


def test_gradients_of_the_input_too():
    (w, b), x, lengths = weights(20, 16, dtype=torch.float32), torch.randn(6, 9, 20), torch.tensor([9, 1, 0, 4, 6, 2])
    leaves = [x.requires_grad_(), *(t.requires_grad_() for t in (*w, *b))]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    got, expected = (
        torch.autograd.grad(ops.conv_max_pool(t[0], lengths, t[1:4], t[4:]).square().sum(), t) for t in (leaves, exact)
    )
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g.double(), e, rtol=1e-4, atol=1e-5)


def test_backward_inside_autocast_is_the_forwards():
    (w, b), x, lengths = weights(20, 16, dtype=torch.float32), torch.randn(6, 9, 20), torch.tensor([9, 1, 0, 4, 6, 2])
    leaves = [x.requires_grad_(), *(t.requires_grad_() for t in w)]
    plain = torch.autograd.grad(ops.conv_max_pool(x, lengths, w, b).sum(), leaves)
    out = ops.conv_max_pool(x, lengths, w, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(out.sum(), leaves)
        low = ops.conv_max_pool(x, lengths, w, b)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), out, rtol=0.02, atol=0.02)


def test_strides_change_nothing():
    (w, b), x, lengths = weights(20, 16, dtype=torch.float32), torch.randn(6, 9, 20), torch.tensor([9, 1, 0, 4, 6, 2])
    leaves = [t.requires_grad_() for t in (*w, *b)]
    views = [t.mT.contiguous().mT for t in leaves[:3]], [t.t().contiguous().t() for t in leaves[3:]]
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    for reduce in (lambda y: y.sum(), lambda y: y.transpose(0, 1).contiguous().transpose(0, 1).square().sum()):
        got = torch.autograd.grad(reduce(ops.conv_max_pool(turned, lengths.int(), *views)), leaves)
        expected = torch.autograd.grad(reduce(ops.conv_max_pool(x, lengths, leaves[:3], leaves[3:])), leaves)
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-5, atol=1e-5)


def test_gradcheck():
    (w, b), x, lengths = weights(4, 3), torch.randn(5, 8, 4, dtype=torch.float64), torch.tensor([8, 1, 0, 4, 6])
    leaves = [t.requires_grad_() for t in (x, *w, *b)]
    assert gradcheck(lambda x, *t: ops.conv_max_pool(x, lengths, t[:3], t[3:]), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_and_batch_mates_change_nothing(dtype):
    (w, b), x, lengths = (
        weights(20, 16, dtype=dtype),
        torch.randn(6, 9, 20, dtype=dtype),
        torch.tensor([9, 1, 0, 4, 6, 2]),
    )
    beyond = (torch.arange(9) >= lengths[:, None])[..., None]
    leaves = [t.requires_grad_() for t in w]
    out = ops.conv_max_pool(x.masked_fill(beyond, float("nan")), lengths, leaves, b)
    assert torch.equal(out, ops.conv_max_pool(x, lengths, w, b))
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), leaves))
    alone = ops.conv_max_pool(x[3:4, :4], lengths[3:4], w, b)[0]
    torch.testing.assert_close(alone, out[3], rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    beyond = torch.where(lengths == 0, -3, torch.where(lengths == 9, 99, lengths))
    with pytest.raises(ValueError, match="lengths: expected 0 to T = 9 valid steps along dim 1, got -3"):
        ops.conv_max_pool(x, beyond, w, b)
    taps = [t.mT for t in w]  # compiled code does not check, and clamps
    assert torch.equal(torch.ops.nmer_fast.conv_max_pool(x, beyond, taps, b)[0], out)
    x[4, 2] = float("nan")  # inside a sample NaN propagates, to the gradients too
    seen = ops.conv_max_pool(x, lengths, leaves, b)
    assert seen[4].isnan().all()
    assert all(g.isnan().any() for g in torch.autograd.grad(seen[4].sum(), leaves))


@pytest.mark.parametrize("shape", [(0, 9, 20), (3, 0, 20), (1, 1, 20)])
def test_shapes(shape):
    (w, b), x = weights(20, 16, dtype=torch.float32), torch.randn(shape)
    leaves = [t.requires_grad_() for t in w]
    out = ops.conv_max_pool(x, torch.full((shape[0],), shape[1]), leaves, b)
    assert out.shape == (shape[0], 2, 48)
    out.sum().backward()


def test_compiles_as_one_graph_with_changing_sizes():
    w, b = weights(20, 16, dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (*w, *b)]

    def f(x, lengths, *t):
        return ops.conv_max_pool(x, lengths, t[:3], t[3:]).tanh()

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(f, backend=counter, fullgraph=True)
    for i in range(6):
        x, lengths = torch.randn(3 + i, 20 - i, 20), torch.randint(0, 11, (3 + i,))
        got, expected = compiled(x, lengths, *leaves), f(x, lengths, *leaves)
        torch.testing.assert_close(got, expected)
        for g, e in zip(*(torch.autograd.grad(out.sum(), leaves) for out in (got, expected)), strict=True):
            torch.testing.assert_close(g, e)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    w, b = weights(20, 16, dtype=dtype)
    x, lengths, taps = torch.randn(6, 9, 20, dtype=dtype), torch.tensor([9, 1, 0, 4, 6, 2]), [t.mT for t in w]
    utils = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.nmer_fast.conv_max_pool, (x, lengths, taps, b), test_utils=utils)
    pooled, argmax = torch.ops.nmer_fast.conv_max_pool(x, lengths, taps, b)
    for need_x in (True, False):
        saved = (torch.ones((), dtype=dtype).expand(pooled.shape), x, lengths, taps, argmax, need_x)
        torch.library.opcheck(torch.ops.nmer_fast.conv_max_pool_backward, saved, test_utils=utils)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(6, 9)}, r"^x: expected \[B, T, D\]"),
        ({"lengths": torch.zeros(4).long()}, r"^lengths: expected an integer tensor of shape \[6\]"),
        (
            {"weights": [torch.zeros(2, 3, 4, 3).double()]},
            r"^biases: expected one for each of 1 or more weights, got 3 for 1",
        ),
        ({"weights": [torch.zeros(2, 3, 4, k).double() for k in KERNELS]}, r"^weights: expected \[F, D, k\]"),
        ({"biases": [torch.zeros(2, 4).double()] * 3}, r"^biases: expected the same as its weight's filters"),
    ],
)
def test_refusals_name_the_argument(change, message):
    w, b = weights(5, 3)
    arguments = {
        "x": torch.randn(6, 9, 5).double(),
        "lengths": torch.full((6,), 9),
        "weights": w,
        "biases": b,
        **change,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        ops.conv_max_pool(**arguments)


def test_a_second_derivative_is_refused():
    x, (w, b) = torch.randn(3, 9, 5, dtype=torch.float64, requires_grad=True), weights(5, 3)
    loss = ops.conv_max_pool(x, torch.tensor([9, 2, 0]), w, b).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="nmer_fast::conv_max_pool_backward: it has no derivative in grad"):
        gradient.sum().backward()

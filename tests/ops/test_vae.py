"""reparameterize_kl against the plain formulation: values, gradients, torch.func, torch.compile."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from nmer_fast import ops

from . import contract

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def case(batch=4, dims=(6,), dtype=torch.float64):
    return torch.randn(batch, *dims).to(dtype), (0.7 * torch.randn(batch, *dims)).to(dtype)


def plain(mu, logvar, eps):
    """The formulation that a user would write, in float64."""
    z = mu + torch.exp(0.5 * logvar) * eps
    return z, -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [(64,), (3, 5), (1,), ()])
def test_values(dtype, dims):
    mu, logvar = case(5, dims, dtype)
    ids = torch.tensor([3, 1, 4, 2**40, 5])
    z, kl = ops.reparameterize_kl(mu, logvar, seed=7, draw=2, sample_ids=ids)
    eps = torch.from_numpy(contract.array("gaussian", (5, *dims), sample_ids=ids, seed=7, draw=2, stream=240))
    expected_z = mu.double() + (logvar.double() / 2).exp() * eps
    expected_kl = -0.5 * (1 + logvar.double() - mu.double() ** 2 - logvar.double().exp()).reshape(5, -1).sum(1)
    # eps within its bound, and sigma within two float32 roundings
    sigma = (logvar.double() / 2).exp()
    error = contract.EPS_ERROR[dtype] * sigma + (0 if dtype == torch.float64 else 2.0**-22) * sigma * eps.abs()
    contract.assert_within(z, expected_z, error)
    assert kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    magnitudes = 0.5 * (1 + logvar.double().abs() + mu.double() ** 2 + logvar.double().exp()).reshape(5, -1).sum(1)
    assert ((kl.double() - expected_kl).abs() <= (1e-13 if dtype == torch.float64 else 5e-7) * magnitudes).all()


def test_known_answers():
    """N(0, 1) has KL 0; N(1, 1) has 1/2 a dimension; N(0, e^2) has (e^2 - 3) / 2."""
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert ops.reparameterize_kl(zero, zero)[1].tolist() == [0, 0]
    assert ops.reparameterize_kl(one, zero)[1].tolist() == [1.5, 1.5]
    expected = 3 * (math.exp(2) - 3) / 2
    assert ops.reparameterize_kl(zero, 2 * one)[1].tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_samples_have_the_asked_for_law():
    mu, logvar = torch.full((1000, 400), 3.0), torch.full((1000, 400), math.log(4.0))
    z, _ = ops.reparameterize_kl(mu, logvar, seed=1)
    error = 2 / math.sqrt(z.numel())
    assert abs(z.double().mean() - 3) < 5 * error
    assert abs(z.double().var() - 4) < 5 * 4 * math.sqrt(2 / z.numel())


def test_batch_split_and_the_stream():
    mu, logvar = case(6, (5,), torch.float32)
    ids = torch.arange(10, 16)
    z, kl = ops.reparameterize_kl(mu, logvar, seed=1, sample_ids=ids)
    z2, kl2 = ops.reparameterize_kl(mu[2:4], logvar[2:4], seed=1, sample_ids=ids[2:4])
    assert torch.equal(z[2:4], z2)
    assert torch.equal(kl[2:4], kl2)
    assert not torch.equal(z, ops.reparameterize_kl(mu, logvar, seed=1, sample_ids=ids, stream=0)[0])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty(shape):
    z, kl = ops.reparameterize_kl(torch.zeros(shape), torch.zeros(shape), seed=1)
    assert z.shape == shape
    assert kl.tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("of", ["both", "z", "kl", "expanded"])
def test_gradients_equal_the_plain_formulation(of):
    mu, logvar = (t.requires_grad_() for t in case(4, (3, 5)))
    eps = ops.noise((4, 3, 5), seed=9, stream=240, dtype=torch.float64)
    weights = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def loss(z, kl):
        terms = {"z": (z * weights[0]).sum(), "kl": (kl * weights[1]).sum(), "expanded": z.sum() + kl.mean()}
        return terms[of] if of != "both" else terms["z"] + terms["kl"]

    ours = torch.autograd.grad(loss(*ops.reparameterize_kl(mu, logvar, seed=9)), (mu, logvar))
    theirs = torch.autograd.grad(loss(*plain(mu, logvar, eps)), (mu, logvar), allow_unused=True)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if expected is None else expected)


def test_gradcheck_to_second_order():
    mu, logvar = (t.requires_grad_() for t in case())

    def f(mu, logvar):
        return ops.reparameterize_kl(mu, logvar, seed=2)

    assert gradcheck(f, (mu, logvar), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(f, (mu, logvar), check_fwd_over_rev=True)
    assert gradcheck(lambda mu: f(mu, logvar.detach()), mu, check_forward_ad=True)
    assert gradcheck(lambda logvar: f(mu.detach(), logvar), logvar, check_forward_ad=True)


@pytest.mark.parametrize("mapped", ["values", "seed", "ids"])
def test_vmap_is_a_loop(mapped):
    mu, logvar = (torch.randn(3, 4, 6) if mapped == "values" else torch.randn(4, 6) for _ in range(2))
    seeds = torch.tensor([[1, 0], [1, 1], [2, 0]]) if mapped == "seed" else torch.tensor([1, 0])
    ids = torch.arange(12).reshape(3, 4) if mapped == "ids" else torch.arange(4)
    in_dims = {"values": (0, 0, None, None), "seed": (None, None, 0, None), "ids": (None, None, None, 0)}[mapped]

    def f(mu, logvar, seed, ids):
        return ops.reparameterize_kl(mu, logvar, seed=seed, sample_ids=ids)

    def of_sum(mu, logvar, seed, ids):
        return sum(out.sum() for out in f(mu, logvar, seed, ids))

    args = (mu, logvar, seeds, ids)
    mapped_out, mapped_grad = (
        torch.func.vmap(f, in_dims)(*args),
        torch.func.vmap(torch.func.grad(of_sum), in_dims)(*args),
    )
    for i in range(3):
        picked = [a if d is None else a[i] for a, d in zip(args, in_dims, strict=True)]
        for got, expected in zip(mapped_out, f(*picked), strict=True):
            assert torch.equal(got[i], expected)
        assert torch.equal(mapped_grad[i], torch.func.grad(of_sum)(*picked))


def test_func_jvp():
    mu, logvar = case()
    tangents = torch.randn_like(mu), torch.randn_like(mu)
    eps = ops.noise(mu.shape, seed=3, stream=240, dtype=torch.float64)
    got = torch.func.jvp(lambda m, v: ops.reparameterize_kl(m, v, seed=3), (mu, logvar), tangents)
    expected = torch.func.jvp(lambda m, v: plain(m, v, eps), (mu, logvar), tangents)
    torch.testing.assert_close(got, expected)


def test_compiled_equals_eager_without_a_recompile_storm():
    def f(mu, logvar, seed, draw, ids):
        z, kl = ops.reparameterize_kl(mu, logvar, seed=seed, draw=draw, sample_ids=ids)
        return z.square().sum() + kl.sum()

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(f, backend=counter, fullgraph=True)
    for i in range(12):
        mu, logvar = (t.requires_grad_() for t in case(3 + i, (8,), torch.float32))
        args = (mu, logvar, 17 * i - 4, 3 * i, torch.arange(3 + i))
        torch.testing.assert_close(compiled(*args), f(*args))
        for got, expected in zip(*(torch.autograd.grad(g(*args), (mu, logvar)) for g in (compiled, f)), strict=True):
            torch.testing.assert_close(got, expected)
    assert counter.frame_count <= 3


def test_backward_stores_no_noise():
    """Autograd saves mu, logvar, the seed and the ids, and nothing else."""
    mu, logvar = (t.requires_grad_() for t in case(8, (100,), torch.float32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.reparameterize_kl(mu, logvar, seed=1)
    assert sorted(t.numel() for t in kept) == [2, 800, 800]


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    mu, logvar = case(4, (6,), dtype)
    rng, ids = torch.tensor([1, 2]), torch.arange(4)
    kl = torch.ones((), dtype=torch.float64 if dtype == torch.float64 else torch.float32).expand(4)
    torch.library.opcheck(torch.ops.nmer_fast.reparameterize_kl, (mu, logvar.t().contiguous().t(), rng, ids, 240))
    args = (torch.ones((), dtype=dtype).expand(4, 6), kl, mu, logvar, rng, None, 240)
    torch.library.opcheck(torch.ops.nmer_fast.reparameterize_kl_backward, args)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.reparameterize_kl(torch.zeros(2, 3), torch.zeros(2, 4)), r"^logvar: expected the same as mu"),
        (lambda: ops.reparameterize_kl(torch.zeros(2), torch.zeros(2).double()), r"^logvar: expected the same as mu"),
        (lambda: ops.reparameterize_kl(torch.zeros(2).int(), torch.zeros(2)), r"^mu: expected a float32"),
        (lambda: ops.reparameterize_kl(torch.zeros(2), torch.zeros(2), stream=-1), r"^stream: expected an int"),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()

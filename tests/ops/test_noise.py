"""The noise ops: the contract, Eq. 3, edge cases, autograd, torch.func and torch.compile."""

import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from nmer_fast import ops
from nmer_fast.contract import GENERATED_KINDS as KINDS

from . import contract

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN = float("nan")


def ragged(batch=5, steps=6, dim=3, dtype=torch.float64):
    return torch.randn(batch, steps, dim, dtype=dtype), torch.tensor([6, 0, 3, 1, 6])[:batch]


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "key",
    [
        {"seed": 0},
        {"seed": 2**64 - 1, "draw": 2**32 - 1, "stream": 255},
        {"seed": 2**63 + 12345, "draw": 2**31 + 5, "stream": 239},
        {"seed": -1, "draw": 7, "stream": 1},
    ],
)
def test_values_are_the_contracts(kind, key):
    ids = [0, 1, 2**32, 2**48 - 1, 77]
    eps = ops.noise((5, 3, 7), kind=kind, sample_ids=torch.tensor(ids), dtype=torch.float64, **key)
    expected = contract.array(kind, (5, 3, 7), sample_ids=ids, **key)
    assert np.abs(eps.numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_dtype_is_within_the_contracts_bound(kind, dtype):
    exact = ops.noise((4, 50_000), seed=3, kind=kind, dtype=torch.float64)
    eps = ops.noise((4, 50_000), seed=3, kind=kind, dtype=dtype)
    contract.assert_within(eps, exact, contract.EPS_ERROR[dtype])
    if kind == "impulse":
        assert torch.equal(eps, exact.to(dtype))


def test_the_far_tail_and_zero(monkeypatch):
    """Words 0 and 2^32-1 give the largest radius, sqrt(66 ln 2) = 6.7637, and exactly 0."""
    from nmer_fast.ops import reference

    word = lambda value: torch.tensor([value])  # noqa: E731
    largest = reference.box_muller((word(0), word(0), word(0xFFFFFFFF), word(123)))
    assert largest[0, 0].item() == pytest.approx(math.sqrt(66 * math.log(2)), abs=1e-12)
    assert largest[0, 2:].tolist() == [0.0, 0.0]


def test_impulse_threshold_at_its_ends():
    assert ops.noise((4, 999), kind="impulse", p=0.0, seed=1).abs().max() == 0
    assert ops.noise((4, 999), kind="impulse", p=1.0, seed=1).abs().min() == 1
    assert ops.noise((4, 999), kind="impulse", p=2.0**-40, seed=1).abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_invariances(kind):
    """Batch split, order and padding change nothing; seed, draw, stream and sample each change every value."""
    x, ids, key = torch.randn(6, 8, 5), torch.arange(100, 106), {"seed": 11, "draw": 4, "stream": 2, "kind": kind}
    whole = ops.add_noise(x, 0.3, sample_ids=ids, **key)
    halves = [ops.add_noise(x[i : i + 3], 0.3, sample_ids=ids[i : i + 3], **key) for i in (0, 3)]
    assert torch.equal(torch.cat(halves), whole)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(ops.add_noise(x[order], 0.3, sample_ids=ids[order], **key), whole[order])
    padded = torch.nn.functional.pad(x, (0, 0, 0, 9), value=NAN)
    lengths = torch.full((6,), 8)
    longer = ops.add_noise(padded, 0.3, sample_ids=ids, lengths=lengths, **key)
    assert torch.equal(longer[:, :8], whole)
    assert longer[:, 8:].abs().max() == 0
    for change in ({"seed": 12}, {"draw": 5}, {"stream": 3}, {"sample_ids": ids + 6}):
        other = ops.add_noise(x, 0.3, **{"sample_ids": ids, **key, **change})
        same = (other == whole).float().mean()
        assert same < (0.6 if kind == "impulse" else 0.01)  # impulses are equal by chance in 0.7^2 + 2 (0.15)^2


def test_threads_change_nothing():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.noise((64, 5000), seed=5)
        torch.set_num_threads(2)
        assert torch.equal(ops.noise((64, 5000), seed=5), one)
    finally:
        torch.set_num_threads(before)


def test_default_ids_are_the_rows():
    assert torch.equal(ops.noise((3, 8), seed=1), ops.noise((3, 8), seed=1, sample_ids=torch.arange(3)))


def test_tensor_seeds_are_masked_and_equal_ints():
    expected = ops.noise((2, 9), seed=-5, draw=2**32 - 1)
    assert torch.equal(ops.noise((2, 9), seed=torch.tensor([-5, -1])), expected)
    assert torch.equal(ops.noise((2, 9), seed=2**64 - 5, draw=2**32 - 1), expected)
    ids = torch.tensor([3, -1])
    assert torch.equal(
        ops.noise((2, 9), seed=1, sample_ids=ids), ops.noise((2, 9), seed=1, sample_ids=ids & (2**48 - 1))
    )


def test_no_seed_follows_torch_manual_seed():
    draws = [torch.manual_seed(s) and ops.noise((2, 50)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(ops.noise((2, 50)), ops.noise((2, 50)))


# ---------------------------------------------------------------- Eq. 3, lengths and flags


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_add_noise_is_equation_3(kind, dtype):
    x = torch.randn(4, 5, 7).to(dtype)
    alpha_bar = torch.tensor([0.0, 0.25, 0.9, 1.0])
    y, eps = ops.add_noise(x, alpha_bar, seed=9, draw=1, stream=3, kind=kind, return_noise=True)
    exact = ops.noise((4, 5, 7), seed=9, draw=1, stream=3, kind=kind, dtype=torch.float64)
    error, a = contract.EPS_ERROR[dtype], alpha_bar.double().reshape(-1, 1, 1)
    contract.assert_within(eps, exact, error)
    contract.assert_within(y, a.sqrt() * x.double() + (1 - a).sqrt() * exact, error * (1 - a).sqrt())
    assert torch.equal(y[3], x[3])
    assert y.dtype == eps.dtype == dtype


@pytest.mark.parametrize("alpha_bar", [0.0, 1.0])
def test_alpha_bar_at_its_ends(alpha_bar):
    x = torch.randn(3, 40)
    y, eps = ops.add_noise(x, alpha_bar, seed=1, return_noise=True)
    assert torch.equal(y, x if alpha_bar else eps)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_flags_select(kind):
    """Beyond the length y is 0, even for NaN; within it, a sample that is not noisy has y = x bit for bit and eps = 0."""
    x, lengths = ragged()
    noisy = torch.tensor([True, True, False, True, False])
    beyond = torch.arange(6) >= lengths[:, None]
    poisoned = x.masked_fill(beyond[..., None], NAN)
    y, eps = ops.add_noise(poisoned, 0.5, seed=2, kind=kind, noisy=noisy, lengths=lengths, return_noise=True)
    plain = ops.noise(x.shape, seed=2, kind=kind, dtype=x.dtype)
    assert torch.isfinite(y).all()
    assert (y[beyond] == 0).all()
    assert (eps[beyond] == 0).all()
    assert torch.equal(y[~noisy][~beyond[~noisy]], x[~noisy][~beyond[~noisy]])
    assert (eps[~noisy] == 0).all()
    inside = ~beyond & noisy[:, None]
    assert torch.equal(eps[inside], plain[inside])
    assert torch.equal(y, ops.mix_noise(poisoned, plain, 0.5, noisy=noisy, lengths=lengths))
    assert torch.equal(eps, ops.noise_like(x, seed=2, kind=kind, noisy=noisy, lengths=lengths))


def test_clean_rows_keep_every_bit():
    x = torch.tensor([[-0.0, float("inf"), 1e-45, NAN]])
    y = ops.add_noise(x, 0.5, seed=1, noisy=torch.tensor([False]))
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 5), (1,), (1, 1), (7, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(shape, kind):
    x = torch.randn(shape)
    y, eps = ops.add_noise(x, 0.5, seed=1, kind=kind, return_noise=True)
    assert y.shape == eps.shape == shape
    if x.numel():
        assert np.abs(eps.double().numpy() - contract.array(kind, shape, seed=1)).max() < 1e-6


def test_non_contiguous_inputs():
    x = torch.randn(6, 4, 10).transpose(0, 2)[::2]
    y = ops.add_noise(x, 0.5, seed=1)
    assert y.is_contiguous()
    assert torch.equal(y, ops.add_noise(x.contiguous(), 0.5, seed=1))
    row = torch.randn(1, 4).expand(3, 4)
    assert torch.equal(ops.mix_noise(row, row, 0.5), ops.mix_noise(row.contiguous(), row.clone(), 0.5))


def test_one_tensor_given_twice():
    x, lengths = ragged()
    both = ops.add_noise_multimodal([x, x], torch.tensor([0.5, 0.5]), seed=1, lengths=[lengths, lengths])
    for stream, y in enumerate(both):
        assert torch.equal(y, ops.add_noise(x, 0.5, seed=1, stream=stream, lengths=lengths))
    assert torch.equal(ops.mix_noise(x, x, 0.25), 0.5 * x + math.sqrt(0.75) * x)


# ---------------------------------------------------------------- all modalities at once


def multimodal_case(dtype=torch.float64):
    xs = [torch.randn(5, steps, dim, dtype=dtype) for steps, dim in ((6, 3), (2, 7), (4, 1))]
    lengths = [torch.tensor([6, 0, 3, 1, 6]), None, torch.tensor([1, 2, 3, 4, 0])]
    noisy = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    return xs, lengths, noisy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_multimodal_equals_one_by_one(kind, per_sample):
    xs, lengths, noisy = multimodal_case()
    alpha_bars = torch.rand(5, 3) if per_sample else torch.rand(3)
    ids, streams = torch.tensor([4, 8, 15, 16, 23]), [5, 0, 239]
    ys, stats = ops.add_noise_multimodal(
        xs, alpha_bars, seed=1, draw=2, streams=streams, kind=kind, sample_ids=ids, noisy=noisy, lengths=lengths,
        return_stats=True,
    )  # fmt: skip
    for m, x in enumerate(xs):
        y, eps = ops.add_noise(
            x, alpha_bars[..., m], seed=1, draw=2, stream=streams[m], kind=kind, sample_ids=ids, noisy=noisy[:, m],
            lengths=lengths[m], return_noise=True,
        )  # fmt: skip
        assert torch.equal(ys[m], y)
        steps = torch.arange(x.shape[1])
        full = torch.full((5,), x.shape[1]) if lengths[m] is None else lengths[m]
        chosen = (steps < full[:, None]) & noisy[:, m, None]
        values = x[chosen]
        expected = [values.numel(), values.sum(), values.square().sum(), eps.square().sum()]
        torch.testing.assert_close(stats[m], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_multimodal_statistics_ignore_nan_beyond_the_length():
    x = torch.randn(2, 3, 4)
    x[1, 1:] = NAN
    _, stats = ops.add_noise_multimodal(
        [x], torch.tensor([0.5]), seed=1, lengths=[torch.tensor([3, 1])], return_stats=True
    )
    assert stats[0, 0] == 16
    assert torch.isfinite(stats).all()


def test_realised_snr_from_the_statistics():
    """alpha_bar var / ((1 - alpha_bar) v), measured on 10^6 values, is the given SNR within 0.05 dB."""
    x = 3 * torch.randn(1000, 1000)
    alpha_bar = 0.1 / (9 + 0.1)  # -10 dB at variance 9
    _, stats = ops.add_noise_multimodal([x], torch.tensor([alpha_bar]), seed=1, return_stats=True)
    count, total, squares, eps_squares = stats[0].tolist()
    variance = squares / count - (total / count) ** 2
    snr = 10 * math.log10(alpha_bar * variance / ((1 - alpha_bar) * eps_squares / count))
    assert snr == pytest.approx(-10, abs=0.05)


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "moments"), [("gaussian", (1, 3, 15)), ("uniform", (1, 9 / 5, 27 / 7)), ("laplace", (1, 6, 90))])  # fmt: skip
def test_moments_and_distribution(kind, moments, dtype):
    """Moments are within 5 standard errors over 4 x 10^6 values; Kolmogorov-Smirnov and Anderson-Darling tests pass."""
    from scipy import stats

    eps = ops.noise((400, 10_000), seed=123, kind=kind, dtype=dtype).double()
    for order, expected in zip((1, 2, 3, 4, 5, 6), (0, moments[0], 0, moments[1], 0, moments[2]), strict=True):
        powers = eps**order
        error = powers.std() / math.sqrt(powers.numel())
        assert abs(powers.mean() - expected) < 5 * error
    law = {
        "gaussian": stats.norm(),
        "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5),
        "laplace": stats.laplace(0, 0.5**0.5),
    }
    values = eps.flatten().numpy()[:1_000_000]
    assert stats.kstest(values, law[kind].cdf).pvalue > 1e-6
    assert anderson_darling(values, law[kind]) < 15  # passed by chance once in 10^6, P(A^2 > z) being near 1.7 exp(-z)


def anderson_darling(values, law):
    """A^2 against a known law; it weighs the tails, to which Kolmogorov-Smirnov is nearly blind."""
    n, q = len(values), law.cdf(np.sort(values)).clip(1e-15, 1 - 1e-15)  # a uniform value may be the range's end
    odd = 2 * np.arange(1, n + 1) - 1
    return -n - np.mean(odd * (np.log(q) + np.log1p(-q)[::-1]))


def test_anderson_darling_sees_one_per_cent():
    """The test detects a standard deviation that is wrong by 1 %."""
    from scipy import stats

    eps = ops.noise((100, 10_000), seed=5, dtype=torch.float64).flatten().numpy()
    assert anderson_darling(eps, stats.norm()) < 15 < anderson_darling(eps * 1.01, stats.norm())


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_impulse_frequencies(p):
    eps = ops.noise((400, 5000), seed=8, kind="impulse", p=p)
    n = eps.numel()
    assert abs((eps != 0).sum().item() - p * n) < 5 * math.sqrt(n * p * (1 - p))
    assert abs(eps.sum().item()) < 5 * math.sqrt(n * p)
    assert set(eps.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_nothing_is_correlated():
    """Neighbouring elements, samples, streams and draws have a correlation within 5 / sqrt(n) over n = 10^6 pairs."""
    n, eps = 1_000_000, ops.noise((1000, 1001), seed=42).double()
    pairs = [(eps[:, :-1], eps[:, lag:][:, :1000]) for lag in (1,)]
    pairs += [(eps[:, : 1001 - lag], eps[:, lag:]) for lag in (2, 3, 4)]
    pairs += [(eps[:-1], eps[1:])]
    pairs += [(eps, ops.noise((1000, 1001), **key).double()) for key in ({"seed": 42, "stream": 1}, {"seed": 42, "draw": 1}, {"seed": 43})]  # fmt: skip
    for a, b in pairs:
        assert abs((a * b).mean()) < 5 / math.sqrt(n) * 1.01
        assert abs((a.square() * b.square()).mean() - 1) < 5 * 3 / math.sqrt(n)


@pytest.mark.slow
def test_tails_of_a_hundred_million_values():
    """Counts beyond 1 to 5 sigma of 10^8 normals are binomial within 5 standard deviations."""
    thresholds, counts, n = torch.arange(1, 6).double(), torch.zeros(5), 0
    for draw in range(100):
        size = ops.noise((100, 10_000), seed=7, draw=draw).abs()
        counts += torch.stack([(size > t).sum() for t in thresholds])
        n += size.numel()
    q = torch.erfc(thresholds / math.sqrt(2))
    assert ((counts - n * q).abs() < 5 * (n * q * (1 - q)).sqrt()).all()


# ---------------------------------------------------------------- gradients


def expanded(y):
    return y.sum()


def transposed(y):
    return (y.transpose(0, -1) * torch.arange(y.numel()).reshape(y.transpose(0, -1).shape)).sum()


def sliced(y):
    return torch.cat([y[:2] * 3, y[1:]]).square().sum()


@pytest.mark.parametrize("reduce", [expanded, transposed, sliced])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_as_autograd_makes_them(reduce, dtype):
    x, lengths = ragged(dtype=torch.float32)
    x, noisy = x.to(dtype), torch.tensor([True, True, False, True, False])
    alpha_bar = torch.tensor([0.5, 0.1, 0.9, 0.0, 1.0])
    leaf = x.clone().requires_grad_()
    y = ops.add_noise(leaf, alpha_bar, seed=1, noisy=noisy, lengths=lengths)
    reduce(y).backward()
    free = y.detach().requires_grad_()
    reduce(free).backward()
    scale = torch.where(noisy, alpha_bar.double().sqrt(), 1.0).reshape(-1, 1, 1)
    valid = (torch.arange(6) < lengths[:, None])[..., None]
    # float32 factors are corrected for their rounding, so only ties can differ from the product in float64
    contract.assert_within(leaf.grad, torch.where(valid, free.grad.double() * scale, 0.0), 1e-12)


def test_gradcheck_add_noise():
    x, lengths = ragged()
    noisy = torch.tensor([True, True, False, True, False])

    def f(x):
        return ops.add_noise(x, torch.linspace(0.1, 0.9, 5), seed=1, noisy=noisy, lengths=lengths)

    x.requires_grad_()
    assert gradcheck(f, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(f, x)


def test_gradcheck_mix_noise():
    x, lengths = ragged()
    eps = torch.randn_like(x).requires_grad_()

    def f(x, eps):
        return ops.mix_noise(x, eps, 0.3, lengths=lengths, noisy=torch.tensor([True, True, False, True, False]))

    x.requires_grad_()
    assert gradcheck(f, (x, eps), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(f, (x, eps))
    assert gradcheck(lambda eps: f(x.detach(), eps), eps, check_forward_ad=True)


def test_gradcheck_multimodal():
    xs, lengths, noisy = multimodal_case()

    def f(*xs):
        return tuple(
            ops.add_noise_multimodal(xs, torch.rand(3).sort().values * 0 + 0.4, seed=1, noisy=noisy, lengths=lengths)
        )

    leaves = [x.requires_grad_() for x in xs]
    assert gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True)
    some = [leaves[0].detach(), leaves[1], leaves[2].detach()]
    assert gradcheck(f, some, check_forward_ad=True)


def test_no_gradient_work_where_none_is_needed():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    y, _ = ops.add_noise_multimodal([a, b], torch.tensor([0.5, 0.5]), seed=1)
    with torch.profiler.profile() as profile:
        y.sum().backward()
    backward_ops = sum(e.name == "nmer_fast::mix_noise_backward" for e in profile.events())
    assert backward_ops == 1
    assert a.grad is not None


# ---------------------------------------------------------------- torch.func


def test_func_grad_and_jvp():
    x, lengths = ragged()

    def f(x):
        return ops.add_noise(x, 0.36, seed=1, lengths=lengths)

    valid = (torch.arange(6) < lengths[:, None])[..., None].expand_as(x)
    expected = torch.where(valid, torch.tensor(0.36, dtype=torch.float64).sqrt(), 0.0)
    assert torch.equal(torch.func.grad(lambda x: f(x).sum())(x), expected)
    y, t = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    assert torch.equal(y, f(x))
    assert torch.equal(t, expected)
    hessian = torch.func.hessian(lambda x: f(x).square().sum())(x)
    diagonal = 2 * torch.where(valid, 0.36, 0.0).double().flatten()
    torch.testing.assert_close(hessian.reshape(90, 90), diagonal.diag())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mapped", ["x", "alpha_bar", "rows", "seed"])
def test_vmap_is_a_loop(kind, mapped):
    """vmap equals a loop over slices, whatever argument is mapped."""
    x, lengths = ragged()
    xs = torch.stack([x, x + 1, -x]).movedim(0, 1) if mapped == "x" else x
    alphas = {"alpha_bar": torch.tensor([0.1, 0.5, 1.0])}.get(mapped, torch.tensor(0.5))
    seeds = torch.tensor([[1, 0], [1, 1], [2, 0]]) if mapped == "seed" else torch.tensor([1, 0])
    ids = torch.arange(15).reshape(3, 5) * 7 if mapped == "rows" else torch.arange(5)
    flags = torch.rand(3, 5) < 0.5 if mapped == "rows" else torch.tensor([True, False, True, True, True])
    dims = {"x": (1, None, None, None, None), "alpha_bar": (None, 0, None, None, None)}
    in_dims = {**dims, "rows": (None, None, None, 0, 0), "seed": (None, None, 0, None, None)}[mapped]

    def f(x, alpha_bar, seed, ids, noisy):
        return ops.add_noise(
            x, alpha_bar, seed=seed, kind=kind, sample_ids=ids, noisy=noisy, lengths=lengths, return_noise=True
        )

    args = (xs, alphas, seeds, ids, flags)
    y, eps = torch.func.vmap(f, in_dims)(*args)
    for i in range(3):
        picked = [a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]
        expected = f(*picked)
        assert torch.equal(y[i], expected[0])
        assert torch.equal(eps[i], expected[1])


def test_vmap_of_noise_and_philox():
    seeds, counters = torch.tensor([[1, 0], [2, 0], [1, 5]]), torch.randint(0, 2**32, (2, 3, 4))
    mapped = torch.func.vmap(lambda seed: ops.noise((3, 4), seed=seed))(seeds)
    assert torch.equal(mapped, torch.stack([ops.noise((3, 4), seed=seed) for seed in seeds]))
    words = torch.func.vmap(lambda counter: ops.philox(3, counter), in_dims=1)(counters)
    assert torch.equal(words, ops.philox(3, counters).transpose(0, 1))


@pytest.mark.parametrize("return_stats", [False, True])
def test_vmap_multimodal(return_stats):
    xs, lengths, noisy = multimodal_case()
    stacked = [torch.stack([x, 2 * x]) for x in xs]
    alpha_bars = torch.rand(2, 3)

    def f(alpha_bars, *xs):
        out = ops.add_noise_multimodal(xs, alpha_bars, seed=1, noisy=noisy, lengths=lengths, return_stats=return_stats)
        return (*out[0], out[1]) if return_stats else tuple(out)

    mapped = torch.func.vmap(f)(alpha_bars, *stacked)
    for i in range(2):
        for got, expected in zip(mapped, f(alpha_bars[i], *(x[i] for x in stacked)), strict=True):
            assert torch.equal(got[i], expected)


def test_per_sample_gradients():
    """Per-sample gradients by vmap use the noise of each sample's id."""
    x, ids, w = torch.randn(4, 6), torch.tensor([9, 3, 100, 2]), torch.randn(6)

    def loss(w, x, sample_id):
        return ops.add_noise((w * x)[None], 0.5, seed=1, sample_ids=sample_id[None]).pow(2).sum()

    grads = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(w, x, ids)
    for i in range(4):
        torch.testing.assert_close(grads[i], torch.func.grad(loss)(w, x[i], ids[i]))


# ---------------------------------------------------------------- torch.compile


def counted(f):
    counter = CompileCounterWithBackend("inductor")
    return torch.compile(f, backend=counter, fullgraph=True), counter


def test_compiled_equals_eager_without_a_recompile_storm():
    """Twelve values of all that varies in training make one graph, and one more when ints become symbolic."""

    def f(x, alpha_bar, p, seed, draw, lengths):
        y, eps = ops.add_noise(
            x, alpha_bar, seed=seed, draw=draw, kind="impulse", p=p, lengths=lengths, return_noise=True
        )
        return y * 2, eps

    compiled, counter = counted(f)
    for i in range(12):
        x = torch.randn(4 + i, 9, 3, requires_grad=True)
        args = (x, 0.05 * (i + 1), 0.06 * (i + 1), 1000 * i - 3, 5 * i, torch.randint(0, 10, (4 + i,)))
        for got, expected in zip(compiled(*args), f(*args), strict=True):
            assert torch.equal(got, expected)
        (grad,) = torch.autograd.grad(compiled(*args)[0].sum(), x)
        (eager_grad,) = torch.autograd.grad(f(*args)[0].sum(), x)
        assert torch.equal(grad, eager_grad)
    assert counter.frame_count <= 3


def test_compiled_with_seeds_past_2_63_and_draws_past_2_31():
    def f(x, seed, draw):
        return ops.add_noise(x, 0.5, seed=seed, draw=draw)

    compiled, counter = counted(f)
    x = torch.randn(3, 8)
    for i in range(12):
        for seed in (2**63 + 11 * i, i):
            draw = 2**31 + 13 * i
            assert torch.equal(compiled(x, seed, draw), f(x, seed, draw))
    assert counter.frame_count <= 5


def test_compiled_with_tensor_seeds_never_recompiles():
    def f(xs, alpha_bars, rng, ids, noisy, lengths):
        ys, stats = ops.add_noise_multimodal(
            xs, alpha_bars, seed=rng, sample_ids=ids, noisy=noisy, lengths=[lengths] * 2, return_stats=True
        )
        return sum(y.square().sum() for y in ys), stats

    compiled, counter = counted(f)
    for i in range(12):
        xs = [torch.randn(6, 8, 3, requires_grad=True), torch.randn(6, 8, 5)]
        args = (
            xs,
            torch.rand(2),
            torch.tensor([i, -i]),
            torch.randperm(6),
            torch.rand(6, 2) < 0.5,
            torch.randint(0, 9, (6,)),
        )
        got, expected = compiled(*args), f(*args)
        torch.testing.assert_close(got, expected)
        assert torch.equal(got[1], expected[1])
        (grad,) = torch.autograd.grad(got[0], xs[0])
        (eager_grad,) = torch.autograd.grad(expected[0], xs[0])
        torch.testing.assert_close(grad, eager_grad)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["add_noise", "multimodal", "mix_noise", "reparameterize_kl"])
def test_transforms_inside_compiled_code(name):
    """Dynamo alone would silently drop the Functions' derivatives there."""
    x, lengths = ragged()

    def f(x):
        if name == "add_noise":
            return ops.add_noise(x, 0.3, seed=3, lengths=lengths)
        if name == "multimodal":
            return ops.add_noise_multimodal([x, x], torch.tensor([0.3, 0.6]), seed=3, lengths=[lengths, None])[1]
        return ops.mix_noise(x, x, 0.3) if name == "mix_noise" else ops.reparameterize_kl(x, x, seed=1)[0]

    cases = [
        lambda x: torch.func.grad(lambda q: f(q).sin().sum())(x),
        lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
        lambda x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    ]
    for case in cases:
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(case, fullgraph=True, backend="aot_eager")(x), case(x))


def test_compiled_noise_on_the_default_device():
    compiled = torch.compile(lambda x: x + ops.noise((3, 4), seed=3), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(torch.zeros(3, 4)), ops.noise((3, 4), seed=3))


def test_numpy_integers_are_seeds():
    assert torch.equal(ops.noise((2, 3), seed=np.int64(5), draw=np.int32(3)), ops.noise((2, 3), seed=5, draw=3))


def test_a_tangent_of_alpha_bar_is_refused():
    with pytest.raises(ValueError, match=r"^alpha_bar: expected no gradient"):
        torch.func.jvp(lambda a: ops.add_noise(X, a, seed=1), (torch.tensor(0.5),), (torch.tensor(1.0),))


def test_compiled_mix_and_noise():
    def f(x, eps, seed):
        return ops.mix_noise(x, eps, 0.5) + ops.noise_like(x, seed=seed, kind="laplace") + ops.mix_noise(x, x, 0.5)

    compiled, counter = counted(f)
    for i in range(10):
        x, eps = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
        torch.testing.assert_close(compiled(x, eps, 7 * i), f(x, eps, 7 * i))
        compiled(x, eps, 7 * i).sum().backward()
    assert counter.frame_count <= 2


def test_compiled_streams():
    def f(x, stream):
        return ops.add_noise(x, 0.5, seed=1, stream=stream)

    compiled, counter = counted(f)
    x = torch.randn(3, 4)
    for stream in range(12):
        assert torch.equal(compiled(x, stream), f(x, stream))
    assert counter.frame_count <= 4  # a graph for the first value, one for any value; Dynamo specialises on 0 and 1


# ---------------------------------------------------------------- registration


def samples():
    x, lengths = ragged(dtype=torch.float32)
    noisy, ids, rng = torch.rand(5) < 0.5, torch.arange(5), torch.tensor([1, 2])
    ab, p = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    xs, lengths_m, noisy_m = multimodal_case(torch.bfloat16)
    columns = torch.stack([lengths_m[0], torch.full((5,), 2), lengths_m[2]], dim=1)
    return {
        "noise": ([5, 6, 3], rng, ids, noisy, lengths, p, 3, "impulse", torch.float16),
        "add_noise": (x, ab, rng, ids, noisy, lengths, p, 3, "laplace", True),
        "add_noise_multimodal": (
            xs,
            torch.rand(5, 3).double(),
            rng,
            ids,
            noisy_m,
            columns,
            p,
            [0, 1, 2],
            "gaussian",
            True,
        ),
        "mix_noise": (x.transpose(1, 2), x.transpose(1, 2), ab, noisy, None),
        "mix_noise_backward": (torch.ones(1, 1, 1).expand(5, 6, 3), ab, noisy, lengths, True),
        "pack_rng": (3, 4, torch.device("cpu")),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.nmer_fast, name), samples()[name])


@pytest.mark.parametrize("name", ["add_noise", "mix_noise"])
def test_opcheck_without_options(name):
    op, x = getattr(torch.ops.nmer_fast, name), torch.randn(0, 4)
    ab = torch.rand(0, dtype=torch.float64)
    args = (x, ab, torch.tensor([1, 2]), None, None, None, None, 0, "gaussian", False)
    torch.library.opcheck(op, args if name == "add_noise" else (x, x, ab, None, None))


# ---------------------------------------------------------------- refusals

X = torch.zeros(3, 4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.add_noise([1.0], 0.5), r"^x: expected a float32, bfloat16, float16 or float64 tensor, got \[1\.0\]"),
        (lambda: ops.add_noise(X.long(), 0.5), r"^x: expected a float32.*got torch\.int64 of shape \(3, 4, 2\)"),
        (lambda: ops.add_noise(torch.tensor(1.0), 0.5), r"^x: expected \[B, \.\.\.\]"),
        (lambda: ops.add_noise(X, 1.5), r"^alpha_bar: expected a number from 0 to 1, got 1\.5"),
        (lambda: ops.add_noise(X, NAN), r"^alpha_bar: expected a number from 0 to 1, got nan"),
        (lambda: ops.add_noise(X, torch.rand(2)), r"^alpha_bar: .*of shape \[\] or \[3\], got torch\.float32 of shape \(2,\)"),
        (lambda: ops.add_noise(X, torch.rand(3, requires_grad=True)), r"^alpha_bar: expected no gradient"),
        (lambda: ops.add_noise(X, 0.5, kind="pink"), r"^kind: expected one of gaussian, impulse, uniform, laplace, got 'pink'"),
        (lambda: ops.add_noise(X, 0.5, kind="impulse", p=-0.1), r"^p: expected a number from 0 to 1, got -0\.1"),
        (lambda: ops.add_noise(X, 0.5, stream=256), r"^stream: expected an int from 0 to 255, got 256"),
        (lambda: ops.add_noise(X, 0.5, seed=1, draw=2**32), r"^draw: expected an int from 0 to 2\^32-1"),
        (lambda: ops.add_noise(X, 0.5, seed=1, draw=-1), r"^draw: expected an int from 0 to 2\^32-1, got -1"),
        (lambda: ops.add_noise(X, 0.5, seed=1.5), r"^seed: expected an int, None or an int64 tensor \[2\]"),
        (lambda: ops.add_noise(X, 0.5, seed=torch.tensor([1])), r"^seed: expected an int, None or an int64 tensor \[2\]"),
        (lambda: ops.add_noise(X, 0.5, seed=torch.tensor([1, 2]), draw=3), r"^draw: expected none beside a seed tensor"),
        (lambda: ops.add_noise(X, 0.5, sample_ids=torch.arange(4)), r"^sample_ids: expected an integer tensor of shape \[3\]"),
        (lambda: ops.add_noise(X, 0.5, noisy=torch.ones(3)), r"^noisy: expected a bool tensor of shape \[3\]"),
        (lambda: ops.add_noise(X, 0.5, lengths=torch.rand(3)), r"^lengths: expected an integer tensor of shape \[3\]"),
        (lambda: ops.add_noise(X[:, 0, 0], 0.5, lengths=torch.ones(3).long()), r"^lengths: expected x of two or more dims"),
        (lambda: ops.mix_noise(X, X.double(), 0.5), r"^eps: expected the same as x, torch\.float32 of shape \(3, 4, 2\)"),
        (
            lambda: ops.add_noise_multimodal([torch.zeros(3)], torch.rand(1), lengths=[torch.ones(3).long()]),
            r"^lengths: expected every x of two or more dims, whose dim 1 they count, got xs\[0\]",
        ),
        (lambda: ops.noise((-1, 3)), r"^shape: expected \(B, \.\.\.\), sizes of 0 or more"),
        (lambda: ops.noise(()), r"^shape: expected \(B, \.\.\.\)"),
        (lambda: ops.noise((2, 3), dtype=torch.int32), r"^dtype: expected float32"),
        (lambda: ops.noise((1, 2**34 + 1)), r"^shape: expected at most 2\^34 elements a sample"),
        (lambda: ops.add_noise_multimodal([], torch.rand(0)), r"^xs: expected at least one tensor"),
        (lambda: ops.add_noise_multimodal([X, X[:2]], torch.rand(2)), r"^xs\[1\]: expected xs\[0\]'s batch"),
        (lambda: ops.add_noise_multimodal([X], torch.rand(2)), r"^alpha_bars: .* of shape \[1\] or \[3, 1\]"),
        (lambda: ops.add_noise_multimodal([X], torch.rand(1), streams=[0, 1]), r"^streams: expected 1"),
        (lambda: ops.add_noise_multimodal([X], torch.rand(1), lengths=[]), r"^lengths: expected a list of 1"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

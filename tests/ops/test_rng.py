"""ops.rng_next: every step draws afresh, eager, compiled or replayed, and a recomputed forward sees the same noise."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from nmer_fast import ops
from tests.ops import contract


class Noisy(nn.Module):
    """Two noise ops and a linear layer that share one snapshot a step, or draw from torch's own generator."""

    def __init__(self, buffered=True, checkpointed=False):
        super().__init__()
        self.register_buffer("rng", ops.rng_tensor(5, 2**32 - 2, torch.device("cpu")))
        self.linear, self.buffered, self.checkpointed = nn.Linear(8, 8), buffered, checkpointed

    def forward(self, x):
        rng = ops.rng_next(self.rng) if self.buffered else None
        return checkpoint(self.body, x, rng, use_reentrant=False) if self.checkpointed else self.body(x, rng)

    def body(self, x, rng):
        y = self.linear(ops.add_noise(x, 0.25, seed=rng))
        return ops.reparameterize_kl(y, y.sin(), seed=rng)[0].square()


def run(model, x, steps=3):
    """The outputs and gradients of some steps."""
    out = []
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        out += [t.detach().clone() for t in (y, *torch.autograd.grad(y.sum(), [leaf, *model.parameters()]))]
    return out


def test_the_buffer_moves_on_by_a_draw_and_the_snapshot_stays():
    rng = ops.rng_tensor(-3, 2**32 - 1, torch.device("cpu"))
    first, second = ops.rng_next(rng), ops.rng_next(rng)
    assert first.tolist() == [-3, 2**32 - 1]
    assert second.tolist() == [-3, 2**32]  # the ops mask a draw to 32 bits: it wraps to 0
    assert torch.equal(ops.noise((2, 9), seed=second), ops.noise((2, 9), seed=-3, draw=0))
    expected = contract.array("gaussian", (2, 9), seed=-3, draw=2**32 - 1)
    assert abs(ops.noise((2, 9), seed=first).numpy() - expected).max() <= 2e-6


def test_a_compiled_step_draws_what_eager_draws():
    x, eager = torch.randn(6, 8), Noisy()
    model = Noisy()
    model.load_state_dict(eager.state_dict())
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    expected = run(eager, x)
    for got, value in zip(run(compiled, x), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1
    assert torch.equal(model.rng, eager.rng)
    assert eager.rng[1] == 2**32 + 1
    assert not torch.allclose(expected[0], expected[4])  # another draw, other noise


def test_two_draws_in_one_compiled_graph():
    """Each call reads the state before the next one advances it, though nothing else orders the two."""
    rng = torch.tensor([7, 0])

    def f(x, rng):
        a = ops.add_noise(x, 0.5, seed=ops.rng_next(rng))
        return a, ops.add_noise(x, 0.5, seed=ops.rng_next(rng))

    x, compiled = torch.randn(3, 5), torch.compile(f, fullgraph=True)
    for draw in (0, 2, 4):
        got = compiled(x, rng)
        assert torch.equal(got[0], ops.add_noise(x, 0.5, seed=7, draw=draw))
        assert torch.equal(got[1], ops.add_noise(x, 0.5, seed=7, draw=draw + 1))
    assert rng.tolist() == [7, 6]


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("compiled", [False, True])
def test_recomputation_sees_the_same_noise(buffered, compiled):
    """Activation checkpointing gives the gradients of the step that keeps its activations."""
    x, plain, model = torch.randn(6, 8), Noisy(buffered), Noisy(buffered, checkpointed=True)
    model.load_state_dict(plain.state_dict())
    if compiled:
        model, plain = torch.compile(model, fullgraph=True), torch.compile(plain, fullgraph=True)
    torch.manual_seed(1)
    expected = run(plain, x)
    torch.manual_seed(1)
    for got, value in zip(run(model, x), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_replayed_cuda_graph_draws_afresh():
    model, x = Noisy().cuda(), torch.randn(6, 8, device="cuda")
    expected = [model(x).detach() for _ in range(6)]
    model.rng[1] -= 6
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model(x)  # compiles the kernels, and takes a draw
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)  # captured, not run, so it takes no draw
    for value in expected[1:]:
        graph.replay()
        assert torch.equal(y, value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_inductors_cuda_graphs_draw_afresh():
    eager = Noisy().cuda()
    model, x = Noisy().cuda(), torch.randn(6, 8, device="cuda")
    model.load_state_dict(eager.state_dict())
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    for got, value in zip(run(compiled, x, 6), run(eager, x, 6), strict=True):
        torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [0, 1])
def test_stacked_buffers_advance_each(dim):
    rngs = torch.tensor([[3, 0], [4, 7], [5, 2**32]])
    stacked = rngs.clone() if dim == 0 else rngs.t().clone()
    assert torch.equal(torch.vmap(ops.rng_next, in_dims=dim)(stacked), rngs)
    assert torch.equal(stacked if dim == 0 else stacked.t(), rngs + torch.tensor([0, 1]))


def test_a_backward_pass_takes_no_draw():
    """A recomputed forward would see other noise."""
    rng, x = torch.tensor([5, 3]), torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: ops.rng_next(rng))
    with pytest.raises(RuntimeError, match=r"^draw, rng: expected one of them where a backward pass runs"):
        x.sum().backward()
    assert rng.tolist() == [5, 3]


def test_opcheck():
    torch.library.opcheck(torch.ops.nmer_fast.rng_next.default, (torch.tensor([5, 3]),))


@pytest.mark.parametrize("rng", [torch.zeros(2), torch.zeros(3, dtype=torch.int64), (1, 2), 5])
def test_refusals(rng):
    with pytest.raises(ValueError, match=r"^rng: expected an int64 tensor \[2\] = \(seed, draw\), got"):
        ops.rng_next(rng)

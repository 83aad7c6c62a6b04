"""Activation checkpointing never sees other noise: it is refused, or it has the unchecked step's gradient."""

import functools

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from nmer_fast import ops
from nmer_fast.noise import NoiseScheduler

REFUSAL = r"^draw, rng: expected one of them where a backward pass runs, .* pass rng=rng .*, or pass draw=$"


class Block(nn.Module):
    """A layer, a scheduler's noise, a layer; or an op that takes its draw from a buffer."""

    def __init__(self, op=False):
        super().__init__()
        self.scheduler, self.op = NoiseScheduler({"a": 1.0}, snr_db=0, seed=3), op
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, rng=None):
        h = self.first(x)
        if self.op:
            h = ops.mix_noise(h, ops.noise_like(h, seed=ops.rng_next(self.scheduler.rng) if rng is None else rng), 0.5)
        else:
            h = self.scheduler({"a": h}, condition="none", rng=rng).features["a"]
        return self.last(h.tanh())


def nested(block, x, rng):
    return checkpoint(lambda x: checkpoint(block, x, rng, use_reentrant=False).tanh(), x, use_reentrant=False)


def saving(context, op, *args, **kwargs):
    """The policy of selective checkpointing that keeps the snapshot."""
    kept = op is torch.ops.nmer_fast.rng_next.default
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def forgetting(context, op, *args, **kwargs):
    return CheckpointPolicy.PREFER_RECOMPUTE


def selective(policy):
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    return lambda block, x, rng: checkpoint(block, x, rng, use_reentrant=False, context_fn=contexts)


def compiled_inside(block, x, rng):
    return checkpoint(torch.compile(block, backend="aot_eager"), x, rng, use_reentrant=False)


def compiled_outside(backend):
    def run(block, x, rng):
        return torch.compile(
            lambda x, rng: checkpoint(block, x, rng, use_reentrant=False), backend=backend, fullgraph=True
        )(x, rng)

    return run


WAYS = {
    "non-reentrant": lambda block, x, rng: checkpoint(block, x, rng, use_reentrant=False),
    "no early stop": lambda block, x, rng: checkpoint(block, x, rng, use_reentrant=False, early_stop=False),
    "reentrant": lambda block, x, rng: checkpoint(block, x, rng, use_reentrant=True),
    "nested": nested,
    "FSDP's wrapper": lambda block, x, rng: checkpoint_wrapper(block)(x, rng),
    "selective": selective(forgetting),
    "compiled block": compiled_inside,
    "inside aot_eager": compiled_outside("aot_eager"),
    "inside inductor": compiled_outside("inductor"),
}


def gradients(run, op, given):
    """A step's gradients, and the draw that comes after it."""
    torch.manual_seed(0)
    torch.compiler.reset()
    block, x = Block(op), torch.randn(5, 8, requires_grad=True)
    y = run(block, x, block.scheduler.next_rng() if given else None)
    y.square().sum().backward()
    return [x.grad, *(p.grad for p in block.parameters())], block.scheduler.rng[1].item()


def plain(name):
    return (lambda block, x, rng: block(x, rng).tanh()) if name == "nested" else (lambda block, x, rng: block(x, rng))


@pytest.mark.parametrize("op", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_a_draw_in_a_checkpointed_block_is_refused(name, op):
    with pytest.raises(RuntimeError, match=REFUSAL):
        gradients(WAYS[name], op, given=False)


@pytest.mark.parametrize("op", [False, True])
def test_selective_checkpointing_may_save_the_snapshot(op):
    expected, _ = gradients(plain(""), op, given=False)
    got, draw = gradients(selective(saving), op, given=False)
    assert draw == 1
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("op", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_a_snapshot_from_outside_gives_the_unchecked_gradient(name, op):
    expected, _ = gradients(plain(name), op, given=True)
    got, draw = gradients(WAYS[name], op, given=True)
    assert draw == 1
    tolerance = 1e-5 if name == "inside inductor" else 0  # its kernels round differently
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_a_draw_by_number_needs_no_snapshot():
    scheduler, x = NoiseScheduler({"a": 1.0}, snr_db=0), torch.randn(5, 8, requires_grad=True)

    def block(x):
        return scheduler({"a": x.tanh()}, condition="none", draw=2).features["a"].square()

    (gradient,) = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), x)
    assert torch.equal(gradient, *torch.autograd.grad(block(x).sum(), x))

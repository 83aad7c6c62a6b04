"""Every op gives the right value and the right gradient in every kind of program that can hold it.

A program is what a framework makes of a function: a compiled or exported graph, a transform, a recomputed block. The
right value is that of the formula in plain PyTorch, with the contract's noise as a constant.
"""

import copy
import operator
from functools import partial

import pytest
import torch
from torch import nn
from torch.export.unflatten import unflatten
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nmer_fast import ops

ALPHA_BAR, B, T, D = 0.36, 3, 4, 5
LENGTHS = torch.tensor([4, 1, 2])
NOISY = torch.tensor([True, False, True])
IDS = torch.tensor([5, 2**40, 7])
VALID = (torch.arange(T) < LENGTHS[:, None])[..., None]


def mixed(x, eps, noisy=NOISY):
    """Equation 3 in plain PyTorch."""
    y = torch.where(noisy[:, None, None], ALPHA_BAR**0.5 * x + (1 - ALPHA_BAR) ** 0.5 * eps, x)
    return torch.where(VALID, y, 0.0)


def noise(seed, stream=0):
    return ops.noise((B, T, D), seed=seed, stream=stream, sample_ids=IDS, dtype=torch.float64)


def add_noise(x):
    return ops.add_noise(x, ALPHA_BAR, seed=1, sample_ids=IDS, noisy=NOISY, lengths=LENGTHS)


def add_noise_multimodal(x):
    ys = ops.add_noise_multimodal(
        [x, 2 * x], torch.full((2,), ALPHA_BAR, dtype=torch.float64), seed=1, sample_ids=IDS, lengths=[LENGTHS, LENGTHS]
    )
    return ys[0] - 3 * ys[1]


def mix_noise(x):
    return ops.mix_noise(x, x * x, ALPHA_BAR, noisy=NOISY, lengths=LENGTHS)


def reparameterize_kl(x):
    z, kl = ops.reparameterize_kl(x, 0.3 * x, seed=1, sample_ids=IDS)
    return z + kl[:, None, None]


def plain_kl(x):
    mu, logvar = x, 0.3 * x
    kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum((1, 2))
    return mu + (logvar / 2).exp() * noise(1, 240) + kl[:, None, None]


def clean(x):
    """The multimodal case takes no flags."""
    return torch.ones(len(x), dtype=torch.bool)


CASES = {
    "add_noise": (add_noise, lambda x: mixed(x, noise(1))),
    "add_noise_multimodal": (
        add_noise_multimodal,
        lambda x: mixed(x, noise(1, 0), clean(x)) - 3 * mixed(2 * x, noise(1, 1), clean(x)),
    ),
    "mix_noise": (mix_noise, lambda x: mixed(x, x * x)),
    "reparameterize_kl": (reparameterize_kl, plain_kl),
}


class Model(nn.Module):
    """A layer before the op and one after it: a lost gradient leaves the first without one."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(2)
        self.before, self.after, self.function = nn.Linear(D, D), nn.Linear(D, 1), function

    def forward(self, x):
        return self.after(self.function(self.before(x)).tanh()).square().sum()


def gradients(model, x):
    model.zero_grad()
    model(x).backward()
    return {name.removeprefix("_orig_mod."): p.grad for name, p in model.named_parameters()}


# ---------------------------------------------------------------- programs that are trained


def compiled(backend):
    return lambda model, x: torch.compile(model, fullgraph=True, backend=backend)


def exported(strict):
    return lambda model, x: torch.export.export(model, (x,), strict=strict).module()


def decomposed(model, x):
    return torch.export.export(model, (x,)).run_decompositions().module()


def unflattened(model, x):
    return unflatten(torch.export.export(model, (x,)))


def through_fx(model, x):
    """FX traces the public function as a leaf; a pass may copy the graph."""
    traced = torch.fx.symbolic_trace(model)
    assert any(node.target is getattr(ops, name) for node in traced.graph.nodes for name in CASES)
    return torch.fx.GraphModule(traced, copy.deepcopy(traced.graph))


def checkpointed(reentrant):
    def road(model, x):
        inner = model.function
        model.function = lambda h: checkpoint(inner, h, use_reentrant=reentrant)
        return model

    return road


def checkpointed_twice(model, x):
    return checkpointed(False)(checkpointed(False)(model, x), x)


def compiled_checkpoint(model, x):
    return torch.compile(checkpointed(False)(model, x), fullgraph=True, backend="aot_eager")


def selectively_checkpointed(model, x):
    """A policy saves the op's output, so that the recomputation does not run it."""
    op = getattr(torch.ops.nmer_fast, model.function.__name__).default
    policy = partial(create_selective_checkpoint_contexts, [op])
    inner = model.function
    model.function = lambda h: checkpoint(inner, h, use_reentrant=False, context_fn=policy)
    return model


ROADS = {
    "eager": lambda model, x: model,
    "compiled": compiled("aot_eager"),
    "inductor": compiled("inductor"),
    "exported strictly": exported(True),
    "exported": exported(False),
    "decomposed": decomposed,
    "unflattened": unflattened,
    "FX": through_fx,
    "checkpoint": checkpointed(False),
    "nested checkpoint": checkpointed_twice,
    "selective checkpoint": selectively_checkpointed,
    "reentrant checkpoint": checkpointed(True),
    "compiled checkpoint": compiled_checkpoint,
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", CASES)
def test_a_trained_program_has_the_right_gradients(name, road):
    torch._dynamo.reset()
    function, plain = CASES[name]
    x = torch.randn(B, T, D)
    expected = gradients(Model(lambda h: plain(h.double()).float()), x)
    got = gradients(ROADS[road](Model(function), x), x)
    for key, gradient in expected.items():
        assert got[key] is not None, f"{key} has no gradient"
        torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_compiled_autograd(name):
    torch._dynamo.reset()
    function, plain = CASES[name]
    x = torch.randn(B, T, D)
    expected = gradients(Model(lambda h: plain(h.double()).float()), x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        got = gradients(Model(function), x)
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_make_fx_records_the_op_and_its_gradient(name):
    function, plain = CASES[name]
    x = torch.randn(B, T, D, dtype=torch.float64)
    graph = make_fx(lambda x: torch.autograd.grad(function(x).sin().sum(), x))(x.requires_grad_())
    assert any(getattr(torch.ops.nmer_fast, name).default is node.target for node in graph.graph.nodes)
    (expected,) = torch.autograd.grad(plain(x).sin().sum(), x)
    torch.testing.assert_close(graph(x)[0], expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- transforms

TRANSFORMS = {
    "grad": lambda f: torch.func.grad(lambda x: f(x).sin().sum()),
    "grad of grad": lambda f: torch.func.grad(lambda x: torch.func.grad(lambda q: f(q).sin().sum())(x).cos().sum()),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "vjp": lambda f: lambda x: torch.func.vjp(f, x)[1](x.cos())[0],
    "jacrev": lambda f: torch.func.jacrev(lambda x: f(x).sum(0)),
    "jacfwd": lambda f: torch.func.jacfwd(lambda x: f(x).sum(0)),
    "hessian": lambda f: lambda x: torch.func.hessian(lambda x: f(x).sin().sum())(x)[0, 0],
    "vmap": lambda f: lambda x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    "vmap of grad": lambda f: (
        lambda x: torch.func.vmap(torch.func.grad(lambda x: f(x).sin().sum()))(torch.stack([x, 2 * x]))
    ),
    "grad of vmap": lambda f: torch.func.grad(
        lambda x: torch.func.vmap(f, 2, 1)(torch.stack([x, 2 * x], 2)).sin().sum()
    ),
    "vmap of jvp": lambda f: (
        lambda x: torch.func.vmap(lambda x: torch.func.jvp(f, (x,), (x.cos(),))[1])(torch.stack([x, 2 * x]))
    ),
}


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", CASES)
def test_a_transform_has_the_right_value(name, transform, backend):
    torch._dynamo.reset()
    function, plain = (TRANSFORMS[transform](f) for f in CASES[name])
    if backend is not None:
        function = torch.compile(function, fullgraph=True, backend=backend)
    x = torch.randn(B, T, D, dtype=torch.float64)
    torch.testing.assert_close(function(x), plain(x), rtol=1e-6, atol=1e-6)


def test_a_stacked_ensemble_is_a_loop():
    models = [Model(add_noise) for _ in range(3)]
    for model in models:
        nn.init.normal_(model.before.weight)
    parameters, buffers = torch.func.stack_module_state(models)
    x = torch.randn(B, T, D)

    def loss(p, b, x):
        return torch.func.functional_call(models[0], (p, b), (x,))

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, None))(parameters, buffers, x)
    for i, model in enumerate(models):
        for key, gradient in gradients(model, x).items():
            torch.testing.assert_close(got[key][i], gradient)


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_that_has_left_its_transform(name):
    """What a transform leaks stands for the tensor inside it, in its value and in its gradient."""
    function, leaked = CASES[name][0], []
    leaf, plain = (torch.linspace(-1, 1, B * T * D).reshape(B, T, D).requires_grad_() for _ in range(2))

    def leak(y):
        leaked.append(leaf * y)
        return y.sum()

    torch.func.grad(leak)(torch.full((B, T, D), 2.0))
    function(leaked[0]).sum().backward()
    function(plain * 2).sum().backward()
    assert torch.equal(leaf.grad, plain.grad)


ENCODERS = {
    "lstm_max_pool": lambda x, w: ops.lstm_max_pool(x, LENGTHS, w["ih"], w["hh"], w["b"]),
    "lstm_states": lambda x, w: ops.lstm_states(x, LENGTHS, w["ih"], w["hh"], w["b"]),
    "conv_max_pool": lambda x, w: ops.conv_max_pool(x, LENGTHS, [w["c"]], [w["d"]]),
}


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoders_under_transforms(name, backend):
    """grad, and an ensemble: vmap of grad over stacked weights. The right value is the loop of eager gradients."""
    torch._dynamo.reset()
    x, shapes = torch.randn(B, T, D), {"ih": (64, D), "hh": (64, 16), "b": (64,), "c": (16, D, 2), "d": (16,)}
    stacked = {key: 0.3 * torch.randn(2, *shape) for key, shape in shapes.items()}

    def loss(w, x):
        return ENCODERS[name](x, w).square().sum()

    def gradient(w, x):
        return torch.func.grad(loss, argnums=(0, 1))(w, x)

    ensemble = torch.func.vmap(gradient, in_dims=(0, None))
    if backend is not None:
        gradient, ensemble = (torch.compile(f, fullgraph=True, backend=backend) for f in (gradient, ensemble))
    together = ensemble(stacked, x)
    for i in range(2):
        leaves = {key: w[i].clone().requires_grad_() for key, w in stacked.items()}
        q = x.clone().requires_grad_()
        loss(leaves, q).backward()
        alone = gradient({key: w[i] for key, w in stacked.items()}, x)
        torch.testing.assert_close(alone[1], q.grad)
        torch.testing.assert_close(together[1][i], q.grad)
        for key, leaf in leaves.items():
            if leaf.grad is not None:
                torch.testing.assert_close(alone[0][key], leaf.grad)
                torch.testing.assert_close(together[0][key][i], leaf.grad)


class Encoding(nn.Module):
    """An encoder's weights, and a layer before and after it."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(3)
        shapes = {"ih": (64, D), "hh": (64, 16), "b": (64,), "c": (16, D, 2), "d": (16,)}
        self.w = nn.ParameterDict({key: 0.3 * torch.randn(*shape) for key, shape in shapes.items()})
        self.before, self.name = nn.Linear(D, D), name

    def forward(self, x):
        return ENCODERS[self.name](self.before(x), self.w).square().sum()


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("road", [compiled("aot_eager"), exported(True), exported(False), decomposed, unflattened])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoders_in_a_trained_program(name, road):
    """The right value is eager's, which tests/ops/test_lstm.py and test_convolution.py compare with torch's layers."""
    torch._dynamo.reset()
    x = torch.randn(B, T, D)
    expected = {key: g for key, g in gradients(Encoding(name), x).items() if g is not None}
    got = gradients(road(Encoding(name), x), x)
    assert len(expected) >= 4
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient)


# ---------------------------------------------------------------- the ops themselves


def direct():
    """Calls of the registered ops, with all that they are differentiable in, as a C++ program or a pass makes them."""
    x, eps = (torch.randn(B, T, D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rng, a = torch.tensor([1, 0]), torch.tensor(ALPHA_BAR, dtype=torch.float64)
    rows = (None, NOISY, LENGTHS, None)
    weights = [torch.randn(1, *s, dtype=torch.float64, requires_grad=True) for s in ((12, D), (12, 3), (12,))]
    taps, bias = (torch.randn(1, *s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, D), (3,)))
    gk = torch.randn(B, dtype=torch.float64, requires_grad=True)
    return {
        "add_noise": (x, a, rng, *rows, 0, "gaussian", True),
        "add_noise_multimodal": ([x, eps], a.expand(2), rng, None, None, None, None, [0, 1], "gaussian", True),
        "mix_noise": (x, eps, a, NOISY, LENGTHS),
        "mix_noise_backward": (x, a, NOISY, LENGTHS, True),
        "reparameterize_kl": (x, eps, rng, IDS, 240),
        "reparameterize_kl_backward": (x, gk, eps, eps, rng, IDS, 240),
        "lstm_max_pool": (x, LENGTHS, *weights),
        "lstm_states": (x, LENGTHS, *weights),
        "conv_max_pool": (x, LENGTHS, [taps], [bias]),
    }


@pytest.mark.parametrize("name", direct())
def test_a_direct_call_is_differentiable_and_passes_opcheck(name):
    op, args = getattr(torch.ops.nmer_fast, name).default, direct()[name]
    torch.library.opcheck(op, args)
    leaves = [
        t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, torch.Tensor) and t.requires_grad
    ]
    assert torch.autograd.gradcheck(lambda *_: [t for t in flat(op(*args)) if t.requires_grad], leaves)


def test_an_alpha_bar_with_one_element_serves_every_slice():
    """Eager calls keep a Python number's alpha_bar as [1], and a later vmap may meet it."""
    grads, alpha_bar = torch.randn(5, B, T, D), torch.tensor([0.25], dtype=torch.float64)
    backward = torch.ops.nmer_fast.mix_noise_backward
    assert torch.equal(torch.func.vmap(lambda g: backward(g, alpha_bar, None, None, False))(grads), grads / 2)
    x = torch.randn(B, T, D, requires_grad=True)
    (got,) = torch.autograd.grad(ops.add_noise(x, 0.25, seed=1), x, grads, is_grads_batched=True)
    assert torch.equal(got, grads / 2)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [t for one in outputs for t in flat(one)]


def test_what_has_no_derivative_refuses_one():
    """Never a gradient that is silently missing: not of an argument, not of an op, not in forward mode."""
    calls = direct()
    alpha_bar = torch.tensor(ALPHA_BAR, dtype=torch.float64, requires_grad=True)
    y, _ = torch.ops.nmer_fast.add_noise(calls["add_noise"][0], alpha_bar, *calls["add_noise"][2:])
    with pytest.raises(RuntimeError, match="nmer_fast::add_noise: it has no derivative in alpha_bar"):
        y.sum().backward()
    values = torch.randn(4, 2, requires_grad=True)
    out = torch.ops.nmer_fast.gather_padded(values, torch.tensor([0, 2, 4]), torch.tensor([1]), 2, None, None, 1.0)
    with pytest.raises(RuntimeError, match="nmer_fast::gather_padded: it has no derivative in values"):
        out.sum().backward()
    x, lengths, *weights = (t.detach() for t in calls["lstm_states"])
    with pytest.raises(NotImplementedError, match="nmer_fast::lstm_states: it has no forward mode"):
        torch.func.jvp(lambda x: torch.ops.nmer_fast.lstm_states(x, lengths, *weights)[0], (x,), (x,))


def test_saved_tensors_are_read_once():
    """Activation checkpointing refuses a second reading."""
    x = torch.randn(B, T, D, requires_grad=True)
    readings = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: readings.append(1) or t):
        y = ops.add_noise_multimodal([x, 2 * x], torch.tensor([ALPHA_BAR, ALPHA_BAR]), seed=1)
    y[0].sum().backward(retain_graph=True)
    once = len(readings)
    (y[0].sum() + y[1].sum()).backward()
    assert len(readings) == 2 * once > 0
    assert operator.index(once) == 1  # alpha_bars; nothing else is saved

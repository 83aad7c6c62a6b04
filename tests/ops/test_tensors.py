"""Tensors that are not plain: nested ones, DTensors, subclasses, proxies, meta and fake tensors, other layouts."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmer_fast import ops
from nmer_fast.noise import NoiseScheduler

IDS = torch.tensor([5, 2**40, 7])
LENGTHS = torch.tensor([3, 5, 1])
ALPHA_BARS = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def nest(x):
    """[B, T, D] as a jagged tensor of the lengths, by torch's own constructor."""
    return torch.nested.nested_tensor([row[:n] for row, n in zip(x, LENGTHS, strict=True)], layout=torch.jagged)


ROWS = {
    "add_noise": lambda x, **o: ops.add_noise(x, ALPHA_BARS, seed=1, sample_ids=IDS, **o),
    "noise_like": lambda x, **o: ops.noise_like(x, seed=1, sample_ids=IDS, **o),
    "mix_noise": lambda x, **o: ops.mix_noise(x, 2 * x, ALPHA_BARS, **o),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_jagged_tensor_equals_a_padded_one_with_lengths(name):
    x = torch.randn(3, 5, 4)
    jagged = nest(x).requires_grad_(name != "noise_like")
    y, expected = ROWS[name](jagged), ROWS[name](x, lengths=LENGTHS)
    assert y.is_nested
    assert torch.equal((y + jagged).values().detach(), (y.values() + jagged.values()).detach())  # one ragged size
    for i, component in enumerate(y.unbind()):
        assert torch.equal(component, expected[i, : LENGTHS[i]])
    if jagged.requires_grad:
        y.values().square().sum().backward()
        padded = x.clone().requires_grad_()
        ROWS[name](padded, lengths=LENGTHS).square().sum().backward()
        for i, component in enumerate(jagged.grad.unbind()):
            assert torch.equal(component, padded.grad[i, : LENGTHS[i]])


def test_jagged_tensors_in_the_other_functions():
    x = torch.randn(3, 5, 4)
    z, kl = ops.reparameterize_kl(nest(x), nest(0.3 * x), seed=1)
    for i, n in enumerate(LENGTHS.tolist()):
        alone = ops.reparameterize_kl(x[i : i + 1, :n], 0.3 * x[i : i + 1, :n], seed=1, sample_ids=torch.tensor([i]))
        assert torch.equal(z.unbind()[i], alone[0][0])
        torch.testing.assert_close(kl[i], alone[1][0])
    alpha_bars = torch.tensor([0.5, 0.5])
    ys, stats = ops.add_noise_multimodal([nest(x), nest(2 * x)], alpha_bars, seed=1, return_stats=True)
    expected, sums = ops.add_noise_multimodal(
        [x, 2 * x], alpha_bars, seed=1, lengths=[LENGTHS, LENGTHS], return_stats=True
    )
    assert torch.equal(stats, sums)
    for y, e in zip(ys, expected, strict=True):
        for i, component in enumerate(y.unbind()):
            assert torch.equal(component, e[i, : LENGTHS[i]])
    y, eps = ops.add_noise(nest(x), 0.5, seed=1, return_noise=True)
    assert y.is_nested
    assert eps.is_nested


def strided():
    return torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(5, 4)], layout=torch.strided)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.add_noise(nest(torch.randn(3, 5, 4)), 0.5, lengths=LENGTHS),
            "^lengths: expected none beside a nes",
        ),
        (lambda: ops.add_noise(strided(), 0.5), r"^x: expected a dense tensor \(layout=torch.jagged makes"),
        (
            lambda: ops.mix_noise(nest(torch.randn(3, 5, 4)), torch.randn(3, 5, 4), 0.5),
            "^x: expected nested tensors of eq",
        ),
        (lambda: ops.lstm_states(nest(torch.randn(3, 5, 4)), LENGTHS, *[torch.ones(4, 4)] * 3), "^x: expected a plain"),
        (
            lambda: ops.add_noise(torch.randn(3, 4).to_sparse(), 0.5),
            r"^x: expected a dense tensor \(.to_dense\(\) makes",
        ),
        (
            lambda: ops.add_noise(torch.randn(3, 4).to_sparse_csr(), 0.5),
            "^x: expected a dense tensor .*layout torch.sparse_csr",
        ),
        (lambda: ops.add_noise(torch.randn(3, 4).to_mkldnn(), 0.5), "^x: expected a dense tensor .*torch._mkldnn"),
        (lambda: ops.mix_noise(torch.randn(3, 4), torch.randn(3, 4).to_sparse(), 0.5), "^eps: expected a dense tensor"),
        (lambda: ops.add_noise(torch.randn(3, 4), torch.ones(3).to_sparse()), "^alpha_bar: expected a dense tensor"),
        (
            lambda: ops.noise((3, 4), sample_ids=torch.ones(3).long().to_sparse()),
            "^sample_ids: expected a dense tensor",
        ),
    ],
)
def test_other_layouts_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_compiled_code_refuses_nested_tensors_by_name():
    compiled = torch.compile(lambda x: ops.add_noise(x, 0.5, seed=0), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="x: expected a dense tensor in compiled code, got a nested one: pad it"):
        compiled(nest(torch.randn(3, 5, 4)))


# ---------------------------------------------------------------- DTensors

RANKS = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from nmer_fast import ops

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
x = torch.randn(5, 3, 4)  # three samples on one rank, two on the other
noisy, lengths, ids = torch.arange(5) % 2 == 0, torch.tensor([3, 0, 2, 1, 3]), torch.arange(5) + 2**33
calls = {
    "add_noise": lambda x: ops.add_noise(x, torch.linspace(0, 1, 5), seed=1, noisy=noisy, lengths=lengths),
    "ids": lambda x: ops.add_noise(x, 0.5, seed=1, sample_ids=ids),
    "return_noise": lambda x: ops.add_noise(x, 0.5, seed=1, return_noise=True)[1],
    "noise_like": lambda x: ops.noise_like(x, seed=1),
    "mix_noise": lambda x: ops.mix_noise(x, 2 * x, 0.5, lengths=lengths),
    "reparameterize": lambda x: ops.reparameterize_kl(x, 0.3 * x, seed=1)[0],
    "kl": lambda x: ops.reparameterize_kl(x, 0.3 * x, seed=1)[1],
    "multimodal": lambda x: ops.add_noise_multimodal([x, 2 * x], torch.ones(2) / 2, seed=1)[1],
    "stats": lambda x: ops.add_noise_multimodal([x, 2 * x], torch.ones(2) / 2, seed=1, return_stats=True)[1],
}
for placement in (Shard(0), Replicate()):
    for name, call in calls.items():
        leaf, plain = distribute_tensor(x, mesh, [placement]).requires_grad_(), x.clone().requires_grad_()
        got, expected = call(leaf), call(plain)
        assert isinstance(got, DTensor) and got.shape == expected.shape, name
        torch.testing.assert_close(got.full_tensor(), expected, rtol=1e-12, atol=0)
        if expected.requires_grad:
            got.full_tensor().square().sum().backward()
            expected.square().sum().backward()
            torch.testing.assert_close(leaf.grad.full_tensor(), plain.grad)
two = x[:2]  # as many samples as modalities and as a seed tensor has numbers
pair = [distribute_tensor(t, mesh, [Shard(0)]) for t in (two, 2 * two)]
options = {"seed": torch.tensor([1, 3])}
for y, e in zip(ops.add_noise_multimodal(pair, torch.tensor([0.2, 0.7]), **options),
                ops.add_noise_multimodal([two, 2 * two], torch.tensor([0.2, 0.7]), **options), strict=True):
    assert torch.equal(y.full_tensor(), e)
for bad, seed, message in ((Shard(1), 1, "x: expected a DTensor that is replicated or sharded by samples"),
                           (Shard(0), None, "seed: expected one beside a DTensor")):
    try:
        ops.add_noise(distribute_tensor(x, mesh, [bad]), 0.5, seed=seed)
    except ValueError as error:
        assert str(error).startswith(message), error
    else:
        raise AssertionError(message)
try:
    ops.lstm_states(distribute_tensor(x, mesh, [Shard(0)]), lengths, *[torch.ones(4, 4)] * 3)
except ValueError as error:
    assert str(error).startswith("x: expected a plain tensor (to_local() makes one)"), error
else:
    raise AssertionError
dist.destroy_process_group()
print("ok")
"""


def test_a_dtensor_equals_the_unsharded_tensor():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=-1,
            stderr=-1,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert out.strip() == "ok", err


# ---------------------------------------------------------------- subclasses and proxies


class Tagged(torch.Tensor):
    """A subclass without an opinion: torch's functions keep its type."""


class Refusing(torch.Tensor):
    """A subclass that decides itself."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return f"{function.__name__} was asked for"


PUBLIC = {
    **ROWS,
    "add_noise_multimodal": lambda x: ops.add_noise_multimodal([x, x], torch.tensor([0.5, 0.5]), seed=1)[1],
    "reparameterize_kl": lambda x: ops.reparameterize_kl(x, x, seed=1)[0],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_subclass_keeps_its_type_and_has_the_call_first(name):
    x = torch.randn(3, 5, 4)
    y = PUBLIC[name](x.as_subclass(Tagged))
    assert type(y) is Tagged
    assert torch.equal(y.as_subclass(torch.Tensor), PUBLIC[name](x))


@pytest.mark.parametrize("function", [ops.add_noise, ops.noise_like, ops.reparameterize_kl, ops.lstm_states])
def test_a_subclass_may_answer_itself(function):
    x = torch.randn(3, 5, 4).as_subclass(Refusing)
    arguments = {ops.reparameterize_kl: (x, x), ops.lstm_states: (x, LENGTHS, x, x, x), ops.noise_like: (x,)}
    assert function(*arguments.get(function, (x, 0.5))) == f"{function.__name__} was asked for"


@pytest.mark.parametrize("name", PUBLIC)
def test_fx_traces_a_public_function_as_a_leaf(name):
    class Net(nn.Module):
        def forward(self, x):
            return PUBLIC[name](x).tanh()

    graph, x = torch.fx.symbolic_trace(Net()), torch.randn(3, 5, 4)
    assert [node.target for node in graph.graph.nodes].count(getattr(ops, name)) == 1
    assert torch.equal(graph(x), PUBLIC[name](x).tanh())


# ---------------------------------------------------------------- tensors without values


def everything(device):
    """A call of every public function and of the scheduler, and the shapes of its results."""
    x = torch.zeros(3, 4, 2, device=device, requires_grad=device != "cuda")  # torch's autograd wants a real GPU
    ids, lengths = torch.zeros(3, dtype=torch.int64, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    weights = [torch.zeros(*s, device=device) for s in ((16, 2), (16, 4), (16,))]
    flat, offsets = torch.zeros(6, 2, device=device), torch.zeros(4, dtype=torch.int64, device=device)
    return {
        "add_noise": (lambda: ops.add_noise(x, 0.5, seed=0, sample_ids=ids, lengths=lengths), [(3, 4, 2)]),
        "impulse": (lambda: ops.add_noise(x, 0.5, kind="impulse"), [(3, 4, 2)]),
        "noise": (lambda: ops.noise((3, 4), seed=2**63 + 5, device=device), [(3, 4)]),
        "noise_like": (lambda: ops.noise_like(x, seed=0), [(3, 4, 2)]),
        "mix_noise": (lambda: ops.mix_noise(x, x, 0.5), [(3, 4, 2)]),
        "add_noise_multimodal": (
            lambda: ops.add_noise_multimodal([x, x], torch.zeros(2, device=device), seed=0, return_stats=True),
            [(3, 4, 2), (3, 4, 2), (2, 4)],
        ),
        "reparameterize_kl": (lambda: ops.reparameterize_kl(x, x, seed=0), [(3, 4, 2), (3,)]),
        "lstm_max_pool": (lambda: ops.lstm_max_pool(x, lengths, *weights), [(3, 4)]),
        "lstm_states": (lambda: ops.lstm_states(x, lengths, *weights), [(3, 4, 4)]),
        "conv_max_pool": (
            lambda: ops.conv_max_pool(
                x, lengths, [torch.zeros(5, 2, 3, device=device)], [torch.zeros(5, device=device)]
            ),
            [(3, 5)],
        ),
        "gather_padded": (lambda: ops.gather_padded(flat, offsets, ids, 4), [(3, 4, 2)]),
        "philox": (lambda: ops.philox(0, torch.zeros(3, 4, dtype=torch.int64, device=device)), [(3, 4)]),
        "rng_next": (lambda: ops.rng_next(torch.zeros(2, dtype=torch.int64, device=device)), [(2,)]),
        "NoiseScheduler": (
            lambda: list(NoiseScheduler({"a": 1.0, "b": 1.0}, snr_db=0).to(device)({"a": x, "b": x}).features.values()),
            [(3, 4, 2), (3, 4, 2)],
        ),
    }


@pytest.mark.parametrize("name", everything("meta"))
@pytest.mark.parametrize("fake", [False, True])
def test_tensors_without_values_have_shapes_and_gradients(name, fake):
    """On the meta device, and as fake tensors of a CPU and of a GPU that is not there."""
    devices = ["cpu", "cuda"] if fake else ["meta"]
    if name == "NoiseScheduler" and fake:
        devices.remove("cuda")  # a module cannot be moved there
    for device in devices:
        with FakeTensorMode() if fake else torch.device("meta"):
            call, shapes = everything(device)[name]
            outputs = [t for t in tree_leaves(call()) if isinstance(t, torch.Tensor)]
            assert [tuple(t.shape) for t in outputs] == shapes
            assert all(t.device.type == device for t in outputs)
            for t in outputs:
                if t.requires_grad:
                    t.sum().backward(retain_graph=True)


class NoFloat64(TorchDispatchMode):
    """Refuses float64 as a device without it does; the op's own kernel is below the mode."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert all(t.dtype != torch.float64 for t in tree_leaves(out) if isinstance(t, torch.Tensor)), str(function)
        return out


@pytest.mark.parametrize("name", ["add_noise", "impulse", "noise", "noise_like", "mix_noise", "reparameterize_kl"])
def test_no_float64_tensor_is_made_above_an_op(name):
    call, _ = everything("cpu")[name]
    with NoFloat64():
        for t in tree_leaves(call()):
            if t.requires_grad:
                t.sum().backward(retain_graph=True)


ONNX = {
    "noise": lambda x, ids: ops.add_noise(x, 0.5, seed=3, sample_ids=ids, kind="laplace"),
    "vae": lambda x, ids: ops.reparameterize_kl(x, 0.3 * x, seed=3, sample_ids=ids)[0],
    "kl": lambda x, ids: ops.reparameterize_kl(x, 0.3 * x, seed=3, sample_ids=ids)[1],
    "multimodal": lambda x, ids: ops.add_noise_multimodal(
        [x, 2 * x], torch.tensor([0.5, 0.5]), seed=3, sample_ids=ids, kind="impulse"
    )[1],
    "lstm": lambda x, ids: ops.lstm_max_pool(x, ids % 3 + 1, *(torch.ones(16, n) / 9 for n in (4, 4)), torch.ones(16)),
    "convolution": lambda x, ids: ops.conv_max_pool(x, ids % 3 + 1, [torch.ones(5, 4, 2)], [torch.ones(5)]),
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", ONNX)
def test_onnx_runs_the_definition(name):
    pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="a runtime shows that the model computes the same")

    class Net(nn.Module):
        def forward(self, x, ids):
            return ONNX[name](x, ids)

    x, ids = torch.randn(3, 5, 4), IDS
    program = torch.onnx.export(Net(), (x, ids), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    inputs = {i.name: t.numpy() for i, t in zip(session.get_inputs(), (x, ids), strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, inputs)[0]), Net()(x, ids), rtol=1e-5, atol=2e-6)

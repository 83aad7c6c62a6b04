"""A scheduler is configuration: no road that a model takes changes its SNR, its conditions or its seed."""

import copy
import io
import os
import pickle
import re
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from nmer_fast import ops, processes
from nmer_fast.noise import NoiseSchedule, NoiseScheduler

SEED = 2**40 + 12345  # float32 rounds it
KINDS = {
    "fixed": {"snr_db": {"a": 30, "l": -40}},
    "range": {"snr_db": {"a": (20, 30), "l": -10}},
    "steps": {"steps": {"a": 140, "l": 5}},
    "random": {"steps": "random", "schedule": NoiseSchedule("cosine")},
}


class Model(nn.Module):
    def __init__(self, kind="fixed", seed=SEED):
        super().__init__()
        self.noise = NoiseScheduler({"a": 4.0, "l": 0.25}, seed=seed, **KINDS[kind])
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x, **options):
        return self.norm(self.linear(self.noise({"a": x, "l": x}, **options).features["a"].to(self.linear.weight)))


@pytest.fixture
def group():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = dist.HashStore()
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    dist.destroy_process_group()


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def under(context, kind):
    with context:
        return Model(kind)


def default_dtype(kind, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return Model(kind)
    finally:
        torch.set_default_dtype(before)


def averaged(kind, **options):
    """PyTorch's average of weights and buffers."""
    model = Model(kind)
    average = AveragedModel(model, use_buffers=True, **options)
    for _ in range(3):
        model(torch.randn(4, 8))
        average.update_parameters(model)
    return average.module


def averaged_states(kind):
    """The average that timm and torchvision take, over all values of a state."""
    model, average = Model(kind), Model(kind)
    with torch.no_grad():
        for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            ours.copy_(0.9 * ours + 0.1 * theirs)
    assert average.noise.rng[0] != SEED  # the road does what it says
    return average


def broadcast(kind):
    """A buffer that rank 0 has broadcast, as DDP does, whose seed is another."""
    model = Model(kind)
    for buffer in model.noise.buffers():
        buffer.copy_(torch.tensor([77, 5]))
    return model


def older_state(kind, assign):
    """A checkpoint that an earlier version wrote before its scheduler had a buffer."""
    model, state = Model(kind), Model(kind).state_dict()
    del state["noise.rng"]
    assert not any(model.load_state_dict(state, strict=True, assign=assign))
    return model


def rounded_state(kind, assign):
    """A checkpoint that was cast to float16, which cannot hold the seed."""
    model = Model(kind)
    with pytest.warns(UserWarning, match=r"^noise\.rng: the state's seed \d+ is not this scheduler's 1099511640121"):
        model.load_state_dict({k: v.half() for k, v in Model(kind).state_dict().items()}, assign=assign)
    return model.float()


def sharded(kind, make=Model):
    bf16 = MixedPrecision(param_dtype=torch.bfloat16, buffer_dtype=torch.bfloat16)
    with warnings.catch_warnings(action="ignore"):
        return FullyShardedDataParallel(make(kind), device_id=torch.device("cpu"), mixed_precision=bf16).module


def called_in_evaluation_first(kind):
    model = Model(kind)
    with torch.inference_mode():
        model.eval()(torch.randn(3, 8), draw=0)
    return model.train()


def through_fake_tensors(kind):
    """The numbers of a scheduler that is made, and called, among fake tensors."""
    with FakeTensorMode():
        model = Model(kind)
        assert model(torch.randn(3, 8)).shape == (3, 8)
    model.noise.rng = torch.tensor([SEED, 0])
    return model


ROADS = {
    "made": Model,
    "deepcopy": lambda kind: copy.deepcopy(Model(kind)),
    "pickle": lambda kind: pickle.loads(pickle.dumps(Model(kind))),
    "torch.save": lambda kind: saved(Model(kind)),
    "share_memory": lambda kind: Model(kind).share_memory(),
    "half": lambda kind: Model(kind).half(),
    "bfloat16": lambda kind: Model(kind).bfloat16(),
    "double": lambda kind: Model(kind).double(),
    "type": lambda kind: Model(kind).type(torch.float16),
    "default dtype bfloat16": lambda kind: default_dtype(kind, torch.bfloat16),
    "default dtype float64": lambda kind: default_dtype(kind, torch.float64),
    "to meta, to_empty": lambda kind: Model(kind).to("meta").to_empty(device="cpu"),
    "made on meta, to_empty": lambda kind: under(torch.device("meta"), kind).to_empty(device="cpu"),
    "to_empty on the CPU": lambda kind: Model(kind).to_empty(device="cpu"),
    "made in inference mode": lambda kind: under(torch.inference_mode(), kind).noise,
    "called in evaluation first": called_in_evaluation_first,
    "fake tensors": through_fake_tensors,
    "EMA": lambda kind: averaged(kind, avg_fn=get_ema_avg_fn(0.9)),
    "EMA of lists": lambda kind: averaged(kind, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "SWA": averaged,
    "EMA of states": averaged_states,
    "broadcast": broadcast,
    "older state": lambda kind: older_state(kind, False),
    "older state, assigned": lambda kind: older_state(kind, True),
    "rounded state": lambda kind: rounded_state(kind, False),
    "rounded state, assigned": lambda kind: rounded_state(kind, True),
    "FSDP": sharded,
    "FSDP from meta": lambda kind: sharded(kind, lambda kind: Model(kind).to("meta")),
}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("road", ROADS)
def test_noise_conditions_and_snr_are_those_of_the_constructor(road, kind):
    model, expected = ROADS[road](kind), NoiseScheduler({"a": 4.0, "l": 0.25}, seed=SEED, **KINDS[kind])
    scheduler = model if isinstance(model, NoiseScheduler) else model.noise
    assert scheduler.seed == SEED
    assert torch.equal(scheduler.alpha_bars, expected.alpha_bars)
    assert torch.equal(scheduler.conditions.noisy, expected.conditions.noisy)
    scheduler.rng[1] = expected.rng[1] = 6
    generator = torch.Generator().manual_seed(0)
    x = {m: v**0.5 * torch.randn(200, 300, generator=generator) for m, v in scheduler.variances.items()}
    for options in ({"draw": 3}, {}, {}, {"condition": "none"}):
        got, right = (s(x, return_stats=True, **options) for s in (scheduler, expected))
        assert torch.equal(got.condition, right.condition)
        assert all(torch.equal(got.features[m], right.features[m]) for m in x)
        assert torch.equal(got.stats, right.stats)
    assert scheduler.rng.tolist() == [SEED, 9]
    if kind == "fixed":
        assert scheduler.realised_snr_db(got.stats) == pytest.approx({"a": 30, "l": -40}, abs=0.1)
        alpha_bar = 1 / (1 + 4 * 10**-3)
        assert torch.equal(got.features["a"], ops.add_noise(x["a"], alpha_bar, seed=SEED, draw=8))
    leaf = x["a"].clone().requires_grad_()
    scheduler({"a": leaf, "l": leaf}, draw=0)[0]["a"].sum().backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("road", ["to meta, to_empty", "made on meta, to_empty", "older state", "FSDP from meta"])
def test_a_materialised_model_begins_at_draw_0(road):
    assert ROADS[road]("fixed").noise.rng.tolist() == [SEED, 0]


def test_a_state_gives_its_draw_and_keeps_the_seed():
    used, model = Model(), Model()
    for _ in range(3):
        used(torch.randn(2, 8))
    with warnings.catch_warnings(action="error"):
        model.load_state_dict(used.state_dict())
    assert model.noise.rng.tolist() == [SEED, 3]
    other = Model(seed=2**64 - 5)
    message = f"noise.rng: the state's seed {SEED} is not this scheduler's {2**64 - 5}, which stays: make the scheduler"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}"):
        other.load_state_dict(used.state_dict())
    assert other.noise.rng.tolist() == [-5, 3]
    x = torch.randn(4, 8)
    assert torch.equal(
        other.noise({"a": x, "l": x}, condition="none").features["a"],
        Model(seed=-5).noise({"a": x, "l": x}, condition="none", draw=3).features["a"],
    )


def test_the_state_of_an_average_has_the_right_seed():
    average = averaged_states("fixed")
    with warnings.catch_warnings(action="error"):
        Model().load_state_dict(average.state_dict())
    assert average.state_dict()["noise.rng"][0] == SEED


def test_a_buffer_of_ones_own_has_its_own_seed():
    x = {m: torch.randn(5, 8) for m in "al"}
    scheduler, other = Model().noise, Model(seed=7).noise
    scheduler.rng = torch.tensor([7, 4])
    assert torch.equal(scheduler(x).features["a"], other(x, draw=4).features["a"])
    assert torch.equal(scheduler(x, draw=2).features["a"], other(x, draw=2).features["a"])
    assert scheduler.rng.tolist() == [7, 5]
    for copied in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler).half()):
        assert torch.equal(copied(x).features["a"], other(x, draw=5).features["a"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("draw", [None, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_has_each_models_seed(kind, draw, device):
    """torch.func's recipe: one model's code, all models' weights and buffers."""
    models = [Model(kind, seed).eval() for seed in (3, 2**64 - 1, SEED)]
    base, x = copy.deepcopy(models[0]).to(device), torch.randn(5, 8)
    params, buffers = stack_module_state(models)

    def call(params, buffers, x):
        return functional_call(base, (params, buffers), (x,), {"draw": draw})

    for step in range(2):
        got = vmap(call, in_dims=(0, 0, None), randomness="different")(params, buffers, x)
        torch.testing.assert_close(got, torch.stack([model(x, draw=draw) for model in models]), rtol=1e-5, atol=1e-5)
        assert buffers["noise.rng"][:, 1].tolist() == [0 if draw == 0 else step + 1] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_draws_what_the_model_draws(kind, strict):
    model, x = Model(kind).eval(), torch.randn(5, 8)
    exported = torch.export.export(copy.deepcopy(model), (x,), strict=strict).module()
    for _ in range(2):
        torch.testing.assert_close(exported(x), model(x), rtol=1e-5, atol=1e-5)
    assert exported.state_dict()["noise.rng"].tolist() == [SEED, 2]


@pytest.mark.parametrize("seed", [SEED, 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_is_one_graph_from_its_first_call(kind, seed):
    model, eager, x = Model(kind, seed), Model(kind, seed), torch.randn(5, 8)
    eager.load_state_dict(model.state_dict())
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for _ in range(3):
        torch.testing.assert_close(compiled(x), eager(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(model.noise.rng, eager.noise.rng)
    model.noise.rng[0] = 5  # as averaging does
    torch.testing.assert_close(compiled(x), eager(x), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_on_the_meta_device(kind):
    """Among fake tensors the scheduler works too; see the road of that name."""
    x = {m: torch.empty(3, 8, device="meta") for m in "al"}
    noised = Model(kind).to("meta").noise(x)
    assert (noised.features["a"].shape, noised.condition.device.type) == ((3, 8), "meta")


def test_a_device_without_float64_gets_float32():
    tables = Model("range").noise._make_tables(torch.device("cpu"))
    assert (tables.alpha_bars.dtype, tables.odds_db.dtype) == (torch.float64, torch.float64)
    with FakeTensorMode():
        tables = Model("range").noise._make_tables(torch.device("mps"))
    assert (tables.alpha_bars.dtype, tables.odds_db.dtype) == (torch.float32, torch.float32)


def test_schedulers_that_are_made_alike_give_the_same_noise():
    x = {m: torch.zeros(3, 8) for m in "al"}
    first, second, other = Model().noise(x), Model().noise(x), Model(seed=1).noise(x)
    assert torch.equal(first.features["a"], second.features["a"])
    assert not torch.equal(first.features["a"], other.features["a"])


def test_what_manual_seed_reaches():
    """It reaches a seed of None, of a scheduler at construction and of an op, and nothing else."""
    x = {m: torch.zeros(3, 8) for m in "al"}

    def noises(seed):
        torch.manual_seed(seed)
        scheduler = Model(seed=None).noise
        torch.manual_seed(seed + 1)
        return Model().noise(x).features["a"], scheduler(x, condition="none").features["a"], ops.noise((3, 8))

    for first, again in zip(noises(1), noises(1), strict=True):
        assert torch.equal(first, again)
    assert [torch.equal(a, b) for a, b in zip(noises(1), noises(2), strict=True)] == [True, False, False]


def test_eval_adds_noise_too():
    x = {m: torch.zeros(3, 8) for m in "al"}
    assert torch.equal(Model().eval().noise(x).features["a"], Model().noise(x).features["a"])
    assert Model().eval().noise(x, condition="none").features["a"].abs().min() > 0


def test_a_scheduler_made_of_real_tensors_works_among_fake_ones():
    scheduler, mode = Model("range").noise, FakeTensorMode()
    scheduler.rng = mode.from_tensor(scheduler.rng)
    with mode:
        assert scheduler({m: torch.empty(3, 8) for m in "al"}).features["a"].shape == (3, 8)
        assert scheduler.noisy_of_condition[torch.zeros(2, dtype=torch.int64)].shape == (2, 2)


def test_a_copy_is_one_graph_from_its_first_call():
    model, x = pickle.loads(pickle.dumps(Model("range"))), {m: torch.randn(3, 8) for m in "al"}
    assert model.noise._tables.keys() == {("cpu", None)}
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.noise, fullgraph=True, backend=counter)
    for draw in range(2):
        assert torch.equal(compiled(x).features["a"], Model("range").noise(x, draw=draw).features["a"])
    assert counter.frame_count == 1


def test_a_scheduler_made_on_the_meta_device_works_as_it_is():
    with torch.device("meta"):
        scheduler = Model().noise
        noisy = scheduler.conditions.noisy
    assert (scheduler.rng.device.type, noisy.device.type) == ("cpu", "cpu")
    x = {m: torch.randn(3, 8) for m in "al"}
    assert torch.equal(scheduler(x).features["a"], Model().noise(x).features["a"])


@pytest.mark.usefixtures("group")
def test_a_group_of_one_rank_is_told_nothing():
    processes._warn.cache_clear()
    with warnings.catch_warnings(action="error"):
        Model().noise({m: torch.zeros(3, 8) for m in "al"})

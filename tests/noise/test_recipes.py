"""Workers, ranks and micro-batches: the recipes of docs/scheduler.md give right noise; without them, an error or a warning."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nmer_fast import numpy as nf
from nmer_fast import ops, processes
from nmer_fast.noise import NoiseScheduler

ROOT = Path(__file__).resolve().parents[2]
START, WORKER, RANK, ACCUMULATION, CHECKPOINTING = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "scheduler.md").read_text(), re.S
)
WARNING = (
    "^sample_ids: none given, so samples count from 0 in each call and {} share their noise: pass sample_ids, .* draw"
)


@pytest.fixture
def page():
    """The names of the page's first example."""
    torch.manual_seed(0)
    names = {}
    exec(START, names)
    processes._warn.cache_clear()
    yield names
    processes._warn.cache_clear()


def test_the_recipe_for_workers(page):
    with warnings.catch_warnings(action="error"):
        exec(WORKER, page)
    for epoch, noisy in enumerate(page["epochs"]):
        whole = page["scheduler"]({"audio": page["features"]}, sample_ids=torch.arange(8), draw=epoch)
        assert torch.equal(noisy, whole.features["audio"])
    assert not torch.equal(*page["epochs"])


def test_the_recipe_for_micro_batches(page):
    """The gradient is that of the whole batch."""
    exec(ACCUMULATION, page)
    got, ids = page["model"].weight.grad.clone(), page["ids"]
    page["model"].zero_grad()
    whole = page["scheduler"]({"audio": page["features"]}, draw=3, condition="none").features["audio"]
    page["model"](whole[ids]).square().mean().backward()
    torch.testing.assert_close(got, page["model"].weight.grad)


def test_the_recipe_for_checkpointing(page):
    exec(ACCUMULATION, page)
    page["model"].zero_grad()
    exec(CHECKPOINTING, page)
    got = page["model"].weight.grad.clone()
    page["model"].zero_grad()
    page["block"](page["features"], torch.tensor([0, 0])).mean().backward()
    assert torch.equal(got, page["model"].weight.grad)
    assert page["scheduler"].rng.tolist() == [0, 1]


RANKS = f"""
import sys, warnings
import torch, torch.distributed as dist
from nmer_fast import ops
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{{folder}}/store")
torch.manual_seed(0)
{START}
with warnings.catch_warnings(action="error"):
    exec({RANK!r})
    ids, noisy = noise_of_this_rank(3)
own = NoiseScheduler({{"audio": 1.0}}, snr_db=-10, seed=100 + rank)
layer = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(own, torch.nn.Linear(1, 1)))
for buffer in layer.buffers():
    dist.broadcast(buffer, 0)
own = own({{"audio": features}}, sample_ids=torch.arange(8), draw=None).features["audio"]
with warnings.catch_warnings(record=True, action="always") as seen:
    for _ in range(2):
        scheduler({{"audio": features}}, draw=0)
torch.save((ids, noisy, own, [str(w.message) for w in seen]), f"{{folder}}/{{rank}}")
dist.barrier()
dist.destroy_process_group()
"""


def test_the_recipe_for_ranks_and_the_warning_without_it(page, tmp_path):
    """Each rank has its samples' share of the whole noise, and its own seed whatever rank 0 broadcasts."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANKS, str(rank), str(tmp_path)], cwd=ROOT, env=os.environ)
        for rank in range(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    whole = page["scheduler"]({"audio": page["features"]}, sample_ids=torch.arange(8), draw=3).features["audio"]
    taken = []
    for rank in range(2):
        ids, noisy, own, seen = torch.load(tmp_path / str(rank))
        taken += ids.tolist()
        assert torch.equal(noisy, whole[ids])
        expected = NoiseScheduler({"audio": 1.0}, snr_db=-10, seed=100 + rank)({"audio": page["features"]}, draw=0)
        assert torch.equal(own, expected.features["audio"])
        assert len(seen) == 1
        assert re.match(WARNING.format("ranks"), seen[0])
    assert sorted(taken) == list(range(8))


class Items(Dataset):
    """Items that a call makes in a worker, with the warnings of that call."""

    def __init__(self, call):
        self.call = call

    def __len__(self):
        return 4

    def __getitem__(self, i):
        with warnings.catch_warnings(record=True, action="always") as seen:
            try:
                self.call(i)
            except ValueError as error:
                return [str(error)]
            return [str(warning.message) for warning in seen]


X = torch.zeros(1, 4)
SCHEDULER = NoiseScheduler({"a": 1.0}, snr_db=0)
WITHOUT_IDS = {
    "scheduler": lambda i: SCHEDULER({"a": X}, draw=0),
    "scheduler, rng": lambda i: SCHEDULER({"a": X}, rng=torch.tensor([0, 0])),
    "numpy": lambda i: nf.add_noise(X.numpy(), 0.5, seed=0),
    "numpy, latent": lambda i: nf.reparameterize_kl(X.numpy(), X.numpy(), seed=0),
}
RIGHT = {
    "scheduler": lambda i: SCHEDULER({"a": X}, draw=0, sample_ids=torch.tensor([i])),
    "numpy": lambda i: nf.add_noise(X.numpy(), 0.5, seed=0, sample_ids=[i]),
    "numpy, no seed": lambda i: nf.add_noise(X.numpy(), 0.5),
    "ops, no seed": lambda i: ops.add_noise(X, 0.5),
}


def in_a_worker(call):
    processes._warn.cache_clear()
    return [message for item in DataLoader(Items(call), batch_size=None, num_workers=1) for message in item]


@pytest.mark.parametrize("name", WITHOUT_IDS)
def test_without_ids_a_worker_warns_once(name):
    (message,) = in_a_worker(WITHOUT_IDS[name])
    assert re.match(WARNING.format("calls in DataLoader workers"), message)


@pytest.mark.parametrize("name", RIGHT)
def test_a_worker_says_nothing_of_right_calls(name):
    assert in_a_worker(RIGHT[name]) == []


def test_a_scheduler_without_a_draw_is_refused_in_a_worker():
    messages = in_a_worker(lambda i: SCHEDULER({"a": X}, sample_ids=torch.tensor([i])))
    assert len(messages) == 4
    assert messages[0].startswith("draw: expected a number in a DataLoader worker, where the count of draws is a copy")
    assert "pass draw, the epoch, and sample_ids," in messages[0]
    assert "\n" not in messages[0]


def test_one_process_alone_is_told_nothing():
    processes._warn.cache_clear()
    with warnings.catch_warnings(action="error"):
        SCHEDULER({"a": X})
        nf.add_noise(X.numpy(), 0.5, seed=0)
        list(DataLoader(range(3), num_workers=0))
        SCHEDULER({"a": X})

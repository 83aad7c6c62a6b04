"""Too little memory is foreseen, and the foresight is about right."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from nmer_fast.data import Ragged, limits
from nmer_fast.engine import memory
from nmer_fast.errors import UserError
from nmer_fast.models import NMER

from .test_engine import CPU, SMALL, dataset

MEASURE = """
import torch
from nmer_fast.engine import memory
from nmer_fast.models import NMER, Batch, NMERConfig, Targets
from nmer_fast.noise import NoiseScheduler

dims, steps, size = {dims}, {steps}, 32
model = NMER(dims, 4, NMERConfig())

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
batch = Batch({{m: torch.ones(size, steps[m], d) for m, d in dims.items()}}, {{m: torch.full((size,), steps[m]) for m in dims}},
    torch.zeros(size).long(), torch.arange(size), Targets(*(torch.zeros(size, 128 * len(dims)) for _ in "ab")), torch.tensor([0, 0]))
noise = NoiseScheduler(dict.fromkeys(dims, 1.0), snr_db=-10)

noised = noise(batch.features, lengths=batch.lengths, sample_ids=batch.sample_ids, rng=batch.rng)
batch.features = noised.features
model(batch).losses["total"].backward()
print(peak() - before, memory.batch_bytes(dims, steps, size))
"""


@pytest.mark.parametrize(
    ("dims", "steps"),
    [({"a": 130, "v": 342}, {"a": 600, "v": 300}), ({"l": 1024}, {"l": 400}), ({"a": 30}, {"a": 2000})],
)
def test_a_batch_takes_about_what_is_foreseen(dims, steps):
    """Peak resident memory of one step, in a process of its own: within 40 % of the estimate."""
    code = MEASURE.format(dims=dims, steps=steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured, foreseen = map(int, done.stdout.split())
    assert 0.7 < foreseen / measured < 1.4


def test_long_sequences_that_cannot_fit_are_refused():
    """One sequence of 40 million steps of a feature: small on disk, some 2 TB in a step."""
    data = dataset()
    lengths = torch.ones(60, dtype=torch.int64)
    lengths[3] = 40_000_000
    values = torch.zeros(1, 1).expand(int(lengths.sum()), 1)
    data = replace(data, modalities={"a": Ragged.from_lengths(values, lengths)})
    with pytest.raises(
        UserError, match=r"^memory: training with batches of 32 and sequences of up to 40000000 steps wo"
    ):
        memory.check_training(data, NMER(data.dims, 2, SMALL), 32, CPU)


def test_free_memory_is_no_more_than_a_containers_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    unlimited = memory.free_bytes(CPU)
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.free_bytes(CPU) == 7000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(CPU) == pytest.approx(unlimited, rel=0.5)

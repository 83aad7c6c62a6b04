"""NVTX ranges (none without a profiler, otherwise one for each phase), and a trace that Perfetto can read."""

import json
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from nmer_fast import profiling, train

PHASES = {"data", "forward", "noise", "encoders", "vae", "loss", "backward", "optimizer"}
TINY = {"size": 60, "epochs": 2, "settings": ("training.teacher_epochs=1", "training.batch_size=16")}


@pytest.fixture
def ranges(monkeypatch):
    """Return the list of the ranges that a replaced profiler receives."""
    seen = []

    @contextmanager
    def annotate(name, domain, payload):
        seen.append((name, domain, payload))
        yield

    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=annotate))
    monkeypatch.setattr(profiling, "ATTACHED", True)
    return seen


def test_without_a_profiler_there_is_no_range():
    assert isinstance(profiling.span("noise", 3), nullcontext)


def test_every_phase_has_its_range(ranges, tmp_path):
    train.run(train.Options(**TINY, out=tmp_path / "run"), quiet=True)
    assert {name for name, _, _ in ranges} == PHASES
    assert {domain for _, domain, _ in ranges} == {"nmer_fast"}
    assert all(payload > 0 for name, _, payload in ranges if name != "encoders")


def test_a_trace_of_three_steps(tmp_path):
    train.run(train.Options(**TINY, out=tmp_path / "run", torch_profile=tmp_path / "trace"), quiet=True)
    events = json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep") for name in names) >= 3
    assert "nmer_fast::add_noise_multimodal" in names
    assert "nmer_fast::reparameterize_kl_backward" in names


def test_profiling_changes_no_bit(ranges, tmp_path):
    traced = train.run(train.Options(**TINY, out=tmp_path / "a", torch_profile=tmp_path / "trace"), quiet=True)
    ranges.clear()
    plain = train.run(train.Options(**TINY, out=tmp_path / "b"), quiet=True)
    assert traced["losses"] == plain["losses"]

"""A system and a format from outside the package go through every command."""

import csv
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nmer_fast import evaluate, registry, report, sweep, train
from nmer_fast.errors import UserError
from nmer_fast.registry import FORMATS, SYSTEMS

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUICK = ("training.teacher_epochs=1",)
FORMAT = '''
"""Features in .mine files, which are npz files of another name."""

from nmer_fast.data import Format, Loaded, load_npz
from nmer_fast.data.formats import Findings

MINE = Format(
    read=lambda source: Loaded(load_npz(source.path), [], Findings()),
    looks_like=lambda source: source.path.suffix == ".mine",
)
'''


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a folder on sys.path with the documented system and a format, both installed as entry points."""
    page = (DOCS / "adding_a_system.md").read_text()
    (tmp_path / "gated_elsewhere.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
    (tmp_path / "mine_elsewhere.py").write_text(FORMAT)
    about = tmp_path / "elsewhere-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[nmer_fast.systems]\ngated = gated_elsewhere:Gated\n[nmer_fast.formats]\nmine = mine_elsewhere:MINE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    registry._plugins.cache_clear()
    yield tmp_path
    registry._plugins.cache_clear()
    for name in ("gated_elsewhere", "mine_elsewhere"):
        sys.modules.pop(name, None)


def features(path):
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 24 + ["test"] * 16)
    with path.open("wb") as file:
        np.savez(
            file, a=rng.standard_normal((40, 5, 3)), l=rng.standard_normal((40, 6, 4)), label=np.arange(40) % 2,
            split=split,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("name", ["gated", "gated_elsewhere:Gated"])
def test_a_system_from_elsewhere_is_one_of_the_compared(name, elsewhere):
    """It is trained, evaluated, part of a sweep with its own setting beside another system, and shown on the page."""
    data = str(features(elsewhere / "features.mine"))
    one = {"data": data, "epochs": 1, "settings": (*QUICK, "model.lambda_gate=0.5")}
    results = train.run(train.Options(system=name, out=elsewhere / "run", **one), quiet=True)
    assert results["config"]["model"]["lambda_gate"] == 0.5
    assert results["losses"][0]["total"] == pytest.approx(
        results["losses"][0]["cls"] + 0.5 * results["losses"][0]["gate"], rel=1e-5
    )
    (point,) = evaluate.run(evaluate.Options(elsewhere / "run"), quiet=True).points
    assert point.evaluation.as_dict()["conditions"] == results["conditions"]
    out = elsewhere / "sweep"
    summary = sweep.run(sweep.Options(out=out, systems=("late_fusion", name), seeds=(0,), **one), quiet=True)
    assert len(summary.finished) == 2
    assert not summary.failed
    table = list(csv.DictReader((out / "results.csv").open()))
    assert {row["system"] for row in table} == {"late_fusion", name}
    assert {json.loads(row["config"])["model"].get("lambda_gate") for row in table} == {None, 0.5}
    page = report.run(report.Options(out), quiet=True).read_text()
    assert name in page
    assert report.run(report.Options(elsewhere / "run"), quiet=True).exists()


def test_plug_ins_are_listed_and_their_settings_checked(elsewhere):
    assert list(SYSTEMS)[-1] == "gated"
    assert list(FORMATS)[-1] == "mine"
    for settings, message in (
        ("model.lambda_gate=-1", "model.lambda_gate: expected at least 0, got '-1'"),
        ("model.lambda_gait=1", "model.lambda_gait: no such field of gated; expected classifier, .*, lambda_gate, "),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            train.config_of(train.Options(system="gated", settings=(settings,)))
    with pytest.raises(UserError, match=r"^model.system: expected gated_elsewhere:Gate to be importable, got: "):
        train.config_of(train.Options(system="gated_elsewhere:Gate"))
    with pytest.raises(UserError, match=r"^model.system: expected a subclass of nmer_fast.models.System, got json:"):
        train.config_of(train.Options(system="json:JSONDecoder"))


def test_names_are_known_without_torch():
    code = "import sys, nmer_fast.registry as r; print(list(r.SYSTEMS)[0], 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "nmer False\n"

"""The benches' own code: what is timed how often, what is written. No time is asserted."""

import csv
import importlib.util
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def measure():
    spec = importlib.util.spec_from_file_location("measure", BENCH / "measure.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["measure"]


def rows(measure, calls):
    def call(who):
        calls.append(who)
        time.sleep(0.002)  # above the millisecond from which a call is timed alone

    return [measure.Row("task", who, 1000, 8000, lambda who=who: call(who), claimed=True) for who in ("ours", "copy")]


def test_rows_are_timed_in_turn(measure):
    calls = []
    measured = measure.time_rows(rows(measure, calls), "default", quick=False, nvtx=False)
    # 20 and two to warm up, then each with an untimed call before it
    assert calls == ["ours", "copy"] * 3 + ["ours", "ours", "copy", "copy"] * 19
    for m in measured:
        assert 2000 <= m.p20 <= m.p50 <= m.p80  # ns an element
        assert m.gb_per_s == pytest.approx(8 / m.p50)


def test_only_unclaimed_rows_lose_patience(measure, monkeypatch):
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    calls = []
    ours, copy = rows(measure, calls)
    measure.time_rows([ours, measure.Row("task", "copy", 1000, 8000, copy.call)], "default", quick=False, nvtx=False)
    assert calls.count("ours") == 22 + 19
    assert calls.count("copy") == 7 + 4


def test_nvtx_is_optional(measure, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert len(measure.time_rows(rows(measure, []), "default", quick=True, nvtx=True)) == 2


def test_table_csv_and_plot(measure, tmp_path, capsys):
    measured = [
        measure.Measured("task", who, "recycled", threads, 1000, p50 / 2, p50, 2 * p50, 8 / p50)
        for threads in (1, 2)
        for who, p50 in (("ours", 2.0), ("eager", 8.0), ("copy", 0.5))
    ]
    measure._print(measured, "title")
    printed = capsys.readouterr().out
    assert "16.00x" in printed  # eager of copy
    assert "4.00x" in printed
    measure._write(tmp_path / "rows.csv", measured)
    written = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [float(row["of_copy"]) for row in written] == [4, 16, 1] * 2
    assert all(row["torch"] and row["machine"] and row["commit"] and row["isa"] for row in written)
    measure._plot(tmp_path / "rows.png", measured, "title")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")

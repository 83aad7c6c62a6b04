"""The benches' own code: what is timed how often, what is written. No time is asserted."""

import csv
import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
measure, op_bench = map(importlib.import_module, ("measure", "op_bench"))


def rows(calls):
    def call(who):
        calls.append(who)
        time.sleep(0.002)  # more than a millisecond, so that each call is timed alone

    return [op_bench.Row("task", who, 1000, 8000, lambda who=who: call(who), claimed=True) for who in ("ours", "copy")]


def test_rows_are_timed_in_turn():
    calls = []
    measured = op_bench.time_rows(rows(calls), "default", quick=False, nvtx=False)
    # 20 calls and two warm-up calls, then each with an untimed call before it
    assert calls == ["ours", "copy"] * 3 + ["ours", "ours", "copy", "copy"] * 19
    for m in measured:
        assert 2000 <= m.p20 <= m.p50 <= m.p80  # nanoseconds for each element
        assert m.gb_per_s == pytest.approx(8 / m.p50)


def test_only_unclaimed_rows_lose_patience(monkeypatch):
    monkeypatch.setattr(measure, "PATIENCE_S", 0.0)
    calls = []
    ours, copy = rows(calls)
    op_bench.time_rows([ours, op_bench.Row("task", "copy", 1000, 8000, copy.call)], "default", quick=False, nvtx=False)
    assert calls.count("ours") == 22 + 19
    assert calls.count("copy") == 7 + 4


def test_nvtx_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert len(op_bench.time_rows(rows([]), "default", quick=True, nvtx=True)) == 2


def test_table_csv_and_plot(tmp_path, capsys):
    measured = [
        op_bench.Measured("task", who, "recycled", threads, 1000, p50 / 2, p50, 2 * p50, 8 / p50)
        for threads in (1, 2)
        for who, p50 in (("ours", 2.0), ("eager", 8.0), ("copy", 0.5))
    ]
    op_bench.show(measured, "title")
    printed = capsys.readouterr().out
    assert "16.00x" in printed  # relative to the eager copy
    assert "4.00x" in printed
    op_bench.write(tmp_path / "rows.csv", measured)
    written = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert [float(row["of_copy"]) for row in written] == [4, 16, 1] * 2
    assert all(row["torch"] and row["machine"] and row["commit"] and row["isa"] for row in written)
    op_bench.plot(tmp_path / "rows.png", measured, "title")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_percentiles():
    assert measure.percentiles([3.0]) == (3.0, 3.0, 3.0)
    assert measure.percentiles([4.0, 2.0]) == pytest.approx((2.4, 3.0, 3.6))  # never beyond what was measured
    assert measure.percentiles([float(n) for n in range(11)]) == (2, 5, 8)


@pytest.mark.parametrize("name", sorted(path.name for path in BENCH.glob("*.py") if "__main__" in path.read_text()))
def test_help_says_what_is_measured_and_how_long_it_takes(name):
    done = subprocess.run([sys.executable, BENCH / name, "--help"], capture_output=True, text=True, check=True)
    assert re.search(r"\bTakes\b.* (s|minutes?|hours?)\b", " ".join(done.stdout.split()))

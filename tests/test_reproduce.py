"""The paper's tables from one command: real runs, tiny; each is done once, whatever table asks for it."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from nmer_fast import evaluate, reproduce
from nmer_fast.data import load_npz, synthetic
from nmer_fast.engine.inputs import make_scheduler
from nmer_fast.engine.trained_model import load_model
from nmer_fast.sweeping import work
from nmer_fast.sweeping.work import Failure
from tests.reproducing.test_render import check_latex

TINY = ("data.size=40", "training.teacher_epochs=1", "model.layers=1")
OPTIONS = reproduce.Options(
    table="all", out=Path(), systems=("nmer", "late_fusion"), snr=(-10.0, -20.0), seeds=(0, 1), epochs=1, settings=TINY,
)  # fmt: skip
ARGUMENTS = [
    "--systems", "nmer", "late_fusion", "--snr", "-10", "-20", "--seeds", "0", "1", "--epochs", "1",
    *(argument for setting in TINY for argument in ("--set", setting)),
]  # fmt: skip
PARTIAL = ("a", "v", "l", "av", "al", "vl")


def rows(path):
    return list(csv.DictReader(path.open()))


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of all five tables and of unseen noise."""
    folder = tmp_path_factory.mktemp("paper")
    assert reproduce.run(replace(OPTIONS, out=folder), quiet=True) == {}
    assert reproduce.run(replace(OPTIONS, out=folder, table="unseen"), quiet=True) == {}
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The names of runs that are trained, and of those that are evaluated for the sweep, with the noise's kind."""
    found, train_one, evaluate_one = [], work.run, work._evaluate

    def spy_train(config, *, out, **keywords):
        found.append((out.name,))
        return train_one(config, out=out, **keywords)

    def spy_evaluate(job, noises):
        found.extend((job.name, noise.kind) for noise in noises)
        return evaluate_one(job, noises)

    monkeypatch.setattr(work, "run", spy_train)
    monkeypatch.setattr(work, "_evaluate", spy_evaluate)
    return found


def test_table_2_is_the_sweeps_rows(done):
    results = rows(done / "sweep" / "results.csv")
    table = {row["system"]: row for row in rows(done / "table2.csv")}
    assert list(table) == ["NMER", "late fusion"]
    for label, system in (("NMER", "nmer"), ("late fusion", "late_fusion")):
        for noise in ("gaussian", "impulse"):
            for snr in ("-10", "-20"):
                for metric in ("wa", "ua"):
                    means = [
                        fmean(
                            float(r[metric]) for r in results
                            if (r["system"], r["noise"], r["snr_db"], r["seed"]) == (system, noise, f"{snr}.0", seed)
                            and r["condition"] in PARTIAL
                        )
                        for seed in "01"
                    ]  # fmt: skip
                    column = f"{snr} dB {noise} {metric.upper()}"
                    assert float(table[label][column]) == pytest.approx(fmean(means))
                    assert float(table[label][f"{column} std"]) == pytest.approx(stdev(means))


def test_tables_4_and_5_are_the_sweeps_rows(done):
    results = rows(done / "sweep" / "results.csv")

    def mean(system, snr, condition, metric):
        key = (system, "gaussian", snr, condition)
        return fmean(float(r[metric]) for r in results if (r["system"], r["noise"], r["snr_db"], r["condition"]) == key)

    alone = {row["intensity"]: row for row in rows(done / "table4.csv")}
    assert list(alone) == ["clean", "0 dB", "-10 dB", "-20 dB"]
    for name in "avl":
        assert float(alone["clean"][f"{name} UA"]) == pytest.approx(mean(f"unimodal.{name}", "0.0", "all", "ua"))
        assert float(alone["0 dB"][f"{name} WA"]) == pytest.approx(mean(f"unimodal.{name}", "0.0", "none", "wa"))
        assert float(alone["-20 dB"][f"{name} WA"]) == pytest.approx(mean(f"unimodal.{name}", "-20.0", "none", "wa"))
    (nmer, _) = rows(done / "table5.csv")
    assert float(nmer["-20 dB UA"]) == pytest.approx(mean("nmer", "-20.0", "none", "ua"))
    (at_10, _) = rows(done / "table3.csv")
    assert float(at_10["vl WA"]) == pytest.approx(mean("nmer", "-10.0", "vl", "wa"))


def test_the_papers_convention_and_what_it_realises(done):
    config = json.loads((done / "sweep" / "sweep.json").read_text())["config"]
    assert config["noise"]["snr_convention"] == "paper"
    for row in rows(done / "table2_snr.csv"):
        asked = float(row["asked for"].split()[0])
        excess = 5.23 if row["noise"] == "impulse" else 0.0
        assert all(abs(float(row[m]) - asked - excess) < 1.5 for m in "avl")  # there are 16 test samples


def test_every_table_is_written_in_every_form(done):
    for name in ("table1", "table2", "table3", "table4", "table5", "unseen"):
        check_latex((done / f"{name}.tex").read_text())
        markdown, latex = (done / f"{name}.md").read_text(), (done / f"{name}.tex").read_text()
        parts = sorted(path.stem for path in done.glob(f"{name}*.csv") if path.stem != "unseen_results")
        assert sorted(part for part in parts if f"tab:{part}}}" in latex) == parts
        assert markdown.count("### ") == latex.count(r"\begin{tabular}") == len(parts)
    extras = {path.stem for path in done.glob("table2_*.csv")}
    assert extras == {f"table2_{part}" for part in ("pooled", "tests", "robustness", "snr", "seconds")}


def test_nothing_is_repeated(done, calls):
    before = files(done)
    reproduce.run(replace(OPTIONS, out=done), quiet=True)
    reproduce.run(replace(OPTIONS, out=done, table="unseen"), quiet=True)
    assert calls == []
    assert files(done) == before


def test_tables_share_their_runs(tmp_path, calls):
    few = replace(OPTIONS, out=tmp_path, seeds=(0,), snr=(-10.0,), noise=("gaussian",))
    reproduce.run(replace(few, table="table3"), quiet=True)
    assert calls == [("nmer_gaussian_-10dB_seed0",)]
    reproduce.run(replace(few, table="table2"), quiet=True)
    assert calls[1:] == [("late_fusion_gaussian_-10dB_seed0",)]
    reproduce.run(replace(few, table="table5"), quiet=True)
    assert len(calls) == 2
    assert not (tmp_path / "table2_robustness.csv").exists()  # there is one SNR only
    assert rows(tmp_path / "table2.csv")[0].keys() == {"data set", "system", "-10 dB WA", "-10 dB UA"}


def test_what_is_in_the_folder_of_other_axes_is_in_no_table(done, tmp_path, calls):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    reproduce.run(replace(OPTIONS, out=tmp_path, table="table3", seeds=(1,), snr=(-20.0,)), quiet=True)
    assert calls == []
    (only,) = rows(tmp_path / "table3.csv")
    results = rows(tmp_path / "sweep" / "results.csv")
    (expected,) = (
        r for r in results if (r["run"], r["condition"]) == ("nmer_gaussian_-20dB_seed1", "al")
    )  # fmt: skip
    assert (only["intensity"], float(only["al WA"])) == ("-20 dB", pytest.approx(float(expected["wa"])))


def test_unseen_noise_is_what_evaluate_alone_gives(done):
    found = rows(done / "unseen_results.csv")
    assert len(found) == 2 * 2 * 2 * 4 * 8  # systems, SNRs, seeds, kinds, conditions
    folder = done / "sweep" / "runs" / "late_fusion_gaussian_-20dB_seed1"
    mine = [row for row in found if row["run"] == folder.name]
    assert {(row["trained_noise"], row["trained_snr_db"]) for row in mine} == {("gaussian", "-20.0")}
    kinds = ("impulse", "uniform", "laplace", "missing")
    assert [(row["noise"], row["snr_db"]) for row in mine[::8]] == [
        (k, "" if k == "missing" else "-20.0") for k in kinds
    ]
    alone = evaluate.run(evaluate.Options(folder, noise=kinds), quiet=True).rows()
    for row, expected in zip(mine, alone, strict=True):
        assert (row["noise"], row["condition"]) == (expected["noise"], expected["clean"])
        assert [float(row[m]) for m in ("wa", "ua")] == [expected["wa"], expected["ua"]]
    run = load_model(folder, torch.device("cpu"))
    scheduler = make_scheduler(run.state["variances"], replace(run.config.noise, kind="impulse"), 1)
    assert scheduler.snr_db["a"] == pytest.approx(-20 + 5.2288, abs=1e-3)  # the SNR convention of the training
    table = {row["system"]: row for row in rows(done / "unseen.csv")}
    per_seed = [
        fmean(float(r["wa"]) for r in found if (r["system"], r["noise"], r["seed"]) == ("nmer", "missing", s) and r["condition"] in PARTIAL)
        for s in "01"
    ]  # fmt: skip
    assert float(table["NMER"]["missing WA"]) == pytest.approx(fmean(per_seed))


def test_unseen_noise_goes_on_where_it_was(done, tmp_path, calls):
    """All evaluations of a run are lost, and half of another's; systems trained on complete data have theirs, too."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "unseen_results.csv").read_text()
    lost, half = (
        tmp_path / "sweep" / "runs" / f"nmer_gaussian_{snr}dB_seed0" / "evaluations.json" for snr in (-10, -20)
    )
    lost.unlink()
    entries = json.loads(half.read_text())["evaluations"]
    half.write_text(json.dumps({"evaluations": entries[:2]}))
    options = replace(OPTIONS, out=tmp_path, table="unseen")
    reproduce.run(options, quiet=True)
    assert calls == [
        *(("nmer_gaussian_-10dB_seed0", kind) for kind in ("impulse", "uniform", "laplace", "missing")),
        *(("nmer_gaussian_-20dB_seed0", kind) for kind in ("laplace", "missing")),
    ]
    strip = [{k: v for k, v in row.items() if k != "seconds_evaluate"} for row in csv.DictReader(before.splitlines())]
    assert [
        {k: v for k, v in r.items() if k != "seconds_evaluate"} for r in rows(tmp_path / "unseen_results.csv")
    ] == strip
    calls.clear()
    reproduce.run(replace(options, systems=("men",), seeds=(0,), snr=(-20.0,)), quiet=True)
    assert len(calls) == 1 + 1 + 4  # one training, one evaluation under gaussian noise, and four under other kinds
    men = rows(tmp_path / "unseen_results.csv")
    assert {(r["noise"], r["snr_db"], r["trained_noise"], r["trained_snr_db"]) for r in men} == {
        ("impulse", "-20.0", "", ""), ("uniform", "-20.0", "", ""), ("laplace", "-20.0", "", ""), ("missing", "", "", ""),
    }  # fmt: skip


def test_a_run_that_fails_is_left_out_and_named(done, tmp_path, monkeypatch, capsys):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    real, bad = work.run, "nmer_gaussian_-10dB_seed2"

    def failing(config, *, out, **keywords):
        if out.name == bad:
            raise RuntimeError("the disk is on fire")
        return real(config, out=out, **keywords)

    monkeypatch.setattr(work, "run", failing)
    arguments = [*ARGUMENTS, "--noise", "gaussian"]
    arguments[arguments.index("1", arguments.index("--seeds")) : arguments.index("--epochs")] = ["1", "2"]
    monkeypatch.setattr(sys, "argv", ["reproduce", "table3", "--out", str(tmp_path), *arguments])
    assert reproduce.main() == 1
    printed = capsys.readouterr().out
    assert f"{bad} failed: RuntimeError: the disk is on fire" in printed
    assert "Mean and standard deviation of 3 runs (folds x seeds). 1 of 6 results are missing." in " ".join(
        printed.split()
    )


def test_an_evaluation_that_fails_is_named(done, tmp_path, monkeypatch, capsys):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sweep" / "runs" / "nmer_gaussian_-10dB_seed0" / "evaluations.json").unlink()
    monkeypatch.setattr(work, "robustness_of_run", lambda *_, **__: 1 / 0)
    failed = reproduce.run(replace(OPTIONS, out=tmp_path, table="unseen"))
    assert list(failed) == ["nmer_gaussian_-10dB_seed0"]
    assert isinstance(failed["nmer_gaussian_-10dB_seed0"], Failure)
    assert "nmer_gaussian_-10dB_seed0: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_the_command_prints_the_tables(done, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce", "table2", "--out", str(done), *ARGUMENTS])
    assert reproduce.main() == 0
    printed = capsys.readouterr().out
    for what in (
        "Table 2: average over the 6 incomplete conditions, synthetic", "┃ late fusion" , "Realised SNR, synthetic",
        "5.2 dB weaker", "Seconds, synthetic", "Robustness over the SNRs", "NMER less each other system, mean over gaussian",
        "2 seeds of one split", "n_test / n_train 0.667",
    ):  # fmt: skip
        assert what.replace("┃", "│") in printed
    assert max(map(len, printed.splitlines())) < 200
    assert all(len(line) <= 100 for line in printed.splitlines() if line[:1] in "┏│└")


def test_folds_of_a_named_data_set(tmp_path):
    """Two folds of a file called IEMOCAP: Table 1 shows each fold, the published values, and a test over folds."""
    import numpy as np

    rng, split = np.random.default_rng(0), np.where(np.arange(48) < 32, "train", "test")
    content = {m: rng.normal(size=(48, 5, 4)).astype(np.float32) for m in "avl"}
    content |= {"label": np.arange(48) % 4, "split": np.stack([split, np.roll(split, 16)], axis=1)}
    content["label_names"] = np.array(["happy", "angry", "sad", "neutral"])
    np.savez(tmp_path / "iemocap_small.npz", **content)
    assert load_npz(tmp_path / "iemocap_small.npz").name == "iemocap_small"
    options = replace(
        OPTIONS, out=tmp_path / "out", data=str(tmp_path / "iemocap_small.npz"), settings=TINY[1:], folds=(1, 2), seeds=(0,),
        noise=("gaussian",), snr=(-10.0,),
    )  # fmt: skip
    assert reproduce.run(replace(options, table="all"), quiet=True) == {}
    out = tmp_path / "out"
    assert [row["data set"] for row in rows(out / "table1.csv")[::5]] == [
        "iemocap_small, fold 1",
        "iemocap_small, fold 2",
    ]
    assert [row["samples published"] for row in rows(out / "table1.csv")[:5]] == [
        "1636",
        "1103",
        "1084",
        "1708",
        "5531",
    ]
    nmer = rows(out / "table2.csv")[0]
    assert (nmer["data set"], nmer["-10 dB WA published"]) == ("IEMOCAP", "0.7598")
    assert float(nmer["-10 dB WA difference"]) == pytest.approx(float(nmer["-10 dB WA"]) - 0.7598)
    assert rows(out / "table4.csv")[0]["a WA published"] == rows(out / "table4.csv")[1]["a WA published"] == "0.6693"
    assert "of 2 folds, the seeds of each averaged, n_test / n_train 0.500" in (out / "table2.md").read_text().replace(
        "\\", ""
    )
    assert reproduce.run(replace(options, table="table1", corpus="none"), quiet=True) == {}
    assert "samples published" not in rows(out / "table1.csv")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("table6 --out new", "invalid choice 'table6' for argument 'table'. Expected one of"),
        ("table2", "Missing from python -m nmer_fast.reproduce: out"),
        ("table2 --out new --noise", "noise: expected one or more, got none"),
        ("table2 --out new --snr", "snr: expected one or more, got none"),
        ("table2 --out new --systems psychic", "model.system: expected one of nmer"),
        ("table2 --out new --systems nmer unimodal.a", "systems: expected systems of all modalities, got unimodal.a, which is"),
        ("unseen --out new --noise missing gaussian", "noise: expected one with an SNR first, to train unseen under, got"),
        ("table2 --out new --noise pink", "noise.kind: expected 'gaussian'"),
        ("table2 --out new --seeds 0 0", "seeds: expected different ones, got 0 twice"),
        ("table2 --out new --folds 2", "fold: expected none, the synthetic data has no folds, got 2"),
        ("table2 --out new --corpus CMU-MOSEI", "corpus: expected 2 classes and 3 modalities, as in the paper's CMU-MOSEI"),
        ("table2 --out new --data nothing.npz", "nothing.npz"),
        ("table2 --out file", "out: expected a folder that can be written, got file"),
        ("all --out new --systems nmer --snr 1e300", "noise.snr_db: expected decibels from -200 to 200"),
        ("table2 --out new --set noise.snr_convention=loud", "noise.snr_convention: expected 'exact'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, message, monkeypatch, refused, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    small = () if "--data" in arguments else ("--set", "data.size=40")
    assert refused(reproduce.main, *arguments.split(), "--epochs", "1", *small).startswith(message)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_the_convention_can_be_set(tmp_path):
    few = replace(
        OPTIONS, out=tmp_path, table="table3", seeds=(0,), snr=(-10.0,), settings=(*TINY, "noise.snr_convention=exact")
    )
    reproduce.run(few, quiet=True)
    config = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["config"]
    assert config["noise"]["snr_convention"] == "exact"


def test_without_scipy_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "find_spec", lambda name: None)
    with pytest.raises(
        reproduce.UserError,
        match=r"^reproduce: expected SciPy, which is not installed: pip install 'nmer_fast\[report\]'",
    ):
        reproduce.run(replace(OPTIONS, out=tmp_path / "new"), quiet=True)
    assert not (tmp_path / "new").exists()


def test_the_embedded_data_has_no_published_values(done):
    assert synthetic(40).class_names == ["happy", "angry", "sad", "neutral"]
    assert "published" not in (done / "table2.md").read_text()

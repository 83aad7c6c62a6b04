"""The paper's tables and what belongs to them, of rows made up so that every number is known."""

import json
import math
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from nmer_fast.data import synthetic
from nmer_fast.reproducing import paper_tables, supplementary
from nmer_fast.reproducing.published import CORPORA
from nmer_fast.reproducing.significance import corrected_t_test, holm
from nmer_fast.system_names import title_of
from nmer_fast.tables import AVERAGE
from tests.reproducing.rows import CONDITIONS, run

CONFIG = json.dumps({"training": {"epochs": 4}, "noise": {"snr_convention": "paper", "p": 0.3}})
SYSTEMS = {"late_fusion": 0.70, "nmer": 0.74, "men": 0.60, "nmer_no_inv": 0.74}
CELLS = [("gaussian", -10.0), ("gaussian", -20.0), ("impulse", -10.0), ("impulse", -20.0), ("missing", None)]
SEEDS = (0, 1, 2)
JITTER = {"nmer": (0.0, 0.01, 0.02), "men": (0.001, 0.01, 0.021)}


def score(system, noise, snr, seed, condition):
    """WA: worse where there is more noise, and where less is clean."""
    clean = {"none": 0, "all": 3}.get(condition, len(condition))
    drop = 0.0 if clean == 3 else (0.05 if snr is None else -snr / 200) * (3 - clean) / 3
    return SYSTEMS[system] + JITTER.get(system, (0.0, 0.001, 0.003))[seed] - drop


def rows(seeds=SEEDS, cells=CELLS):
    out = []
    for system in SYSTEMS:
        for noise, snr in cells:
            for seed in seeds:
                table = {c: score(system, noise, snr, seed, c) for c in CONDITIONS}
                own = f"{system}_{seed}" if system == "men" else f"{system}_{noise}_{snr}_{seed}"
                extras = {
                    f"realised_snr_db_{m}": (snr or 0) + i + seed / 10 if snr else None for i, m in enumerate("avl")
                }
                out += [
                    r | {"run": own, "config": CONFIG, "seconds_train": 8.0 + seed, "seconds_evaluate": 0.5, **extras}
                    | {"seconds_teacher": None if system in ("men", "late_fusion") else 3.0}
                    for r in run(system, table, noise=noise, snr_db=snr, seed=seed)
                ]  # fmt: skip
    return out


STUDY = paper_tables.Study("IEMOCAP", CORPORA[0], ("a", "v", "l"), 0.25, rows(), ("gaussian", "impulse", "missing"))


def values(table):
    """Values by the last label and the header."""
    return {
        (row.labels[-1], *column): value
        for row in table.rows
        for column, value in zip(table.headers, row.numbers, strict=True)
    }


def expected_scores(system, noise, snr, condition):
    names = CONDITIONS[:6] if condition == AVERAGE else [condition]
    return [fmean(score(system, noise, snr, seed, name) for name in names) for seed in SEEDS]


def test_table_2():
    table = paper_tables.table2(STUDY, 6)
    assert [row.labels for row in table.rows] == [
        ("IEMOCAP", n) for n in ("MEN", "NMER", "NMER w/o L_inv", "late fusion")
    ]
    assert [row.begins for row in table.rows] == [True, False, False, True]
    assert table.headers == [
        (snr, noise, metric)
        for snr, noises in (
            ("-10 dB", ("gaussian", "impulse")),
            ("-20 dB", ("gaussian", "impulse")),
            ("no SNR", ("missing",)),
        )
        for noise in noises
        for metric in ("WA", "UA")
    ]
    found = values(table)
    nmer = found["NMER", "-20 dB", "impulse", "WA"]
    expected = expected_scores("nmer", "impulse", -20.0, AVERAGE)
    assert (nmer.value, nmer.std) == pytest.approx((fmean(expected), stdev(expected)))
    assert (nmer.published, nmer.difference) == (0.7651, pytest.approx(fmean(expected) - 0.7651))
    assert found["NMER", "-20 dB", "impulse", "UA"].value == pytest.approx(fmean(expected) - 0.1)
    assert math.isnan(found["late fusion", "-10 dB", "gaussian", "WA"].published)
    assert math.isnan(found["NMER", "no SNR", "missing", "WA"].published)
    for column in table.headers:
        best = [row[0] for row, value in found.items() if value.best and row[1:] == column]
        assert best == ["NMER"]


def test_marks_are_of_the_tables_own_tests():
    table, tests = (
        paper_tables.table2(STUDY, 6),
        supplementary.table_of_tests(STUDY, "table2", AVERAGE, STUDY.noises),
    )
    columns = {column[0]: i for i, column in enumerate(tests.headers)}
    significant = {row.labels for row in tests.rows if row.numbers[columns["Holm"]].value < 0.05}
    marked = {(metric, noise, snr, label) for (label, snr, noise, metric), v in values(table).items() if v.mark}
    assert marked == significant
    assert {label for _, _, _, label in marked} == {"MEN"}  # NMER less MEN hardly varies
    assert not any(v.mark for v in values(paper_tables.table2(replace(STUDY, rows=rows((0,))), 6)).values())


def test_the_table_of_tests():
    tests = supplementary.table_of_tests(STUDY, "table2", AVERAGE, STUDY.noises)
    assert tests.labels == ("by", "noise", "SNR", "system")
    assert len(tests.rows) == 2 * 5 * 3
    order = [row.labels for row in tests.rows[:6]]
    assert order == [
        ("WA", noise, "-10 dB", s)
        for noise in ("gaussian", "impulse")
        for s in ("MEN", "NMER w/o L_inv", "late fusion")
    ]
    p = []
    for row in tests.rows:
        label = next(s for s in SYSTEMS if title_of(s) == row.labels[3])
        snr = None if row.labels[2] == "no SNR" else float(row.labels[2].split()[0])
        a, b = (expected_scores(s, row.labels[1], snr, AVERAGE) for s in ("nmer", label))
        d = [x - y for x, y in zip(a, b, strict=True)]
        test = corrected_t_test(d, 0.25)
        p.append(test.p)
        assert [v.value for v in row.numbers[:4]] == pytest.approx([test.mean, test.low, test.high, test.p])
        wins, ties = sum(x > 1e-9 for x in d), sum(abs(x) <= 1e-9 for x in d)
        assert [v.value for v in row.numbers[5:]] == [wins, ties, 3 - wins - ties]
    assert [row.numbers[4].value for row in tests.rows] == pytest.approx(holm(p))


def test_pooled():
    pooled = supplementary.table_of_pooled(STUDY, "table5", "none", ("gaussian",))
    assert [row.labels for row in pooled.rows] == [
        (m, s) for m in ("WA", "UA") for s in ("MEN", "NMER w/o L_inv", "late fusion")
    ]
    assert [row.begins for row in pooled.rows] == [True, False, False] * 2
    means = [
        [
            fmean(pair)
            for pair in zip(*(expected_scores(s, "gaussian", snr, "none") for snr in (-10.0, -20.0)), strict=True)
        ]
        for s in ("nmer", "late_fusion")
    ]
    test = corrected_t_test([x - y for x, y in zip(*means, strict=True)], 0.25)
    assert [v.value for v in pooled.rows[2].numbers[:4]] == pytest.approx([test.mean, test.low, test.high, test.p])
    assert pooled.rows[2].numbers[-1].value == pytest.approx(
        math.sqrt(sum(fmean(m) * (1 - fmean(m)) for m in means) / 100)
    )


def test_without_nmer_nothing_is_compared():
    study = replace(STUDY, rows=[r for r in STUDY.rows if r["system"] != "nmer"])
    assert supplementary.table_of_tests(study, "table2", AVERAGE, STUDY.noises).rows == []
    assert not any(value.mark for value in values(paper_tables.table2(study, 6)).values())


def test_table_3():
    table = paper_tables.table3(STUDY)
    assert [row.labels for row in table.rows] == [("IEMOCAP", "-10 dB"), ("IEMOCAP", "-20 dB")]
    assert table.headers == [(c, m) for c in (*CONDITIONS[:6], "average") for m in ("WA", "UA")]
    found = values(table)
    assert found["-20 dB", "vl", "WA"].value == pytest.approx(fmean(expected_scores("nmer", "gaussian", -20.0, "vl")))
    assert (found["-20 dB", "vl", "WA"].published, found["-20 dB", "vl", "UA"].published) == (0.7771, 0.7864)
    assert found["-10 dB", "average", "UA"].published == 0.7675
    assert not any(value.best for value in found.values())


def test_table_4_has_clean_data_and_noise_at_0_db():
    alone = [
        line
        for i, name in enumerate("avl")
        for snr in (0.0, -10.0)
        for line in run(f"unimodal.{name}", {"none": 0.5 + i / 100 + snr / 100, "all": 0.8 + i / 100}, snr_db=snr)
    ]
    table = paper_tables.table4(replace(STUDY, rows=alone))
    assert [row.labels for row in table.rows] == [("clean",), ("0 dB",), ("-10 dB",)]
    found = values(table)
    assert [found[i, "v", "WA"].value for i in ("clean", "0 dB", "-10 dB")] == pytest.approx([0.81, 0.51, 0.41])
    assert [found[i, "v", "WA"].published for i in ("clean", "0 dB", "-10 dB")] == [0.5723, 0.5723, 0.4252]
    assert found["0 dB", "l", "UA"].published == 0.6592
    assert paper_tables.table4(replace(STUDY, rows=[])).rows == []


def test_table_5():
    table = paper_tables.table5(STUDY)
    assert table.headers == [(snr, metric) for snr in ("-10 dB", "-20 dB") for metric in ("WA", "UA")]
    nmer = values(table)["NMER", "-20 dB", "UA"]
    assert nmer.value == pytest.approx(fmean(expected_scores("nmer", "gaussian", -20.0, "none")) - 0.1)
    assert (nmer.published, nmer.best) == (0.7026, True)


def test_table_1():
    data = synthetic(100)
    table = paper_tables.table1({None: data}, CORPORA[0], 6)
    assert [row.labels for row in table.rows] == [("synthetic", c) for c in (*data.class_names, "all")]
    for i, row in enumerate(table.rows[:4]):
        counts = [int((data.labels[data.splits[s]] == i).sum()) for s in ("train", "test")]
        assert [v.value for v in row.numbers] == [sum(counts), *counts]
    assert [v.value for v in table.rows[4].numbers] == [100, 60, 40]
    assert [row.numbers[0].published for row in table.rows] == [1636, 1103, 1084, 1708, 5531]
    assert [v.published for v in table.rows[4].numbers[1:]] == [4446, 557]
    assert "240" in table.notes[0]
    folds = paper_tables.table1({1: data, 3: data}, None, 6)
    assert [(row.labels[0], row.begins) for row in folds.rows[::5]] == [
        ("synthetic, fold 1", True),
        ("synthetic, fold 3", True),
    ]
    assert all(math.isnan(v.published) for row in folds.rows for v in row.numbers)


def test_what_is_missing_is_said():
    study = replace(
        STUDY, rows=[r for r in rows() if not (r["system"] == "nmer" and r["noise"] == "impulse" and r["seed"])]
    )
    table = paper_tables.table2(study, 6)
    assert table.notes[0] == "Mean and standard deviation of 3 runs (folds x seeds). 4 of 60 results are missing."
    assert math.isnan(values(table)["NMER", "-10 dB", "impulse", "WA"].std)
    assert paper_tables.table2(replace(STUDY, rows=rows((1,))), 6).notes[0] == "Each value is of one run."


def test_a_mean_over_some_of_the_snrs_is_none_over_all():
    """late_fusion has not come to -30 dB with seed 2, and NMER without L_inv not at all: no curve, no average."""
    snrs = (-10.0, -20.0, -30.0)
    lacking = [
        r for r in rows(cells=[("gaussian", snr) for snr in snrs])
        if r["snr_db"] != -30 or not (r["system"] == "nmer_no_inv" or (r["system"] == "late_fusion" and r["seed"] == 2))
    ]  # fmt: skip
    study = replace(STUDY, rows=lacking)
    found = values(supplementary.table_of_robustness(study, "table2", AVERAGE, ("gaussian",)))
    assert math.isnan(found["NMER w/o L_inv", "gaussian", "relative", "WA"].value)
    late = [fmean(expected_scores("late_fusion", "gaussian", snr, AVERAGE)[:2]) for snr in snrs]
    assert found["late fusion", "gaussian", "relative", "WA"].value == pytest.approx(fmean(late))
    unseen = [r | {"noise": "laplace", "trained_snr_db": r["snr_db"]} for r in lacking]
    found = values(supplementary.table_of_unseen(study, "gaussian", unseen))
    assert math.isnan(found["NMER w/o L_inv", "laplace", "WA"].value)
    assert found["late fusion", "laplace", "WA"].value == pytest.approx(fmean(late))
    pooled = supplementary.table_of_pooled(study, "table2", AVERAGE, ("gaussian",))
    assert [row.labels[1] for row in pooled.rows[:3]] == ["MEN", "NMER w/o L_inv, 2 of 3", "late fusion"]
    assert "Of 3:" in pooled.notes[-1]


def test_realised_snr():
    table = supplementary.table_of_snr(STUDY, "table2")
    assert [row.labels for row in table.rows] == [
        ("gaussian", "-10 dB"), ("gaussian", "-20 dB"), ("impulse", "-10 dB"), ("impulse", "-20 dB"), ("missing", "no SNR"),
    ]  # fmt: skip
    assert [v.value for v in table.rows[1].numbers] == pytest.approx([-19.9, -18.9, -17.9])
    assert table.rows[1].numbers[0].std == pytest.approx(0.1)
    assert all(math.isnan(v.value) for v in table.rows[4].numbers)
    assert "5.2 dB weaker" in table.notes[1]
    exact = json.dumps({"noise": {"snr_convention": "exact", "p": 0.3}})
    assert (
        len(supplementary.table_of_snr(replace(STUDY, rows=[r | {"config": exact} for r in STUDY.rows]), "t").notes)
        == 1
    )
    assert len(supplementary.table_of_snr(STUDY.select(["gaussian"]), "t").notes) == 1


def test_seconds():
    found = {row.labels[0]: row.numbers for row in supplementary.table_of_seconds(STUDY, "table2").rows}
    assert [found["NMER"][i].value for i in (0, 1, 2, 3)] == pytest.approx([9 / 4, 3.0, 0.5, 15])
    assert found["MEN"][3].value == 3  # one for each seed
    assert math.isnan(found["MEN"][1].value)


def test_robustness_summaries():
    table = supplementary.table_of_robustness(STUDY, "table2", AVERAGE, STUDY.noises)
    assert [column[0] for column in table.headers] == ["gaussian"] * 4 + ["impulse"] * 4  # missing is no curve
    found = values(table)
    nmer, late = (
        [fmean(expected_scores(s, "gaussian", snr, AVERAGE)) for snr in (-10.0, -20.0)] for s in ("nmer", "late_fusion")
    )
    assert found["NMER", "gaussian", "relative", "WA"].value == pytest.approx(fmean(nmer))
    drops = [
        [a - c for a in x]
        for x, c in (
            (nmer, fmean(expected_scores("nmer", "gaussian", -10.0, "all"))),
            (late, fmean(expected_scores("late_fusion", "gaussian", -10.0, "all"))),
        )
    ]
    assert found["NMER", "gaussian", "effective", "WA"].value == pytest.approx(fmean(drops[0]) - fmean(drops[1]))
    assert found["late fusion", "gaussian", "effective", "UA"].value == 0
    alone = replace(STUDY, rows=[r for r in STUDY.rows if r["system"] == "nmer"])
    without = supplementary.table_of_robustness(alone, "table2", "none", ("gaussian",))
    assert math.isnan(values(without)["NMER", "gaussian", "effective", "WA"].value)
    assert "late_fusion" in without.notes[1]
    one = replace(STUDY, rows=[r for r in STUDY.rows if r["snr_db"] in (-10.0, None)])
    assert supplementary.table_of_robustness(one, "table2", AVERAGE, STUDY.noises) is None


def test_unseen_noise():
    """Trained at an SNR, tested at the same; missing modalities at every SNR that was trained at; MEN at none."""
    unseen = []
    for r in STUDY.rows:
        if r["noise"] == "gaussian" and r["system"] in ("nmer", "men"):
            drop = 0.1 if r["system"] == "nmer" else 0.2
            trained = {"trained_noise": "gaussian", "trained_snr_db": r["snr_db"]}
            if r["system"] == "men":
                trained = {"trained_noise": None, "trained_snr_db": None}
            unseen.append(r | {"noise": "laplace", "wa": r["wa"] - drop} | trained)
            if r["system"] == "nmer" or r["snr_db"] == -10:
                unseen.append(r | {"noise": "missing", "snr_db": None, "wa": r["wa"] - 2 * drop} | trained)
    table = supplementary.table_of_unseen(STUDY.select(["gaussian"]), "gaussian", unseen)
    assert table.headers == [(k, m) for k in ("gaussian, seen", "laplace", "missing") for m in ("WA", "UA")]
    assert [row.labels for row in table.rows] == [("MEN",), ("NMER",)]
    found = values(table)
    nmer = [
        fmean(pair)
        for pair in zip(*(expected_scores("nmer", "gaussian", snr, AVERAGE) for snr in (-10.0, -20.0)), strict=True)
    ]
    assert found["NMER", "gaussian, seen", "WA"].value == pytest.approx(fmean(nmer))
    assert found["NMER", "laplace", "WA"].value == pytest.approx(fmean(nmer) - 0.1)
    assert found["NMER", "missing", "WA"].value == pytest.approx(fmean(nmer) - 0.2)
    assert found["NMER", "missing", "WA"].std == pytest.approx(stdev(nmer))
    men = fmean(expected_scores("men", "gaussian", -10.0, AVERAGE))
    assert found["MEN", "missing", "WA"].value == pytest.approx(men - 0.4)


def test_a_system_of_another_package_needs_no_list():
    """It comes last, has its path for a title and no published value, and is compared with NMER."""
    path = "package.module:Class"
    table = paper_tables.table2(replace(STUDY, rows=[*rows(), *run(path, 0.9)]), 6)
    assert [row.labels[1] for row in table.rows][-1] == path
    cell = values(table)[path, "-10 dB", "gaussian", "WA"]
    assert (cell.value, cell.best, math.isnan(cell.published)) == (pytest.approx(0.9), True, True)

"""The paper's values as they are shipped, and when a data set may stand beside them."""

import math
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from nmer_fast.data import FeatureSet, synthetic
from nmer_fast.data.featureset import Ragged
from nmer_fast.errors import UserError
from nmer_fast.reproducing.published import CORPORA, PAPER_NAMES, corpus_of, lookup, published
from nmer_fast.tables import AVERAGE

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT.parent / "shared" / "facts" / "published_tables.csv"
IEMOCAP, MOSEI = CORPORA


def data(name, classes, modalities=("a", "v", "l")):
    rows = torch.arange(classes)
    return FeatureSet(
        name, {m: Ragged.from_lengths(torch.zeros(classes, 2), torch.ones(classes)) for m in modalities}, rows,
        [str(i) for i in range(classes)], {"train": rows, "test": rows}, [str(i) for i in range(classes)], rows, rows,
    )  # fmt: skip


def test_what_is_shipped_is_the_facts():
    if not FACTS.exists():
        pytest.skip("../shared/facts/published_tables.csv is not here: the shipped copy is not compared with it")
    facts = FACTS.read_text().replace(",avg6,", f",{AVERAGE},")
    assert files("nmer_fast.reproducing").joinpath("published_tables.csv").read_text() == facts


def test_an_installed_package_has_it(tmp_path):
    """As setuptools lays the package out from pyproject.toml."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run([*command, "egg_info", "--egg-base", tmp_path], cwd=ROOT, check=True, capture_output=True)
    shipped = tmp_path / "lib" / "nmer_fast" / "reproducing" / "published_tables.csv"
    assert shipped.read_bytes() == (ROOT / "nmer_fast" / "reproducing" / "published_tables.csv").read_bytes()


def test_each_table_is_whole():
    counts = Counter((key[0], key[1]) for key in published())
    assert counts == {
        (2, "IEMOCAP"): 7 * 8, (2, "CMU-MOSEI"): 7 * 8, (3, "IEMOCAP"): 4 * 7, (3, "CMU-MOSEI"): 4 * 7,
        (4, "IEMOCAP"): 5 * 3, (5, "IEMOCAP"): 5 * 4, (5, "CMU-MOSEI"): 5 * 4,
    }  # fmt: skip
    assert {key[2] for key in published()} == set(PAPER_NAMES.values())
    for pair in published().values():
        assert all(math.isnan(value) or 0.3 < value < 0.9 for value in pair)


def test_table_2_is_the_mean_of_table_3():
    """The paper's own arithmetic, to its rounding, where both can be read; it would find a shifted column."""
    for corpus in CORPORA:
        for snr in (-10.0, -20.0, -30.0, -40.0):
            six = [lookup(3, corpus, "nmer", "gaussian", snr, c) for c in ("a", "v", "l", "av", "al", "vl")]
            mean = [sum(column) / 6 for column in zip(*six, strict=True)]
            for table in (2, 3):
                for value, expected in zip(lookup(table, corpus, "nmer", "gaussian", snr, AVERAGE), mean, strict=True):
                    assert math.isnan(value) or value == pytest.approx(expected, abs=0.003)


def test_lookup():
    assert lookup(2, IEMOCAP, "if_mmin", "impulse", -20.0, AVERAGE) == (0.7589, 0.7719)
    assert lookup(4, IEMOCAP, "unimodal", "gaussian", 0.0, "v only") == (0.5723, 0.5560)
    wa, ua = lookup(2, IEMOCAP, "nmer", "gaussian", -30.0, AVERAGE)
    assert wa == 0.7197
    assert math.isnan(ua)  # it cannot be read
    nothing = [
        lookup(2, None, "nmer", "gaussian", -10.0, AVERAGE),
        lookup(2, IEMOCAP, "late_fusion", "gaussian", -10.0, AVERAGE),
        lookup(2, IEMOCAP, "nmer", "missing", None, AVERAGE),
        lookup(4, MOSEI, "unimodal", "gaussian", -10.0, "a only"),
    ]
    assert all(math.isnan(value) for pair in nothing for value in pair)


@pytest.mark.parametrize(
    ("name", "classes", "corpus"),
    [
        ("iemocap", 4, IEMOCAP), ("my_IEMOCAP-4way", 4, IEMOCAP), ("cmu_mosei", 2, MOSEI),
        ("iemocap", 6, None), ("mosei", 7, None), ("cmu_mosi", 2, None), ("features", 4, None),
    ],
)  # fmt: skip
def test_a_data_set_is_recognised_by_name_and_classes(name, classes, corpus):
    assert corpus_of(data(name, classes), "auto") is corpus
    assert corpus_of(data(name, classes), "none") is None


def test_the_embedded_data_is_not_iemocap():
    assert corpus_of(synthetic(40), "auto") is None


def test_two_modalities_are_not_the_papers_conditions():
    assert corpus_of(data("iemocap", 4, ("a", "v")), "auto") is None


def test_what_one_says_it_is():
    assert corpus_of(data("features", 4), "IEMOCAP") is IEMOCAP
    assert corpus_of(data("iemocap", 2), "CMU-MOSEI") is MOSEI
    with pytest.raises(
        UserError, match=r"^corpus: expected 4 classes and 3 modalities, as in the paper's IEMOCAP, got 6 and 3 in x$"
    ):
        corpus_of(data("x", 6), "IEMOCAP")
    with pytest.raises(UserError, match=r"^corpus: expected 2 classes .* got 2 and 1 in x$"):
        corpus_of(data("x", 2, ("a",)), "CMU-MOSEI")


def test_table_1_adds_up():
    assert sum(MOSEI.samples.values()) == MOSEI.train + MOSEI.test == 20908
    assert sum(IEMOCAP.samples.values()) == 5531
    assert 6 * IEMOCAP.test == 3342  # which stands beside it in the paper

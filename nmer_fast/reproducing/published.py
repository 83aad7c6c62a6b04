"""The values of the paper's tables (arXiv 2311.16114), and the data sets that they belong to."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ..data.published_sizes import TABLE_1
from ..errors import UserError

if TYPE_CHECKING:
    from ..data import FeatureSet

PAPER_NAMES = {
    "men": "MEN",
    "mctn": "MCTN",
    "mmin": "MMIN",
    "if_mmin": "IF-MMIN",
    "nmer": "NMER",
    "nmer_no_vae": "NMER w/o VAE",
    "nmer_no_inv": "NMER w/o Linv",
    "unimodal": "unimodal classifier",
}
"""The paper's names of this package's systems, in the order of its Table 2."""


@dataclass(frozen=True)
class Corpus:
    """One of the paper's two data sets (its Table 1).

    Attributes:
        name: the paper's name.
        word: a word that the names of its files contain.
        samples: the number of samples by class.
        train: the number of training samples.
        test: the number of test samples.
    """

    name: str
    word: str
    samples: Mapping[str, int]
    train: int
    test: int


CORPORA = tuple(
    Corpus(name, word, TABLE_1[name].classes, **TABLE_1[name].splits)
    for name, word in (("IEMOCAP", "iemocap"), ("CMU-MOSEI", "mosei"))
)


def corpus_of(data: FeatureSet, name: str) -> Corpus | None:
    """The paper's data set that the data is, or None.

    Args:
        data: a data set. It is recognised by its name, its number of classes (IEMOCAP has versions with 5 and 6,
            CMU-MOSEI with 3 and 7) and its three modalities. The synthetic data imitates IEMOCAP and is not IEMOCAP.
        name: the paper's name of the data set, whatever the file is called; "none"; or "auto" to recognise it.

    Raises:
        UserError: `name` is one of the paper's, and the data does not have its classes and modalities.
    """
    for corpus in CORPORA:
        fits = len(data.class_names) == len(corpus.samples) and len(data.modalities) == 3
        if name == corpus.name and not fits:
            raise UserError(
                f"corpus: expected {len(corpus.samples)} classes and 3 modalities, as in the paper's {name}, got "
                f"{len(data.class_names)} and {len(data.modalities)} in {data.name}"
            )
        if name == corpus.name or (name == "auto" and fits and corpus.word in data.name.lower()):
            return corpus
    return None


@cache
def published() -> dict[tuple[int, str, str, str, float | None, str], tuple[float, float]]:
    """WA and UA as fractions, by table, data set, system, noise, SNR in dB and condition; NaN where unreadable."""
    text = files(__package__).joinpath("published_tables.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        (int(row["table"]), row["dataset"], row["system"], row["noise"], float(row["snr_db"]), row["condition"]): (
            float(row["wa"] or math.nan),
            float(row["ua"] or math.nan),
        )
        for row in csv.DictReader(lines)
    }


def lookup(
    table: int, corpus: Corpus | None, system: str, noise: str, snr_db: float | None, condition: str
) -> Sequence[float]:
    """WA and UA that the paper gives for one of this package's systems, as fractions; NaN where it gives none."""
    key = (table, corpus.name if corpus else "", PAPER_NAMES.get(system, ""), noise, snr_db, condition)
    return published().get(key, (math.nan, math.nan))

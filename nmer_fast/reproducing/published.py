"""What the paper published (arXiv 2311.16114): its tables' values, and which data set they are of."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..data import FeatureSet
from ..data.loaded import TABLE_1

SYSTEMS = {
    "men": "MEN",
    "mctn": "MCTN",
    "mmin": "MMIN",
    "if_mmin": "IF-MMIN",
    "nmer": "NMER",
    "nmer_no_vae": "NMER w/o VAE",
    "nmer_no_inv": "NMER w/o Linv",
    "unimodal": "unimodal classifier",
}
"""The paper's names of ours, in the order of its Table 2."""
AVERAGE = "avg6"


@dataclass(frozen=True)
class Corpus:
    """One of the paper's two data sets (its Table 1).

    Attributes:
        name: the paper's.
        word: that is in the names of its files.
        samples: by class.
        train: samples.
        test: samples.
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
    """Which of the paper's data sets this is.

    Args:
        data: any. It is recognised by its name, its number of classes (IEMOCAP has versions of 5 and 6, CMU-MOSEI of 3
            and 7) and three modalities; the embedded data, made in IEMOCAP's likeness, is not IEMOCAP.
        name: the paper's, whatever the file is called; "none"; or "auto".

    Raises:
        UserError: data that is called one of them, and cannot be.
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
    """WA and UA, fractions, by table, data set, system, noise, SNR in dB and condition; nan where it cannot be read."""
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
    """WA and UA that the paper gives for a system of ours; nan where it gives none."""
    key = (table, corpus.name if corpus else "", SYSTEMS.get(system, ""), noise, snr_db, condition)
    return published().get(key, (math.nan, math.nan))

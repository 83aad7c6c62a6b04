"""What each change of the preset `recommended` gains, and what NMER's parts do under it.

    OMP_NUM_THREADS=1 python bench/recipe.py [--corpora 11 12 13 14] [--snr -20] [--out bench/results/recipe.csv]

Corpora are made like the embedded one, by other seeds: 510 training utterances as there, and 2,000 to test on. Every
recipe is trained on each of them, so differences are paired. Runs that the CSV has are not done again.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.table import Table

from nmer_fast.config import PRESETS, Config, override
from nmer_fast.data import FeatureSet, Standardiser
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.console import Report
from nmer_fast.engine.evaluation import evaluate
from nmer_fast.engine.run import make_scheduler, revision
from nmer_fast.engine.trainer import train

corpus_module = importlib.import_module("nmer_fast.data.synthetic")
TRAIN, TEST = 510, 2000
KL, DROPOUT, LR, TOKENS = (
    {"model.lambda_kl": 0.005},
    {"model.transformer_dropout": 0.1},
    {"training.lr": 3e-4},
    {"model.tokens": "modality"},
)
RECIPES = {
    "paper": ("paper", {}),
    "+ lambda_kl 0.005": ("paper", KL),
    "+ transformer_dropout 0.1": ("paper", KL | DROPOUT),
    "+ lr 3e-4": ("paper", KL | DROPOUT | LR),
    "recommended (+ tokens modality)": ("recommended", {}),
    "paper, w/o VAE": ("paper", {"model.system": "nmer_no_vae"}),
    "paper, w/o L_inv": ("paper", {"model.system": "nmer_no_inv"}),
    "paper, w/o sampling": ("paper", {"model.system": "nmer_no_sampling"}),
    "recommended, w/o VAE": ("recommended", {"model.system": "nmer_no_vae"}),
    "recommended, w/o L_inv": ("recommended", {"model.system": "nmer_no_inv"}),
    "recommended, w/o sampling": ("recommended", {"model.system": "nmer_no_sampling"}),
}
SCORES = ("wa", "ua", "none_wa", "all_wa")


def corpus(seed: int) -> FeatureSet:
    """Another draw of the embedded corpus."""
    embedded = corpus_module.SEED
    corpus_module.SEED = embedded + 1000 + seed
    try:
        rows = torch.arange(TRAIN + TEST)
        return replace(corpus_module.synthetic(len(rows)), splits={"train": rows[:TRAIN], "test": rows[TRAIN:]})
    finally:
        corpus_module.SEED = embedded


def run(config: Config, raw: FeatureSet) -> dict[str, float]:
    """Train and evaluate."""
    start, device = time.perf_counter(), torch.device("cpu")
    standardiser = Standardiser.fit(raw)
    data = standardiser(raw)
    scheduler = make_scheduler(standardiser.variances, config.noise, config.training.seed)
    trained = train(data, scheduler, config, device, Report(quiet=True))
    batches = Batches(data, device, config.training.batch_size)
    result = evaluate(trained.model, batches, data.splits["test"], scheduler, config.training.seed)
    scores = {"wa": result.average["wa"], "ua": result.average["ua"]}
    scores |= {f"{name}_wa": result.conditions[name].wa for name in ("none", "all")}
    return scores | {"kl": trained.losses[-1].get("kl", 0.0), "seconds": time.perf_counter() - start}


def table(rows: list[dict[str, str]]) -> Table:
    """Means over the corpora, and the paired difference from w/o VAE under the same preset."""
    out = Table(title="average of the six conditions, %, and WA with none and all clean", title_justify="left")
    for column in ("recipe", "WA", "UA", "none", "all", "KL, nats", "WA less w/o VAE's", "corpora", "seconds"):
        out.add_column(column, justify="left" if column == "recipe" else "right", no_wrap=True)
    of = {(row["recipe"], row["corpus"]): row for row in rows}
    for name in RECIPES:
        mine = [row for row in rows if row["recipe"] == name]
        if not mine:
            continue
        reference = "recommended, w/o VAE" if name.startswith("recommended") else "paper, w/o VAE"
        others = [(row, of.get((reference, row["corpus"]))) for row in mine]
        gaps = [100 * (float(row["wa"]) - float(other["wa"])) for row, other in others if other]
        gap = f"{fmean(gaps):+.2f} ± {stdev(gaps) / len(gaps) ** 0.5:.2f}" if len(gaps) > 1 else ""
        means = [f"{100 * fmean(float(row[s]) for row in mine):.2f}" for s in SCORES]
        kl, seconds = (fmean(float(row[s]) for row in mine) for s in ("kl", "seconds"))
        out.add_row(name, *means, f"{kl:.1f}", gap, str(len(mine)), f"{seconds:.0f}")
    out.caption = "±: standard error over the corpora"
    return out


def main() -> None:
    """Do what is left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=int, nargs="+", default=[11, 12, 13, 14])
    parser.add_argument("--snr", type=float, default=-20.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recipe.csv")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    fields = ["recipe", "corpus", "snr_db", *SCORES, "kl", "seconds", "revision"]
    rows = list(csv.DictReader(options.out.open())) if options.out.exists() else []
    done = {(row["recipe"], row["corpus"], row["snr_db"]) for row in rows}
    for seed in options.corpora:
        raw = corpus(seed)
        for name, (preset, changes) in RECIPES.items():
            key = {"recipe": name, "corpus": str(seed), "snr_db": str(options.snr)}
            if tuple(key.values()) in done:
                continue
            config = override(PRESETS[preset], {**changes, "noise.snr_db": options.snr, "training.seed": seed})
            rows.append({**key, **{k: str(v) for k, v in run(config, raw).items()}, "revision": revision()})
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, fields, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    Console(width=140).print(table([row for row in rows if row["snr_db"] == str(options.snr)]))


if __name__ == "__main__":
    main()

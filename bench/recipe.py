"""What each change of the preset `recommended` gains, and what NMER's parts gain under it.

    OMP_NUM_THREADS=1 python bench/recipe.py [--corpora 11 12 13 14] [--snr -20] [--out bench/results/recipe.csv]

The corpora are made like the embedded one, by other seeds: 510 training utterances as there, and 2,000 to test on.
Every recipe is trained on each corpus, so differences are paired. A run that the CSV file has is not done again. Takes
25 minutes for each corpus on one core, with --quick 2 minutes. Writes recipe.csv.
"""

from __future__ import annotations

import csv
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import measure
import torch
from library import (
    PRESETS,
    Batches,
    Config,
    Report,
    evaluate,
    make_scheduler,
    override,
    revision,
    synthetic_module,
    train,
)
from rich.console import Console
from rich.table import Table

from nmer_fast.data import FeatureSet, Standardiser

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
    """The embedded corpus as another seed draws it."""
    embedded = synthetic_module.SEED
    synthetic_module.SEED = embedded + 1000 + seed
    try:
        rows = torch.arange(TRAIN + TEST)
        return replace(synthetic_module.synthetic(len(rows)), splits={"train": rows[:TRAIN], "test": rows[TRAIN:]})
    finally:
        synthetic_module.SEED = embedded


def run(config: Config, raw: FeatureSet) -> dict[str, float]:
    """Train and evaluate: the average of the incomplete conditions, WA of the two extremes, L_KL and seconds."""
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
    """Do the runs that are left, then print the table."""
    parser = measure.parser(__doc__, "one corpus, one epoch of each model, written to build/bench")
    parser.add_argument("--corpora", type=int, nargs="+", default=[11, 12, 13, 14], help="seeds of the corpora")
    parser.add_argument("--snr", type=float, default=-20.0, help="SNR in dB (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the CSV file (default: bench/results/recipe.csv)")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    out = options.out or measure.results(options.quick) / "recipe.csv"
    epochs = {"training.epochs": 1, "training.teacher_epochs": 1} if options.quick else {}
    rows = list(csv.DictReader(out.open())) if out.exists() else []
    done = {(row["recipe"], row["corpus"], row["snr_db"]) for row in rows}
    for seed in options.corpora[:1] if options.quick else options.corpora:
        raw = corpus(seed)
        for name, (preset, changes) in RECIPES.items():
            key = {"recipe": name, "corpus": str(seed), "snr_db": str(options.snr)}
            if tuple(key.values()) in done:
                continue
            every = {**changes, **epochs, "noise.snr_db": options.snr, "training.seed": seed}
            result = run(override(PRESETS[preset], every), raw)
            rows.append({**key, **{k: str(v) for k, v in result.items()}, "revision": revision()})
            measure.write_csv(out, rows)
    Console(width=140).print(table([row for row in rows if row["snr_db"] == str(options.snr)]))


if __name__ == "__main__":
    main()

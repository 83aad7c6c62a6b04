"""Evaluation: every sample under every condition, with the same noise in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_recall,
)

from ..models import NMER
from ..noise import NoiseScheduler
from .batches import Batches

DRAW = 2**31  # training draws are epochs, from 0 up


@dataclass(frozen=True)
class Scores:
    """Metrics of one condition, as fractions.

    Attributes:
        wa: weighted accuracy, the share of samples that are right.
        ua: unweighted accuracy, the mean of the classes' recalls.
        f1: macro F1.
        n: samples.
        confusion: rows are true classes, columns predicted ones.
    """

    wa: float
    ua: float
    f1: float
    n: int
    confusion: list[list[int]]


@dataclass(frozen=True)
class Evaluation:
    """Scores by condition, their average over the incomplete ones, and the SNR that the noise really had."""

    conditions: dict[str, Scores]
    average: dict[str, float]
    snr_db: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For results.json; an infinite or undefined SNR is null."""
        snr_db = {name: snr if abs(snr) < float("inf") else None for name, snr in self.snr_db.items()}
        conditions = {name: vars(scores) for name, scores in self.conditions.items()}
        return {"conditions": conditions, "average6": self.average, "snr_db": snr_db}


def score(predicted: Tensor, labels: Tensor, classes: int) -> Scores:
    """Metrics of predictions [N] against labels [N]; UA and F1 are means over the classes that have samples."""
    there = torch.bincount(labels, minlength=classes) > 0
    return Scores(
        wa=multiclass_accuracy(predicted, labels, classes, average="micro").item(),
        ua=multiclass_recall(predicted, labels, classes, average="none")[there].mean().item(),
        f1=multiclass_f1_score(predicted, labels, classes, average="none")[there].mean().item(),
        n=len(labels),
        confusion=multiclass_confusion_matrix(predicted, labels, classes).tolist(),
    )


@torch.no_grad()
def evaluate(model: NMER, batches: Batches, rows: Tensor, scheduler: NoiseScheduler, seed: int) -> Evaluation:
    """Evaluate under all conditions; each modality is encoded twice, clean and noisy, and reused."""
    model.eval()
    conditions = scheduler.conditions
    rng = torch.tensor([seed, DRAW], device=batches.device)
    predicted: list[Tensor] = []
    stats = torch.zeros(len(conditions.modalities), 4, dtype=torch.float64, device=batches.device)
    for batch in batches.in_order(rows):
        noised = scheduler(
            batch.features, lengths=batch.lengths, sample_ids=batch.sample_ids, rng=rng, condition="none",
            return_stats=True,
        )  # fmt: skip
        assert noised.stats is not None
        stats += noised.stats
        clean = model.encode(batch.features, batch.lengths)
        noisy = model.encode(noised.features, batch.lengths)
        chosen = [torch.where(row[:, None, None], noisy, clean) for row in scheduler.noisy_of_condition]
        predicted.append(torch.stack([model.fuse(encoded, batch).logits.argmax(1) for encoded in chosen]))
    labels = batches.data.labels[rows]
    by_condition = torch.cat(predicted, dim=1).cpu()
    classes = len(batches.data.class_names)
    scores = {name: score(row, labels, classes) for name, row in zip(conditions.names, by_condition, strict=True)}
    incomplete = [scores[name] for name in conditions.names[: conditions.incomplete]]
    average = {metric: fmean(getattr(s, metric) for s in incomplete) for metric in ("wa", "ua", "f1")}
    return Evaluation(scores, average, scheduler.realised_snr_db(stats.cpu()))

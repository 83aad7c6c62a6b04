"""Evaluation: every sample under every condition, with the same noise in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

from ..errors import UserError
from ..models import Batch, Separable, System
from ..noise import NoiseScheduler
from .batches import Batches, add_noise

Predict = Callable[[Batch, dict[str, Tensor], Tensor], Tensor]
"""From a clean batch, its noisy features, and which modalities are noisy, bool [C, M], to logits [C, B, classes]."""

DRAW = 2**31  # training draws are epochs, from 0 up
METRICS = ("wa", "ua", "f1")


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
    """Scores by condition, their average over the incomplete ones (if any), and the SNR that the noise really had."""

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


def evaluate(
    model: System,
    batches: Batches,
    rows: Tensor,
    scheduler: NoiseScheduler,
    seed: int,
    *,
    conditions: Sequence[str] | None = None,
    allow_leak: bool = False,
) -> Evaluation:
    """Evaluate a system under all conditions, or some; it is left in eval mode.

    Raises:
        UserError: an unknown condition, or a system whose predictions depend on batch mates and no `allow_leak`.
    """
    if model.leaks and not allow_leak:
        raise UserError(
            "tokens: in evaluation, model.tokens=batch lets a prediction depend on its batch mates; expected "
            "--allow-leak, or a model of other tokens"
        )
    if not model.leaks and not batches.padding:  # else predictions depend on which samples are together
        rows = batches.by_length(rows)
    return measure(of_system(model), batches, rows, scheduler, seed, conditions)


def of_system(model: System) -> Predict:
    """A separable system encodes each modality twice, clean and noisy, for all conditions; others run once for each."""
    model.eval()
    if not isinstance(model, Separable):
        return lambda batch, noisy, is_noisy: torch.stack(
            [model(replace(batch, features=_mixed(batch.features, noisy, row))).logits for row in is_noisy]
        )

    def predict(batch: Batch, noisy: dict[str, Tensor], is_noisy: Tensor) -> Tensor:
        clean = model.encode(batch.features, batch.lengths)
        noised = model.encode(noisy, batch.lengths)
        chosen = (torch.where(row.view(-1, *[1] * (clean.dim() - 2)), noised, clean) for row in is_noisy)
        return torch.stack([model.fuse(encoded, batch).logits for encoded in chosen])

    return predict


def _mixed(clean: dict[str, Tensor], noisy: dict[str, Tensor], is_noisy: Tensor) -> dict[str, Tensor]:
    """Features of a condition, is_noisy [M]; none is read by the host."""
    return {name: torch.where(bad, noisy[name], clean[name]) for name, bad in zip(clean, is_noisy, strict=True)}


@torch.no_grad()
def measure(
    predict: Predict,
    batches: Batches,
    rows: Tensor,
    scheduler: NoiseScheduler,
    seed: int,
    conditions: Sequence[str] | None = None,
) -> Evaluation:
    """Every sample under every condition named (by default all), with the same noise in all of them."""
    known = scheduler.conditions
    names = list(dict.fromkeys(conditions or known.names))
    try:
        is_noisy = scheduler.noisy_of_condition[[known.index(name) for name in names]]
    except ValueError as error:
        raise UserError(str(error)) from None
    rng, classes = torch.tensor([seed, DRAW], device=batches.device), len(batches.data.class_names)
    predicted: list[Tensor] = []
    stats = torch.zeros(len(known.modalities), 5, dtype=torch.float64, device=batches.device)
    for batch in batches.in_order(rows):
        noised = add_noise(scheduler, batch, rng, "none")
        assert noised.stats is not None
        stats += noised.stats
        logits = predict(batch, noised.features, is_noisy)
        _check_logits(logits, len(batch.labels), classes)
        predicted.append(logits.argmax(2))
    labels = batches.data.labels[rows]
    by_condition = torch.cat(predicted, dim=1).cpu()
    scores = {name: score(row, labels, classes) for name, row in zip(names, by_condition, strict=True)}
    incomplete = [scores[name] for name in known.names[: known.incomplete] if name in scores]
    average = {metric: fmean(getattr(s, metric) for s in incomplete) for metric in METRICS} if incomplete else {}
    return Evaluation(scores, average, scheduler.realised_snr_db(stats.cpu()))


def _check_logits(logits: Tensor, batch: int, classes: int) -> None:
    """What a model gave: [C, B, classes], of numbers."""
    expected = f"model: expected logits [{batch}, {classes}], a finite one for each sample and class, got"
    if logits.shape[1:] != (batch, classes):
        raise UserError(f"{expected} {list(logits.shape[1:])}")
    if not torch.isfinite(logits).all():
        raise UserError(f"{expected} nan or infinity")

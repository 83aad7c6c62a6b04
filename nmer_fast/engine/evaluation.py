"""Evaluation: every sample is evaluated under every condition; a sample has the same noise in all conditions."""

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
"""A function from a clean batch, its noisy features by modality, and the noisy modalities of each condition (bool
[C, M]) to logits [C, B, classes]."""

EVALUATION_DRAW = 2**31  # the noise draw of evaluation; training's draws are the epochs, from 0
METRICS = ("wa", "ua", "f1")


@dataclass(frozen=True)
class Scores:
    """The metrics of one condition, as fractions.

    Attributes:
        wa: the weighted accuracy (WA), the share of samples that are classified correctly.
        ua: the unweighted accuracy (UA), the mean of the classes' recalls.
        f1: the macro F1 score, the mean of the classes' F1 scores.
        n: the number of samples.
        confusion: the confusion matrix; rows are true classes, columns are predicted classes.
    """

    wa: float
    ua: float
    f1: float
    n: int
    confusion: list[list[int]]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        conditions: the scores by condition.
        average: the average of WA, UA and F1 over the incomplete conditions, by metric; empty without any.
        snr_db: the realised SNR of the noise in dB, by modality.
    """

    conditions: dict[str, Scores]
    average: dict[str, float]
    snr_db: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the contents for results.json; an infinite or undefined SNR is null."""
        snr_db = {name: snr if abs(snr) < float("inf") else None for name, snr in self.snr_db.items()}
        conditions = {name: vars(scores) for name, scores in self.conditions.items()}
        # "average6": the name of version 0.1 for the average over the incomplete conditions, of any number
        return {"conditions": conditions, "average6": self.average, "snr_db": snr_db}


def score(predicted: Tensor, labels: Tensor, classes: int) -> Scores:
    """Compute the metrics of predictions [N] against labels [N]; UA and F1 average over classes that have samples."""
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
    """Evaluate a system under all conditions or some of them; the system stays in eval mode.

    Args:
        model: the system.
        batches: the data loader of the evaluated set.
        rows: the rows that are evaluated, int64 [N].
        scheduler: the noise.
        seed: the seed of the noise.
        conditions: the names of the conditions; by default all.
        allow_leak: whether a system is accepted whose predictions depend on the other samples of the batch.

    Raises:
        UserError: a condition is unknown, or predictions depend on the other samples of the batch and `allow_leak` is
            not set.
    """
    if model.depends_on_batch and not allow_leak:
        raise UserError(
            "tokens: in evaluation, model.tokens=batch lets a prediction depend on its batch mates; expected "
            "--allow-leak, or a model of other tokens"
        )
    if not model.depends_on_batch and not batches.padding:  # then predictions do not depend on how batches are made
        rows = batches.by_length(rows)
    return evaluate_predictor(predictor_of(model), batches, rows, scheduler, seed, conditions)


def predictor_of(model: System) -> Predict:
    """Return the prediction function of a system.

    A `Separable` system encodes each modality twice, clean and noisy, and reuses that in all conditions. Any other
    system runs once for each condition.
    """
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
    """Select the clean or the noisy features of each modality by is_noisy [M], without a host sync."""
    return {name: torch.where(bad, noisy[name], clean[name]) for name, bad in zip(clean, is_noisy, strict=True)}


@torch.no_grad()
def evaluate_predictor(
    predict: Predict,
    batches: Batches,
    rows: Tensor,
    scheduler: NoiseScheduler,
    seed: int,
    conditions: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate a prediction function under the named conditions (by default all).

    A sample has the same noise in all conditions.

    Raises:
        UserError: a condition is unknown, or the logits have a wrong shape or are not finite.
    """
    known = scheduler.conditions
    names = list(dict.fromkeys(conditions or known.names))
    try:
        is_noisy = scheduler.noisy_of_condition[[known.index(name) for name in names]]
    except ValueError as error:
        raise UserError(str(error)) from None
    rng, classes = torch.tensor([seed, EVALUATION_DRAW], device=batches.device), len(batches.data.class_names)
    predicted: list[Tensor] = []
    stats = torch.zeros(len(known.modalities), 5, dtype=torch.float64, device=batches.device)
    for batch in batches.sequential(rows):
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
    """Refuse logits that are not finite or do not have the shape [C, B, classes]."""
    expected = f"model: expected logits [{batch}, {classes}], a finite one for each sample and class, got"
    if logits.shape[1:] != (batch, classes):
        raise UserError(f"{expected} {list(logits.shape[1:])}")
    if not torch.isfinite(logits).all():
        raise UserError(f"{expected} nan or infinity")

"""Evaluation of a model under every noise, SNR and condition: the model of a run, or any user's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import Config, NoiseConfig, override
from ..data import FeatureSet
from ..errors import UserError
from ..models import Batch
from ..noise import variance
from .batches import Batches
from .evaluation import evaluate, evaluate_predictor
from .inputs import make_scheduler, unchanged_torch_state
from .robustness_table import Point, Robustness
from .trained_model import TrainedModel


def robustness_of_run(
    trained: TrainedModel,
    data: FeatureSet,
    noises: Sequence[NoiseConfig],
    device: torch.device,
    *,
    conditions: Sequence[str] | None = None,
    allow_leak: bool = False,
) -> Robustness:
    """Evaluate the model of a run on the test split under each noise.

    Args:
        trained: the model, on the device.
        data: the standardised samples that `TrainedModel.data` returns.
        noises: the noises, in the order of the table.
        device: the device of the features.
        conditions: the conditions, each named by its clean modalities, such as ["av", "none"]; by default all.
        allow_leak: whether a model is accepted whose predictions depend on the other samples of the batch.

    Raises:
        UserError: a condition is unknown, or predictions depend on the other samples of the batch and `allow_leak` is
            not set.
    """
    config, seed = trained.config, trained.config.training.seed
    points = []
    with unchanged_torch_state(device):
        batches = Batches(data, device, config.training.batch_size, padding=config.noise.padding)
        for noise in noises:
            scheduler = make_scheduler(trained.standardiser.variances, noise, seed).to(device)
            evaluation = evaluate(
                trained.model, batches, data.splits["test"], scheduler, seed, conditions=conditions,
                allow_leak=allow_leak,
            )  # fmt: skip
            points.append(Point(noise, evaluation))
    return Robustness(f"{config.model.system} on {data.name}, test, epoch {trained.state['epoch']}", points)


def noise_changes(base: NoiseConfig, kinds: Sequence[str], ratios: Sequence[float]) -> list[dict[str, Any]]:
    """Return the changed config fields (by section.field) for each combination of a kind and an SNR.

    Missing modalities have no SNR, so they give one entry.

    Args:
        base: the noise whose kind is used if `kinds` is empty.
        kinds: the kinds of noise.
        ratios: the SNRs in dB; if empty, the SNR is not changed.
    """
    out: list[dict[str, Any]] = []
    for kind in kinds or (base.kind,):
        if kind == "missing":
            out.append({"noise.kind": kind})
        else:
            out += [{"noise.kind": kind, "noise.snr_db": snr} for snr in ratios] or [{"noise.kind": kind}]
    return out


def robustness(
    model: Callable[..., Tensor],
    dataset: FeatureSet,
    *,
    noise: str | Sequence[str] = ("gaussian",),
    snr_db: float | Sequence[float] = (-10.0, -20.0, -30.0, -40.0),
    conditions: str | Sequence[str] | None = None,
    p: float = 0.3,
    snr_convention: str = "exact",
    with_lengths: bool = False,
    split: str = "test",
    batch_size: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Robustness:
    """Evaluate any model under every noise, SNR and condition; a sample has the same noise in all conditions.

    Args:
        model: the function from noisy features (a dict from modalities to tensors [B, T, D], 0 beyond a sample's
            length) to logits [B, classes]. A module is in eval mode during the call.
        dataset: the samples, as returned by `nmer_fast.data.load_npz`, with features scaled for the model.
        noise: one or more of "gaussian", "impulse", "uniform", "laplace", "missing".
        snr_db: one or more signal-to-noise ratios in dB, relative to each modality's variance on the train split (on
            the evaluated split, if there is no train split).
        conditions: one or more conditions, each named by its clean modalities, such as ["av", "none"]; by default all.
        p: the probability of an impulse, for impulse noise only.
        snr_convention: the noise power that an SNR is computed with: "exact" uses the noise's actual power, "paper"
            assumes a power of 1.
        with_lengths: whether the model is called as model(features, lengths), where `lengths` is a dict from
            modalities to the valid steps of each sample, int64 [B].
        split: the split that is evaluated.
        batch_size: the maximum number of samples in a batch.
        seed: the seed of the noise.
        device: the device of the features.

    Returns:
        the scores under each noise: print it, or use `.rows()`, `.write(path)`, `.points`.

    Raises:
        UserError: one line that names the wrong argument.
    """
    if split not in dataset.splits:
        raise UserError(f"split: expected one of {', '.join(dataset.splits)}, got {split!r}")
    settings = {"noise.p": p, "noise.snr_convention": snr_convention}
    settings |= {"training.batch_size": batch_size, "training.seed": seed}
    base = override(Config(), settings)
    kinds, ratios, names = _several(noise), _several(snr_db), None if conditions is None else _several(conditions)
    measured = dataset.splits.get("train", dataset.splits[split])
    variances = {name: variance(ragged.take(measured).values) for name, ragged in dataset.modalities.items()}
    batches, points = Batches(dataset, torch.device(device), batch_size), []

    def predict(batch: Batch, noisy: dict[str, Tensor], is_noisy: Tensor) -> Tensor:
        logits = []
        for row in is_noisy.tolist():
            chosen = {m: noisy[m] if bad else batch.features[m] for m, bad in zip(noisy, row, strict=True)}
            logits.append(model(chosen, batch.lengths) if with_lengths else model(chosen))
        return torch.stack(logits)

    was_training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        for change in noise_changes(base.noise, kinds, ratios):
            config = override(base, change)
            scheduler = make_scheduler(variances, config.noise, seed).to(batches.device)
            evaluation = evaluate_predictor(predict, batches, dataset.splits[split], scheduler, seed, names)
            points.append(Point(config.noise, evaluation))
    finally:
        if isinstance(model, torch.nn.Module):
            model.train(was_training)
    return Robustness(f"{dataset.name}, {split}", points)


def _several(given: Any) -> tuple[Any, ...]:
    """Return one value or a sequence of values as a tuple."""
    return (given,) if isinstance(given, (str, int, float)) else tuple(given)

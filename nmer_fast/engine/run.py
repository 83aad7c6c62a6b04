"""One run from data to checkpoint: what the commands train and evaluate share."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..data import FeatureSet, Standardiser, load_npz, synthetic
from ..errors import UserError
from ..models import NMER, NMERConfig
from ..noise import NoiseScheduler
from .checkpoint import load_checkpoint, save_checkpoint
from .trainer import Recipe, Trained


def load_data(source: str, size: int | None, difficulty: float) -> FeatureSet:
    """The data set that --data names."""
    if source == "synthetic":
        return synthetic(difficulty=difficulty) if size is None else synthetic(size, difficulty)
    return load_npz(source)


def pick_device(name: str) -> torch.device:
    """The device that --device names; auto is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: expected one that is here, got {name!r}: {str(error).splitlines()[0]}") from None
    return device


def make_scheduler(
    variances: Mapping[str, float],
    *,
    noise: str,
    snr: float | None,
    steps: Mapping[str, int] | None,
    p: float,
    snr_convention: str,
    seed: int,
) -> NoiseScheduler:
    """The command line's noise; errors are the user's."""
    if snr is not None and not math.isfinite(snr):
        raise UserError(f"snr: expected a finite number of decibels, got {snr}")
    try:
        return NoiseScheduler(
            variances, snr_db=snr, steps=steps, kind=noise, p=p, snr_convention=snr_convention, seed=seed
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def save_run(
    folder: Path,
    trained: Trained,
    data: FeatureSet,
    standardiser: Standardiser,
    recipe: Recipe,
    options: Mapping[str, Any],
) -> Path:
    """The checkpoint: weights and standardisation, and all that evaluation needs to know."""
    tensors = {f"model.{name}": t for name, t in trained.model.state_dict().items()}
    for name in data.modalities:
        tensors |= {f"mean.{name}": standardiser.mean[name], f"std.{name}": standardiser.std[name]}
    state = {
        "system": "nmer",
        "data": {"name": data.name, "dims": data.dims, "class_names": data.class_names},
        "variances": standardiser.variances,
        "recipe": asdict(recipe),
        "options": dict(options),
        "epoch": trained.epoch,
        "versions": versions(),
    }
    return save_checkpoint(folder, tensors, state)


def load_run(path: Path, device: torch.device) -> tuple[NMER, Standardiser, dict[str, Any]]:
    """The model (in eval mode), its standardisation, and the checkpoint's state."""
    tensors, state = load_checkpoint(path)
    dims, classes = state["data"]["dims"], len(state["data"]["class_names"])
    model = NMER(dims, classes, NMERConfig(**state["recipe"]["model"]))
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights)
    standardiser = Standardiser(
        mean={name: tensors[f"mean.{name}"] for name in dims},
        std={name: tensors[f"std.{name}"] for name in dims},
        variances=state["variances"],
    )
    return model.to(device).eval(), standardiser, state


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration."""
    return {
        "nmer_fast": version("nmer_fast"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }

"""Saving and loading of trained models: weights, standardisation, config and everything else evaluation needs."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..config import Config, DataConfig, from_dict
from ..data import FeatureSet, Standardiser
from ..errors import UserError
from ..models import System, make_system
from .checkpoint import MODEL, load_checkpoint, save_checkpoint
from .fit import select_prefix
from .inputs import load_data, unchanged_torch_state
from .trainer import Trained


@dataclass(frozen=True)
class TrainedModel:
    """The trained model of a run.

    Attributes:
        model: the system, in eval mode, on the device that it was loaded to.
        standardiser: the standardisation of the training data.
        config: the run's config.
        state: the other contents of checkpoint.json: `data`, `epoch`, `fingerprint`, `versions`.
    """

    model: System
    standardiser: Standardiser
    config: Config
    state: Mapping[str, Any]

    def data(self, where: DataConfig, *, own: bool, say: Callable[[str], None] = lambda line: None) -> FeatureSet:
        """Load data for the model, standardised as in training; a modality that the data lack is absent in all samples.

        Args:
            where: the source of the samples.
            own: whether the source is the one that the model was trained on.
            say: the function that receives, line by line, remarks on the contents of the file.

        Raises:
            UserError: the data have other classes than the model, or the training data have changed since training.
        """
        raw, classes = load_data(where, say), self.state["data"]["class_names"]
        numbers = [str(i) for i in range(len(raw.class_names))]
        unnamed = raw.class_names == numbers and len(numbers) <= len(classes)
        if raw.class_names != classes and not unnamed:
            raise UserError(f"{raw.name}: expected the classes {classes}, got {raw.class_names}")
        data = self.standardiser(replace(raw.with_absent(self.state["data"]["dims"]), class_names=classes))
        data = data.with_context(where.context)
        if own and data.fingerprint() != self.state["fingerprint"]:
            raise UserError(f"{where.source}: expected the data that the model was trained on, got other contents")
        return data


def save_model(
    folder: Path, trained: Trained, data: FeatureSet, standardiser: Standardiser, state: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of a trained model.

    Args:
        folder: the run's folder.
        trained: the result of training.
        data: the standardised training data.
        standardiser: the standardisation of the training data.
        state: the run's config and its data's fingerprint.

    Returns:
        the path of checkpoint.json.
    """
    tensors = {f"model.{name}": t for name, t in trained.model.state_dict().items()}
    for name in data.modalities:
        tensors |= {f"mean.{name}": standardiser.mean[name], f"std.{name}": standardiser.std[name]}
    about = {
        "system": state["config"]["model"]["system"],
        "data": {"name": data.name, "dims": data.dims, "class_names": data.class_names},
        "variances": standardiser.variances,
        "epoch": trained.epoch,
        "versions": versions(),
    }
    return save_checkpoint(folder, MODEL, tensors, {**state, **about})


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Load a trained model from a run's folder, or from its checkpoint.json.

    Raises:
        UserError: one line, if the checkpoint is missing or damaged, or does not fit the system that it names.
    """
    tensors, state = load_checkpoint(path)
    try:
        config = from_dict(state["config"], f"{path}: ")
        dims, classes = state["data"]["dims"], len(state["data"]["class_names"])
        with unchanged_torch_state(device):
            model = make_system(dims, classes, config.model)
        model.load_state_dict(select_prefix(tensors, "model."))
        mean, std = select_prefix(tensors, "mean."), select_prefix(tensors, "std.")
        standardiser = Standardiser({m: mean[m] for m in dims}, {m: std[m] for m in dims}, state["variances"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: expected a checkpoint of a whole model, got one that does not fit: {reason}"
        ) from None
    return TrainedModel(model.to(device).eval(), standardiser, config, state)


def versions() -> dict[str, str]:
    """Return the versions of the code, its libraries and the machine, which results may depend on."""
    return {
        "nmer_fast": version("nmer_fast"),
        "revision": revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


@cache
def revision() -> str:
    """Return the code's revision from `git describe`, or the package's version if the code is not in a checkout."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty"]
    if (root / ".git").exists():
        with suppress(OSError):
            described = subprocess.run(command, capture_output=True, text=True)
            if described.returncode == 0:
                return described.stdout.strip()
    return version("nmer_fast")

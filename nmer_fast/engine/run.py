"""One run from data to checkpoint: what the commands train and evaluate share."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..config import Config, DataConfig, NoiseConfig, from_dict
from ..data import FeatureSet, Standardiser, load, synthetic
from ..data.synthetic import DEFAULT_SIZE
from ..errors import UserError
from ..models import System, make_system
from ..noise import NoiseSchedule, NoiseScheduler
from .checkpoint import MODEL, load_checkpoint, save_checkpoint
from .fit import part
from .memory import check_synthetic
from .trainer import Trained


def load_data(config: DataConfig, say: Callable[[str], None] = lambda line: None) -> FeatureSet:
    """The data set of a config, if it fits into memory; what is found in other people's files is said."""
    if config.source == "synthetic":
        size = config.size or DEFAULT_SIZE
        check_synthetic(size)
        return synthetic(size, config.difficulty)
    data, findings = load(config.source, config.fold, format=config.format, binarise=config.binarise)
    for line in findings.told():
        say(line)
    return data


def pick_device(name: str) -> torch.device:
    """The device that --device names; auto is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: expected one that is here, got {name!r}: {str(error).splitlines()[0]}") from None
    return device


def make_scheduler(variances: Mapping[str, float], noise: NoiseConfig, seed: int) -> NoiseScheduler:
    """A config's noise; errors are the user's."""
    try:
        return NoiseScheduler(
            variances, snr_db=noise.snr_db, steps=noise.steps, kind=noise.kind, p=noise.p,
            snr_convention=noise.snr_convention, seed=seed,
            schedule=NoiseSchedule(noise.schedule, noise.beta_start, noise.beta_end, noise.length),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from None


def check_fits(data: FeatureSet, config: Config) -> None:
    """Refuse what config and data together make impossible; the model without memory, on the meta device."""
    if config.training.select == "best" and "val" not in data.splits:
        raise UserError(f"select: expected a val split to choose the best epoch on, {data.name} has none; use last")
    if len(data.class_names) < 2:
        raise UserError(
            f"{data.name}: label: expected two classes or more, got {', '.join(data.class_names) or 'none'}"
        )
    rows = len(data.splits["train"])
    smallest = rows // -(-rows // config.training.batch_size)
    if config.model.classifier_batch_norm and smallest < 2:
        raise UserError(
            f"model.classifier_batch_norm: expected batches of 2 or more training samples, got {rows} samples in "
            f"batches of {config.training.batch_size}, one of them of {smallest}"
        )
    with torch.device("meta"):
        model = make_system(data.dims, len(data.class_names), config.model)
    if model.leaks and not config.training.allow_leak:
        raise UserError(
            "tokens: model.tokens=batch (released code) lets a prediction depend on its batch mates; expected "
            "--allow-leak to evaluate so all the same, or --set model.tokens=one"
        )


def save_run(
    folder: Path, trained: Trained, data: FeatureSet, standardiser: Standardiser, state: Mapping[str, Any]
) -> Path:
    """The checkpoint: weights and standardisation, and all that evaluation needs to know.

    `state` is the run's config and its data's fingerprint.
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


def load_run(path: Path, device: torch.device) -> tuple[System, Standardiser, Config, dict[str, Any]]:
    """The model (in eval mode), its standardisation, its config, and the checkpoint's state.

    Raises:
        UserError: one line, if the checkpoint is missing, damaged, or not of this model.
    """
    tensors, state = load_checkpoint(path)
    try:
        config = from_dict(state["config"], f"{path}: ")
        dims, classes = state["data"]["dims"], len(state["data"]["class_names"])
        model = make_system(dims, classes, config.model)
        model.load_state_dict(part(tensors, "model."))
        mean, std = part(tensors, "mean."), part(tensors, "std.")
        standardiser = Standardiser({m: mean[m] for m in dims}, {m: std[m] for m in dims}, state["variances"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: expected a checkpoint of a whole model, got one that does not fit: {reason}"
        ) from None
    return model.to(device).eval(), standardiser, config, state


def prepare(
    where: DataConfig,
    standardiser: Standardiser,
    state: Mapping[str, Any],
    *,
    own: bool,
    say: Callable[[str], None] = lambda line: None,
) -> FeatureSet:
    """Data for a trained model, standardised as it was; modalities that are lacking are absent in every sample.

    Args:
        where: which samples.
        standardiser: the model's.
        state: the checkpoint's.
        own: they are those that it was trained on.
        say: is told what is found in other people's files.

    Raises:
        UserError: other classes than the model's; or its own data, with other contents than then.
    """
    raw, classes = load_data(where, say), state["data"]["class_names"]
    unnamed = raw.class_names == [str(i) for i in range(len(raw.class_names))] and len(raw.class_names) <= len(classes)
    if raw.class_names != classes and not unnamed:
        raise UserError(f"{raw.name}: expected the classes {classes}, got {raw.class_names}")
    data = standardiser(replace(raw.with_absent(state["data"]["dims"]), class_names=classes))
    data = data.with_context(where.context)
    if own and data.fingerprint() != state["fingerprint"]:
        raise UserError(f"{where.source}: expected the data that the model was trained on, got other contents")
    return data


def versions() -> dict[str, str]:
    """What a result depends on besides its configuration."""
    return {
        "nmer_fast": version("nmer_fast"),
        "revision": revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


@cache
def revision() -> str:
    """The checkout that this code is from, as git describes it, else the package's version."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty"]
    if (root / ".git").exists():
        with suppress(OSError):
            described = subprocess.run(command, capture_output=True, text=True)
            if described.returncode == 0:
                return described.stdout.strip()
    return version("nmer_fast")

"""The inputs of a run: its data set, device and noise, and the check that they fit together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config import Config, DataConfig, NoiseConfig, override
from ..data import FeatureSet, load, synthetic
from ..data.synthetic import DEFAULT_SIZE
from ..errors import UserError
from ..models import System, make_system
from ..noise import NoiseSchedule, NoiseScheduler
from .memory import check_synthetic


def load_data(config: DataConfig, say: Callable[[str], None] = lambda line: None) -> FeatureSet:
    """Load the data set that a config names.

    Args:
        config: the source of the samples and its options.
        say: the function that receives, line by line, remarks on the contents of the file.

    Raises:
        UserError: the data cannot be read, or do not fit into memory.
    """
    if config.source == "synthetic":
        size = config.size or DEFAULT_SIZE
        check_synthetic(size)
        return synthetic(size, config.difficulty)
    data, findings = load(config.source, config.fold, format=config.format, binarise=config.binarise)
    for line in findings.told():
        say(line)
    return data


def pick_device(name: str) -> torch.device:
    """Return the device that --device names; "auto" means CUDA if a GPU is available and the CPU otherwise.

    Raises:
        UserError: the device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise UserError(f"device: expected cpu, cuda, cuda:N or auto, got {name!r}")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: expected one that is here, got {name!r}: {str(error).splitlines()[0]}") from None
    return device


def make_scheduler(variances: Mapping[str, float], noise: NoiseConfig, seed: int) -> NoiseScheduler:
    """Make the noise scheduler of a config.

    Args:
        variances: the variance of each modality's features on the train split.
        noise: the noise settings.
        seed: the seed of the conditions and the noise.

    Raises:
        UserError: the settings do not fit the modalities or contradict each other.
    """
    try:
        return NoiseScheduler(
            variances, snr_db=noise.snr_db, steps=noise.steps, kind=noise.kind, p=noise.p,
            snr_convention=noise.snr_convention, seed=seed,
            schedule=NoiseSchedule(noise.schedule, noise.beta_start, noise.beta_end, noise.length),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from None


def check_fits(data: FeatureSet, config: Config) -> System:
    """Refuse a config that does not fit the data. The model is constructed on the meta device, which takes no memory.

    Returns:
        the model, on the meta device.

    Raises:
        UserError: one line that names the setting that does not fit.
    """
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
    if model.depends_on_batch and not config.training.allow_leak:
        raise UserError(
            "tokens: model.tokens=batch (released code) lets a prediction depend on its batch mates; expected "
            "--allow-leak to evaluate so all the same, or --set model.tokens=one"
            if getattr(config.model, "tokens", None) == "batch"
            else f"model.system: {config.model.system} lets a prediction depend on its batch mates; expected "
            "--allow-leak to evaluate so all the same, or another system"
        )
    return model


def data_to_evaluate(config: Config, source: str | None = None, fold: int | None = None) -> tuple[DataConfig, bool]:
    """Return the data config that a trained model is evaluated on, and whether it is the model's training data.

    The data that the model was trained on keep their fold, because the test samples of the other folds were used in
    training.

    Args:
        config: the config of the training run.
        source: the file or folder, or "synthetic"; by default the source that the model was trained on.
        fold: the fold of that source, from 1.

    Raises:
        UserError: a fold of the training data other than the model's own is requested.
    """
    own = config.data
    if source is None:
        return own, True
    if source == own.source or (own.source != "synthetic" and Path(source).resolve() == Path(own.source)):
        if fold not in (None, own.fold or 1):
            raise UserError(
                f"fold: expected {own.fold or 1}, which the model was trained on, got {fold}, "
                "whose test samples it has seen"
            )
        return own, True
    other = {"data.source": source, "data.fold": fold, "data.size": None, "data.difficulty": DataConfig.difficulty}
    return override(config, other).data, False


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's generator and the device's; other devices' generators stay as they are."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def unchanged_torch_state(device: torch.device) -> Iterator[None]:
    """Run a block with the torch defaults that training expects, and restore the caller's state afterwards.

    The restored state is the default dtype, the number of threads, and the random generators of the CPU and the device.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

"""The runs of a grid, each with its name, its options for train, and the noises that it is evaluated under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .. import train
from ..config import Config, NoiseConfig, describe_ratio
from ..errors import UserError
from ..models.registry import system_class

DEFINITION = "sweep.json"
"""The file of a sweep's folder that holds what the runs share."""
AXES = ("model.system", "model.modality", "noise.kind", "noise.snr_db", "noise.steps", "data.fold", "training.seed")
"""The fields in which runs of one sweep may differ."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        options: for train, with a new folder.
        config: that they make.
        noises: that it is evaluated under once it is trained, where it is trained on complete data; else empty, for it
            is trained and evaluated under the one noise of its config.
    """

    options: train.Options
    config: Config
    noises: tuple[NoiseConfig, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the run."""
        assert self.options.out is not None
        return self.options.out

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name


def make_jobs(
    base: Mapping[str, Any],
    folder: Path,
    systems: Sequence[str],
    kinds: Sequence[str],
    ratios: Sequence[float],
    folds: Sequence[int],
    seeds: Sequence[int],
) -> list[Job]:
    """Every run of systems x noises x folds x seeds, seed by seed; an empty axis is what `base` makes of it.

    Args:
        base: train's other options.
        folder: of the runs.
        systems: names of `nmer_fast.models.SYSTEMS`; `unimodal` with its modality, as `unimodal.a`. One that is trained
            on complete data has a single run for each fold and seed, whose noise only chooses the epoch where there is
            a val split: that of `base`.
        kinds: of noise; missing modalities have no SNR.
        ratios: SNRs in dB.
        folds: of the data.
        seeds: of the runs.

    Raises:
        UserError: one line that names what is wrong.
    """
    axes = {"systems": systems, "noise": kinds, "snr": ratios, "folds": folds, "seeds": seeds}
    for axis, values in axes.items():
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise UserError(f"{axis}: expected different ones, got {twice[0]} twice")
    if tuple(kinds) == ("missing",) and ratios:
        raise UserError(f"snr: expected none with missing modalities alone, where nothing is left, got {ratios[0]:g}")
    noises: list[dict[str, Any]] = [
        {"noise": kind, "snr": snr}
        for kind in kinds or (None,)
        for snr in ((None,) if kind == "missing" else ratios or (None,))
    ]

    jobs: list[Job] = []
    for seed, fold, system in product(seeds or (None,), folds or (None,), systems):
        name, dot, modality = system.partition(".")
        run = {**base, "system": name, "fold": fold, "seed": seed}
        if dot:
            run["settings"] = (*base["settings"], f"model.modality={modality}")
        complete = system_class(name).complete
        evaluated = tuple(_config(run | noise).noise for noise in noises) if complete else ()
        for noise in [{}] if complete else noises:
            config = _config(run | noise)
            options = train.Options(**run, **noise, out=folder / _name(config, complete))
            jobs.append(Job(options, config, evaluated))
    return jobs


def _config(options: Mapping[str, Any]) -> Config:
    """What train makes of options."""
    return train.from_anywhere(train.config_of(train.Options(**options)))


def _name(config: Config, complete: bool) -> str:
    """Of a run's folder, by the axes; made of its config, so that a default has the name of what it stands for."""
    parts = [name_system(config.model.system, config.model.modality)]
    if not complete:
        parts += [config.noise.kind, *name_strength(config.noise)]
    if config.data.fold is not None:
        parts.append(f"fold{config.data.fold}")
    return "_".join([*parts, f"seed{config.training.seed}"])


def name_system(system: str, modality: str | None) -> str:
    """A system in a name: with its modality, if it has one alone."""
    return system if modality is None else f"{system}.{modality}"


def name_strength(noise: NoiseConfig) -> list[str]:
    """The SNR, or that there are steps instead, in a name."""
    if noise.snr_db is not None:
        return [describe_ratio(noise.snr_db).replace(", ", "_").replace(" ", "") + "dB"]
    return [] if noise.steps is None else ["steps"]


def difference(one: Config, other: Config) -> str | None:
    """The first field that is not an axis in which two configs differ, and how."""
    a, b = asdict(one), asdict(other)
    for section, fields in a.items():
        for key, value in fields.items():
            name = f"{section}.{key}"
            if name not in AXES and value != b[section][key]:
                return f"{name} {value} and not {b[section][key]}"
    return None

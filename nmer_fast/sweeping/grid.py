"""The grid of a sweep, and its runs: each run has a folder, a config, and the noises that it is evaluated under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..config import Config, NoiseConfig, describe_snr, make_config
from ..errors import UserError
from ..models import system_class
from ..system_names import split_system

DEFINITION = "sweep.json"
AXES = ("model.system", "model.modality", "noise.kind", "noise.snr_db", "noise.steps", "data.fold", "training.seed")
"""The config fields in which the runs of a sweep may differ."""


@dataclass(frozen=True)
class Grid:
    """All combinations of systems, noises, folds and seeds; an empty axis takes the value of the preset.

    Attributes:
        systems: the names of systems; `unimodal` is written with its modality, such as `unimodal.a`.
        noise: the kinds of noise; missing modalities have no SNR.
        snr: the signal-to-noise ratios in dB.
        folds: the folds of the data's cross-validation, from 1.
        seeds: the random seeds of the runs.
        preset: the preset of every run; "paper" by default.
        changes: the other changed fields of every run's config, by section.field.
        device: "cpu", "cuda", or "auto".
    """

    systems: Sequence[str] = ("nmer",)
    noise: Sequence[str] = ()
    snr: Sequence[float] = ()
    folds: Sequence[int] = ()
    seeds: Sequence[int] = ()
    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"


@dataclass(frozen=True)
class Job:
    """One run of a grid.

    Attributes:
        folder: the run's folder.
        config: the run's config.
        noises: the noises under which a system that is trained on complete data is evaluated after training; empty for
            every other system, which is trained and evaluated under the noise of its config.
        device: "cpu", "cuda", or "auto".
    """

    folder: Path
    config: Config
    noises: tuple[NoiseConfig, ...] = ()
    device: str = "auto"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def make_jobs(grid: Grid, folder: Path) -> list[Job]:
    """Return all runs of a grid, ordered by seed, fold and system.

    A system that is trained on complete data has a single run for each fold and seed. If the data have a val split, the
    kept epoch of such a run is selected under the noise of the preset.

    Args:
        grid: the grid.
        folder: the parent folder of the runs' folders.

    Raises:
        UserError: one line that names the wrong setting.
    """
    _check(grid)
    noises: list[dict[str, Any]] = [
        {"noise.kind": kind, "noise.snr_db": snr}
        for kind in grid.noise or (None,)
        for snr in ((None,) if kind == "missing" else grid.snr or (None,))
    ]
    jobs: list[Job] = []
    for seed, fold, system in product(grid.seeds or (None,), grid.folds or (None,), grid.systems):
        run = {**_of_system(system), "data.fold": fold, "training.seed": seed}
        complete = system_class(run["model.system"]).trains_on_complete_data
        evaluated = tuple(_config(grid, {**run, **noise}).noise for noise in noises) if complete else ()
        for noise in [{}] if complete else noises:
            config = _config(grid, {**run, **noise})
            jobs.append(Job(folder / _name(config, complete), config, evaluated, grid.device))
    return jobs


def _check(grid: Grid) -> None:
    """Refuse an empty axis of systems, an axis that has a value twice, and SNRs for missing modalities alone."""
    if not grid.systems:
        raise UserError("systems: expected one or more, got none")
    for axis in ("systems", "noise", "snr", "folds", "seeds"):
        values = getattr(grid, axis)
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise UserError(f"{axis}: expected different ones, got {twice[0]} twice")
    if tuple(grid.noise) == ("missing",) and grid.snr:
        raise UserError(f"snr: expected none with missing modalities alone, where nothing is left, got {grid.snr[0]:g}")


def _of_system(system: str) -> dict[str, Any]:
    """Return the config fields of a system's name on the axis: unimodal.a means unimodal with the modality a."""
    name, modality = split_system(system)
    return {"model.system": name} | ({"model.modality": modality} if modality else {})


def _config(grid: Grid, run: Mapping[str, Any]) -> Config:
    """Return a run's config: the grid's preset and changes, and the run's values on the axes (None is left out)."""
    place = {name: value for name, value in run.items() if value is not None}
    if twice := sorted(place.keys() & grid.changes.keys()):
        raise UserError(f"set: expected {twice[0]} once, got it twice")
    own = {f.name for f in fields(system_class(place["model.system"]).Config)}
    others = {f.name for system in grid.systems for f in fields(_class_of(system).Config)} - own
    shared = {name: value for name, value in grid.changes.items() if name.removeprefix("model.") not in others}
    config = make_config({**shared, **place}, preset=grid.preset)
    return replace(config, data=config.data.absolute)


def _class_of(system: str) -> Any:
    return system_class(_of_system(system)["model.system"])


def _name(config: Config, complete: bool) -> str:
    """Return the name of a run's folder, from its config, so that defaults and explicit values give the same name."""
    parts = [config.model.label.replace(":", "-")]
    if not complete:
        parts += [config.noise.kind, *name_strength(config.noise)]
    if config.data.fold is not None:
        parts.append(f"fold{config.data.fold}")
    return "_".join([*parts, f"seed{config.training.seed}"])


def name_strength(noise: NoiseConfig) -> list[str]:
    """Return the part of a run's name for the SNR, or "steps" if the noise has diffusion steps instead."""
    if noise.snr_db is not None:
        return [describe_snr(noise.snr_db).replace(", ", "_").replace(" ", "") + "dB"]
    return [] if noise.steps is None else ["steps"]


def difference(one: Config, other: Config) -> str | None:
    """Describe the first field in which two configs differ, except for the axes and a system's own settings."""
    a, b = asdict(one), asdict(other)
    for section, content in a.items():
        for key, value in content.items():
            name = f"{section}.{key}"
            if name not in AXES and key in b[section] and value != b[section][key]:
                return f"{name} {value} and not {b[section][key]}"
    return None

"""What the folder of a run or of a sweep holds, as the report wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..config import Config, NoiseConfig, describe_ratio, from_dict
from ..engine.checkpoint import MODEL
from ..errors import UserError
from ..models import SYSTEMS, System, system_class
from ..noise import KINDS, Conditions
from ..sweeping.grid import DEFINITION, name_system
from ..sweeping.table import FAILED, Row, rows_of_evaluation
from ..sweeping.work import RESULTS, read_evaluations, read_json, read_results

SHOWN = 16  # conditions; three modalities have 8, four 16, five 32
AVERAGE = "average"
"""Of the incomplete conditions, beside which it stands in tables."""


class Noise(NamedTuple):
    """One noise that something was evaluated under: what a score depends on besides system, seed and fold."""

    kind: str
    snr_db: float | None
    detail: str = ""

    @classmethod
    def of(cls, config: NoiseConfig) -> Noise:
        """What tells it apart from others."""
        details = [f"p {config.p:g}"] if config.kind == "impulse" and config.p != NoiseConfig.p else []
        if config.steps is not None:
            steps = config.steps
            each = "random" if isinstance(steps, str) else ", ".join(f"{name} {t}" for name, t in steps.items())
            details.append(f"T {each}")
        snr_db = config.snr_db if isinstance(config.snr_db, float) else None
        if config.snr_db is not None and snr_db is None:
            details.append(f"{describe_ratio(config.snr_db)} dB")
        return cls(config.kind, snr_db, "; ".join(details))

    @property
    def order(self) -> tuple[Any, ...]:
        """By kind, the weakest first."""
        return KINDS.index(self.kind), self.detail, -float("inf") if self.snr_db is None else -self.snr_db

    @property
    def curve(self) -> str:
        """Which curve it is a point of."""
        return f"{self.kind}, {self.detail}" if self.detail else self.kind

    @property
    def phrase(self) -> str:
        """For a sentence."""
        if self.kind == "missing":
            return "missing modalities"
        at = "" if self.snr_db is None else f" at {decibels(self.snr_db)}"
        return f"{self.kind} noise{at}{f' ({self.detail})' if self.detail else ''}"

    def __str__(self) -> str:
        return self.curve if self.snr_db is None else f"{self.curve}, {decibels(self.snr_db)}"


def decibels(value: float) -> str:
    """With a real minus sign."""
    return f"{value:g} dB".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Evaluated:
    """A trained model under one noise.

    Attributes:
        conditions: by what is clean: wa, ua, f1 (fractions), n and confusion.
        content: all that was written of it.
    """

    noise: Noise
    config: NoiseConfig
    conditions: dict[str, dict[str, Any]]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: of the run.
        config: of its training.
        results: what results.json holds.
        evaluated: under each noise, the weakest first.
    """

    folder: Path
    config: Config
    results: Mapping[str, Any]
    evaluated: list[Evaluated]

    @property
    def system(self) -> str:
        """Its name; of a unimodal one with its modality, as unimodal.a."""
        return name_system(self.config.model.system, self.config.model.modality)

    def rows(self) -> Iterator[Row]:
        """Of the table that a sweep would write of it."""
        for e in self.evaluated:
            yield from rows_of_evaluation(self.folder.name, self.results, {"seconds": None, **e.content})


@dataclass
class Collection:
    """Runs that belong together: a sweep's, or one alone.

    Attributes:
        folder: that was named.
        runs: finished ones, by system, noise, fold and seed.
        is_sweep: or else one run.
        unfinished: names of runs that have no results yet.
        failed: what each failed run failed of.
        missing: what could not be had, a line each; more are added on the way.
    """

    folder: Path
    runs: list[Run]
    is_sweep: bool
    unfinished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @cached_property
    def systems(self) -> list[str]:
        """In the registry's order."""
        return list(dict.fromkeys(run.system for run in self.runs))

    @cached_property
    def noises(self) -> list[Noise]:
        """Kind by kind, the weakest first."""
        return sorted({e.noise for run in self.runs for e in run.evaluated}, key=lambda noise: noise.order)

    @cached_property
    def modalities(self) -> list[str]:
        """In the order of the noise contract's streams."""
        return list(self.runs[0].results["snr_db"])

    @cached_property
    def incomplete(self) -> list[str]:
        """The conditions that training draws from."""
        known = Conditions(self.modalities)
        return known.names[: known.incomplete]

    @cached_property
    def conditions(self) -> list[str]:
        """All."""
        return Conditions(self.modalities).names

    @cached_property
    def shown(self) -> list[str]:
        """The conditions that are pictured: all; of more than can be seen one modality clean, none or all."""
        few = len(self.conditions) <= SHOWN
        return self.conditions if few else [*self.conditions[: len(self.modalities)], *self.conditions[-2:]]

    @cached_property
    def classes(self) -> list[str]:
        """Their names, from a checkpoint; numbers where there is none."""
        for run in self.runs:
            about = read_json(run.folder / f"{MODEL}.json")
            if isinstance(about, dict) and "data" in about:
                return list(map(str, about["data"]["class_names"]))
        self.missing.append("No checkpoint says what the classes are called; they are numbers here.")
        first = next(iter(self.runs[0].evaluated[0].conditions.values()))
        return [str(i) for i in range(len(first["confusion"]))]

    def of(self, system: str, noise: Noise) -> list[tuple[Run, Evaluated]]:
        """Every run of a system that was evaluated under a noise."""
        return [(r, e) for r in self.runs if r.system == system for e in r.evaluated if e.noise == noise]

    def scores(self, system: str, noise: Noise, condition: str, metric: str) -> list[float]:
        """In percent, one of each run; of a condition, or of the average over the incomplete ones."""
        wanted = self.incomplete if condition == AVERAGE else [condition]
        found = [e.conditions for _, e in self.of(system, noise)]
        return [100 * fmean(c[name][metric] for name in wanted) for c in found if c.keys() >= set(wanted)]

    def confusion(self, system: str, noise: Noise, condition: str) -> list[list[int]] | None:
        """Rows are true classes; of all runs together."""
        found = [e.conditions[condition]["confusion"] for _, e in self.of(system, noise) if condition in e.conditions]
        return (
            [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*found, strict=True)] if found else None
        )

    def floor(self, metric: str) -> float:
        """What one answer to everything scores, in percent: the largest class's share, or one over the classes.

        The mean over runs, whose folds may differ.
        """
        truths = []
        for run in self.runs:
            first = next(iter(run.evaluated[0].conditions.values()))
            truths.append([n for n in map(sum, first["confusion"]) if n])
        return 100 * fmean(max(true) / sum(true) if metric == "wa" else 1 / len(true) for true in truths)


def class_of(system: str) -> type[System]:
    """The class of a system, whatever its modality."""
    return system_class(system.partition(".")[0])


def collect(folder: Path) -> Collection:
    """Read a folder.

    Raises:
        UserError: one line, where it holds neither a finished run nor a sweep with one.
    """
    expected = f"folder: expected one of a run or of a sweep, got {folder}"
    if not folder.is_dir():
        raise UserError(f"{expected}, which is {'a file' if folder.exists() else 'not there'}")
    if (folder / DEFINITION).exists():
        return _collect_sweep(folder)
    if read_results(folder) is None:
        what = "is not finished" if (folder / "config.json").exists() else "holds neither results.json nor sweep.json"
        raise UserError(f"{expected}, which {what}")
    return Collection(folder, [_read(folder, in_sweep=False)], is_sweep=False)


def _collect_sweep(folder: Path) -> Collection:
    runs, unfinished = [], []
    for path in sorted(path for path in (folder / "runs").glob("*") if path.is_dir()):
        run = None if read_results(path) is None else _read(path, in_sweep=True)
        if run is not None and run.evaluated:
            runs.append(run)
        else:
            unfinished.append(path.name)
    if not runs:
        raise UserError(f"folder: expected a run that has finished in the sweep, got none yet: {folder}")
    runs.sort(key=_order)
    failed = {name: str(entry["message"]) for name, entry in (read_json(folder / FAILED) or {}).items()}
    return Collection(folder, runs, True, [name for name in unfinished if name not in failed], failed)


def _order(run: Run) -> tuple[Any, ...]:
    """By system, noise, fold and seed."""
    place = run.config.data.fold or 0, run.config.training.seed
    return list(SYSTEMS).index(run.config.model.system), run.system, run.evaluated[0].noise.order, *place


def _read(folder: Path, *, in_sweep: bool) -> Run:
    """A finished run, and what it was evaluated under.

    In a sweep that is what the sweep's table has; alone, its own noise and whatever `evaluate` left in its folder.
    """
    results = read_results(folder)
    assert results is not None
    config = from_dict(results["config"], f"{folder / RESULTS}: ")
    entries = read_evaluations(folder)
    if not (in_sweep and class_of(config.model.system).complete):
        entries = [{"noise": results["config"]["noise"], "seconds": results["times"]["evaluate"], **results}, *entries]
    if not in_sweep:
        entries += [entry for path in sorted(folder.glob("*.json")) for entry in _of_evaluate(path, config)]
    found: dict[Noise, Evaluated] = {}
    for entry in entries:
        noise = NoiseConfig(**entry["noise"])
        found.setdefault(Noise.of(noise), Evaluated(Noise.of(noise), noise, entry["conditions"], entry))
    return Run(folder, config, results, sorted(found.values(), key=lambda e: e.noise.order))


def _of_evaluate(path: Path, config: Config) -> list[dict[str, Any]]:
    """The points of a file that `evaluate --out` wrote of this run on its own data; none of any other file."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"checkpoint", "data", "results"} <= content.keys():
        return []
    return content["results"] if content["data"] == asdict(config.data) else []

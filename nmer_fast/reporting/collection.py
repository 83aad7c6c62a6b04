"""The results in the folder of a run or of a sweep, read for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..config import Config, NoiseConfig, describe_snr, from_dict
from ..engine.checkpoint import MODEL
from ..errors import UserError
from ..files import read_json
from ..models import System, system_class
from ..noise import KINDS, Conditions
from ..sweeping.grid import DEFINITION
from ..sweeping.table import FAILED, Row, rows_of_evaluation
from ..sweeping.work import RESULTS, read_evaluations, read_results
from ..system_names import place_of, split_system
from ..tables import AVERAGE

SHOWN = 16  # conditions in tables and pictures; three modalities have 8, four 16, five 32


class Noise(NamedTuple):
    """The noise of an evaluation: what a score depends on besides system, seed and fold.

    Attributes:
        kind: "gaussian", "impulse", "uniform", "laplace" or "missing".
        snr_db: the SNR in dB; None where the noise has none, or not the same for every modality and sample.
        detail: further settings in which noises differ, in words.
    """

    kind: str
    snr_db: float | None
    detail: str = ""

    @classmethod
    def from_config(cls, config: NoiseConfig) -> Noise:
        """The noise of a configuration."""
        details = [f"p {config.p:g}"] if config.kind == "impulse" and config.p != NoiseConfig.p else []
        if config.steps is not None:
            steps = config.steps
            each = "random" if isinstance(steps, str) else ", ".join(f"{name} {t}" for name, t in steps.items())
            details.append(f"T {each}")
        snr_db = config.snr_db if isinstance(config.snr_db, float) else None
        if config.snr_db is not None and snr_db is None:
            details.append(f"{describe_snr(config.snr_db)} dB")
        return cls(config.kind, snr_db, "; ".join(details))

    @property
    def order(self) -> tuple[Any, ...]:
        """A key that sorts noises by kind, the weakest first."""
        return KINDS.index(self.kind), self.detail, -float("inf") if self.snr_db is None else -self.snr_db

    @property
    def curve(self) -> str:
        """The name of the curve that the noise is a point of: noises of one curve differ in their SNR alone."""
        return f"{self.kind}, {self.detail}" if self.detail else self.kind

    @property
    def phrase(self) -> str:
        """The noise in words, for a sentence."""
        if self.kind == "missing":
            return "missing modalities"
        at = "" if self.snr_db is None else f" at {decibels(self.snr_db)}"
        return f"{self.kind} noise{at}{f' ({self.detail})' if self.detail else ''}"

    def __str__(self) -> str:
        return self.curve if self.snr_db is None else f"{self.curve}, {decibels(self.snr_db)}"


def decibels(value: float) -> str:
    """An SNR with its unit and a real minus sign."""
    return f"{value:g} dB".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class NoiseEvaluation:
    """The evaluation of a trained model under one noise.

    Attributes:
        noise: the noise.
        config: the noise's configuration.
        conditions: wa, ua, f1 (fractions), n and confusion, by the name of the condition (its clean modalities).
        content: the whole entry of results.json or evaluations.json.
    """

    noise: Noise
    config: NoiseConfig
    conditions: dict[str, dict[str, Any]]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run's folder.
        config: the configuration of its training.
        results: the content of results.json.
        evaluations: the evaluation under each noise, the weakest first.
    """

    folder: Path
    config: Config
    results: Mapping[str, Any]
    evaluations: list[NoiseEvaluation]

    @property
    def system(self) -> str:
        """The system's name, with its modality if it has one alone, as in "unimodal.a"."""
        return self.config.model.label

    def rows(self) -> Iterator[Row]:
        """The rows that a sweep's table has, or would have, for this run."""
        for e in self.evaluations:
            yield from rows_of_evaluation(self.folder.name, self.results, {"seconds": None, **e.content})


@dataclass
class Collection:
    """Runs that belong together: a sweep's, or one alone.

    Attributes:
        folder: the folder that was read.
        runs: the finished runs, sorted by system, noise, fold and seed.
        is_sweep: whether the folder is a sweep's; otherwise it is a single run's.
        unfinished: the names of runs that have no results yet.
        failed: the error of each failed run, by the run's name.
        missing: one line for each thing that the report lacks; sections add lines while the page is made.
    """

    folder: Path
    runs: list[Run]
    is_sweep: bool
    unfinished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @cached_property
    def systems(self) -> list[str]:
        """The systems' names in the registry's order."""
        return list(dict.fromkeys(run.system for run in self.runs))

    @cached_property
    def noises(self) -> list[Noise]:
        """The noises by kind, the weakest first."""
        return sorted({e.noise for run in self.runs for e in run.evaluations}, key=lambda noise: noise.order)

    @cached_property
    def modalities(self) -> list[str]:
        """The names of the modalities, in the order of the noise contract's streams."""
        return list(self.runs[0].results["snr_db"])

    @cached_property
    def incomplete(self) -> list[str]:
        """The names of the incomplete conditions, which training draws from."""
        known = Conditions(self.modalities)
        return known.names[: known.incomplete]

    @cached_property
    def conditions(self) -> list[str]:
        """The names of all conditions."""
        return Conditions(self.modalities).names

    @cached_property
    def shown(self) -> list[str]:
        """The conditions of tables and pictures: all of few; of many, those with one modality, none or all clean."""
        few = len(self.conditions) <= SHOWN
        return self.conditions if few else [*self.conditions[: len(self.modalities)], *self.conditions[-2:]]

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, read from a checkpoint; numbers where there is no checkpoint."""
        for run in self.runs:
            about = read_json(run.folder / f"{MODEL}.json")
            if isinstance(about, dict) and "data" in about:
                return list(map(str, about["data"]["class_names"]))
        self.missing.append("No checkpoint says what the classes are called; they are numbers here.")
        first = next(iter(self.runs[0].evaluations[0].conditions.values()))
        return [str(i) for i in range(len(first["confusion"]))]

    def evaluations(self, system: str, noise: Noise) -> list[tuple[Run, NoiseEvaluation]]:
        """The runs of a system that were evaluated under a noise, each with that evaluation."""
        return [(r, e) for r in self.runs if r.system == system for e in r.evaluations if e.noise == noise]

    def scores(self, system: str, noise: Noise, condition: str, metric: str) -> list[float]:
        """The score of each run in percent, under a condition or as the AVERAGE over the incomplete conditions."""
        wanted = self.incomplete if condition == AVERAGE else [condition]
        found = [e.conditions for _, e in self.evaluations(system, noise)]
        return [100 * fmean(c[name][metric] for name in wanted) for c in found if c.keys() >= set(wanted)]

    def confusion(self, system: str, noise: Noise, condition: str) -> list[list[int]] | None:
        """Counts, summed over all runs: a row for each true class, a column for each predicted one."""
        found = [
            e.conditions[condition]["confusion"]
            for _, e in self.evaluations(system, noise)
            if condition in e.conditions
        ]
        return (
            [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*found, strict=True)] if found else None
        )

    def constant_score(self, metric: str) -> float:
        """The score of a model that gives the same answer to every sample, in percent.

        WA is then the share of the largest class, and UA one over the number of classes. The result is the mean over
        runs, because their folds may differ.
        """
        truths = []
        for run in self.runs:
            first = next(iter(run.evaluations[0].conditions.values()))
            truths.append([n for n in map(sum, first["confusion"]) if n])
        return 100 * fmean(max(true) / sum(true) if metric == "wa" else 1 / len(true) for true in truths)


def class_of(system: str) -> type[System]:
    """The class of a system; the name may end in a modality."""
    return system_class(split_system(system)[0])


def read_collection(folder: Path) -> Collection:
    """Read the folder of a run or of a sweep.

    Raises:
        UserError: the folder holds neither a finished run nor a sweep with one.
    """
    expected = f"folder: expected one of a run or of a sweep, got {folder}"
    if not folder.is_dir():
        raise UserError(f"{expected}, which is {'a file' if folder.exists() else 'not there'}")
    if (folder / DEFINITION).exists():
        return _read_sweep(folder)
    if read_results(folder) is None:
        what = "is not finished" if (folder / "config.json").exists() else "holds neither results.json nor sweep.json"
        raise UserError(f"{expected}, which {what}")
    return Collection(folder, [_read_run(folder, in_sweep=False)], is_sweep=False)


def _read_sweep(folder: Path) -> Collection:
    runs, unfinished = [], []
    for path in sorted(path for path in (folder / "runs").glob("*") if path.is_dir()):
        run = None if read_results(path) is None else _read_run(path, in_sweep=True)
        if run is not None and run.evaluations:
            runs.append(run)
        else:
            unfinished.append(path.name)
    if not runs:
        raise UserError(f"folder: expected a run that has finished in the sweep, got none yet: {folder}")
    runs.sort(key=_order)
    failed = {name: str(entry["message"]) for name, entry in (read_json(folder / FAILED) or {}).items()}
    return Collection(folder, runs, True, [name for name in unfinished if name not in failed], failed)


def _order(run: Run) -> tuple[Any, ...]:
    """A key that sorts runs by system, noise, fold and seed."""
    place = run.config.data.fold or 0, run.config.training.seed
    return place_of(run.config.model.system), run.system, run.evaluations[0].noise.order, *place


def _read_run(folder: Path, *, in_sweep: bool) -> Run:
    """A finished run with its evaluations.

    A run of a sweep has the evaluations of the sweep's table. A single run has that under its own noise, and those that
    `evaluate` has written into its folder.
    """
    results = read_results(folder)
    assert results is not None
    config = from_dict(results["config"], f"{folder / RESULTS}: ")
    entries = read_evaluations(folder)
    if not (in_sweep and class_of(config.model.system).trains_on_complete_data):
        entries = [{"noise": results["config"]["noise"], "seconds": results["times"]["evaluate"], **results}, *entries]
    if not in_sweep:
        entries += [entry for path in sorted(folder.glob("*.json")) for entry in _entries_of_evaluate(path, config)]
    found: dict[Noise, NoiseEvaluation] = {}
    for entry in entries:
        noise = NoiseConfig(**entry["noise"])
        found.setdefault(
            Noise.from_config(noise), NoiseEvaluation(Noise.from_config(noise), noise, entry["conditions"], entry)
        )
    return Run(folder, config, results, sorted(found.values(), key=lambda e: e.noise.order))


def _entries_of_evaluate(path: Path, config: Config) -> list[dict[str, Any]]:
    """The entries of a file that `evaluate --out` wrote of this run on its own data; none for any other file."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"checkpoint", "data", "results"} <= content.keys():
        return []
    return content["results"] if content["data"] == asdict(config.data) else []

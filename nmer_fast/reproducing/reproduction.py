"""The paper's tables from runs: the runs that they need are done, and what is finished is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..config import NoiseConfig, make_config, override
from ..contract import KINDS
from ..data import FeatureSet
from ..engine.console import Report
from ..engine.inputs import load_data
from ..files import locked, make_folder, write_atomically
from ..noise import Conditions
from ..sweeping import table as sweep_table
from ..sweeping.grid import Grid, Job, make_jobs
from ..sweeping.sweep import progress, run_sweep
from ..sweeping.work import Failure, attempt, is_finished, read_evaluations, read_results
from ..sweeping.workers import Workers
from ..tables import AVERAGE, Table
from . import TableName, paper_tables, supplementary
from .paper_tables import Study
from .published import Corpus, corpus_of
from .render import as_csv, as_latex, as_markdown, for_terminal

PAPERS: tuple[TableName, ...] = ("table1", "table2", "table3", "table4", "table5")
COMPARED = ("men", "mctn", "mmin", "if_mmin", "nmer")
ABLATIONS = ("nmer_no_vae", "nmer_no_inv")
CONVENTION = "noise.snr_convention"


@dataclass(frozen=True)
class Request:
    """A table to reproduce, and the runs that it is made from.

    Attributes:
        table: a table of the paper, "all" of them, or "unseen".
        out: the folder of the tables; the runs are in its sweep/.
        grid: the axes of the runs and the settings that they share; if it names no systems, each table has its own.
        corpus: the corpus whose published values the tables show: "IEMOCAP", "CMU-MOSEI", "none", or "auto".
    """

    table: TableName
    out: Path
    grid: Grid
    corpus: str = "auto"


def reproduce(request: Request, report: Report, make_workers: Callable[[], Workers]) -> dict[str, Failure]:
    """Do the runs that are not finished, then write the tables.

    Returns:
        the runs that failed; the tables are made from the other runs.

    Raises:
        UserError: one line that names what is wrong, before any run begins.
        Stopped: Ctrl-C or SIGTERM stopped the runs.
    """
    wanted = PAPERS if request.table == "all" else (request.table,)
    sets = load(request.grid)
    data = next(iter(sets.values()))
    corpus = corpus_of(data, request.corpus)
    grids = {name: grid_of(name, request.grid, tuple(data.modalities)) for name in wanted if name != "table1"}
    sweep, conditions = request.out.resolve() / "sweep", Conditions(list(data.modalities)).incomplete
    jobs = {name: make_jobs(grid, sweep / "runs") for name, grid in grids.items()}
    make_folder(request.out)
    failed: dict[str, Failure] = {}
    if "table1" in wanted:
        publish(request.out, "table1", [paper_tables.table1(sets, corpus, conditions)], report)
    for name, grid in grids.items():
        failed |= run_sweep(grid, sweep, report, make_workers).failed
        if name == "unseen":
            failed |= evaluate_unseen(request, jobs[name], report)
        study = study_of(sweep, grid, jobs[name], sets, corpus)
        publish(request.out, name, tables_of(name, request, study, jobs[name], conditions), report)
    return failed


def load(grid: Grid) -> dict[int | None, FeatureSet]:
    """The data set, by fold."""
    folds: dict[int | None, dict[str, Any]] = {fold: {"data.fold": fold} for fold in grid.folds} or {None: {}}
    return {
        fold: load_data(make_config({**grid.changes, **one}, preset=grid.preset).data) for fold, one in folds.items()
    }


def grid_of(table: TableName, asked: Grid, modalities: Sequence[str]) -> Grid:
    """The runs that a table needs."""
    noises, snr = tuple(asked.noise), tuple(asked.snr)
    systems: tuple[str, ...]
    if table == "table2":
        systems = tuple(asked.systems) or (*COMPARED, *ABLATIONS, "late_fusion")
    elif table == "table3":
        systems = ("nmer",)
    elif table == "table4":
        systems, snr = tuple(f"unimodal.{name}" for name in modalities), tuple(dict.fromkeys((0.0, *snr)))
    else:
        systems = tuple(asked.systems) or (*COMPARED, "late_fusion")
    if table != "table2":
        noises = noises[:1]
    if noises == ("missing",):
        snr = ()
    return replace(asked, systems=systems, noise=noises, snr=snr, changes={CONVENTION: "paper", **asked.changes})


def study_of(
    sweep: Path,
    grid: Grid,
    jobs: Sequence[Job],
    sets: Mapping[int | None, FeatureSet],
    corpus: Corpus | None,
) -> Study:
    """The rows of these runs, and what the data are."""
    asked = {(job.name, n.kind, n.snr_db) for job in jobs for n in (job.noises or (job.config.noise,))}
    rows = [row for row in sweep_table.Results(sweep).tidy() if (row["run"], row["noise"], row["snr_db"]) in asked]
    data = next(iter(sets.values()))
    train_samples, test_samples = (sum(len(d.splits[split]) for d in sets.values()) for split in ("train", "test"))
    return Study(
        corpus.name if corpus else data.name, corpus, tuple(data.modalities), test_samples / train_samples, rows,
        tuple(grid.noise),
    )  # fmt: skip


def tables_of(name: TableName, request: Request, study: Study, jobs: Sequence[Job], conditions: int) -> list[Table]:
    """Make a table and its supplements: tests, pooled differences, robustness, realised SNR and seconds."""
    first = study.noises[:1]
    tables: list[Table | None]
    if name == "unseen":
        return [supplementary.table_of_unseen(study, first[0], unseen_rows(request, jobs))]
    if name == "table3":
        tables = [paper_tables.table3(study)]
    elif name == "table4":
        tables = [paper_tables.table4(study)]
    else:
        condition, noises = (AVERAGE, study.noises) if name == "table2" else ("none", first)
        tables = [paper_tables.table2(study, conditions) if name == "table2" else paper_tables.table5(study)]
        if any(row["system"] == "nmer" for row in study.rows):
            tables.append(supplementary.table_of_pooled(study, name, condition, noises))
            tables.append(supplementary.table_of_tests(study, name, condition, noises))
        tables.append(supplementary.table_of_robustness(study, name, condition, noises))
    tables += [supplementary.table_of_snr(study, name), supplementary.table_of_seconds(study, name)]
    return [table for table in tables if table is not None]


def publish(out: Path, name: str, tables: Sequence[Table], report: Report) -> None:
    """Print tables but for the long list of tests, and write them: each as CSV, all as Markdown and as LaTeX."""
    for table in tables:
        write_atomically(out / f"{table.name}.csv", as_csv(table).encode())
        for part in for_terminal(table, report.console.width) if not table.name.endswith("_tests") else ():
            report.console.print(part)
    write_atomically(out / f"{name}.md", as_markdown(tables).encode())
    write_atomically(out / f"{name}.tex", as_latex(tables).encode())
    files = ", ".join(f"{table.name}.csv" for table in tables)
    report.line(f"written to {out}: {name}.md, {name}.tex, {files}")


def evaluate_unseen(request: Request, jobs: Sequence[Job], report: Report) -> dict[str, Failure]:
    """Evaluate finished runs under every other noise, and keep that in their folders; what is there is left alone."""
    asked = [replace(job, noises=tuple(unseen_noises(request, job))) for job in jobs if is_finished(job)]
    todo, failed = [job for job in asked if not is_finished(job)], {}
    report.line(f"{len(asked)} runs to evaluate under other noise, {len(asked) - len(todo)} of them finished before")
    with locked(request.out / "sweep"), progress(report, len(todo)) as advance:
        for job in todo:
            if failure := attempt(job):
                failed[job.name] = failure
            advance(f"{job.name}: {failure.message if failure else 'evaluated'}")
    return failed


def unseen_noises(request: Request, job: Job) -> list[NoiseConfig]:
    """Every other kind at the SNR of a run's own, or, if it is trained on complete data, at each of those asked for."""
    ratios = [noise.snr_db for noise in (job.noises or (job.config.noise,))]
    others = [kind for kind in KINDS if kind != request.grid.noise[0]]
    changes = [
        {"noise.kind": kind} | ({} if kind == "missing" else {"noise.snr_db": snr})
        for kind in others
        for snr in (ratios[:1] if kind == "missing" else ratios)
    ]
    return [override(job.config, change).noise for change in changes]


def unseen_rows(request: Request, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """A row for each run, noise and condition, as in the sweep's table, and what was trained under; written, too."""
    rows = []
    for job in jobs:
        noises, own = [asdict(noise) for noise in unseen_noises(request, job)], job.config.noise
        trained = {
            "trained_noise": None if job.noises else own.kind,
            "trained_snr_db": None if job.noises else own.snr_db,
        }
        if results := read_results(job.folder):
            for evaluation in (e for e in read_evaluations(job.folder) if e["noise"] in noises):
                rows += [{**row, **trained} for row in sweep_table.rows_of_evaluation(job.name, results, evaluation)]
    if rows:
        write_atomically(request.out / "unseen_results.csv", sweep_table.as_csv(list(rows[0]), rows))
    return rows

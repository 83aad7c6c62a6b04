"""python -m nmer_fast.reproduce: the paper's tables on data of one's own, and what they lack, from one command."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from . import sweep, train
from .command import make_folder, run_command
from .config import NoiseConfig, override, parse_settings
from .contract import KINDS
from .errors import UserError
from .train import Flag, Set

if TYPE_CHECKING:
    from .data import FeatureSet
    from .engine.console import Report
    from .reproducing.paper_tables import Study
    from .reproducing.published import Corpus
    from .sweeping.grid import Job
    from .sweeping.work import Failure
    from .tables import Table

Name = Literal["table1", "table2", "table3", "table4", "table5", "unseen", "all"]
PAPERS: tuple[Name, ...] = ("table1", "table2", "table3", "table4", "table5")
COMPARED = ("men", "mctn", "mmin", "if_mmin", "nmer")
ABLATIONS = ("nmer_no_vae", "nmer_no_inv")
CONVENTION = "noise.snr_convention"


@dataclass(frozen=True)
class Options:
    """Do the runs that the paper's tables need, and write the tables; the same command after a stop does what is left.

    Attributes:
        table: table1 to table5, all five, or unseen: trained under the first noise, tested under all others.
        out: a folder for the tables and, in sweep/, the runs, which all tables share.
        data: as for train.
        systems: of tables 2 and 5 and of unseen; by default the paper's and late_fusion.
        noise: one or more of gaussian, impulse, uniform, laplace, missing; tables 3 to 5 have the first, as the paper.
        snr: one or more signal-to-noise ratios in dB.
        folds: one or more of the file's folds, from 1.
        seeds: one or more.
        preset: of each run: paper, recommended or released; by default paper.
        epochs: of each run; by default the preset's.
        settings: any field of every run's config, such as --set data.context=4; may be given again.
        corpus: IEMOCAP or CMU-MOSEI: whose published values stand beside; none; or auto, by the data's name, classes
            and modalities.
        device: cpu, cuda, or auto.
        ray: do the runs side by side, on a Ray of its own on this machine.
        address: or on a Ray cluster that is running, as for sweep.
        cpus_per_run: on Ray; by default 1.
    """

    table: tyro.conf.Positional[Name]
    out: Path
    data: str | None = None
    systems: tuple[str, ...] = ()
    noise: tuple[str, ...] = ("gaussian", "impulse")
    snr: tuple[float, ...] = (-10.0, -20.0, -30.0, -40.0)
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    preset: str | None = None
    epochs: int | None = None
    settings: Set = ()
    corpus: Literal["IEMOCAP", "CMU-MOSEI", "none", "auto"] = "auto"
    device: str = "auto"
    ray: Flag = False
    address: str | None = None
    cpus_per_run: int | None = None


def run(options: Options, *, quiet: bool = False) -> dict[str, Failure]:
    """Do what is left of the runs, then write the tables.

    Returns:
        the runs that failed; the tables are of the others.

    Raises:
        UserError: one line that names what is wrong, before any run begins.
        Stopped: by Ctrl-C or SIGTERM.
    """
    check(options)
    # Heavy imports wait until the command line is known to be right, so that --help is quick.
    from .engine.console import Report
    from .reproducing.paper_tables import table1
    from .reproducing.published import corpus_of

    report, wanted = Report(quiet=quiet), PAPERS if options.table == "all" else (options.table,)
    sets = load(options)
    data = next(iter(sets.values()))
    corpus = corpus_of(data, options.corpus)
    grids = {name: grid_of(name, options, tuple(data.modalities)) for name in wanted if name != "table1"}
    jobs = {name: sweep.jobs_of(grid) for name, grid in grids.items()}
    make_folder(options.out)
    failed: dict[str, Failure] = {}
    if "table1" in wanted:
        publish(options.out, "table1", [table1(sets, corpus, conditions_of(data))], report)
    for name, grid in grids.items():
        failed |= sweep.run(grid, quiet=quiet).failed
        if name == "unseen":
            failed |= evaluate_unseen(options, jobs[name], report)
        study = study_of(grid, jobs[name], sets, corpus)
        publish(options.out, name, tables_of(name, options, study, jobs[name], conditions_of(data)), report)
    return failed


def check(options: Options) -> None:
    """Refuse options that contradict each other, and what is not installed."""
    if find_spec("scipy") is None:
        raise UserError("reproduce: expected SciPy, which is not installed: pip install 'nmer_fast[report]'")
    for axis in ("noise", "snr"):
        if not getattr(options, axis):
            raise UserError(f"{axis}: expected one or more, got none")
    if options.table == "unseen" and options.noise[0] == "missing":
        raise UserError("noise: expected one with an SNR first, to train unseen under, got missing")
    if alone := [name for name in options.systems if name.partition(".")[0] == "unimodal"]:
        raise UserError(f"systems: expected systems of all modalities, got {alone[0]}, which is table4's")


def load(options: Options) -> dict[int | None, FeatureSet]:
    """The data set, by fold."""
    from .engine.run import load_data

    fixed: dict[str, Any] = {"data": options.data, "preset": options.preset, "settings": options.settings}
    folds = options.folds or (None,)
    return {fold: load_data(train.config_of(train.Options(**fixed, fold=fold)).data) for fold in folds}


def conditions_of(data: FeatureSet) -> int:
    """How many incomplete ones there are."""
    from .noise import Conditions

    return Conditions(list(data.modalities)).incomplete


def grid_of(table: Name, options: Options, modalities: Sequence[str]) -> sweep.Options:
    """The runs that a table needs."""
    noises, snr = options.noise, options.snr
    if table == "table2":
        systems = options.systems or (*COMPARED, *ABLATIONS, "late_fusion")
    elif table == "table3":
        systems = ("nmer",)
    elif table == "table4":
        systems, snr = tuple(f"unimodal.{name}" for name in modalities), tuple(dict.fromkeys((0.0, *snr)))
    else:
        systems = options.systems or (*COMPARED, "late_fusion")
    if table != "table2":
        noises = noises[:1]
    if noises == ("missing",):
        snr = ()
    settings = options.settings
    if CONVENTION not in parse_settings(settings):
        settings = (*settings, f"{CONVENTION}=paper")
    return sweep.Options(
        out=options.out / "sweep", systems=systems, noise=noises, snr=snr, folds=options.folds, seeds=options.seeds,
        preset=options.preset, settings=settings, data=options.data, epochs=options.epochs, device=options.device,
        ray=options.ray, address=options.address, cpus_per_run=options.cpus_per_run,
    )  # fmt: skip


def study_of(
    grid: sweep.Options, jobs: Sequence[Job], sets: Mapping[int | None, FeatureSet], corpus: Corpus | None
) -> Study:
    """The rows of these runs, and what the data are."""
    from .reproducing.paper_tables import Study
    from .sweeping.table import Results

    asked = {(job.name, n.kind, n.snr_db) for job in jobs for n in (job.noises or (job.config.noise,))}
    rows = [row for row in Results(grid.out).tidy() if (row["run"], row["noise"], row["snr_db"]) in asked]
    data = next(iter(sets.values()))
    train_samples, test_samples = (sum(len(d.splits[split]) for d in sets.values()) for split in ("train", "test"))
    return Study(
        corpus.name if corpus else data.name, corpus, tuple(data.modalities), test_samples / train_samples, rows,
        grid.noise,
    )  # fmt: skip


def tables_of(name: Name, options: Options, study: Study, jobs: Sequence[Job], conditions: int) -> list[Table]:
    """A table, and what belongs to it."""
    from .reproducing import paper_tables as paper
    from .reproducing import supplementary as beyond
    from .tables import AVERAGE as INCOMPLETE

    first = study.noises[:1]
    tables: list[Table | None]
    if name == "unseen":
        return [beyond.table_of_unseen(study, first[0], unseen_rows(options, jobs))]
    if name == "table3":
        tables = [paper.table3(study)]
    elif name == "table4":
        tables = [paper.table4(study)]
    else:
        condition, noises = (INCOMPLETE, study.noises) if name == "table2" else ("none", first)
        tables = [paper.table2(study, conditions) if name == "table2" else paper.table5(study)]
        if any(row["system"] == "nmer" for row in study.rows):
            tables.append(beyond.table_of_pooled(study, name, condition, noises))
            tables.append(beyond.table_of_tests(study, name, condition, noises))
        tables.append(beyond.table_of_robustness(study, name, condition, noises))
    tables += [beyond.table_of_snr(study, name), beyond.table_of_seconds(study, name)]
    return [table for table in tables if table is not None]


def publish(out: Path, name: str, tables: Sequence[Table], report: Report) -> None:
    """Print tables but for the long list of tests, and write them: each as CSV, all as Markdown and as LaTeX."""
    from .files import write_atomically
    from .reproducing.render import as_csv, as_latex, as_markdown, for_terminal

    for table in tables:
        write_atomically(out / f"{table.name}.csv", as_csv(table).encode())
        for part in for_terminal(table, report.console.width) if not table.name.endswith("_tests") else ():
            report.console.print(part)
    write_atomically(out / f"{name}.md", as_markdown(tables).encode())
    write_atomically(out / f"{name}.tex", as_latex(tables).encode())
    files = ", ".join(f"{table.name}.csv" for table in tables)
    report.line(f"written to {out}: {name}.md, {name}.tex, {files}")


def evaluate_unseen(options: Options, jobs: Sequence[Job], report: Report) -> dict[str, Failure]:
    """Evaluate finished runs under every other noise, and keep that in their folders; what is there is left alone."""
    from .engine.checkpoint import locked
    from .sweeping.work import attempt, is_finished

    asked = [replace(job, noises=tuple(unseen_noises(options, job))) for job in jobs if is_finished(job)]
    todo, failed = [job for job in asked if not is_finished(job)], {}
    report.line(f"{len(asked)} runs to evaluate under other noise, {len(asked) - len(todo)} of them finished before")
    with locked(options.out / "sweep"), sweep.progress(report, len(todo)) as advance:
        for job in todo:
            if failure := attempt(job):
                failed[job.name] = failure
            advance(f"{job.name}: {failure.message if failure else 'evaluated'}")
    return failed


def unseen_noises(options: Options, job: Job) -> list[NoiseConfig]:
    """Every other kind at the SNR of a run's own, or, if it is trained on complete data, at each of those asked for."""
    ratios = [noise.snr_db for noise in (job.noises or (job.config.noise,))]
    others = [kind for kind in KINDS if kind != options.noise[0]]
    changes = [
        {"noise.kind": kind} | ({} if kind == "missing" else {"noise.snr_db": snr})
        for kind in others
        for snr in (ratios[:1] if kind == "missing" else ratios)
    ]
    return [override(job.config, change).noise for change in changes]


def unseen_rows(options: Options, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """A row for each run, noise and condition, as in the sweep's table, and what was trained under; written, too."""
    from dataclasses import asdict

    from .files import write_atomically
    from .sweeping.table import as_csv, rows_of_evaluation
    from .sweeping.work import read_evaluations, read_results

    rows = []
    for job in jobs:
        noises, own = [asdict(noise) for noise in unseen_noises(options, job)], job.config.noise
        trained = {
            "trained_noise": None if job.noises else own.kind,
            "trained_snr_db": None if job.noises else own.snr_db,
        }
        if results := read_results(job.folder):
            for evaluation in (e for e in read_evaluations(job.folder) if e["noise"] in noises):
                rows += [{**row, **trained} for row in rows_of_evaluation(job.name, results, evaluation)]
    if rows:
        write_atomically(options.out / "unseen_results.csv", as_csv(list(rows[0]), rows))
    return rows


def main() -> int:
    """The command; status 1 if a run failed."""
    failed: dict[str, Failure] = {}
    status = run_command("reproduce", Options, lambda options: failed.update(run(options)))
    return status or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

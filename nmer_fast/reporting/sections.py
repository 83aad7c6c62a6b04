"""The sections of the report, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from ..colours import LIGHT
from ..config import NoiseConfig
from ..engine.checkpoint import MODEL
from ..engine.log import ACTIVE
from ..errors import UserError
from ..files import read_json
from ..tables import AVERAGE
from . import figures, score_tables
from .collection import Collection, Noise, Run, class_of, decibels
from .figures import NAMES
from .page import Block, Head, Matrix, Page, choice
from .representations import (
    NOISY,
    RESTORED,
    LoadedRun,
    Projection,
    Representations,
    RunLoader,
    has_joint,
    has_posterior,
    noised_utterance,
    project,
    represent,
)
from .style import Key

KL_KEYS = {
    "all": Key("all clean", LIGHT["sky"]),
    AVERAGE: Key("incomplete conditions", LIGHT["blue"]),
    "none": Key("none clean", LIGHT["vermillion"]),
}
LADDER = (0.0, -10.0, -20.0, -30.0, -40.0)
"""SNRs, in dB, at which features are pictured if a run was evaluated at one SNR: the paper's and 0, equal power."""


def add_sections(page: Page, collection: Collection) -> None:
    """Add all sections to the page; what the report lacks is added to `collection.missing`."""
    collection.missing += [f"{name}, which failed: {message}" for name, message in collection.failed.items()]
    if collection.unfinished:
        collection.missing.append(f"Runs that are not finished: {', '.join(collection.unfinished)}")
    _scores(page, collection)
    _curves(page, collection)
    _conditions(page, collection)
    _confusions(page, collection)
    _losses(page, collection)
    _models(page, collection)
    page.add("Every row and setting", *_all_rows(collection))


def _scores(page: Page, collection: Collection) -> None:
    """The section of the tables of scores."""
    few = (
        ""
        if collection.shown == collection.conditions
        else " There are too many conditions to show; the rows at the end have all."
    )
    if len(collection.runs) == 1 and len(collection.noises) == 1:
        page.add(
            "Scores",
            Block("text", WHAT_METRICS_ARE + few),
            Block("table", score_tables.of_one_run(collection, collection.noises[0])),
        )
        return
    deviation = " The number behind ± is the standard deviation over runs." if _is_repeated(collection) else ""
    bold = " The best of a column is bold." if len(collection.systems) > 1 else ""
    overview = [(NAMES[m], [Block("table", score_tables.averages(collection, m))]) for m in NAMES]
    each = [(NAMES[m], [Block("table", score_tables.by_condition(collection, m), tall=True)]) for m in NAMES]
    page.add(
        "Scores",
        Block("text", WHAT_METRICS_ARE + deviation + bold + few + " A click on a column's name sorts by it."),
        choice("Metric", overview),
        Block("fold", [choice("Metric", each)], "By condition", "what is clean, noise by noise"),
    )


WHAT_METRICS_ARE = (
    "WA is accuracy, UA the mean recall of the classes, F1 their mean F1 score. The incomplete conditions leave some "
    "modalities clean and put noise on the others; none and all are not among them."
)


def _is_repeated(collection: Collection) -> bool:
    """Whether a system was run more than once under a noise, with other seeds or folds."""
    return any(
        len(collection.evaluations(system, noise)) > 1 for system in collection.systems for noise in collection.noises
    )


def _curves(page: Page, collection: Collection) -> None:
    drawn = figures.curves(collection)
    if drawn is None:
        folder = collection.folder
        how = f"python -m nmer_fast.evaluate {folder} --snr 0 -10 -20 -30 -40 --out {folder / 'robustness'}"
        more = "." if collection.is_sweep else f"; for a curve: {how}"
        collection.missing.append(f"Accuracy against SNR: nothing was evaluated at two strengths of one noise{more}")
        return
    band = "A point is one run, so there are no bands."
    if _is_repeated(collection):
        band = "A band is one standard deviation over runs to each side."
    caption = (
        f"{_describe_extremes(collection)} {band} The dotted line is "
        "what one answer to everything scores: a system on it has learned nothing that survives the noise."
    )
    page.add("Accuracy against SNR", page.figure(drawn, caption))


def _describe_extremes(collection: Collection) -> str:
    """The best average WA at both ends of the first curve, in words."""
    noises = figures.noises_of_curve(collection, figures.curve_kinds(collection)[0])

    def best(noise: Noise) -> str:
        found = {s: values for s in collection.systems if (values := collection.scores(s, noise, AVERAGE, "wa"))}
        name = max(found, key=lambda s: fmean(found[s]))
        who = f" ({name})" if len(found) > 1 else ""
        return f"{fmean(found[name]):.1f} %{who} at {decibels(noise.snr_db or 0.0)}"

    return f"Under {noises[0].kind} noise the highest average WA is {best(noises[0])} and {best(noises[-1])}."


def _conditions(page: Page, collection: Collection) -> None:
    whisker = " A whisker is one standard deviation over runs." if _is_repeated(collection) else ""
    options: list[tuple[str, Sequence[Block]]] = []
    for noise in collection.noises:
        extremes = _describe_extreme_conditions(collection, noise)
        caption = f"{extremes} The dotted line is what one answer to everything scores.{whisker}"
        options.append((str(noise), [page.figure(figures.bars(collection, noise), caption)]))
    page.add("What is clean", choice("Noise", options))


def _describe_extreme_conditions(collection: Collection, noise: Noise) -> str:
    """The first system's best and worst incomplete conditions, in words."""
    system = next(name for name in collection.systems if collection.evaluations(name, noise))
    means = {
        name: fmean(values)
        for name in collection.incomplete
        if (values := collection.scores(system, noise, name, "wa"))
    }
    text = "A row names the modalities that carry no noise."
    low, high = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    if means[low] == means[high]:
        return text
    ends = f"{means[low]:.1f} % WA with {low} clean and {means[high]:.1f} % with {high}"
    return f"{text} Under {noise.phrase}, {system} has {ends}."


def _confusions(page: Page, collection: Collection) -> None:
    options: list[tuple[str, Sequence[Block]]] = []
    for noise in collection.noises:
        rows = []
        for system in (name for name in collection.systems if collection.evaluations(name, noise)):
            found = {c: counts for c in collection.shown if (counts := collection.confusion(system, noise, c))}
            rows.append((system, [_matrix(f"clean: {c}", collection.classes, counts) for c, counts in found.items()]))
        drawn = figures.confusion(collection, noise)
        name = f"{drawn.name}.png"
        page.files[name] = drawn.png()
        options.append((str(noise), [Block("matrices", rows), Block("link", name)]))
    text = (
        "A row is a true class, a column a predicted one; a cell is the percentage of the row, its tooltip the count"
        f"{', of all runs together' if _is_repeated(collection) else ''}. The diagonal's mean is UA."
    )
    page.add("Confusions", Block("text", text), choice("Noise", options))


def _matrix(title: str, classes: Sequence[str], counts: list[list[int]]) -> Matrix:
    percent = [[None if share is None else round(share) for share in row] for row in figures.shares(counts)]
    rows = [(name, list(zip(p, c, strict=True))) for name, p, c in zip(classes, percent, counts, strict=True)]
    return Matrix(title, classes, rows)


def _losses(page: Page, collection: Collection) -> None:
    options: list[tuple[str, Sequence[Block]]] = []
    for system in collection.systems:
        first = next(run for run in collection.runs if run.system == system)
        history = first.results["losses"]
        if not history:
            collection.missing.append(f"Losses of {system}: results.json has none.")
            continue
        start, end = history[0]["total"], history[-1]["total"]
        where = "" if len(collection.runs) == 1 else f" in {first.folder.name}"
        kept = f" The weights of epoch {first.results['epoch']} are kept." if len(collection.runs) == 1 else ""
        caption = (
            f"The total goes from {start:.3g} to {end:.3g} in {len(history)} epochs{where}. Each term is shown without "
            f"its weight, the mean over an epoch's steps, under dropout.{kept}"
        )
        options.append((system, [page.figure(figures.losses(collection, system), caption)]))
    page.add("Training", choice("System", options))


def _all_rows(collection: Collection) -> list[Block]:
    runs, scores, settings = (
        score_tables.runs(collection),
        score_tables.scores(collection),
        score_tables.settings(collection),
    )
    table = "results.csv holds the same." if collection.is_sweep else "A sweep would write the same as results.csv."
    return [
        Block("text", f"Nothing averaged, nothing left out. {table}"),
        Block("fold", [Block("table", runs, tall=True)], "Runs", _count(len(runs.rows), "row")),
        Block("fold", [Block("table", scores, tall=True)], "Scores", _count(len(scores.rows), "row")),
        Block("fold", [Block("table", settings)], "Settings", f"{len(settings.rows)} fields and versions"),
    ]


def _models(page: Page, collection: Collection) -> None:
    """The sections that need checkpoints and data: the latent, the joint representations, one utterance's features."""
    loader, seen, loaded = RunLoader(), {}, None
    wrong: dict[str, None] = {}
    for system in collection.systems:
        for noise in collection.noises:
            wanted = has_posterior(class_of(system)) or (
                noise in _end_noises(collection) and has_joint(class_of(system))
            )
            if not (wanted or loaded is None) or not (found := collection.evaluations(system, noise)):
                continue
            run, e = found[0]
            try:
                loaded = loader(run.folder)
                if wanted:
                    seen[system, noise] = represent(loaded, e.config)
            except UserError as error:
                wrong[str(error)] = None
    lost = "Some of the KL and the joint representations" if seen else "KL, joint representations, features under noise"
    collection.missing += [f"{lost}: {line}" for line in wrong]
    _latent(page, collection, seen)
    _joint(page, collection, seen)
    if loaded is not None:
        _utterance(page, collection, loaded)


def _end_noises(collection: Collection) -> list[Noise]:
    """The weakest and the strongest noise of the first kind."""
    first = [noise for noise in collection.noises if noise.curve == collection.noises[0].curve]
    return list(dict.fromkeys((first[0], first[-1])))


def _latent(page: Page, collection: Collection, seen: Mapping[tuple[str, Noise], Representations]) -> None:
    options: list[tuple[str, Sequence[Block]]] = []
    for system in collection.systems:
        found = {noise: kl for (name, noise), s in seen.items() if name == system and (kl := s.kl)}
        if not found:
            continue
        if len(found) == 1:
            ((noise, kl),) = found.items()
            curves: dict[Any, np.ndarray] = {name: value.numpy() for name, value in kl.items()}
            keys: Mapping[Any, Key] = KL_KEYS
            active = f"{_count_active(kl[AVERAGE])} under {noise.phrase}"
        else:
            curves = {noise: kl[AVERAGE].numpy() for noise, kl in found.items()}
            keys = figures.noise_keys(list(found))
            ends = dict.fromkeys((next(iter(found)), list(found)[-1]))
            active = ", ".join(f"{_count_active(found[noise][AVERAGE])} under {noise.phrase}" for noise in ends)
        caption = (
            f"A dimension below {ACTIVE:g} nats (dotted) says next to nothing of the sample; above it are {active}. "
            f"Means over the test split{'' if len(found) == 1 else ' and the incomplete conditions'}, without dropout, "
            f"under which the training's kl is larger.{_note_of_runs(collection)}"
        )
        options.append((system, [page.figure(figures.latent(system, curves, keys), caption)]))
    without = [name for name in collection.systems if not has_posterior(class_of(name))]
    note = (
        f"No VAE, and so no latent to measure: {', '.join(without)}."
        if without and (options or not collection.missing)
        else ""
    )
    page.add("Latent", choice("System", options), Block("text", note) if note else None)


def _count_active(kl: Tensor) -> str:
    return f"{int((kl > ACTIVE).sum())} of {len(kl)}"


def _note_of_runs(collection: Collection) -> str:
    """A sentence that says which of several runs a picture shows; empty where there is one run."""
    return " Of each system and noise the first seed and fold." if _is_repeated(collection) else ""


def _joint(page: Page, collection: Collection, seen: Mapping[tuple[str, Noise], Representations]) -> None:
    options: list[tuple[str, Sequence[Block]]] = []
    for (system, noise), s in seen.items():
        found = project(s) if noise in _end_noises(collection) else None
        if found is not None:
            drawn = figures.projection(f"{system}, {noise}", found, collection.classes)
            options.append(
                (f"{system}, {noise}", [page.figure(drawn, _describe_movement(found) + _note_of_runs(collection))])
            )
    without = [name for name in collection.systems if not has_joint(class_of(name))]
    note = f"No joint representation, each modality is classified alone: {', '.join(without)}." if without else ""
    page.add("Joint representations", choice("System and noise", options), Block("text", note) if note else None)


def _describe_movement(found: Projection) -> str:
    """The caption of a projection: how far noise moves the representations."""
    text = (
        f"The first two principal components, fitted to all panels together, hold {100 * found.explained:.0f} % of the "
        "variance; a point is a test utterance, noisy in every modality where the panel says so. "
    )
    if NOISY in found.moved:
        text += f"Noise moves the encoded features by {found.moved[NOISY]:.2f} of the clean ones' variance"
        if RESTORED in found.moved:
            text += (
                f", and the reconstruction by {found.moved[RESTORED]:.2f} of its own (at 1, what tells samples apart "
                "is gone). Its target was the teacher's features of clean data, so it need not lie where this system's "
                "own do."
            )
        else:
            text += ". This system reconstructs nothing."
    return text


def _utterance(page: Page, collection: Collection, loaded: LoadedRun) -> None:
    noises = _pictured_noises(collection)
    found = noised_utterance(loaded, list(noises.values()))
    drawn = figures.utterance(found, list(noises))
    caption = (
        f"Test utterance {found.name} ({found.class_name}): standardised features from \N{MINUS SIGN}3 (blue) to 3 "
        "(yellow). A column is a step in time, a row a feature, and features are in the order of their clean means: "
        "what is left of that order is what is left of the signal. At 0 dB signal and noise are equally strong."
    )
    page.add("Features under noise", page.figure(drawn, caption))


def _pictured_noises(collection: Collection) -> dict[Noise, NoiseConfig]:
    """The noises under which features are pictured: each noise, and its kind at 0 dB or at every SNR of `LADDER`."""
    configs = {e.noise: e.config for run in collection.runs for e in run.evaluations}
    for noise, config in list(configs.items()):
        if noise.snr_db is not None:
            for snr in LADDER if len({n.snr_db for n in collection.noises}) == 1 else (0.0,):
                configs.setdefault(noise._replace(snr_db=snr), replace(config, snr_db=snr))
    return {noise: configs[noise] for noise in sorted(configs, key=lambda noise: noise.order)}


def make_head(collection: Collection) -> Head:
    """The head of the page."""
    return _head_of_sweep(collection) if collection.is_sweep else _head_of_run(collection)


def _head_of_run(collection: Collection) -> Head:
    (run,) = collection.runs
    noise, data = Noise.from_config(run.config.noise), _data_name(run)
    others = f"; {len(collection.noises)} noises are in the tables" if len(collection.noises) > 1 else ""
    lead = (
        f"{_count(run.config.training.epochs, 'epoch')}; {_describe_tests(collection)}, under {noise.phrase}{others}."
    )
    facts = [
        (f"{NAMES[m]}, incomplete conditions", collection.scores(run.system, noise, AVERAGE, m)) for m in ("wa", "ua")
    ]
    facts += [(f"WA, {c} clean", collection.scores(run.system, noise, c, "wa")) for c in ("all", "none")]
    shown = [(name, f"{values[0]:.1f} %") for name, values in facts if values]
    snrs = [f"{snr:.0f}" for snr in run.results["snr_db"].values() if snr is not None]
    if snrs:
        shown.append((f"realised dB, {' '.join(collection.modalities)}", " ".join(snrs).replace("-", "\N{MINUS SIGN}")))
    shown.append(("seconds in all", f"{sum(run.results['times'].values()):.0f}"))
    return Head(f"{run.system} on {data}", lead, shown, _make_foot(collection))


def _head_of_sweep(collection: Collection) -> Head:
    data = _data_name(collection.runs[0])
    training = [run.config.training for run in collection.runs]
    lead = f"Systems that learn emotion where some modalities are noisy, side by side: {_describe_tests(collection)}."
    counted: dict[str, Sized] = {
        "finished runs": collection.runs,
        "systems": collection.systems,
        "noises": collection.noises,
        "seeds": {t.seed for t in training},
        "folds": {run.config.data.fold for run in collection.runs},
    }
    facts = [
        (name if len(values) > 1 else name.removesuffix("s"), str(len(values))) for name, values in counted.items()
    ]
    facts.append(("epochs", ", ".join(map(str, sorted({t.epochs for t in training})))))
    return Head(f"{data}: {_count(len(collection.systems), 'system')} under noise", lead, facts, _make_foot(collection))


def _describe_tests(collection: Collection) -> str:
    n = next(iter(collection.runs[0].evaluations[0].conditions.values()))["n"]
    return f"{_count(n, 'test utterance')}, each in {_count(len(collection.conditions), 'condition')}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _data_name(run: Run) -> str:
    """The name of the data set: the checkpoint's if there is one, or else the stem of the file's name."""
    about = read_json(run.folder / f"{MODEL}.json")
    return about["data"]["name"] if isinstance(about, dict) and "data" in about else Path(run.config.data.source).stem


def _make_foot(collection: Collection) -> str:
    versions = collection.runs[0].results["versions"]
    return (
        f"Made of {collection.folder.name} by python -m nmer_fast.report. Trained by nmer_fast "
        f"{versions['revision']} with torch {versions['torch']}. Colours after Okabe and Ito."
    )

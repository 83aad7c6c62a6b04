"""The report's pictures: each public function makes one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any
from zlib import crc32

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from ..colours import LIGHT, SERIES
from ..engine.log import ACTIVE
from ..registry import SYSTEMS
from ..system_names import split_system
from ..tables import AVERAGE
from .collection import Collection, Noise, class_of, decibels
from .representations import Projection, Utterance
from .style import MARKERS, Key, Panel, Picture, short, strength_colours

SHOWN_METRICS = ("wa", "ua")
NAMES = {"wa": "WA", "ua": "UA", "f1": "F1"}
BAND = 0.2  # opacity


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def system_key(name: str) -> Key:
    """The key of a system, which is the same in every report.

    A system of this package is told by its place in the registry. The classifiers of one modality come after the other
    systems, which no report compares them with, and differ by the first letter of the modality. A system of another
    package comes after all of these, at a place that its name decides.
    """
    system, modality = split_system(name)
    compared = [own for own in SYSTEMS.own if own != "unimodal"]
    if system in compared:
        place = compared.index(system)
    elif system == "unimodal":
        place = len(compared) + sum(map(ord, modality[:1])) % 8
    else:
        place = len(SYSTEMS.own) + crc32(system.encode()) % len(SERIES)
    return Key(name, LIGHT[SERIES[place % len(SERIES)]], MARKERS[place % len(MARKERS)], place >= len(SERIES))


def curves(collection: Collection) -> Picture | None:
    """The average WA and UA over the incomplete conditions against SNR, by system; None where no noise has two SNRs."""
    kinds = curve_kinds(collection)
    if not kinds:
        return None
    limits = {metric: _limits(collection, kinds, metric) for metric in SHOWN_METRICS}
    panels = [
        Panel(
            partial(_draw_curves, collection=collection, kind=kind, metric=metric, limits=limits[metric]),
            f"{NAMES[metric]} against SNR under {kind} noise, a curve for each system",
        )
        for kind in kinds
        for metric in SHOWN_METRICS
    ]
    title = "Accuracy as noise grows, average of the incomplete conditions"
    return Picture("snr", title, panels, columns=2, legend=[system_key(name) for name in collection.systems])


def curve_kinds(collection: Collection) -> list[str]:
    """The kinds of noise that have an average at two SNRs or more."""
    kinds = dict.fromkeys(noise.curve for noise in collection.noises)
    return [kind for kind in kinds if len(noises_of_curve(collection, kind)) > 1]


def noises_of_curve(collection: Collection, kind: str) -> list[Noise]:
    """The noises of a kind at each SNR that has an average, the weakest first."""
    at = [n for n in collection.noises if n.curve == kind and n.snr_db is not None]
    return [n for n in at if any(collection.scores(system, n, AVERAGE, "wa") for system in collection.systems)]


def _limits(collection: Collection, kinds: Sequence[str], metric: str) -> tuple[float, float]:
    """The limits of the axis of scores, which are the same for all kinds of noise."""
    noises = [n for kind in kinds for n in noises_of_curve(collection, kind)]
    cells = [values for s in collection.systems for n in noises if (values := collection.scores(s, n, AVERAGE, metric))]
    low = min([collection.constant_score(metric), *(fmean(values) - spread(values) for values in cells)])
    high = max([collection.constant_score(metric), *(fmean(values) + spread(values) for values in cells)])
    margin = 0.06 * (high - low) + 0.2
    return low - margin, high + margin


def _draw_curves(ax: Axes, collection: Collection, kind: str, metric: str, limits: tuple[float, float]) -> None:
    noises = noises_of_curve(collection, kind)
    for name in collection.systems:
        points = [(n.snr_db, values) for n in noises if (values := collection.scores(name, n, AVERAGE, metric))]
        if not points:
            continue
        x, middle = np.array([snr for snr, _ in points]), np.array([fmean(values) for _, values in points])
        around, key = np.array([spread(values) for _, values in points]), system_key(name)
        if around.any():
            opacity = BAND if len(collection.systems) < 5 else BAND / 2
            ax.fill_between(x, middle - around, middle + around, color=key.colour, alpha=opacity, linewidth=0)
        ax.plot(x, middle, **key.line)
    ratios = [n.snr_db for n in noises if n.snr_db is not None]
    _draw_constant_score(ax, collection, metric, horizontal=True)
    ax.set_title(f"{NAMES[metric]} %, {kind} noise")
    ax.set_xlabel("SNR, dB (noisier to the right)")
    ax.xaxis.set_major_locator(FixedLocator(ratios))
    ax.grid(axis="x", visible=False)
    room = 0.04 * (max(ratios) - min(ratios))
    ax.set_xlim(max(ratios) + room, min(ratios) - room)
    ax.set_ylim(*limits)


def _draw_constant_score(ax: Axes, collection: Collection, metric: str, *, horizontal: bool) -> None:
    """A dotted line at the score of a model that gives one answer to everything."""
    value = collection.constant_score(metric)
    line: dict[str, Any] = {"color": LIGHT["muted"], "linestyle": ":", "linewidth": 1.2, "zorder": 1}
    if not horizontal:
        ax.axvline(value, **line)
        return
    ax.axhline(value, **line)
    _note(ax, "one answer to everything", (0, value), (4, 3), xycoords=("axes fraction", "data"))


def _note(ax: Axes, text: str, where: tuple[float, float], by: tuple[float, float], **how: Any) -> None:
    """Small text at an offset `by`, in points, from a place."""
    ax.annotate(text, where, by, textcoords="offset points", color=LIGHT["muted"], fontsize=8, **how)


def bars(collection: Collection, noise: Noise) -> Picture:
    """WA and UA of every condition under one noise, a bar for each system."""
    systems = [name for name in collection.systems if collection.evaluations(name, noise)]
    height = len(collection.shown) * (0.12 * len(systems) + 0.14 + 0.06 * (len(systems) < 4)) + 0.85
    panels = [
        Panel(
            partial(_draw_conditions, collection=collection, noise=noise, systems=systems, metric=metric),
            f"{NAMES[metric]} by condition under {noise.phrase}, a bar for each system",
        )
        for metric in SHOWN_METRICS
    ]
    title = f"Accuracy by what is clean, {noise.phrase}"
    return Picture(_file("conditions", str(noise)), title, panels, size=(5.0, height), legend=_blocks(systems))


def _blocks(systems: Sequence[str]) -> list[Key]:
    """The keys of systems whose bars have no marker."""
    return [Key(key.label, key.colour, "s", bare=True) for key in map(system_key, systems)]


def _draw_conditions(ax: Axes, collection: Collection, noise: Noise, systems: Sequence[str], metric: str) -> None:
    thick = 0.8 / len(systems)
    for i, name in enumerate(systems):
        found = [collection.scores(name, noise, condition, metric) for condition in collection.shown]
        places = [j + (i - (len(systems) - 1) / 2) * thick for j, values in enumerate(found) if values]
        _draw_bars(ax, places, [values for values in found if values], thick, system_key(name).colour)
    _draw_constant_score(ax, collection, metric, horizontal=False)
    ax.set_yticks(range(len(collection.shown)), [short(name) for name in collection.shown])
    ax.tick_params(axis="y", labelcolor=LIGHT["ink"])
    ax.set_ylim(len(collection.shown) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.grid(axis="y", visible=False)
    ax.set_title(f"{NAMES[metric]} %")
    ax.set_xlabel("dotted: one answer to everything")


def _draw_bars(ax: Axes, places: Sequence[float], found: Sequence[Sequence[float]], thick: float, colour: str) -> None:
    """The bars of one system; a whisker is one standard deviation."""
    middle, around = [fmean(values) for values in found], [spread(values) for values in found]
    ax.barh(places, middle, 0.86 * thick, color=colour)
    if any(around):
        ax.errorbar(middle, places, xerr=around, fmt="none", ecolor=LIGHT["muted"], elinewidth=0.9)
    if thick > 0.25:  # there is room for a number
        for place, value, around_it in zip(places, middle, around, strict=True):
            _note(ax, f"{value:.1f}", (value + around_it, place), (3, 0), va="center")


def confusion(collection: Collection, noise: Noise) -> Picture:
    """Confusion matrices: a single system's for each condition, or each system's over the incomplete conditions."""
    systems = [name for name in collection.systems if collection.evaluations(name, noise)]
    found: dict[str, list[list[int]]] = {}
    for name in systems:
        parts = {c: counts for c in collection.shown if (counts := collection.confusion(name, noise, c))}
        if len(systems) == 1:
            found |= {f"clean: {condition}": counts for condition, counts in parts.items()}
        elif incomplete := [parts[c] for c in collection.incomplete if c in parts]:
            found[name] = added(incomplete)
    panels = [
        Panel(partial(_draw_confusion, title=title, cells=shares(counts), classes=collection.classes), title)
        for title, counts in found.items()
    ]
    side = 1.2 + 0.42 * len(collection.classes)
    what = systems[0] if len(systems) == 1 else "incomplete conditions"
    title = f"Predicted against true, {what}, {noise.phrase}"
    return Picture(_file("confusion", str(noise)), title, panels, columns=4, size=(side + 0.3, side))


def added(matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    """The sum of matrices."""
    return np.array(matrices).sum(0).tolist()


def shares(counts: list[list[int]]) -> list[list[float | None]]:
    """The percentages of each true class that are predicted as each class; None for a class without samples."""
    return [[100 * n / sum(row) if sum(row) else None for n in row] for row in counts]


def _draw_confusion(ax: Axes, title: str, cells: list[list[float | None]], classes: Sequence[str]) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in cells])
    ax.imshow(values, cmap="Blues", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = "white" if value > 55 else LIGHT["ink"]
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", color=dark, fontsize=9)
    ax.set_xticks(range(len(classes)), [short(c, 10) for c in classes], rotation=30, ha="right")
    ax.set_yticks(range(len(classes)), [short(c, 10) for c in classes])
    ax.grid(visible=False)
    ax.set_title(short(title))


def losses(collection: Collection, system: str) -> Picture:
    """Each loss term by epoch, averaged over seeds and folds, with a curve for each noise of the training."""
    runs = [run for run in collection.runs if run.system == system]
    trained: dict[Noise | None, list[Any]] = {}
    for run in runs:
        complete = class_of(system).trains_on_complete_data
        trained.setdefault(None if complete else Noise.from_config(run.config.noise), []).append(run.results["losses"])
    keys = noise_keys([noise for noise in trained if noise is not None]) or {None: Key("complete data", LIGHT["blue"])}
    terms = list(dict.fromkeys(term for run in runs for epoch in run.results["losses"] for term in epoch))
    terms.sort(key=lambda term: term != "total")
    panels = [
        Panel(partial(_draw_term, term=term, trained=trained, keys=keys), f"The loss term {term} of {system} by epoch")
        for term in terms
    ]
    title = f"{system}: loss on the train split"
    return Picture(_file("losses", system), title, panels, columns=3, size=(3.6, 2.5), legend=list(keys.values()))


def _draw_term(ax: Axes, term: str, trained: Mapping[Noise | None, list[Any]], keys: Mapping[Any, Key]) -> None:
    for noise, histories in trained.items():
        _draw_loss(ax, [[epoch[term] for epoch in history] for history in histories], keys[noise])
    _log_if_wide(ax)
    ax.set_title(short(term))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(axis="x", visible=False)


def noise_keys(noises: Sequence[Noise]) -> dict[Any, Key]:
    """A key for each noise: the colour shows the SNR, and kinds after the first are dashed."""
    ratios = sorted({n.snr_db for n in noises if n.snr_db is not None}, reverse=True)
    colours = dict(zip(ratios, strength_colours(len(ratios)), strict=True))
    kinds = list(dict.fromkeys(n.curve for n in noises))
    return {
        n: Key(str(n), LIGHT["grey"] if n.snr_db is None else colours[n.snr_db], "", kinds.index(n.curve) > 0)
        for n in noises
    }


def _draw_loss(ax: Axes, histories: Sequence[Sequence[float]], key: Key) -> None:
    """The mean of histories over the epochs that all of them have."""
    length = min(map(len, histories))
    values = np.array([history[:length] for history in histories])
    epochs, middle = np.arange(1, length + 1), values.mean(0)
    if len(values) > 1:
        around = values.std(0, ddof=1)
        ax.fill_between(epochs, middle - around, middle + around, color=key.colour, alpha=BAND, linewidth=0)
    ax.plot(epochs, middle, **{**key.line, "marker": "o" if length == 1 else ""}, linewidth=1.5)


def _log_if_wide(ax: Axes) -> None:
    """Make the axis logarithmic if all values are positive and the largest is over 20 times the smallest."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()])
    if values.min() > 0 and values.max() > 20 * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def latent(system: str, curves: Mapping[Any, np.ndarray], keys: Mapping[Any, Key]) -> Picture:
    """The KL of each latent dimension, the largest first, for each of `curves`; `keys` has their keys."""

    def draw(ax: Axes) -> None:
        for name, values in curves.items():
            ordered = np.sort(values)[::-1]
            ax.plot(np.arange(1, len(ordered) + 1), np.maximum(ordered, 1e-9), **keys[name].line, drawstyle="steps-mid")
        ax.axhline(ACTIVE, color=LIGHT["muted"], linestyle=":", linewidth=1.2, zorder=1)
        everything = np.concatenate(list(curves.values()))
        ax.set_yscale("log")
        ax.set_ylim(max(0.7 * everything.min(), 1e-5), max(1.5 * everything.max(), 2 * ACTIVE))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="x", visible=False)
        ax.set_title("KL, nats")
        ax.set_xlabel("latent dimension, the largest first")

    panel = Panel(draw, f"KL of each latent dimension of {system}, sorted")
    title = f"{system}: KL of each latent dimension"
    return Picture(_file("latent", system), title, [panel], columns=1, size=(5.6, 3.2), legend=list(keys.values()))


def projection(name: str, found: Projection, classes: Sequence[str]) -> Picture:
    """A panel for each kind of representation on one plane, a colour and a marker for each class."""
    everything = np.concatenate(list(found.points.values()))
    low, high = np.quantile(everything, [0.002, 0.998], axis=0)
    margin = 0.06 * (high - low) + 1e-9
    keys = class_keys(classes)

    def draw(ax: Axes, kind: str) -> None:
        for i, key in enumerate(keys):
            x, y = found.points[kind][found.labels == i].T
            ax.scatter(x, y, s=13, color=key.colour, marker=key.marker, linewidths=0, alpha=0.75)
        ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
        ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color(LIGHT["rule"])
        ax.set_title(kind)

    panels = [
        Panel(partial(draw, kind=kind), f"Principal components of {kind} joint representations by class")
        for kind in found.points
    ]
    return Picture(
        _file("joint", name), f"{name}: joint representations", panels, columns=4, size=(3.1, 3.0), legend=keys
    )


def class_keys(classes: Sequence[str]) -> list[Key]:
    """A colour and a marker for each class."""
    chosen = [SERIES[i % len(SERIES)] for i in (0, 6, 3, 1, 2, 5, 4, 7, 8)]
    looks = [(LIGHT[chosen[i % len(chosen)]], MARKERS[i % len(MARKERS)]) for i in range(len(classes))]
    return [Key(name, *look, bare=True) for name, look in zip(classes, looks, strict=True)]


def utterance(found: Utterance, noises: Sequence[Noise]) -> Picture:
    """A panel for each modality: a row of pictures for each kind of noise, from clean to the strongest."""
    rows = _rows_of(noises)
    columns = max(map(len, rows.values()))

    def draw(ax: Axes, name: str) -> None:
        for y, (kind, places) in enumerate(rows.items()):
            for x, place in enumerate(places):
                text = "clean" if place == 0 else _strength(noises[place - 1])
                _draw_image(ax, found.images[name][place], text, 1.06 * x, 1.3 * y)
            label = {"ha": "right", "va": "center", "rotation": 90, "color": LIGHT["muted"], "fontsize": 9}
            ax.text(-0.08, 1.3 * y + 0.5, short(kind, 12), label)
        ax.set_xlim(-0.2, 1.06 * columns)
        ax.set_ylim(1.3 * len(rows) - 0.28, -0.25)
        ax.set_axis_off()
        ax.set_title(f"{short(name)}, {found.lengths[name]} step{'s' * (found.lengths[name] != 1)}")

    panels = [
        Panel(partial(draw, name=name), f"Features of modality {name}, clean and at each SNR") for name in found.images
    ]
    size = (max(4.2, 0.95 * columns + 0.4), 0.35 + 1.25 * len(rows))
    return Picture("utterance", f"{short(found.name)} as noise grows", panels, columns=1, size=size)


def _draw_image(ax: Axes, image: np.ndarray, title: str, x: float, y: float) -> None:
    """An image in a square with sides of 1, under its title."""
    options: dict[str, Any] = {"cmap": "cividis", "vmin": -3, "vmax": 3, "aspect": "auto", "interpolation": "none"}
    ax.imshow(image, extent=(x, x + 1, y + 1, y), **options)
    ax.text(x + 0.5, y - 0.04, title, {"ha": "center", "va": "bottom", "color": LIGHT["muted"], "fontsize": 9})


def _rows_of(noises: Sequence[Noise]) -> dict[str, list[int]]:
    """The images' indices by kind of noise; each row begins with the clean image, 0."""
    rows: dict[str, list[int]] = {}
    for place, noise in enumerate(noises, 1):
        rows.setdefault(noise.curve, [0]).append(place)
    return rows


def _strength(noise: Noise) -> str:
    return noise.kind if noise.snr_db is None else decibels(noise.snr_db)


def _file(stem: str, what: str) -> str:
    """The name of a picture's file; letters that a file name should not have become underscores."""
    plain = what.replace("\N{MINUS SIGN}", "-").replace(" dB", "dB")
    return re.sub(r"[^A-Za-z0-9.-]+", "_", f"{stem}_{plain}")[:120]

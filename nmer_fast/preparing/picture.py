"""The picture of an inspection (inspect.py): a row of plots for each modality, and a row for classes and noise."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..colours import LIGHT, SERIES
from ..data.featureset import CLIP
from ..errors import UserError
from ..files import write_atomically
from .inspect import EDGE, SNRS, STEP, Inspection, Modality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers and places carry the same information.
BLUE, SKY, RED, GREY = LIGHT["blue"], LIGHT["sky"], LIGHT["vermillion"], LIGHT["muted"]
COLOURS = [LIGHT[name] for name in SERIES]
MARKERS = "os^Dvp"
SPLITS = {"train": BLUE, "val": LIGHT["green"], "test": LIGHT["orange"], "none": LIGHT["grey"]}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY, "axes.grid": True, "axes.axisbelow": True, "axes.labelcolor": LIGHT["ink"],
    "axes.labelsize": 9, "axes.spines.right": False, "axes.spines.top": False, "axes.titlelocation": "left",
    "axes.titlesize": 10, "figure.facecolor": LIGHT["paper"], "font.family": "DejaVu Sans", "font.size": 9,
    "grid.color": LIGHT["rule"], "legend.frameon": False, "legend.fontsize": 9, "text.parse_math": False,
    "xtick.color": GREY, "xtick.labelsize": 8, "ytick.color": GREY, "ytick.labelsize": 8,
}  # fmt: skip


def check(path: Path) -> None:
    """Check that a picture can be written to this path, before anything is measured.

    Raises:
        UserError: one line, if the name does not end in .png, the folder does not exist, or matplotlib is missing.
    """
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise UserError(f"plot: expected a name that ends in .png, in a folder that exists, got {path}")
    if find_spec("matplotlib") is None:
        raise UserError("plot: expected matplotlib, which is not installed: pip install 'nmer_fast[report]'")


def draw(inspection: Inspection, path: Path) -> None:
    """Draw an inspection and write it as a PNG file.

    Raises:
        UserError: one line, if `check` refuses the path or the file cannot be written.
    """
    check(path)
    import matplotlib
    from matplotlib.figure import Figure

    rows = len(inspection.modalities)
    content = io.BytesIO()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(13, 2.5 * rows + 3.4), layout="constrained")
        figure.suptitle(_title(inspection), x=0.008, ha="left", fontsize=13, fontweight="bold")
        grid = figure.add_gridspec(rows + 1, 6, height_ratios=[*[2.5] * rows, 2.9])
        for row, modality in enumerate(inspection.modalities):
            _lengths(figure.add_subplot(grid[row, :2]), modality)
            _values(figure.add_subplot(grid[row, 2:4]), modality)
            _columns(figure.add_subplot(grid[row, 4:]), modality)
        _classes(figure.add_subplot(grid[rows, :3]), inspection)
        _noise(figure.add_subplot(grid[rows, 3:]), inspection)
        figure.savefig(content, format="png", dpi=130)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"plot: expected a file that can be written, got {path}: {error.strerror}") from None


def _title(inspection: Inspection) -> str:
    several = f", {len(inspection.folds)} folds: values and classes of fold 1" if len(inspection.folds) > 1 else ""
    return f"{inspection.name}: {len(inspection.sample_names):,} samples{several}"


def _lengths(ax: Axes, modality: Modality) -> None:
    """Plot the histogram of the number of steps; the bins have whole widths, since lengths are whole numbers."""
    lengths = modality.lengths.numpy()
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    width = max(1, -(-(high - low + 1) // 40))
    bins = (np.arange(low, high + width + 1, width) - 0.5).tolist()
    ax.hist(lengths, bins, color=BLUE, edgecolor=LIGHT["paper"], linewidth=0.4)
    if low == high:
        ax.set_xticks([low])
        ax.set_xlim(low - 3, low + 3)
    absent = int((lengths == 0).sum())
    ax.set_title(f"{modality.name}: steps" + (f" (absent in {absent:,})" if absent else ""))
    ax.set(xlabel="steps of a sample", ylabel="samples")


def _values(ax: Axes, modality: Modality) -> None:
    """Plot the density of the standardised values beside the normal density, and mark the range that training clips."""
    ax.set_title(f"{modality.name}: standardised values, {modality.dim}-d")
    if not (measured := modality.measured):
        return _obstacle(ax, modality)
    edges = np.linspace(-EDGE, EDGE, len(measured.histogram) + 1)
    density = measured.histogram.numpy() / measured.histogram.sum().item() / STEP
    floor = 10.0 ** np.floor(np.log10(density[density > 0].min()))
    normal = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)
    ax.stairs(np.maximum(density, floor), edges, baseline=floor, fill=True, color=SKY)
    ax.plot(edges, np.where(normal > floor, normal, np.nan), "--", color=LIGHT["black"], linewidth=1.2, label="normal")
    for side in (-1, 1):
        ax.axvspan(side * CLIP, side * EDGE, color=RED, alpha=0.15, linewidth=0)
    ax.text(
        0.985, 0.95, f"clipped: {measured.outliers:,}\nlargest: {measured.largest:.1f}", ha="right", va="top",
        transform=ax.transAxes, color=RED if measured.outliers else GREY, fontsize=8.5,
    )  # fmt: skip
    ax.legend(loc="upper left")
    ax.set(xlabel="standard deviations from the mean", ylabel="density", xlim=(-EDGE, EDGE))
    _log_scale(ax, floor, max(density.max(), 0.4) * 4)
    return None


def _columns(ax: Axes, modality: Modality) -> None:
    """Plot the standard deviation of each column as it is stored; constant columns are crosses at the bottom."""
    ax.set_title(f"{modality.name}: columns as they are stored")
    if not (measured := modality.measured):
        return _obstacle(ax, modality)
    constant, column = measured.moments.constant.numpy(), np.arange(modality.dim)
    spread = measured.moments.spread.numpy()
    varies = spread[~constant]
    ax.plot(column[~constant], varies, ".", color=BLUE, markersize=4)
    low, high = (varies.min(), varies.max()) if len(varies) else (1.0, 1.0)
    if constant.any():
        low /= 8
        ax.plot(column[constant], np.full(constant.sum(), low), "x", color=RED, markersize=5)
        ax.set_title(f"x: {constant.sum():,} constant in train", loc="right", color=RED, fontsize=9)
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="column", ylabel="standard deviation")
    _log_scale(ax, low / 2, high * 2)
    return None


def _log_scale(ax: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic, with plain numbers: mathematical text is off, since names may hold a dollar sign."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set(yscale="log", ylim=(low, high))
    ax.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _obstacle(ax: Axes, modality: Modality) -> None:
    """Write, in place of a plot, why the values are not measured."""
    text = ", ".join(f"{count:,} {what}" for what, count in modality.not_finite.items()) or modality.obstacle
    ax.text(0.5, 0.5, f"not measured:\n{text}", ha="center", va="center", transform=ax.transAxes, color=RED)
    ax.set(xticks=[], yticks=[])


def _classes(ax: Axes, inspection: Inspection) -> None:
    """Plot the share of each class in each split, with the number of samples above the bar."""
    fold = inspection.folds[0]
    width, place = 0.84 / len(fold), np.arange(len(inspection.class_names))
    for i, (split, counts) in enumerate(fold.items()):
        n = int(counts.sum())
        share = 100 * counts.numpy() / max(n, 1)
        x = place + (i - (len(fold) - 1) / 2) * width
        bars = ax.bar(x, share, 0.94 * width, color=SPLITS[split], label=f"{split} ({n:,})")
        if len(place) * len(fold) <= 24:
            ax.bar_label(bars, [f"{count:,}" for count in counts.tolist()], fontsize=8, color=GREY, padding=1)
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in inspection.class_names]
    ax.set_xticks(place, names, rotation=0 if len(names) <= 8 else 90)
    ax.grid(axis="x", visible=False)
    ax.set_title("classes in each split")
    ax.set(ylabel="% of the split")
    ax.margins(y=0.12)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), borderaxespad=0, ncols=len(fold), handlelength=1)


def _noise(ax: Axes, inspection: Inspection) -> None:
    """Plot the whole T nearest to each SNR, by modality; with up to three modalities, write the alpha-bar below it."""
    measured = [(m.name, m.measured) for m in inspection.modalities if m.measured and m.measured.needs]
    has_room = len(measured) <= 3
    ax.set_title("noise: the nearest whole T" + ", and the exact alpha-bar below it" * has_room)
    for i, (name, values) in enumerate(measured):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        steps = [need.steps for need in values.needs]
        # Modalities need nearly the same T, so they are drawn side by side.
        x = np.arange(len(SNRS)) + 0.8 * ((i + 0.5) / len(measured) - 0.5)
        ax.plot(x, steps, marker, color=colour, label=f"{name} (variance {values.variance:.3f})", markersize=6)
        ax.vlines(x, 0, steps, color=colour, linewidth=1.5, alpha=0.5)
        for place, need in zip(x, values.needs, strict=True):
            text = f"{need.steps}\n{need.alpha_bar:.2g}" if has_room else str(need.steps)
            ax.annotate(text, (place, need.steps), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xticks(range(len(SNRS)), [f"{snr:g} dB" for snr in SNRS])
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="T")
    if measured:
        ax.set_ylim(0, 1.25 * max(need.steps for _, values in measured for need in values.needs))
        ax.legend(loc="upper left", ncols=1 if has_room else 2)

"""The inspection of a feature set: its content, and what in it would disturb training.

Values are measured in parts of a few megabytes, so a set that is larger than memory can be inspected.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..data import FeatureSet, Ragged
from ..data.featureset import CLIP, Scale
from ..data.standardise import Moments, chunks, measure, scaled_variance
from ..noise import NoiseSchedule, alpha_bar_of_snr

SNRS = (-10.0, -20.0, -30.0, -40.0)  # dB, the paper's
BARS = "▁▂▃▄▅▆▇█"
BINS = 24  # bins of the printed histogram of lengths
EDGE, STEP = CLIP + 2, 0.25  # the histogram of standardised values ends at -EDGE and EDGE and has bins of STEP
SHOWN = 5  # examples that a finding lists


@dataclass(frozen=True)
class Need:
    """The noise level that an SNR needs.

    Attributes:
        snr_db: the SNR, in dB.
        alpha_bar: the alpha-bar that gives this SNR exactly.
        steps: the whole T whose SNR is nearest.
        realised_db: the SNR of that T, in dB.
    """

    snr_db: float
    alpha_bar: float
    steps: int
    realised_db: float


@dataclass(frozen=True)
class Measured:
    """The values of a modality: statistics of the train split, and all splits standardised by them.

    Attributes:
        moments: the statistics of each column over the train split, as values are stored.
        raw_variance: the variance of all train values, as they are stored.
        variance: the variance of all train values, standardised and clipped, against which an SNR is measured.
        needs: the noise level that each SNR needs; empty if the variance is 0.
        outliers: the number of values, in all splits, beyond 10 standard deviations, which training clips.
        outlier_columns: the columns that hold outliers, bool [D].
        outlier_samples: the rows of the samples that hold outliers.
        largest: the distance of the furthest value from its column's mean, in standard deviations.
        largest_at: the row, step and column of that value.
        histogram: the number of standardised values in each bin of width STEP from -EDGE to EDGE, int64; the outermost
            bins also count the values beyond them.
    """

    moments: Moments
    raw_variance: float
    variance: float
    needs: list[Need]
    outliers: int
    outlier_columns: Tensor
    outlier_samples: list[int]
    largest: float
    largest_at: tuple[int, int, int]
    histogram: Tensor

    @property
    def constant(self) -> list[int]:
        """The columns that do not vary in the train split."""
        return self.moments.constant.nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class Modality:
    """The content of one modality.

    Attributes:
        name: the modality's name.
        dim: the number of features D of a step.
        lengths: the number of steps of each sample, int64 [N].
        not_finite: the counts of "NaN", "inf" and "-inf", each if there are any.
        not_finite_samples: the rows of the samples that hold values that are not finite.
        not_finite_columns: the columns that hold them, bool [D].
        measured: the statistics of the values; None if they cannot be measured.
        obstacle: the reason why they cannot be measured; empty if they are.
    """

    name: str
    dim: int
    lengths: Tensor
    not_finite: dict[str, int]
    not_finite_samples: list[int]
    not_finite_columns: Tensor
    measured: Measured | None
    obstacle: str = ""


@dataclass(frozen=True)
class Inspection:
    """The content of a data set, as `inspect` finds it.

    Attributes:
        name: the set's name.
        sample_names: the names of the N samples.
        class_names: the name of each class.
        folds: the number of samples of each class, int64 [classes], by split, for each fold; the split "none" counts
            samples that are in no split.
        modalities: the content of each modality, in order; values are measured on the train split of fold 1.
        repeated_names: the names that several samples share, each with the number of these samples.
        equal: lists of rows of samples that are equal in all modalities, two or more in each list.
        leaks: the lists in `equal` whose samples lie in different splits of some fold.
    """

    name: str
    sample_names: list[str]
    class_names: list[str]
    folds: list[dict[str, Tensor]]
    modalities: list[Modality]
    repeated_names: dict[str, int]
    equal: list[list[int]]
    leaks: list[list[int]]

    def print(self, console: Console) -> None:
        """Print tables of samples, lengths, values and noise, and a line for each unusual thing."""
        console.print(Text(f"{self.name}: {len(self.sample_names)} samples, {len(self.class_names)} classes"))
        for table in (self._classes(), self._lengths(), self._values(), self._noise()):
            console.print(table)
        for line in self.findings():
            console.print(Text(line))

    def findings(self) -> list[str]:
        """One line for each unusual thing, or one line that says that there is none."""
        lines = [line for modality in self.modalities for line in self._findings_of(modality)]
        if self.repeated_names:
            found = [f"{name} ({count} times)" for name, count in self.repeated_names.items()]
            lines.append(f"names of several samples: {_some(found)}")
        for what, groups in (("samples", self.equal), ("samples of different splits", self.leaks)):
            if groups:
                found = [" = ".join(self.sample_names[row] for row in rows[:SHOWN]) for rows in groups]
                count = sum(len(rows) for rows in groups)
                lines.append(f"{what}: {count} are equal to another in all modalities: {_some(found)}")
        return lines or ["nothing unusual: no NaN or infinity, no constant column, no outlier, no sample twice"]

    def _findings_of(self, modality: Modality) -> list[str]:
        lines = []
        if modality.not_finite:
            counts = ", ".join(f"{count:,} {what}" for what, count in modality.not_finite.items())
            columns = modality.not_finite_columns.nonzero()[:, 0].tolist()
            lines.append(
                f"not finite: {counts} in {_columns(columns, modality.dim)} and {len(modality.not_finite_samples)} "
                f"samples: {_some([self.sample_names[row] for row in modality.not_finite_samples])}"
            )
        if modality.obstacle:
            lines.append(f"values are not measured: {modality.obstacle}")
        if measured := modality.measured:
            if constant := measured.constant:
                lines.append(f"constant in train: {_columns(constant, modality.dim)}")
            if not measured.needs:
                lines.append("no SNR is defined, for the variance in train is 0: training refuses it")
            if measured.outliers:
                row, step, column = measured.largest_at
                columns = measured.outlier_columns.nonzero()[:, 0].tolist()
                where = f"{_columns(columns, modality.dim)} and {len(measured.outlier_samples)} samples"
                lines.append(
                    f"outliers: {measured.outliers:,} values beyond {CLIP:g} standard deviations, which training "
                    f"clips, in {where}; the largest, {measured.largest:.1f}, in {self.sample_names[row]}, "
                    f"step {step}, column {column}"
                )
        return [f"{modality.name}: {line}" for line in lines]

    def _classes(self) -> Table:
        several = len(self.folds) > 1
        table = _table("samples by class", *["fold"] * several, "split", "n", *self.class_names)
        for number, fold in enumerate(self.folds, start=1):
            for split, counts in fold.items():
                n = int(counts.sum())
                cells = [f"{count} ({100 * count / max(n, 1):.0f}%)" for count in counts.tolist()]
                _row(table, *[str(number)] * several, split, str(n), *cells)
            table.add_section()
        return table

    def _lengths(self) -> Table:
        table = _table("steps", "modality", "D", "all", "min", "median", "95 %", "max", "absent", "from min to max")
        for modality in self.modalities:
            lengths = modality.lengths.double()
            if not len(lengths):
                _row(table, modality.name, str(modality.dim), "0", *[""] * 6)
                continue
            levels = [lengths.quantile(q).item() for q in (0, 0.5, 0.95, 1)]
            absent = int((modality.lengths == 0).sum())
            numbers = [f"{int(modality.lengths.sum()):,}", *(f"{level:.0f}" for level in levels), str(absent)]
            _row(table, modality.name, str(modality.dim), *numbers, _bars(lengths))
        return table

    def _values(self) -> Table:
        where = "train split" + (" of fold 1" if len(self.folds) > 1 else "")
        columns = ("raw variance", "least std", "largest std", "constant", "variance", "outliers", "not finite")
        table = _table(f"values in the {where}; the last two columns: in all splits", "modality", *columns)
        table.caption = Text("variance: of what is standardised and clipped, which SNRs are measured against")
        for modality in self.modalities:
            cells = ["-"] * 6
            if measured := modality.measured:
                varying = measured.moments.spread[~measured.moments.constant]
                spread = [f"{varying.min():.3g}", f"{varying.max():.3g}"] if len(varying) else ["-", "-"]
                cells = [
                    f"{measured.raw_variance:.4g}", *spread, f"{len(measured.constant)} of {modality.dim}",
                    f"{measured.variance:.4f}", f"{measured.outliers:,}",
                ]  # fmt: skip
            _row(table, modality.name, *cells, f"{sum(modality.not_finite.values()):,}")
        return table

    def _noise(self) -> Table:
        title = "noise of power 1 on the standardised train split: exact alpha-bar, and the nearest whole T of --steps"
        table = _table(title, "modality", "SNR dB", "alpha-bar", "T", "its SNR dB")
        for modality in self.modalities:
            for need in modality.measured.needs if modality.measured else ():
                snr, realised = f"{need.snr_db:g}", f"{need.realised_db:.2f}"
                _row(table, modality.name, snr, f"{need.alpha_bar:.4g}", str(need.steps), realised)
            table.add_section()
        return table


def inspect(sets: Sequence[FeatureSet]) -> Inspection:
    """Inspect a whole data set, a few megabytes at a time.

    Args:
        sets: the folds of the set, which share everything but their splits. If they were loaded inside `data.tolerant`,
            NaN, infinity and repeated names, which training refuses, are found and reported.
    """
    data = sets[0]
    repeated = {name: count for name, count in Counter(data.sample_names).items() if count > 1}
    equal, splits = _equal(data), [_splits(fold) for fold in sets]
    return Inspection(
        name=data.name,
        sample_names=data.sample_names,
        class_names=data.class_names,
        folds=[_balance(fold) for fold in sets],
        modalities=[_modality(data, name) for name in data.modalities],
        repeated_names=repeated,
        equal=equal,
        leaks=[rows for rows in equal if any(len({*split[rows].tolist()} - {-1}) > 1 for split in splits)],
    )


# ---------------------------------------------------------------- measuring


def _splits(data: FeatureSet) -> Tensor:
    """The number of the split that each sample is in, int64 [N]; -1: none."""
    out = torch.full((len(data),), -1)
    for number, rows in enumerate(data.splits.values()):
        out[rows] = number
    return out


def _balance(data: FeatureSet) -> dict[str, Tensor]:
    rows = dict(data.splits)
    if len(unused := (_splits(data) == -1).nonzero()[:, 0]):
        rows["none"] = unused
    return {split: data.labels[i].bincount(minlength=len(data.class_names)) for split, i in rows.items()}


def _equal(data: FeatureSet) -> list[list[int]]:
    """Lists of rows of samples with equal values; samples without any step are left out."""
    steps, digests = torch.zeros(len(data), dtype=torch.int64), [b""] * len(data)
    for ragged in data.modalities.values():
        steps += ragged.lengths
        bounds = ragged.offsets.tolist()
        for row, (start, stop) in enumerate(pairwise(bounds)):
            values = ragged.at(torch.arange(start, stop)).numpy()
            digests[row] += hashlib.blake2b(values.data.cast("B") if stop > start else b"", digest_size=16).digest()
    rows = defaultdict(list)
    for row in steps.nonzero()[:, 0].tolist():
        rows[digests[row]].append(row)
    return [group for group in rows.values() if len(group) > 1]


def _modality(data: FeatureSet, name: str) -> Modality:
    ragged = data.modalities[name]
    counts, samples, columns = _not_finite(ragged)
    train = ragged.steps_of(data.splits["train"]) if "train" in data.splits else None
    obstacle, measured = "", None
    if counts:
        obstacle = "not all are finite"
    elif train is None or len(train) == 0:
        obstacle = f"there is no {'train split' if train is None else 'step in the train split'}"
    else:
        measured = _measured(ragged, train)
    return Modality(name, ragged.dim, ragged.lengths, counts, samples, columns, measured, obstacle)


def _rows(ragged: Ragged, steps: Tensor) -> Tensor:
    """The row of the sample that each step belongs to."""
    return torch.searchsorted(ragged.offsets, steps, right=True) - 1


def _not_finite(ragged: Ragged) -> tuple[dict[str, int], list[int], Tensor]:
    counts, rows, columns = Counter[str](), set[int](), torch.zeros(ragged.dim, dtype=torch.bool)
    for part in chunks(ragged, torch.arange(int(ragged.offsets[-1]))):
        values = ragged.at(part)
        bad = ~values.isfinite()
        if bad.any():
            counts.update({"NaN": int(values.isnan().sum())})
            counts.update({"inf": int(values.isposinf().sum()), "-inf": int(values.isneginf().sum())})
            columns |= bad.any(0)
            rows.update(_rows(ragged, part[bad.any(1)]).tolist())
    return {what: count for what, count in counts.items() if count}, sorted(rows), columns


def _measured(ragged: Ragged, train: Tensor) -> Measured:
    moments = measure(ragged, train)
    scale = moments.scale()
    variance = scaled_variance(ragged, train, scale)
    outliers, columns, rows, largest, at = 0, torch.zeros(ragged.dim, dtype=torch.bool), set[int](), -1.0, (0, 0, 0)
    histogram = torch.zeros(round(2 * EDGE / STEP), dtype=torch.int64)
    for part in chunks(ragged, torch.arange(int(ragged.offsets[-1]))):
        z = _unclipped(ragged, part, scale)
        histogram += torch.histc(z.clamp(-EDGE, EDGE), len(histogram), -EDGE, EDGE).long()
        size = z.abs()
        if size.max() > CLIP:
            beyond = size > CLIP
            outliers += int(beyond.sum())
            columns |= beyond.any(0)
            rows.update(_rows(ragged, part[beyond.any(1)]).tolist())
        if size.max() > largest:
            largest, (step, column) = size.max().item(), divmod(int(size.argmax()), ragged.dim)
            row = int(_rows(ragged, part[step]))
            at = (row, int(part[step] - ragged.offsets[row]), column)
    return Measured(
        moments=moments,
        raw_variance=(moments.spread.square().mean() + moments.mean.var(correction=0)).item(),
        variance=variance,
        needs=_needs(variance),
        outliers=outliers,
        outlier_columns=columns,
        outlier_samples=sorted(rows),
        largest=largest,
        largest_at=at,
        histogram=histogram,
    )


def _unclipped(ragged: Ragged, steps: Tensor, scale: Scale) -> Tensor:
    return (ragged.at(steps) - scale.mean) / scale.std


def _needs(variance: float) -> list[Need]:
    schedule = NoiseSchedule()
    return [
        Need(snr, alpha_bar_of_snr(snr, variance), *schedule.nearest_steps(snr, variance))
        for snr in SNRS
        if variance > 0
    ]


# ---------------------------------------------------------------- printing


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", caption_justify="left")
    for column in columns:
        left = column in ("fold", "split", "modality", "from min to max")
        table.add_column(Text(column), justify="left" if left else "right")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))  # names come from files and may look like markup


def _bars(values: Tensor) -> str:
    """Format a histogram of whole numbers as one line of bars."""
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, min(BINS, int(high - low) + 1), low, high)
    heights = (counts / counts.max() * (len(BARS) - 1)).ceil().long().tolist()
    return "".join(BARS[height] if count else " " for height, count in zip(heights, counts.tolist(), strict=True))


def _columns(columns: Sequence[int], dim: int) -> str:
    """Format columns as ranges, with their number."""
    ranges: list[list[int]] = []
    for column in columns:
        if ranges and column == ranges[-1][1] + 1:
            ranges[-1][1] = column
        else:
            ranges.append([column, column])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return f"{len(columns)} of {dim} columns ({_some(shown, 12)})"


def _some(items: Sequence[str], shown: int = SHOWN) -> str:
    """Format the first items, and the number of those that are left out."""
    return ", ".join(items[:shown]) + (f" and {len(items) - shown} more" if len(items) > shown else "")

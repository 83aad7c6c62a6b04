"""How much faster the engine trains and evaluates than the released code's formulation of NMER (baseline.py).

Two CPU threads, float32, IEMOCAP's shapes and numbers. "ours" has the baseline's own Transformer (`tokens="batch"`), so
both train the same model; "ours, one token" is the library's default, without queries and keys. Everything that is
compared is timed in turn in one process: read the ratios, not the times. A step begins with row numbers, so batching is
part of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import baseline
import psutil
import torch
import torch._inductor.config
from measure import about
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from nmer_fast.config import Config, NMERConfig, TrainingConfig
from nmer_fast.data import FeatureSet, Ragged
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.console import Report
from nmer_fast.engine.evaluation import evaluate, score
from nmer_fast.engine.fit import Fit
from nmer_fast.engine.memory import give_back
from nmer_fast.engine.trainer import all_sizes_differ, compiled, noisy_step, teacher_targets
from nmer_fast.models import NMER, Batch, Teacher
from nmer_fast.models.encoders import HIDDEN, TEXT
from nmer_fast.noise import NoiseScheduler

CPU = torch.device("cpu")
THREADS = 2
DIMS = {"a": 130, "v": 342, "l": 1024}
CLASSES = 4
SNR_DB = -10.0
OURS, COMPILED, ONE, BASELINE = "ours", "ours, one token, compiled", "ours, one token", "baseline"
COLOURS = {OURS: "#0072B2", COMPILED: "#56B4E9", ONE: "#009E73", BASELINE: "#E69F00"}


@dataclass(frozen=True)
class Plan:
    """Sizes of everything that is measured.

    Attributes:
        batch: samples a step.
        train: utterances an epoch.
        test: utterances of an evaluation.
        layers: of the Transformer.
        turns: timed steps of each system.
        memory: epochs, and steps an epoch, over which the resident set is watched.
        utterances: of the small data sets whose epochs are timed.
        modalities: as many, of one small data set each.
        repeats: timed epochs of each of those.
        gemm: rows and columns of the matrices whose product shows what the machine can do.
        compile: time the compiled step too, which takes a minute to compile.
    """

    batch: int = 128
    train: int = 4480
    test: int = 1110
    layers: int = 5
    turns: int = 12
    memory: tuple[int, int] = (12, 3)
    utterances: tuple[int, ...] = (1000, 2000, 4000, 8000, 16000, 32000, 64000)
    modalities: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    repeats: int = 3
    gemm: int = 2048
    compile: bool = True


FULL = Plan()
QUICK = Plan(16, 64, 16, 1, 3, (3, 2), (128, 256, 512), (1, 2, 3), 1, 512, compile=False)


@dataclass(frozen=True)
class Figure:
    """One thing measured; the quantiles are equal where it was measured once."""

    section: str
    what: str
    who: str
    unit: str
    p20: float
    p50: float
    p80: float


def figure(section: str, what: str, who: str, unit: str, values: Sequence[float]) -> Figure:
    """The median of some values and the quantiles about it."""
    if len(values) == 1:
        return Figure(section, what, who, unit, values[0], values[0], values[0])
    p20, p50, p80 = (quantiles(values, n=10, method="inclusive")[i] for i in (1, 4, 7))
    return Figure(section, what, who, unit, p20, p50, p80)


# ---------------------------------------------------------------- data and systems


def iemocap(train: int, test: int) -> FeatureSet:
    """Noise in IEMOCAP's shapes: a of 10 to 300 steps, log-normal about 40; v of 50 and l of 22."""
    generator, n = torch.Generator().manual_seed(0), train + test
    spread = (0.6 * torch.randn(n, generator=generator)).exp()
    a = (40 * spread).round().clamp(10, 300).long()
    return ragged(DIMS, {"a": a, "v": torch.full((n,), 50), "l": torch.full((n,), 22)}, train, generator)


def small(utterances: int, modalities: int) -> FeatureSet:
    """So many utterances (one of them test) and modalities of 4 to 8 steps, 32-d; one modality in three is a text."""
    generator = torch.Generator().manual_seed(0)
    names = [("l", "text", "lexical")[i // 3] if i % 3 == 2 else f"m{i}" for i in range(modalities)]
    lengths = torch.randint(4, 9, (utterances,), generator=generator)
    return ragged(dict.fromkeys(names, 32), dict.fromkeys(names, lengths), utterances - 1, generator)


def ragged(dims: dict[str, int], lengths: dict[str, Tensor], train: int, generator: torch.Generator) -> FeatureSet:
    """Normal features of these lengths, of random classes; the first rows are the train split, the others test."""
    modalities = {
        name: Ragged.from_lengths(torch.randn(int(lengths[name].sum()), dim, generator=generator), lengths[name])
        for name, dim in dims.items()
    }
    order = torch.arange(len(next(iter(lengths.values()))))
    return FeatureSet(
        name="made up",
        modalities=modalities,
        labels=torch.randint(CLASSES, (len(order),), generator=generator),
        class_names=[str(i) for i in range(CLASSES)],
        splits={"train": order[:train], "test": order[train:]},
        sample_names=[str(i) for i in range(len(order))],
        groups=order,
        positions=order,
    )


class System(Protocol):
    """What is timed: a way to train and evaluate."""

    model: Any
    optimizer: torch.optim.Optimizer

    def batch(self, rows: Tensor) -> Any:
        """These rows, padded."""

    def step(self, batch: Any) -> None:
        """Train on them."""

    def epoch(self) -> None:
        """Train on the train split."""

    def evaluate(self) -> None:
        """Score the test split under each incomplete condition."""


class Ours:
    """The engine. `seconds` is what it does once a run: the teacher's targets, and compiling."""

    def __init__(self, data: FeatureSet, config: Config, *, compile: bool = False) -> None:
        training, classes = config.training, len(data.class_names)
        torch.manual_seed(0)
        self.data, self.draw = data, 0
        self.scheduler = NoiseScheduler(dict.fromkeys(data.modalities, 1.0), snr_db=SNR_DB)
        self.batches = Batches(data, CPU, training.batch_size)
        self.seconds: dict[str, float] = {}
        teacher = Teacher(data.dims, classes, config.model, training.teacher_lambda_cmd)
        start = time.perf_counter()
        self.targets = teacher_targets(teacher, self.batches)
        self.seconds["teacher's targets"] = time.perf_counter() - start
        self.model = NMER(data.dims, classes, config.model)
        step = noisy_step(self.model, self.scheduler, config, CPU)
        self.fit = Fit(
            "nmer", self.model, compiled(step) if compile else step, self.batches, training, epochs=0, lr=training.lr,
            clip=training.clip, targets=self.targets, realised_snr_db=self.scheduler.realised_snr_db,
        )  # fmt: skip
        self.optimizer = self.fit.optimizer
        if compile:
            torch._inductor.config.cpp.enable_kernel_profile = True  # names its kernels, for `launches`
            start = time.perf_counter()
            self.step(all_sizes_differ(self.batch(data.splits["train"][: training.batch_size])))
            self.seconds["compiling"] = time.perf_counter() - start

    def batch(self, rows: Tensor) -> Batch:
        """These rows with their targets, and noise that no earlier batch had."""
        self.draw += 1
        return self.batches.of(rows, rng=torch.tensor([0, self.draw]), targets=self.targets)

    def step(self, batch: Batch) -> None:
        """As Fit's, without its records."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.fit.step(batch).losses["total"].backward()
        self.optimizer.step()

    def epoch(self) -> None:
        """Fit's, records and all."""
        self.fit.epochs += 1
        self.fit.run(Report(quiet=True))

    def evaluate(self) -> None:
        """The engine's."""
        names = self.scheduler.conditions.names[: self.scheduler.conditions.incomplete]
        evaluate(
            self.model, self.batches, self.data.splits["test"], self.scheduler, 0, conditions=names, allow_leak=True
        )


class Theirs:
    """The baseline, with Adam as torch makes it; `foreach` as it is by default on a GPU."""

    def __init__(self, data: FeatureSet, config: Config, *, foreach: bool | None = None) -> None:
        torch.manual_seed(0)
        self.data, self.size = data, config.training.batch_size
        scheduler = NoiseScheduler(dict.fromkeys(data.modalities, 1.0), snr_db=SNR_DB)
        self.alpha_bars, self.known = scheduler.alpha_bars.float(), scheduler.conditions
        teacher = baseline.Encoders(data.dims, config.model)
        self.model = baseline.Baseline(data.dims, len(data.class_names), config.model, teacher)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.training.lr, foreach=foreach)

    def batch(self, rows: Tensor) -> tuple[baseline.Features, Tensor]:
        """Features and labels."""
        return baseline.collate(self.data, rows), self.data.labels[rows]

    def step(self, batch: tuple[baseline.Features, Tensor]) -> None:
        """The baseline's."""
        self.model.train()
        baseline.step(self.model, self.optimizer, *batch, self.alpha_bars, self.known)

    def epoch(self) -> None:
        """The baseline's."""
        rows = self.data.splits["train"]
        baseline.epoch(self.model, self.optimizer, self.data, rows, self.size, self.alpha_bars, self.known)

    def evaluate(self) -> None:
        """A pass for each condition, scored as the engine scores."""
        rows, names = self.data.splits["test"], self.known.names[: self.known.incomplete]
        predicted = baseline.evaluate(self.model, self.data, rows, self.size, self.alpha_bars, self.known, names)
        for classes in predicted.values():
            score(classes, self.data.labels[rows], len(self.data.class_names))


def config_of(plan: Plan, **model: Any) -> Config:
    """The library's defaults, but for the optimizer's kind, which is the baseline's."""
    training = TrainingConfig(batch_size=plan.batch, optimizer="adam")
    return Config(model=NMERConfig(**{"layers": plan.layers, "tokens": "batch", **model}), training=training)


def rows_of(plan: Plan, data: FeatureSet, turn: int) -> Tensor:
    """A batch's rows, other ones each turn."""
    generator = torch.Generator().manual_seed(turn)
    return data.splits["train"][torch.randperm(plan.train, generator=generator)[: plan.batch]]


def timed(call: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# ---------------------------------------------------------------- what is measured


def steps(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """A training step of each system in turn, on the same rows, and how often the compiled one lost to eager."""
    times: dict[str, list[float]] = {who: [] for who in systems}
    for turn in range(-2, plan.turns):  # two to warm up
        rows = rows_of(plan, data, turn + 2)
        for who, system in systems.items():
            seconds = timed(lambda system=system, rows=rows: system.step(system.batch(rows)))
            if turn >= 0:
                times[who].append(seconds)
    out = [figure("step", "seconds", who, "s", values) for who, values in times.items()]
    if COMPILED in times:
        lost = sum(c > e for c, e in zip(times[COMPILED], times[ONE], strict=True)) / plan.turns
        out.append(figure("compile", "turns that compiled lost to eager", COMPILED, "share", [lost]))
    return out


def epochs(systems: dict[str, System], before: int) -> list[Figure]:
    """An epoch and an evaluation of each system, ours first, then the baseline, then the compiled one again.

    The compiled one's graphs are those that Dynamo has made since it had made `before`.
    """
    train: dict[str, list[float]] = defaultdict(list)
    test: dict[str, list[float]] = defaultdict(list)
    graphs = []
    ours = [who for who in systems if who != BASELINE]
    for who in (*ours, BASELINE, *(who for who in ours if who == COMPILED)):
        train[who].append(timed(systems[who].epoch))
        test[who].append(timed(systems[who].evaluate))
        if who == COMPILED:
            graphs.append(counters["stats"]["unique_graphs"] - before)
    out = []
    both = {who: [a + b for a, b in zip(train[who], test[who], strict=True)] for who in systems}
    for what, times in (("training", train), ("evaluation", test), ("both", both)):
        out += [figure("epoch", what, who, "s", times[who]) for who in systems]
    if graphs:
        out.append(figure("compile", "graphs after the first epoch", COMPILED, "graphs", [graphs[0]]))
        out.append(figure("compile", "graphs that a later epoch added", COMPILED, "graphs", [graphs[1] - graphs[0]]))
    return out


class Laps:
    """Splits a step's time among its parts, by hooks where one ends and the next begins."""

    def __init__(self) -> None:
        self.times: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What went by since the last lap belongs to this part."""
        now = time.perf_counter()
        self.times[part] += now - self.last
        self.last = now

    def around(self, module: nn.Module, before: str, inside: str) -> list[Any]:
        """Laps when a module's forward begins and ends."""
        return [
            module.register_forward_pre_hook(lambda *_: self.lap(before)),
            module.register_forward_hook(lambda *_: self.lap(inside)),
        ]


def parts(system: Ours | Theirs, rows: Sequence[Tensor]) -> dict[str, list[float]]:
    """Seconds of each part of a step by part, for each of these batches; forward is what no other part is."""
    out: dict[str, list[float]] = defaultdict(list)
    for chosen in rows:
        laps = Laps()
        handles = laps.around(system.model.encoders, "noise" if isinstance(system, Theirs) else "forward", "encoders")
        if isinstance(system, Theirs):
            handles += laps.around(system.model.teacher[0], "forward", "teacher")
        else:
            handles += laps.around(system.scheduler, "forward", "noise")
        handles += [
            system.model.register_forward_hook(lambda *_, laps=laps: laps.lap("forward")),
            system.optimizer.register_step_pre_hook(lambda *_, laps=laps: laps.lap("backward")),
            system.optimizer.register_step_post_hook(lambda *_, laps=laps: laps.lap("optimizer")),
        ]
        batch = system.batch(chosen)
        laps.lap("batch")
        system.step(batch)
        for handle in handles:
            handle.remove()
        for part, seconds in laps.times.items():
            out[part].append(seconds)
    return out


PARTS = ("batch", "noise", "encoders", "teacher", "forward", "backward", "optimizer")


def where(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """Where a step's time goes, the baseline's and ours (eager: a compiled step is one piece)."""
    rows = [rows_of(plan, data, turn) for turn in range(max(plan.turns // 3, 1))]
    out = []
    for who in (BASELINE, OURS):
        times = parts(systems[who], rows)
        out += [figure("parts", part, who, "s", times.get(part, [0.0])) for part in PARTS]
    return out


# Views and fresh memory: no kernel runs.
FREE = {
    "alias", "as_strided", "chunk", "contiguous", "cudnn_is_acceptable", "detach", "detach_", "diagonal", "expand",
    "expand_as", "flatten", "narrow", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "to",
    "type_as", "unflatten", "view_as",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "lift_fresh",
    "as_strided_", "broadcast_tensors", "dropout", "scalar_tensor",
    "result_type", "resolve_conj", "resolve_neg", "is_nonzero", "item", "_local_scalar_dense",
}  # fmt: skip


def launches(call: Callable[[], Any]) -> int:
    """Tensor operations that would each be a kernel on a GPU: those that dispatch no such operation themselves.

    Views, allocations and reads by the host are none; a `_foreach_` operation is one, as on a GPU.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()

    def count(event: Any) -> int:
        if "cpp_fused" in event.name:  # Inductor's
            return 1
        space, _, name = event.name.partition("::")
        if name.startswith("_foreach_"):
            return 1
        inside = sum(count(child) for child in event.cpu_children)
        return inside or int(space in ("aten", "nmer_fast") and name not in FREE)

    return sum(count(event) for event in profiler.events() if event.cpu_parent is None)


def dispatched(plan: Plan, data: FeatureSet, config: Config, systems: dict[str, System]) -> list[Figure]:
    """Operations of a step. The baseline's Adam is here as on a GPU, `foreach`: fewer than in a CPU's loop."""
    rows, out = rows_of(plan, data, 0), []
    for who, system in {**systems, BASELINE: Theirs(data, config, foreach=True)}.items():
        batch = system.batch(rows)
        system.step(batch)  # the optimizer's state is made in the first
        out.append(figure("operations", "a step", who, "operations", [launches(lambda s=system, b=batch: s.step(b))]))
    return out


def memory(who: str, plan: Plan) -> tuple[list[int], list[int], int]:
    """Resident bytes after each epoch, then without what malloc keeps of it, and the most, of a process of its own."""
    count, per_epoch = plan.memory
    plan = replace(plan, train=per_epoch * plan.batch, test=plan.batch)
    data = iemocap(plan.train, plan.test)
    system = Theirs(data, config_of(plan)) if who == BASELINE else Ours(data, config_of(plan))
    resident, held = [], []
    for _ in range(count):
        system.epoch()
        system.evaluate()
        resident.append(psutil.Process().memory_info().rss)
        give_back()  # as a run does once a minute
        held.append(psutil.Process().memory_info().rss)
    return resident, held, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident(quick: bool) -> list[Figure]:
    """Each system's memory: after an epoch, growth an epoch after the first two, and the peak."""
    out = []
    for who in (BASELINE, OURS):
        command = [sys.executable, str(Path(__file__).resolve()), "--memory", who, *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        before, after, peak = json.loads(done.stdout)
        for what, sizes in (("resident", before), ("resident, freed memory given back", after)):
            out.append(figure("memory", what, who, "MB", [size / 1e6 for size in sizes[1:]]))
            growth = (sizes[-1] - sizes[1]) / max(len(sizes) - 2, 1) / 1e6
            out.append(figure("memory", f"{what}: growth an epoch after the second", who, "MB", [growth]))
        out += [figure("memory", "peak", who, "MB", [peak / 1e6])]
    return out


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope and intercept of the line with the least relative squares, and its largest relative residual."""
    xs, ys = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    columns = torch.stack([xs, torch.ones_like(xs)], dim=1) / ys[:, None]
    slope, intercept = torch.linalg.lstsq(columns, torch.ones_like(ys)[:, None]).solution[:, 0].tolist()
    return slope, intercept, max(abs(slope * a + intercept - b) / b for a, b in zip(x, y, strict=True))


def linear(plan: Plan) -> list[Figure]:
    """Seconds an epoch of ours against utterances, and against modalities, on small data and a small model."""
    out = []
    largest = max(plan.utterances) // 32
    for what, sizes, make in (
        ("utterances", plan.utterances, lambda n: small(n, 3)),
        ("modalities", plan.modalities, lambda n: small(largest, n)),
    ):
        config = config_of(replace(plan, layers=1), feedforward=16, latent=8, tokens="one", heads=1)
        systems = {n: Ours(make(n), config) for n in sizes}
        times: dict[int, list[float]] = {n: [] for n in sizes}
        systems[min(sizes)].epoch()  # warms up
        for turn in range(plan.repeats):
            for n, system in systems.items():
                if turn == 0 or n <= 8 * min(sizes):  # a large one is a mean of many steps already
                    times[n].append(timed(system.epoch))
        found = [figure(what, str(n), OURS, "s", times[n]) for n in sizes]
        slope, intercept, residual = line(sizes, [f.p50 for f in found])
        out += [
            *found,
            figure(what, "slope", OURS, "s each", [slope]),
            figure(what, "intercept", OURS, "s", [intercept]),
            figure(what, "largest residual", OURS, "share", [residual]),
        ]
    return out


def arithmetic(model: nn.Module, steps: dict[str, int], samples: int, teacher: bool) -> float:
    """Floating-point operations of a step's matrix products: forward and backward, the teacher's forward too.

    `steps` are those that an encoder reads, of all samples. Features need no gradient.
    """
    total, gates = 0, 4 * HIDDEN
    for name, count in steps.items():
        taps = 12 * HIDDEN * DIMS[name]  # of convolutions over 3, 4 and 5 steps
        once = taps if name in TEXT else gates * (DIMS[name] + HIDDEN)
        backward = taps if name in TEXT else gates * (DIMS[name] + 2 * HIDDEN)
        total += 2 * 2 * count * (once * (2 if teacher else 1) + backward)
    dense = [p for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("encoders")]
    return total + 3 * 2 * samples * sum(p.numel() for p in dense)


def limit(plan: Plan, data: FeatureSet, systems: dict[str, System]) -> list[Figure]:
    """What the machine's own matrix product takes for a step's arithmetic; ours without padding and teacher."""
    a, b = torch.randn(2, plan.gemm, plan.gemm).unbind()
    speeds = [2 * plan.gemm**3 / timed(lambda: a @ b) for _ in range(plan.turns + 2)][2:]
    out = [figure("limit", "matrix product", "torch", "GFLOP/s", [s / 1e9 for s in speeds])]
    rows = [rows_of(plan, data, turn + 2) for turn in range(plan.turns)]
    for who in (BASELINE, OURS, ONE):
        padded, work = who == BASELINE, []
        for chosen in rows:
            lengths = {name: r.lengths[chosen] for name, r in data.modalities.items()}
            read = {name: int(n.max() * len(n) if padded else n.sum()) for name, n in lengths.items()}
            work.append(arithmetic(systems[who].model, read, plan.batch, teacher=padded))
        out.append(figure("limit", "arithmetic of a step", who, "GFLOP", [w / 1e9 for w in work]))
        out.append(figure("limit", "its time at that speed", who, "s", [w / median(speeds) for w in work]))
    return out


def measure(plan: Plan, quick: bool) -> list[Figure]:
    """Everything, the large systems first and together, each freed before the small ones."""
    out = resident(quick)
    data, config = iemocap(plan.train, plan.test), config_of(plan)
    before = counters["stats"]["unique_graphs"]
    systems: dict[str, Any] = {
        BASELINE: Theirs(data, config),
        OURS: Ours(data, config),
        ONE: Ours(data, config_of(plan, tokens="one")),
    }
    if plan.compile:
        systems[COMPILED] = Ours(data, config_of(plan, tokens="one"), compile=True)
    for who in (who for who in (OURS, COMPILED) if who in systems):
        out += [figure("once", what, who, "s", [seconds]) for what, seconds in systems[who].seconds.items()]
    out += [
        *limit(plan, data, systems), *steps(plan, data, systems), *where(plan, data, systems),
        *dispatched(plan, data, config, systems), *epochs(systems, before),
    ]  # fmt: skip
    del systems, data
    out += linear(plan)
    order = list(dict.fromkeys(f.section for f in out))
    return sorted(out, key=lambda f: order.index(f.section))


# ---------------------------------------------------------------- what is shown


def show(figures: list[Figure]) -> None:
    """A table: median, quantiles, and of how many baselines' worth it is."""
    facts = about()
    title = f"Training and evaluating, {torch.get_num_threads()} threads; {facts['machine']}"
    table = Table(title=title, title_justify="left")
    for column in ("", "what", "who", "median", "20 %", "80 %", "unit", "baseline / this"):
        table.add_column(column, justify="left" if column in ("", "what", "who", "unit") else "right")
    previous = None
    for f in figures:
        if previous is not None and previous.section != f.section:
            table.add_section()
        new = previous is None or previous.section != f.section
        cells = (f.section if new else "", f.what if new or previous.what != f.what else "")
        base = next((o.p50 for o in figures if (o.section, o.what, o.who) == (f.section, f.what, BASELINE)), None)
        timed_or_counted = f.unit in ("s", "operations") and f.who != BASELINE and f.p50 > 0
        ratio = "" if base is None or not timed_or_counted else f"{base / f.p50:.2f}x"
        table.add_row(*cells, f.who, f"{f.p50:.4g}", f"{f.p20:.4g}", f"{f.p80:.4g}", f.unit, ratio)
        previous = f
    Console(width=140).print(table)


def write(path: Path, figures: list[Figure]) -> None:
    """Every figure with what it depends on."""
    facts = {"threads": torch.get_num_threads(), **about()}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(figures[0]), *facts], lineterminator="\n")
        writer.writeheader()
        for f in figures:
            row = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(f).items()}
            writer.writerow({**row, **facts})
    print(f"written: {path}")


def plot(path: Path, figures: list[Figure]) -> None:
    """Step, epoch, operations, parts, and the two lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    _bars(axes[0, 0], [f for f in figures if f.section == "step"], "a training step, s")
    _bars(axes[0, 1], [f for f in figures if f.section == "epoch" and f.what == "both"], "epoch and evaluation, s")
    _bars(axes[0, 2], [f for f in figures if f.section == "operations"], "operations a step")
    axes[0, 2].set(xscale="log", xlim=(1, 20 * max(f.p80 for f in figures if f.section == "operations")))
    _stack(axes[1, 0], [f for f in figures if f.section == "parts"], "where a step's time goes, s")
    for ax, what in zip(axes[1, 1:], ("utterances", "modalities"), strict=True):
        _line(ax, [f for f in figures if f.section == what], what)
    canvas.suptitle(f"Training and evaluating, {torch.get_num_threads()} threads; {about()['machine']}", fontsize=10)
    canvas.savefig(path, dpi=110)
    print(f"written: {path}")


def _bars(ax: Any, figures: list[Figure], title: str) -> None:
    shown = figures[::-1]
    error = [[f.p50 - f.p20 for f in shown], [f.p80 - f.p50 for f in shown]]
    ax.barh([f.who for f in shown], [f.p50 for f in shown], xerr=error, color=[COLOURS[f.who] for f in shown])
    for i, f in enumerate(shown):
        ax.text(f.p80, i, f" {f.p50:.3g}", va="center", fontsize=8)
    ax.margins(x=0.15)
    ax.set_title(title, fontsize=9)


def _stack(ax: Any, figures: list[Figure], title: str) -> None:
    left = dict.fromkeys((OURS, BASELINE), 0.0)
    for part in PARTS:
        widths = {f.who: f.p50 for f in figures if f.what == part}
        ax.barh(list(left), [widths[who] for who in left], left=list(left.values()), label=part)
        left = {who: start + widths[who] for who, start in left.items()}
    ax.legend(fontsize=7, ncols=len(PARTS), loc="upper center", bbox_to_anchor=(0.5, -0.08), handlelength=0.8)
    ax.set_title(title, fontsize=9)


def _line(ax: Any, figures: list[Figure], what: str) -> None:
    points = [f for f in figures if f.what.isdigit()]
    slope, intercept, residual = (f.p50 for f in figures if not f.what.isdigit())
    x = [int(f.what) for f in points]
    ax.errorbar(x, [f.p50 for f in points], [[f.p50 - f.p20 for f in points], [f.p80 - f.p50 for f in points]], fmt="o")
    ax.plot(x, [slope * n + intercept for n in x], color="#999999")
    if what == "utterances":
        ax.set(xscale="log", yscale="log")
    ax.set_title(f"small shapes: s an epoch against {what}; residuals to {residual:.1%}", fontsize=9)


def main() -> None:
    """The whole bench."""
    parser = argparse.ArgumentParser(description="training and evaluation beside the released code's formulation")
    parser.add_argument("--quick", action="store_true", help="a glance: small sizes, few repeats, nothing compiled")
    parser.add_argument("--memory", metavar="WHO", help=argparse.SUPPRESS)  # a process that only watches its memory
    options = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    plan = QUICK if options.quick else FULL
    if options.memory:
        json.dump(memory(options.memory, plan), sys.stdout)
        return
    figures = measure(plan, options.quick)
    show(figures)
    folder = Path("build") / "bench" if options.quick else Path("bench") / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train_throughput.csv", figures)
    plot(folder / "train_throughput.png", figures)


if __name__ == "__main__":
    main()

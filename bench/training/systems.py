"""The two systems that are timed against each other, the engine's and the baseline's, and the sizes of the bench."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import baseline
import torch
import torch._inductor.config
from library import (
    NMER,
    Batch,
    Batches,
    Config,
    Fit,
    NMERConfig,
    NoiseConfig,
    Ranks,
    Report,
    Teacher,
    TrainingConfig,
    all_sizes_differ,
    compiled,
    evaluate,
    make_scheduler,
    noisy_step,
    score,
    teacher_targets,
)
from torch import Tensor

from nmer_fast.data import FeatureSet
from nmer_fast.noise import NoiseScheduler

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """The sizes of everything that is measured.

    Attributes:
        batch: samples a step.
        train: utterances an epoch.
        test: utterances of an evaluation.
        layers: layers of the Transformer.
        turns: timed steps of each system.
        memory: epochs, and steps an epoch, over which the resident memory is logged.
        utterances: sizes of the small data sets, of three modalities, whose epochs are timed.
        modalities: numbers of modalities of the small data sets whose epochs are timed.
        repeats: timed epochs of each small data set.
        gemm: rows and columns of the matrices whose product shows the machine's speed.
        compile: whether the compiled step is timed too, which takes a minute to compile.
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


class System(Protocol):
    """A way to train and evaluate, which is timed."""

    model: Any
    optimizer: torch.optim.Optimizer

    def batch(self, rows: Tensor) -> Any:
        """The rows' features, padded."""

    def step(self, batch: Any) -> None:
        """Train on the batch."""

    def epoch(self) -> None:
        """Train on the train split once."""

    def evaluate(self) -> None:
        """Score the test split under each incomplete condition."""


class Ours:
    """The engine.

    Attributes:
        seconds: the time of what the engine does once a run: the teacher's targets, and compiling.
    """

    def __init__(self, data: FeatureSet, config: Config, *, compile: bool = False, ranks: Ranks | None = None) -> None:
        training, classes = config.training, len(data.class_names)
        torch.manual_seed(0)
        self.data, self.draw = data, 0
        self.scheduler = scheduler_of(data, config)
        self.batches = Batches(data, CPU, training.batch_size, ranks=ranks)
        self.seconds: dict[str, float] = {}
        self.teacher = Teacher(data.dims, classes, config.model, training.teacher_lambda_cmd)
        start = time.perf_counter()
        self.targets = teacher_targets(self.teacher, self.batches)
        self.seconds["teacher's targets"] = time.perf_counter() - start
        self.model = NMER(data.dims, classes, config.model)
        step = noisy_step(self.model, self.scheduler, config, CPU)
        self.fit = Fit(
            "nmer", self.model, compiled(step) if compile else step, self.batches, training, epochs=0, lr=training.lr,
            clip=training.clip, targets=self.targets, realised_snr_db=self.scheduler.realised_snr_db,
        )  # fmt: skip
        self.optimizer = self.fit.optimizer
        if compile:
            torch._inductor.config.cpp.enable_kernel_profile = True  # the profiler then names the kernels to count
            start = time.perf_counter()
            self.step(all_sizes_differ(self.batch(data.splits["train"][: training.batch_size])))
            self.seconds["compiling"] = time.perf_counter() - start

    def batch(self, rows: Tensor) -> Batch:
        """The rows with their targets, and noise that no earlier batch had."""
        self.draw += 1
        return self.batches.collate(rows, rng=torch.tensor([0, self.draw]), targets=self.targets)

    def step(self, batch: Batch) -> None:
        """The step of Fit, without its records."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.fit.step(batch).losses["total"].backward()
        self.optimizer.step()

    def epoch(self) -> None:
        """An epoch of Fit, with its records."""
        self.fit.epochs += 1
        self.fit.run(Report(quiet=True))

    def evaluate(self) -> None:
        """The engine's evaluation."""
        names = self.scheduler.conditions.names[: self.scheduler.conditions.incomplete]
        evaluate(
            self.model, self.batches, self.data.splits["test"], self.scheduler, 0, conditions=names, allow_leak=True
        )


class Theirs:
    """The baseline, with Adam as torch makes it; `foreach` as it is by default on a GPU."""

    def __init__(self, data: FeatureSet, config: Config, *, foreach: bool | None = None) -> None:
        torch.manual_seed(0)
        self.data, self.size = data, config.training.batch_size
        scheduler = scheduler_of(data, config)
        self.alpha_bars, self.known = scheduler.alpha_bars.float(), scheduler.conditions
        teacher = baseline.Encoders(data.dims, config.model)
        self.model = baseline.Baseline(data.dims, len(data.class_names), config.model, teacher)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.training.lr, foreach=foreach)

    def batch(self, rows: Tensor) -> tuple[baseline.Features, Tensor]:
        """The rows' features and labels."""
        return baseline.collate(self.data, rows), self.data.labels[rows]

    def step(self, batch: tuple[baseline.Features, Tensor]) -> None:
        """The baseline's step."""
        self.model.train()
        baseline.step(self.model, self.optimizer, *batch, self.alpha_bars, self.known)

    def epoch(self) -> None:
        """The baseline's epoch."""
        rows = self.data.splits["train"]
        baseline.epoch(self.model, self.optimizer, self.data, rows, self.size, self.alpha_bars, self.known)

    def evaluate(self) -> None:
        """A pass for each condition, scored as the engine scores."""
        rows, names = self.data.splits["test"], self.known.names[: self.known.incomplete]
        predicted = baseline.evaluate(self.model, self.data, rows, self.size, self.alpha_bars, self.known, names)
        for classes in predicted.values():
            score(classes, self.data.labels[rows], len(self.data.class_names))


def scheduler_of(data: FeatureSet, config: Config) -> NoiseScheduler:
    """The config's noise on features of variance 1."""
    return make_scheduler(dict.fromkeys(data.modalities, 1.0), config.noise, config.training.seed)


def config_of(plan: Plan, **model: Any) -> Config:
    """The library's defaults at -10 dB, but for the optimizer's kind, which is the baseline's."""
    sizes = {"layers": plan.layers, "tokens": "batch", **model}
    training = TrainingConfig(batch_size=plan.batch, optimizer="adam")
    return Config(noise=NoiseConfig(snr_db=-10.0), model=NMERConfig(**sizes), training=training)


def rows_of(plan: Plan, data: FeatureSet, turn: int) -> Tensor:
    """The rows of a turn's batch; each turn has other ones."""
    generator = torch.Generator().manual_seed(turn)
    return data.splits["train"][torch.randperm(plan.train, generator=generator)[: plan.batch]]

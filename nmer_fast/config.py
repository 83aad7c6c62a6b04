"""What decides a run: its data, noise, model and training; the presets; and the way from options to one checked Config.

Everything is checked when a Config is made, so whoever holds one holds a sensible one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .contract import Convention, Kind, ScheduleKind
from .errors import UserError

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Steps = dict[str, Count] | Literal["random"]
Decibels = Annotated[float, Field(ge=-200, le=200)]
Ratio = Decibels | tuple[Decibels, Decibels]
Format = Literal["auto", "iemocap-h5", "msp-h5", "multibench-pkl", "mult-pkl", "mmsa-pkl", "csd", "npz"]
Rule = Literal["ge0", "gt0", "nonzero"]


@dataclass(frozen=True, config=CHECKED)
class DataConfig:
    """Which samples.

    Attributes:
        source: "synthetic", the embedded default, or a file or folder of features (docs/formats.md).
        format: of other people's files and folders; "auto" tells it from what it finds.
        binarise: which are positive, where the source has scores: "ge0" (>= 0, as in the paper), "gt0" (> 0), or
            "nonzero" (> 0, and utterances of score 0 left out).
        fold: which of the source's folds, from 1.
        context: join each utterance with up to this many before it in its group and split.
        size: utterances of the synthetic data; by default 850.
        difficulty: of the synthetic data: 2 is hard, 0.5 easy.
    """

    source: str = "synthetic"
    format: Format = "auto"
    binarise: Rule = "ge0"
    fold: Count | None = None
    context: Annotated[int, Field(ge=0, le=10**6)] = 0
    size: Annotated[int, Field(ge=40, le=10**9)] | None = None
    difficulty: Positive = 1.0

    def __post_init__(self) -> None:
        if self.source == "synthetic":
            if self.fold is not None:
                raise ValueError(f"fold: expected none, the synthetic data has no folds, got {self.fold}")
            if (self.format, self.binarise) != ("auto", "ge0"):
                raise ValueError("format, binarise: expected with files alone, got them beside the synthetic data")
        elif self.size is not None or self.difficulty != 1:
            raise ValueError(f"size, difficulty: expected with the synthetic data alone, got them beside {self.source}")


@dataclass(frozen=True, config=CHECKED)
class NoiseConfig:
    """What is added to the unclean modalities, and how much.

    Attributes:
        kind: of the noise.
        snr_db: signal-to-noise ratio in dB, one for all or one for each modality; two numbers are a range, of which
            each sample draws its own (mixed intensities); or else
        steps: T of each modality, as in the paper; or "random": one for each batch and modality, uniform over the
            schedule (released code).
        p: the share of impulses, for impulse noise.
        snr_convention: "exact" counts the noise's own power, "paper" takes it as 1.
        schedule: of the betas that steps count: "paper" spreads them over the chosen T, the others have a fixed length.
        beta_start: the first beta.
        beta_end: the last.
        length: of the schedules of fixed length.
        padding: noise the padding too, and let the encoders read it (released code).
    """

    kind: Kind = "gaussian"
    snr_db: Ratio | dict[str, Ratio] | None = -10.0
    steps: Steps | None = None
    p: Annotated[float, Field(ge=0, le=1)] = 0.3
    snr_convention: Convention = "exact"
    schedule: ScheduleKind = "paper"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.1
    length: Count = 100
    padding: bool = False

    def __post_init__(self) -> None:
        if self.kind == "missing":
            if self.snr_db is not None or self.steps is not None:
                raise ValueError("snr, steps: expected neither with missing modalities, where nothing is left")
        elif (self.snr_db is None) == (self.steps is None):
            raise ValueError(f"snr, steps: expected one of the two, got snr {self.snr_db} and steps {self.steps}")
        for ratio in self.snr_db.values() if isinstance(self.snr_db, dict) else [self.snr_db]:
            if isinstance(ratio, tuple) and ratio[0] > ratio[1]:
                raise ValueError(f"snr: expected a range's lower end first, got {ratio[0]:g} and {ratio[1]:g}")
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start: expected at most beta_end, got {self.beta_start} and {self.beta_end}")
        if self.kind == "impulse" and self.p == 0 and self.snr_db is not None:
            raise ValueError("p: expected above 0, got 0: no impulse noise has an SNR")


@dataclass(frozen=True, config=CHECKED)
class NMERConfig:
    """Which system, and its sizes and loss weights; the defaults are the paper's for NMER (section 3.3).

    Attributes:
        system: its name, of `nmer_fast.models.SYSTEMS` (docs/training.md lists them).
        modality: the one that the system "unimodal" reads.
        latent: dimensions of z; 64 in the released code, the paper gives none.
        layers: of the VAE's Transformer encoder.
        heads: of its attention; over one token they change nothing.
        feedforward: its feed-forward width; 128 in the released code, the paper gives none.
        tokens: what attention goes over: "one" token, the sample; "modality", the sample's six tokens of 128, h' and
            H' of each modality; or "batch" (released code), whose predictions depend on their batch mates.
        dropout: of the encoders.
        transformer_dropout: of the VAE's Transformer encoder.
        classifier: widths of the classifier's hidden layers, the teacher's too.
        classifier_dropout: behind each of them.
        classifier_batch_norm: BatchNorm between ReLU and dropout.
        shared: the network behind all invariance encoders: "linear", or "two_leaky" layers (released code).
        kl: L_KL is summed over the latent; "mean" or "sum" over the batch.
        lambda_gen: weight of lambda_kl L_KL + L_MSE.
        lambda_kl: weight of L_KL beside L_MSE, which is a mean over the joint representation's dimensions.
        lambda_inv: weight of L_inv.
        lambda_cls: weight of the cross-entropy.
    """

    system: str = "nmer"
    modality: str | None = None
    latent: Count = 64
    layers: Count = 5
    heads: Count = 16
    feedforward: Count = 128
    tokens: Literal["one", "modality", "batch"] = "one"
    dropout: Share = 0.5
    transformer_dropout: Share = 0.5
    classifier: tuple[Count, ...] = (384, 128)
    classifier_dropout: Share = 0.5
    classifier_batch_norm: bool = False
    shared: Literal["linear", "two_leaky"] = "linear"
    kl: Literal["mean", "sum"] = "mean"
    lambda_gen: Weight = 1.0
    lambda_kl: Weight = 1.0
    lambda_inv: Weight = 10.0
    lambda_cls: Weight = 1.0

    def __post_init__(self) -> None:
        if self.modality is not None and self.system != "unimodal":
            raise ValueError(f"modality: expected with the system unimodal alone, got it beside {self.system}")


@dataclass(frozen=True, config=CHECKED)
class TrainingConfig:
    """How to train; the defaults are the paper's (section 3.3), the teacher's those of the released code.

    Attributes:
        epochs: of the system.
        batch_size: samples, at most.
        buckets: batches of samples of like length, out of shuffled pools of so many batches; 1, as in the paper's code:
            any samples together. Where lengths differ much, 16 spares most of the padding.
        optimizer: of system and teacher.
        lr: constant for half of the epochs, then linear to 0.
        beta1: of the optimizer.
        clip: largest gradient norm of the system; none by default.
        select: which epoch is kept: "best" average UA on the val split, or "last"; by default best where there is one.
        teacher_epochs: on complete data, half at teacher_lr and half on the way to 0.
        teacher_lr: as lr.
        teacher_clip: largest gradient norm of the teacher.
        teacher_lambda_cmd: weight of the distance between its modalities' invariant features.
        clip_each: clip each sub-network's gradient norm instead of the whole model's.
        seed: of weights, order, dropout, noise and conditions.
        compile: compile the step as one graph.
        amp: train under bfloat16 autocast; evaluation is always in float32.
        allow_leak: evaluate although predictions depend on batch mates (tokens "batch").
    """

    epochs: Count = 60
    batch_size: Count = 128
    buckets: Count = 1
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: Positive = 1e-4
    beta1: Share = 0.9
    clip: Positive | None = None
    select: Literal["best", "last"] | None = None
    teacher_epochs: Count = 20
    teacher_lr: Positive = 2e-4
    teacher_clip: Positive = 0.5
    teacher_lambda_cmd: Weight = 0.01
    clip_each: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    compile: bool = False
    amp: bool = False
    allow_leak: bool = False


@dataclass(frozen=True, config=CHECKED)
class Config:
    """A whole run; `--set section.field=value` reaches every field of it."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: NMERConfig = field(default_factory=NMERConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


PRESETS = {
    "paper": Config(),
    # Each change and what it gains: docs/results.md, bench/recipe.py.
    "recommended": Config(
        # L_KL sums over 64 dimensions and L_MSE is a mean over 384: 2 / 384 makes of both the evidence lower bound.
        model=NMERConfig(lambda_kl=0.005, transformer_dropout=0.1, tokens="modality"),
        training=TrainingConfig(lr=3e-4),
    ),
    "released": Config(
        noise=NoiseConfig(
            snr_db=None, steps="random", schedule="scaled_linear", beta_start=0.01, beta_end=0.5, padding=True
        ),
        model=NMERConfig(
            heads=8,
            tokens="batch",
            transformer_dropout=0.1,
            classifier=(128, 128),
            classifier_dropout=0.1,
            classifier_batch_norm=True,
            shared="two_leaky",
            kl="sum",
            lambda_inv=1.0,
        ),
        training=TrainingConfig(
            epochs=80,
            optimizer="adam",
            lr=2e-4,
            beta1=0.5,
            clip=1.0,
            teacher_lambda_cmd=1.0,
            clip_each=True,
        ),
    ),
}


def describe_ratio(ratio: Ratio | Mapping[str, Ratio] | Sequence[float]) -> str:
    """An SNR in words: "-10", "-40 to 0", "a -10, l -40 to 0"."""
    if isinstance(ratio, Mapping):
        return ", ".join(f"{name} {describe_ratio(one)}" for name, one in ratio.items())
    ends = [ratio] if isinstance(ratio, (int, float)) else ratio
    return " to ".join(str(end + 0.0).removesuffix(".0") for end in ends)  # + 0.0: no -0


def snr_column(ratio: Any) -> float | str | None:
    """Of a tidy table: a number where one holds for all, else words."""
    return ratio if ratio is None or isinstance(ratio, (int, float)) else describe_ratio(ratio)


def from_dict(content: Mapping[str, Any], where: str = "") -> Config:
    """A Config of nested sections.

    Raises:
        UserError: one line that names the field, what was expected and what was given.
    """
    try:
        return TypeAdapter(Config).validate_python(content)
    except ValidationError as error:
        raise UserError(where + _first_line(error)) from None


def load_config(path: Path) -> Config:
    """Read a config.json that a run wrote."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"config: expected a file, got {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"config: expected JSON, got {path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"config: expected an object of sections, got {path}: {type(content).__name__}")
    return from_dict(content, f"{path}: ")


def override(base: Config, changes: Mapping[str, Any]) -> Config:
    """The base with fields, named section.field, changed. A new SNR replaces the base's steps, and the other way."""
    content = asdict(base)
    noise = content["noise"]
    if changes.get("noise.kind") == "missing" and noise["kind"] != "missing":
        noise["snr_db"] = noise["steps"] = None
    elif noise["kind"] == "missing" and changes.get("noise.kind", "missing") != "missing":
        noise["snr_db"] = NoiseConfig.snr_db
    for key, other in (("snr_db", "steps"), ("steps", "snr_db")):
        if changes.get(f"noise.{key}") is not None:
            noise[other] = None
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if key not in content.get(section, {}):
            known = (
                ", ".join(content[section]) if section in content else "data., noise., model. or training. before it"
            )
            raise UserError(f"{name}: no such field; expected {known}")
        content[section][key] = value
    return from_dict(content)


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """section.field=value pairs; none is None, and what looks like a JSON list or object is one."""
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or "." not in name:
            raise UserError(f"set: expected section.field=value, such as training.lr=2e-4, got {setting!r}")
        if name in changes:
            raise UserError(f"set: expected {name} once, got it twice")
        try:
            changes[name] = json.loads(text) if text[:1] in ("[", "{") else None if text == "none" else text
        except ValueError as error:
            raise UserError(f"set: {name}: expected JSON, got {text!r}: {error}") from None
    return changes


def _first_line(error: ValidationError) -> str:
    """Pydantic's first complaint in this project's words."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # one of this file's own checks, a whole line already
        return str(first["ctx"]["error"])
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("dict[", "literal[")))
    if first["loc"][:2] == ("noise", "snr_db"):  # of whose three forms pydantic names the first
        return (
            "noise.snr_db: expected decibels from -200 to 200, a range [low, high] of them, or either for each "
            f"modality, got {first['input']!r}"
        )
    message = first["msg"].replace("Input should be", "expected").replace("greater than or equal to", "at least")
    message = message.replace("less than or equal to", "at most")
    if first["type"] == "unexpected_keyword_argument":
        return f"{place}: no such field"
    return f"{place}: {message}, got {first['input']!r}"

"""The configuration of a run (data, noise, model, training), the presets, and the validation of both.

Every option of a run is defined here once: its type, limits, default and documentation, and whether it has a flag on
the command line (`nmer_fast.flags`). A Config is validated when it is constructed. Settings that only one system has
are defined beside that system, in its `Config` class (`nmer_fast.models`). Importing this module does not import torch;
constructing a Config does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .contract import Convention, Kind, ScheduleKind
from .errors import UserError
from .registry import FORMATS, SYSTEMS

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Steps = dict[str, Count] | Literal["random"]
Decibels = Annotated[float, Field(ge=-200, le=200)]
SNR = Decibels | tuple[Decibels, Decibels]
Rule = Literal["ge0", "gt0", "nonzero"]


class Flag(NamedTuple):
    """The annotation of a field that has its own command-line option. All other fields can be set with --set only.

    Attributes:
        name: the option's name, if it differs from the field's name.
        kind: the option's type, if it differs from the field's type.
        parse: the function that converts the option's value to the field's value.
        note: a sentence that is appended to the field's documentation in --help.
    """

    name: str = ""
    kind: Any = None
    parse: Callable[[Any], Any] | None = None
    note: str = ""


def parse_steps(pairs: Sequence[str]) -> dict[str, int] | Literal["random"]:
    """Parse `a=140 v=60 l=5` into a mapping from modality to T; `random` is returned unchanged.

    Raises:
        UserError: one line, if a pair is not modality=T or a modality appears twice.
    """
    if tuple(pairs) == ("random",):
        return "random"
    steps: dict[str, int] = {}
    if not pairs:
        raise UserError("steps: expected modality=T for each modality, such as a=140, or random, got none")
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not (value.isascii() and value.isdecimal()) or int(value) < 1:
            raise UserError(f"steps: expected modality=T with a whole T above 0, such as a=140, got {pair!r}")
        if name in steps:
            raise UserError(f"steps: expected one T for {name}, got two")
        steps[name] = int(value)
    return steps


def _known_format(name: str) -> str:
    if name != "auto":
        FORMATS.path_of(name)
    return name


@dataclass(frozen=True, config=CHECKED)
class DataConfig:
    """The data set of a run.

    Attributes:
        source: the file or folder of features (docs/formats.md), or "synthetic" for the built-in data set.
        format: the format of the file or folder (docs/formats.md), or package.module:attribute of a format that another
            package defines; "auto" detects the format.
        binarise: the rule that turns a source's real-valued scores into two classes; the positive class is "ge0" (score
            >= 0, as in the paper), "gt0" (score > 0), or "nonzero" (score > 0, and utterances with score 0 are
            dropped).
        fold: the fold of the source's cross-validation, counted from 1.
        context: the maximum number of preceding utterances, of the same group and split, that are prepended to each
            utterance.
        size: the number of utterances in the synthetic data; none means 850.
        difficulty: the difficulty of the synthetic data: 2 is hard, 0.5 is easy.
    """

    source: Annotated[str, Flag("data")] = "synthetic"
    format: Annotated[str, AfterValidator(_known_format)] = "auto"
    binarise: Rule = "ge0"
    fold: Annotated[Count | None, Flag()] = None
    context: Annotated[int, Field(ge=0, le=10**6), Flag()] = 0
    size: Annotated[Annotated[int, Field(ge=40, le=10**9)] | None, Flag()] = None
    difficulty: Annotated[Positive, Flag()] = 1.0

    def __post_init__(self) -> None:
        if self.source == "synthetic":
            if self.fold is not None:
                raise ValueError(f"fold: expected none, the synthetic data has no folds, got {self.fold}")
            if (self.format, self.binarise) != ("auto", "ge0"):
                raise ValueError("format, binarise: expected with files alone, got them beside the synthetic data")
        elif self.size is not None or self.difficulty != 1:
            raise ValueError(f"size, difficulty: expected with the synthetic data alone, got them beside {self.source}")

    @property
    def absolute(self) -> DataConfig:
        """The same configuration with an absolute path, which stays valid in any working directory."""
        if self.source == "synthetic":
            return self
        return replace(self, source=str(Path(self.source).resolve()))


@dataclass(frozen=True, config=CHECKED)
class NoiseConfig:
    """The kind and the strength of the noise that is added to the noisy modalities.

    Attributes:
        kind: the kind of noise; "missing" sets a modality to zero.
        snr_db: the signal-to-noise ratio in dB: one number for all modalities, or one number for each modality. A pair
            of numbers is a range from which the SNR of each sample is drawn (mixed intensities).
        steps: the number of diffusion steps T of each modality (the paper's T), instead of an SNR; or "random", as in
            the released code: T is drawn for each batch and modality, uniformly over the schedule.
        p: the probability of an impulse, for impulse noise only.
        snr_convention: the noise power that an SNR is computed with: "exact" uses the noise's actual power, "paper"
            assumes a power of 1.
        schedule: the beta schedule that `steps` refers to: "paper" spreads the betas over the chosen T steps, all other
            schedules have `length` steps.
        beta_start: the first beta of the schedule.
        beta_end: the last beta of the schedule.
        length: the number of steps of every schedule except "paper".
        padding: whether padding also gets noise and is read by the encoders, as in the released code.
    """

    kind: Annotated[Kind, Flag("noise")] = "gaussian"
    snr_db: Annotated[
        SNR | dict[str, SNR] | None,
        Flag("snr", float | None, note="--set noise.snr_db=... takes a range or a value for each modality."),
    ] = -10.0
    steps: Annotated[
        Steps | None, Flag("steps", tuple[str, ...], parse_steps, "Given as a=140 v=60 l=5, or as random.")
    ] = None
    p: Annotated[float, Field(ge=0, le=1), Flag()] = 0.3
    snr_convention: Annotated[Convention, Flag()] = "exact"
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

    @property
    def title(self) -> str:
        """A description of the noise for the titles of tables."""
        if self.kind == "missing":
            return "missing modalities"
        if self.steps == "random":
            return f"{self.kind} noise of random T up to {self.length}"
        if self.steps is not None:
            return f"{self.kind} noise of T " + ", ".join(f"{name} {t}" for name, t in dict(self.steps).items())
        assert self.snr_db is not None
        return f"{self.kind} noise at {describe_snr(self.snr_db)} dB"


@dataclass(frozen=True, config=CHECKED)
class ModelConfig:
    """The system and the settings that all systems share; a system with additional settings subclasses this.

    The defaults are the paper's (section 3.3).

    Attributes:
        system: the system's name (docs/training.md), or package.module:Class of a system that another package defines.
        dropout: the dropout rate of the encoders.
        classifier: the widths of the hidden layers of the classifier, and of the teacher's classifier.
        classifier_dropout: the dropout rate after each hidden layer of the classifier.
        classifier_batch_norm: whether the classifier has BatchNorm between ReLU and dropout, as in the released code.
    """

    system: Annotated[str, Flag()] = "nmer"
    dropout: Fraction = 0.5
    classifier: tuple[Count, ...] = (384, 128)
    classifier_dropout: Fraction = 0.5
    classifier_batch_norm: bool = False

    @property
    def label(self) -> str:
        """The system's name in run names and tables, extended by any setting that distinguishes its variants."""
        return self.system


@dataclass(frozen=True, config=CHECKED)
class TrainingConfig:
    """The training settings of a run.

    The system's defaults are the paper's (section 3.3); the teacher's defaults are the released code's.

    Attributes:
        epochs: the number of epochs that the system is trained for.
        batch_size: the maximum number of samples in a batch.
        buckets: the number of batches in a bucketing pool: samples are shuffled, pooled, sorted by length within each
            pool and cut into batches. 1 turns bucketing off, as in the paper's code; where lengths differ a lot, 16
            removes most padding.
        optimizer: the optimizer of both the system and the teacher.
        lr: the system's learning rate; its schedule is constant for half of the epochs, then decays linearly to 0.
        beta1: the optimizer's first beta.
        clip: the maximum gradient norm of the system; none means no gradient clipping.
        select: the epoch whose weights are kept: "best" (the highest average UA on the val split) or "last"; none means
            "best" if the data have a val split, otherwise "last".
        teacher_epochs: the number of epochs that the teacher is trained for, on complete data.
        teacher_lr: the teacher's learning rate; its schedule is the same as the system's.
        teacher_clip: the maximum gradient norm of the teacher.
        teacher_lambda_cmd: the teacher's loss weight of the central moment discrepancy (CMD) between the modalities'
            invariant features.
        clip_each: whether gradient clipping applies to each sub-network separately instead of to the whole model.
        seed: the random seed of weight initialisation, shuffling, dropout, noise and conditions.
        compile: whether the training step is compiled into one graph with torch.compile.
        amp: whether training runs under bfloat16 autocast; evaluation is always in float32.
        allow_leak: whether evaluation is allowed for a model whose predictions depend on the other samples of the batch
            (model.tokens=batch).
    """

    epochs: Annotated[Count, Flag()] = 60
    batch_size: Count = 128
    buckets: Count = 1
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: Positive = 1e-4
    beta1: Fraction = 0.9
    clip: Positive | None = None
    select: Annotated[Literal["best", "last"] | None, Flag()] = None
    teacher_epochs: Count = 20
    teacher_lr: Positive = 2e-4
    teacher_clip: Positive = 0.5
    teacher_lambda_cmd: Weight = 0.01
    clip_each: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31), Flag()] = 0
    compile: Annotated[bool, Flag()] = False
    amp: Annotated[bool, Flag()] = False
    allow_leak: Annotated[bool, Flag()] = False


def model_config(content: Any) -> ModelConfig:
    """Validate model settings and return them as an instance of the system's own `Config` class.

    Presets and sweeps give NMER's settings to every system, so a system ignores those that it does not have.

    Args:
        content: a mapping from names to settings, or any ModelConfig.

    Raises:
        UserError: one line that names the setting, the expected values and the given one.
    """
    if isinstance(content, ModelConfig):
        kind = _config_class(content.system)
        if isinstance(content, kind):
            return content
        content = asdict(content)
    if not isinstance(content, Mapping):
        raise UserError(f"model: expected a dictionary or an instance of ModelConfig, got {content!r}")
    name = content.get("system", ModelConfig.system)
    kind = _config_class(name) if isinstance(name, str) else ModelConfig
    own = {f.name for f in fields(kind)}
    shared = {f.name for f in fields(_config_class(ModelConfig.system))}
    settings = {}
    for key, value in content.items():
        if key in own:
            settings[key] = value
        elif key not in shared and not (key == "modality" and value is None):  # version 0.1 wrote null for every system
            raise UserError(f"model.{key}: no such field of {name}; expected {', '.join(sorted(own))}")
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        raise UserError(_first_line(error, ("model",))) from None


def _config_class(system: str) -> type[ModelConfig]:
    """Return the class of a system's settings, by the system's name: the registry imports it, this module does not."""
    kind = getattr(SYSTEMS.load(system), "Config", None)
    if not (isinstance(kind, type) and issubclass(kind, ModelConfig)):
        raise UserError(f"model.system: expected a subclass of nmer_fast.models.System, got {system}")
    return kind


@dataclass(frozen=True, config=CHECKED)
class Config:
    """The complete configuration of a run; `--set section.field=value` sets any of its fields."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: Annotated[ModelConfig, BeforeValidator(model_config)] = field(default_factory=lambda: model_config({}))
    training: TrainingConfig = field(default_factory=TrainingConfig)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # docs/results.md and bench/recipe.py show each change and the accuracy that it gains.
    "recommended": {
        # L_KL is a sum over 64 dimensions and L_MSE is a mean over 384: a loss weight of 2 / 384 turns their sum into
        # the evidence lower bound.
        "model": {"lambda_kl": 0.005, "transformer_dropout": 0.1, "tokens": "modality"},
        "training": {"lr": 3e-4},
    },
    "released": {
        "noise": {
            "snr_db": None, "steps": "random", "schedule": "scaled_linear", "beta_start": 0.01, "beta_end": 0.5,
            "padding": True,
        },
        "model": {
            "heads": 8, "tokens": "batch", "transformer_dropout": 0.1, "classifier": (128, 128),
            "classifier_dropout": 0.1, "classifier_batch_norm": True, "shared": "two_leaky", "kl": "sum",
            "lambda_inv": 1.0,
        },
        "training": {
            "epochs": 80, "optimizer": "adam", "lr": 2e-4, "beta1": 0.5, "clip": 1.0, "teacher_lambda_cmd": 1.0,
            "clip_each": True,
        },
    },
}  # fmt: skip
"""The fields in which each preset differs from the defaults, which are the paper's settings."""


def preset(name: str) -> Config:
    """Return a preset as a complete Config of NMER.

    Raises:
        UserError: no preset has that name.
    """
    return from_dict(_preset(name))


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def make_config(
    changes: Mapping[str, Any] | None = None, *, preset: str | None = None, file: Path | None = None
) -> Config:
    """Return a Config that starts from a preset or from a run's config.json and has some fields changed.

    Args:
        changes: the new values by section.field, such as {"training.lr": 2e-4}.
        preset: the preset's name; "paper" by default.
        file: the config.json to start from, instead of a preset.

    Raises:
        UserError: one line that names what is wrong.
    """
    if preset and file:
        raise UserError(f"preset, config: expected one of the two, got {preset} and {file}")
    return override(load_config(file) if file else _preset(preset or "paper"), changes or {})


def describe_snr(ratio: SNR | Mapping[str, SNR] | Sequence[float]) -> str:
    """Format an SNR for people: "-10", "-40 to 0", "a -10, l -40 to 0"."""
    if isinstance(ratio, Mapping):
        return ", ".join(f"{name} {describe_snr(one)}" for name, one in ratio.items())
    ends = [ratio] if isinstance(ratio, (int, float)) else ratio
    return " to ".join(str(end + 0.0).removesuffix(".0") for end in ends)  # + 0.0: no -0


def snr_column(ratio: Any) -> float | str | None:
    """Format an SNR for a table: a number if all modalities share one SNR, otherwise the text of `describe_snr`."""
    return ratio if ratio is None or isinstance(ratio, (int, float)) else describe_snr(ratio)


def from_dict(content: Mapping[str, Any], where: str = "") -> Config:
    """Validate nested sections (such as a config.json) and return them as a Config.

    Args:
        content: the sections by name, each a mapping from fields to values.
        where: a prefix for error messages, such as the file's name.

    Raises:
        UserError: one line that names the field, the expected values and the given one.
    """
    try:
        return TypeAdapter(Config).validate_python(content)
    except ValidationError as error:
        raise UserError(where + _first_line(error)) from None


def load_config(path: Path) -> Config:
    """Read the config.json of a run."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"config: expected a file, got {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"config: expected JSON, got {path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"config: expected an object of sections, got {path}: {type(content).__name__}")
    return from_dict(content, f"{path}: ")


def override(base: Config | Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """Return the base Config with some fields changed. A new SNR removes the base's steps, and new steps its SNR.

    Args:
        base: a Config, or nested sections with the fields that differ from the defaults.
        changes: the new values by section.field.

    Raises:
        UserError: one line that names the field, the expected values and the given one.
    """
    content: dict[str, Any] = {f.name: {} for f in fields(Config)}
    content |= {name: dict(section) for name, section in (asdict(base) if isinstance(base, Config) else base).items()}
    noise = {"kind": NoiseConfig.kind, "snr_db": NoiseConfig.snr_db, "steps": None, **content["noise"]}
    if changes.get("noise.kind") == "missing" and noise["kind"] != "missing":
        noise["snr_db"] = noise["steps"] = None
    elif noise["kind"] == "missing" and changes.get("noise.kind", "missing") != "missing":
        noise["snr_db"] = NoiseConfig.snr_db
    for key, other in (("snr_db", "steps"), ("steps", "snr_db")):
        if changes.get(f"noise.{key}") is not None:
            noise[other] = None
    content["noise"] = noise
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if section not in content or (section in SECTIONS and key not in SECTIONS[section]):
            known = ", ".join(SECTIONS.get(section, ())) or "data., noise., model. or training. before it"
            raise UserError(f"{name}: no such field; expected {known}")
        content[section][key] = value
    return from_dict(content)


SECTIONS = {
    name: tuple(f.name for f in fields(kind))
    for name, kind in (("data", DataConfig), ("noise", NoiseConfig), ("training", TrainingConfig))
}
"""The field names of each section that is the same for all systems."""


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse `section.field=value` pairs into changes; the value none means None, and [...] and {...} are JSON."""
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


def join_changes(settings: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the changes given by --set with those given by a field's own command-line option.

    Args:
        settings: the `section.field=value` pairs of --set.
        flags: the options' values by section.field; None means that the option was not given.

    Returns:
        the new values by section.field.

    Raises:
        UserError: a field is given twice.
    """
    changes, given = parse_settings(settings), {name: value for name, value in flags.items() if value is not None}
    if twice := sorted(given.keys() & changes.keys()):
        raise UserError(f"set: {twice[0]} is given by --set and by an option of its own; expected one of the two")
    return {**given, **changes}


def _first_line(error: ValidationError, before: tuple[str, ...] = ()) -> str:
    """Format pydantic's first error as one line in this project's style.

    Args:
        error: the error that pydantic raised.
        before: the path of the validated object in the Config, such as ("model",).
    """
    first = error.errors()[0]
    if first["type"] == "value_error":  # raised by a check in this file, whose message is a complete line already
        return str(first["ctx"]["error"])
    path = (*before, *first["loc"])
    place = ".".join(str(part) for part in path if not str(part).startswith(("dict[", "literal[")))
    if path[:2] == ("noise", "snr_db"):  # the field has three forms, but pydantic mentions only the first
        return (
            "noise.snr_db: expected decibels from -200 to 200, a range [low, high] of them, or either for each "
            f"modality, got {first['input']!r}"
        )
    message = first["msg"].replace("Input should be", "expected").replace("greater than or equal to", "at least")
    message = message.replace("less than or equal to", "at most")
    if first["type"] == "unexpected_keyword_argument":
        return f"{place}: no such field"
    return f"{place}: {message}, got {first['input']!r}"

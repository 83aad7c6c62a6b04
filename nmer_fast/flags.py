"""Command-line options generated from the configuration, so that each is defined once, in `nmer_fast.config`."""

from __future__ import annotations

import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from .config import (
    PRESETS,
    Config,
    DataConfig,
    Flag,
    ModelConfig,
    NoiseConfig,
    TrainingConfig,
    join_changes,
    make_config,
)
from .contract import KINDS
from .errors import UserError
from .registry import SYSTEMS

SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "noise": NoiseConfig, "training": TrainingConfig}

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Settings = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name="set", metavar="SECTION.FIELD=VALUE", help_behavior_hint="(repeatable; all fields below)"),
]


def option(kind: Any, *, default: str, metavar: str | None = None) -> Any:
    """Return the annotated type of an option whose --help describes the default in words.

    Args:
        kind: the option's type.
        default: the description of the default, such as "the preset's".
        metavar: the description of the option's values, if the type does not give one.
    """
    metavar = metavar or _metavar("", kind)
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")]


def choices(names: Any) -> str:
    """Return the metavar {a,b,c}, which lists the accepted names."""
    return "{" + ",".join(names) + "}"


PresetName = option(str | None, default="paper", metavar=choices(PRESETS))
Kinds = option(tuple[str, ...], default="the preset's", metavar=f"[{choices(KINDS)} ...]")


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """The options that every command with a grid of runs has.

    Attributes:
        data: the file or folder of features (docs/formats.md), or synthetic.
        folds: one or more folds of the data's cross-validation, counted from 1.
        seeds: one or more random seeds.
        preset: the preset to start from: paper, recommended or released (docs/training.md).
        epochs: the number of epochs of each run.
        settings: the new value of any configuration field in all runs, such as --set training.lr=2e-4.
        device: the device: cpu, cuda, or auto, which means cuda if a GPU is available and cpu otherwise.
        ray: run in parallel on a local Ray instance, which is started and ended with the command.
        address: the address of a running Ray cluster, such as 10.0.0.1:6379, or auto for the one on this machine;
            all its machines must see the paths of --data and --out.
        cpus_per_run: the number of CPUs, and of threads, of each run on Ray.
    """

    data: option(str | None, default=DataConfig.source) = None  # type: ignore[valid-type]
    folds: option(tuple[int, ...], default="the first") = ()  # type: ignore[valid-type]
    seeds: option(tuple[int, ...], default=str(TrainingConfig.seed)) = ()  # type: ignore[valid-type]
    preset: PresetName = None  # type: ignore[valid-type]
    epochs: option(int | None, default="the preset's") = None  # type: ignore[valid-type]
    settings: Settings = ()
    device: str = "auto"
    ray: Switch = False
    address: option(str | None, default="none") = None  # type: ignore[valid-type]
    cpus_per_run: option(int | None, default="1") = None  # type: ignore[valid-type]

    def shared(self) -> dict[str, Any]:
        """Return what all runs of the grid share, as arguments of `sweeping.grid.Grid`.

        Raises:
            UserError: a field is given by --set and by an option of its own.
        """
        changes = join_changes(self.settings, {"data.source": self.data, "training.epochs": self.epochs})
        shared = {name: getattr(self, name) for name in ("folds", "seeds", "preset", "device")}
        return {**shared, "changes": changes}


@dataclass(frozen=True)
class ConfigFlag:
    """A field of the configuration that has its own command-line option.

    Attributes:
        name: the name of the attribute in a command's Options.
        field_path: the field's name in the configuration, as section.field.
        mark: the field's `Flag` annotation in the configuration.
        kind: the field's type.
        help: the field's documentation, which --help shows.
    """

    name: str
    field_path: str
    mark: Flag
    kind: Any
    help: str

    def as_field(self) -> tuple[str, Any, Any]:
        """Return the field of an Options class: its name, its annotated type, and a default that means "not given"."""
        kind = self.mark.kind or _plain(self.kind)
        metavar = _metavar(self.name, kind)
        hint = tyro.conf.arg(help=self.help, metavar=metavar, help_behavior_hint=lambda _: self.default())
        if get_origin(_required(kind)) is Literal:
            kind = str  # the configuration rejects a wrong choice and lists the right ones
        if kind is bool:
            return self.name, Annotated[bool, tyro.conf.FlagCreatePairsOff, hint], field(default=False)
        return self.name, Annotated[kind | None, hint], field(default=None)

    def default(self) -> str:
        """Return the default under the preset that the command line names, for --help."""
        section, _, key = self.field_path.partition(".")
        changed = PRESETS.get(_asked_preset(), {}).get(section, {})
        return f"(default: {describe(changed.get(key, _defaults(SECTIONS[section])[key]))})"


@cache
def config_flags() -> tuple[ConfigFlag, ...]:
    """Return all fields of the configuration that have their own command-line option, section by section."""
    return tuple(
        ConfigFlag(mark.name or key, f"{section}.{key}", mark, kind, " ".join([documented[key], mark.note]).strip())
        for section, owner in SECTIONS.items()
        for documented in [documentation(owner)]
        for key, kind, mark in _marked(owner)
    )


def config_options() -> Any:
    """Return a frozen dataclass with one attribute for each of `config_flags`; a command's Options subclasses it."""
    return make_dataclass("ConfigOptions", [flag.as_field() for flag in config_flags()], frozen=True)


def given_flags(options: Any) -> dict[str, Any]:
    """Return the values of the options that the command line gives, by section.field."""
    values = {flag: getattr(options, flag.name) for flag in config_flags()}
    return {
        flag.field_path: flag.mark.parse(value) if flag.mark.parse else value
        for flag, value in values.items()
        if value is not None and value is not False
    }


def list_fields(name: str | None = None, system: str | None = None) -> str:
    """Return a text of 100 columns that lists all fields of --set with defaults, choices and documentation.

    Args:
        name: the preset whose defaults are shown; "paper" by default.
        system: the system whose settings are shown; by default the preset's system.

    Raises:
        UserError: no such preset or system exists.
    """
    config = make_config({"model.system": system} if system else {}, preset=name)
    lines = [f"fields of --set, with their defaults under --preset {name or 'paper'}:"]
    for section in fields(Config):
        owner = getattr(config, section.name)
        kind_of: Any = type(owner)
        documented, hints = documentation(kind_of), get_type_hints(kind_of, include_extras=True)
        for f in fields(owner):
            kind = _plain(hints[f.name])
            values = f" {_metavar(f.name, kind)}" if get_origin(_required(kind)) is Literal else ""
            lines.append(f"  {section.name}.{f.name}={describe(getattr(owner, f.name))}{values}")
            lines += textwrap.wrap(documented[f.name], 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def list_fields_asked() -> str:
    """Return `list_fields` for the preset and the system on the command line; unknown names are ignored."""
    asked = _asked_preset()
    try:
        return list_fields(asked, _asked("--system"))
    except UserError:
        return list_fields(asked if asked in PRESETS else None)


def describe(value: Any) -> str:
    """Format a value in the syntax of --set."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, (tuple, list)) else str(value)


@cache
def documentation(owner: Any) -> Mapping[str, str]:
    """Return the documentation of each attribute of a class, including those of its base classes."""
    found = {}
    for kind in reversed(owner.__mro__):
        for entry in docstring_parser.parse(kind.__doc__ or "").params:
            found[entry.arg_name] = " ".join((entry.description or "").split())
    return found


def _defaults(owner: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(owner)}


def _marked(owner: type) -> Iterator[tuple[str, Any, Flag]]:
    """Yield the name, type and `Flag` of each field of a class that has a `Flag` annotation."""
    for name, kind in get_type_hints(owner, include_extras=True).items():
        for mark in getattr(kind, "__metadata__", ()):
            if isinstance(mark, Flag):
                yield name, kind, mark


def _plain(kind: Any) -> Any:
    """Return a type without its validation limits."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(_plain(one) for one in get_args(kind))]  # noqa: UP007 (the union is built at run time)
    return kind


def _required(kind: Any) -> Any:
    """Return the type X of an optional type X | None, and any other type unchanged."""
    rest = [one for one in get_args(kind) if one is not type(None)]
    return rest[0] if get_origin(kind) in (Union, types.UnionType) and len(rest) == 1 else kind


def _metavar(name: str, kind: Any) -> str | None:
    """Return the description of an option's values in --help, or None for tyro's own."""
    kind = _required(kind)
    if name == "system":
        return choices([*SYSTEMS, "package.module:attribute"])
    if get_origin(kind) is Literal:
        return choices(get_args(kind))
    if name == "steps":
        return "MODALITY=T [MODALITY=T ...] | random"
    return {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}.get(kind)


def _asked(name: str) -> str | None:
    """Return the value of an option on the command line, or None if the option is not given."""
    words = sys.argv[1:]
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == name:
            return after
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _asked_preset() -> str:
    return _asked("--preset") or "paper"

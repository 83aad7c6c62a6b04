"""What systems are called in tables and pictures, and their order."""

from __future__ import annotations

from .errors import UserError
from .registry import SYSTEMS


def split_system(name: str) -> tuple[str, str]:
    """The system and the modality of a name such as "unimodal.a"; the modality is empty where the name has none.

    A system that is named by its path, "package.module:Class", keeps the dots of its path.
    """
    for system in sorted(SYSTEMS, key=len, reverse=True):
        if name == system or name.startswith(f"{system}."):
            return system, name[len(system) + 1 :]
    module, colon, attribute = name.rpartition(":")
    system, _, modality = attribute.partition(".")
    return f"{module}{colon}{system}", modality


def title_of(name: str) -> str:
    """What a system is called in a table: its title, or its name where it has none; "a alone" for "unimodal.a"."""
    system, modality = split_system(name)
    if modality:
        return f"{modality} alone"
    try:
        return SYSTEMS.load(system).title or system
    except UserError:  # a system of another package that is not installed here
        return system


def place_of(system: str) -> int:
    """A system's place in the order of tables and pictures; every system of another package comes after this one's."""
    own = list(SYSTEMS.own)
    return own.index(system) if system in own else len(own)

"""What systems are called in tables and pictures. No torch is imported here."""

from __future__ import annotations

from .registry import SYSTEMS

TITLES = {
    "nmer": "NMER",
    "nmer_no_vae": "NMER w/o VAE",
    "nmer_no_sampling": "NMER w/o sampling",
    "nmer_no_inv": "NMER w/o L_inv",
    "men": "MEN",
    "mctn": "MCTN",
    "mmin": "MMIN",
    "if_mmin": "IF-MMIN",
    "unimodal": "unimodal classifier",
    "late_fusion": "late fusion",
}


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
    return f"{modality} alone" if modality else TITLES.get(system, system)


def place_of(system: str) -> int:
    """A system's place in the order of tables and pictures; every system of another package comes after this one's."""
    own = list(SYSTEMS.own)
    return own.index(system) if system in own else len(own)

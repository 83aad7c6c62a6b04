"""The registries of systems and feature formats: built-in names, installed plug-ins and `package.module:attribute`.

One line in this file registers a system or a format of this package. Another package registers its own with an entry
point of the group `nmer_fast.systems` or `nmer_fast.formats`. Looking up names imports none of the registered modules
and no torch. CONTRIBUTING.md shows both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UserError

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Registry(Mapping[str, str]):
    """A mapping from registered names to paths `module:attribute`: the built-in names first, then those of plug-ins.

    Args:
        option: the name of the configuration option that takes these names, for error messages.
        group: the entry-point group in which plug-ins register.
        own: the built-in names and their paths, in the order of tables and pictures.
        others: the additional words that the option accepts, such as "auto", for error messages.
    """

    def __init__(self, option: str, group: str, own: Mapping[str, str], others: Sequence[str] = ()) -> None:
        self.option, self.group, self.own, self.others = option, group, dict(own), tuple(others)

    def __getitem__(self, name: str) -> str:
        return self.own[name] if name in self.own else _plugins(self.group)[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name in _plugins(self.group) if name not in self.own)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def path_of(self, name: str) -> str:
        """Return the path of a registered name; a path `package.module:attribute` is returned unchanged.

        Raises:
            UserError: the name is neither registered nor a path; the message is one line that lists all names.
        """
        if name in self:
            return self[name]
        if PATH.fullmatch(name):
            return name
        known = ", ".join([*self.others, *self])
        raise UserError(f"{self.option}: expected one of {known}, or package.module:attribute, got {name!r}")

    def load(self, name: str) -> Any:
        """Import and return the object that a name is registered for.

        Raises:
            UserError: one line, if the name is unknown or its object cannot be imported.
        """
        module, _, attribute = self.path_of(name).partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.option}: expected {name} to be importable, got: {error}") from error


@cache
def _plugins(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=group)}


SYSTEMS = Registry(
    "model.system",
    "nmer_fast.systems",
    {
        "nmer": "nmer_fast.models.nmer:NMER",
        "nmer_no_vae": "nmer_fast.models.nmer_no_vae:NMERNoVAE",
        "nmer_no_sampling": "nmer_fast.models.nmer_no_sampling:NMERNoSampling",
        "nmer_no_inv": "nmer_fast.models.nmer_no_inv:NMERNoInv",
        "men": "nmer_fast.models.men:MEN",
        "mctn": "nmer_fast.models.mctn:MCTN",
        "mmin": "nmer_fast.models.mmin:MMIN",
        "if_mmin": "nmer_fast.models.if_mmin:IFMMIN",
        "unimodal": "nmer_fast.models.unimodal:Unimodal",
        "late_fusion": "nmer_fast.models.late_fusion:LateFusion",
    },
)
"""The registry of systems, for `--system` and `model.system`: subclasses of `nmer_fast.models.System`."""

FORMATS = Registry(
    "format",
    "nmer_fast.formats",
    {
        "iemocap-h5": "nmer_fast.data.iemocap_msp_h5:IEMOCAP_H5",
        "msp-h5": "nmer_fast.data.iemocap_msp_h5:MSP_H5",
        "multibench-pkl": "nmer_fast.data.multibench_pkl:MULTIBENCH_PKL",
        "mult-pkl": "nmer_fast.data.mult_pkl:MULT_PKL",
        "mmsa-pkl": "nmer_fast.data.mmsa_pkl:MMSA_PKL",
        "csd": "nmer_fast.data.csd:CSD",
        "npz": "nmer_fast.data.npz:NPZ",
    },
    others=["auto"],
)
"""The registry of feature formats, for `--format` and `data.format`: instances of `nmer_fast.data.Format`. "auto" tries
them on a source in this order."""

"""Systems and feature formats by name: this package's own, installed plug-ins, and any `package.module:attribute`.

A line here is all that makes a file of this package known; another package declares an entry point of the group
`nmer_fast.systems` or `nmer_fast.formats`. Names are known without importing what they stand for, so no torch is
imported here. CONTRIBUTING.md shows both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UserError

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Registry:
    """What is chosen by name.

    Args:
        option: the option that gives the name, for messages.
        group: the entry points' group.
        own: this package's, `module:attribute` by name, in the order of tables and pictures.
    """

    def __init__(self, option: str, group: str, own: Mapping[str, str]) -> None:
        self.option, self.group, self.own = option, group, dict(own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths())

    def paths(self) -> dict[str, str]:
        """`module:attribute` by name: this package's, then installed plug-ins'."""
        return {**self.own, **{name: path for name, path in _plugins(self.group).items() if name not in self.own}}

    def path_of(self, name: str) -> str:
        """`module:attribute` of a name.

        Raises:
            UserError: one line that lists the names, where there is none of that name.
        """
        known = self.paths()
        if name in known:
            return known[name]
        if PATH.fullmatch(name):
            return name
        raise UserError(f"{self.option}: expected one of {', '.join(known)}, or package.module:attribute, got {name!r}")

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            UserError: one line, where the name is unknown or cannot be imported.
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
"""What `--system` and `model.system` name: subclasses of `nmer_fast.models.System`."""

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
)
"""What `--format` and `data.format` name beside "auto": instances of `nmer_fast.data.Format`, in the order in which a
source is shown to them."""

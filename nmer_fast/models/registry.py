"""Every system by its name, as `--system` and `model.system` give it."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import NMERConfig
from ..errors import UserError
from .if_mmin import IFMMIN
from .interface import System
from .late_fusion import LateFusion
from .mctn import MCTN
from .men import MEN
from .mmin import MMIN
from .nmer import NMER
from .nmer_no_inv import NMERNoInv
from .nmer_no_sampling import NMERNoSampling
from .nmer_no_vae import NMERNoVAE
from .unimodal import Unimodal

SYSTEMS: dict[str, type[System]] = {
    "nmer": NMER,
    "nmer_no_vae": NMERNoVAE,
    "nmer_no_sampling": NMERNoSampling,
    "nmer_no_inv": NMERNoInv,
    "men": MEN,
    "mctn": MCTN,
    "mmin": MMIN,
    "if_mmin": IFMMIN,
    "unimodal": Unimodal,
    "late_fusion": LateFusion,
}


def system_class(name: str) -> type[System]:
    """The class of a system.

    Raises:
        UserError: no system has that name.
    """
    if name not in SYSTEMS:
        raise UserError(f"model.system: expected one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]


def make_system(dims: Mapping[str, int], classes: int, config: NMERConfig) -> System:
    """The system that a config names.

    Raises:
        UserError: there is none of that name, or it cannot work with these modalities.
    """
    return system_class(config.system)(dims, classes, config)

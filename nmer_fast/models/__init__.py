"""The systems, their teachers and encoders; one file per system, one line per system in `registry`."""

from ..config import NMERConfig
from .interface import Batch, Output, Separable, System, Targets, Teaching
from .nmer import NMER
from .registry import SYSTEMS, make_system, system_class
from .teacher import Teacher

__all__ = [
    "NMER", "SYSTEMS", "Batch", "NMERConfig", "Output", "Separable", "System", "Targets", "Teacher", "Teaching",
    "make_system", "system_class",
]  # fmt: skip

"""The systems, their teachers and encoders: each system has one file here and one line in `nmer_fast.registry`."""

from ..config import ModelConfig
from ..registry import SYSTEMS
from .interface import Batch, Output, Separable, System, Targets, TeacherSystem, make_system, system_class
from .nmer import NMER, NMERConfig
from .teacher import Teacher

__all__ = [
    "NMER", "SYSTEMS", "Batch", "ModelConfig", "NMERConfig", "Output", "Separable", "System", "Targets", "Teacher",
    "TeacherSystem", "make_system", "system_class",
]  # fmt: skip

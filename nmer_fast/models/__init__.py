"""NMER, its teacher and encoders; one file per system."""

from ..config import NMERConfig
from .interface import Batch, Output, Targets
from .nmer import NMER
from .teacher import Teacher

__all__ = ["NMER", "Batch", "NMERConfig", "Output", "Targets", "Teacher"]

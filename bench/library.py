"""What the benches use of nmer_fast besides its ops, noise and data: a name that changes there is edited here alone."""

from __future__ import annotations

import importlib

from nmer_fast.config import PRESETS, Config, NoiseConfig, TrainingConfig, override
from nmer_fast.data.featureset import padded_steps
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.console import Report
from nmer_fast.engine.distributed import Ranks, join_ranks
from nmer_fast.engine.evaluation import evaluate, score
from nmer_fast.engine.fit import Fit
from nmer_fast.engine.inputs import make_scheduler
from nmer_fast.engine.memory import release_freed_memory
from nmer_fast.engine.trained_model import revision
from nmer_fast.engine.trainer import all_sizes_differ, compiled, noisy_step, teacher_targets, train
from nmer_fast.models import NMER, Batch, NMERConfig, Teacher
from nmer_fast.models.encoders import HIDDEN, TEXT_MODALITIES, Classifier
from nmer_fast.ops._library import isa

synthetic_module = importlib.import_module("nmer_fast.data.synthetic")  # nmer_fast.data.synthetic is the function

__all__ = [
    "HIDDEN",
    "NMER",
    "PRESETS",
    "TEXT_MODALITIES",
    "Batch",
    "Batches",
    "Classifier",
    "Config",
    "Fit",
    "NMERConfig",
    "NoiseConfig",
    "Ranks",
    "Report",
    "Teacher",
    "TrainingConfig",
    "all_sizes_differ",
    "compiled",
    "evaluate",
    "isa",
    "join_ranks",
    "make_scheduler",
    "noisy_step",
    "override",
    "padded_steps",
    "release_freed_memory",
    "revision",
    "score",
    "synthetic_module",
    "teacher_targets",
    "train",
]

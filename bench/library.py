"""What the benches use of nmer_fast besides its ops, noise and data: a name that changes there is edited here alone."""

from __future__ import annotations

import importlib

from nmer_fast.config import PRESETS, Config, NoiseConfig, TrainingConfig, override
from nmer_fast.config import NMERConfig as ModelConfig
from nmer_fast.data.featureset import padded_steps
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.console import Report
from nmer_fast.engine.distributed import Ranks, join
from nmer_fast.engine.evaluation import evaluate, score
from nmer_fast.engine.fit import Fit
from nmer_fast.engine.memory import give_back
from nmer_fast.engine.run import make_scheduler, revision
from nmer_fast.engine.trainer import all_sizes_differ, compiled, noisy_step, teacher_targets, train
from nmer_fast.models import NMER, Batch, Teacher
from nmer_fast.models.encoders import HIDDEN, TEXT, Classifier
from nmer_fast.ops._library import isa

synthetic_module = importlib.import_module("nmer_fast.data.synthetic")  # nmer_fast.data.synthetic is the function

__all__ = [
    "HIDDEN",
    "NMER",
    "PRESETS",
    "TEXT",
    "Batch",
    "Batches",
    "Classifier",
    "Config",
    "Fit",
    "ModelConfig",
    "NoiseConfig",
    "Ranks",
    "Report",
    "Teacher",
    "TrainingConfig",
    "all_sizes_differ",
    "compiled",
    "evaluate",
    "give_back",
    "isa",
    "join",
    "make_scheduler",
    "noisy_step",
    "override",
    "padded_steps",
    "revision",
    "score",
    "synthetic_module",
    "teacher_targets",
    "train",
]

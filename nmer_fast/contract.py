"""The names and numbers of the noise contract (docs/noise_contract.md), written once for every backend.

The ops, the NumPy functions, the configuration, the scheduler and the tables read them here. No torch is imported.
"""

from __future__ import annotations

from typing import Literal, get_args

GeneratedKind = Literal["gaussian", "impulse", "uniform", "laplace"]
GENERATED_KINDS: tuple[str, ...] = get_args(GeneratedKind)
"""Kinds of noise that the generator makes: a backend has an exhaustive switch over these names."""

Kind = Literal[GeneratedKind, "missing"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Kinds that a scheduler or a command takes; "missing" sets a modality to zero, as earlier work does."""

Convention = Literal["exact", "paper"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
"""What power of the noise an SNR counts: its own, or 1 for every kind as in the paper."""

ScheduleKind = Literal["paper", "linear", "scaled_linear", "cosine", "sigmoid"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleKind)
"""How the betas of a number of steps are spread (`nmer_fast.noise.NoiseSchedule`)."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Names of the dtypes that every op takes; NumPy has no bfloat16."""

# What a stream of 8 bits is for: 0 to 239 are modalities, in the order of their names in a data set.
MODALITY_STREAMS = 240
LATENT_STREAM = 240  # eps of the VAE's latent
CONDITION_STREAM = 241  # which modalities of a training sample are clean
STEP_STREAM = 242  # which step of a schedule a batch gets, where steps are random
SNR_STREAM = 243  # which SNR of a range a sample's modality gets
DROPOUT_STREAM = 244  # which activations are dropped on a CPU

MAX_ELEMENTS = 2**34  # elements of one sample: counter word 0 holds element // 4
MAX_STREAM = 255
MAX_DRAW = 2**32 - 1
COUNTER_TAG = 0x4E  # keeps the counters apart from tl.randn's and CUDA's own generator's under equal seeds

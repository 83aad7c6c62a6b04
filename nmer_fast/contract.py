"""The noise contract's names, numbers and checks (docs/noise_contract.md), written once for every backend.

The ops, the NumPy functions, the configuration, the scheduler and the tables read them here. No torch is imported.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, get_args

GeneratedKind = Literal["gaussian", "impulse", "uniform", "laplace"]
GENERATED_KINDS: tuple[str, ...] = get_args(GeneratedKind)
"""Names of the kinds of noise that the generator makes; every backend has an exhaustive switch over them."""

Kind = Literal[GeneratedKind, "missing"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Names of the kinds that a scheduler or a command takes; "missing" sets a modality to zero, as earlier work does."""

Convention = Literal["exact", "paper"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
"""Names of the conventions for the noise's power in an SNR: its own power, or 1 for every kind as in the paper."""

ScheduleKind = Literal["paper", "linear", "scaled_linear", "cosine", "sigmoid"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleKind)
"""Names of the ways to spread the betas of a number of steps (`nmer_fast.noise.NoiseSchedule`)."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Names of the dtypes that every op takes."""
NUMPY_DTYPES = ("float32", "float16", "float64")
"""Names of the dtypes that the functions on NumPy arrays take: NumPy has no bfloat16."""

# Sizes of the arguments that a noise value depends on, in bits, and the largest values that they hold.
SEED_BITS = 64
DRAW_BITS = 32
STREAM_BITS = 8
SAMPLE_BITS = 48
ELEMENT_BITS = 34  # counter word 0 holds element // 4
MAX_DRAW = 2**DRAW_BITS - 1
MAX_STREAM = 2**STREAM_BITS - 1
MAX_SAMPLE_ID = 2**SAMPLE_BITS - 1
MAX_ELEMENTS = 2**ELEMENT_BITS  # elements of one sample
COUNTER_TAG = 0x4E  # keeps the counters apart from tl.randn's and CUDA's own generator's under equal seeds

# Purposes of the streams. Streams 0 to 239 belong to modalities, in the order of their names in a data set.
MODALITY_STREAMS = 240
LATENT_STREAM = 240  # eps of the VAE's latent
CONDITION_STREAM = 241  # which modalities of a training sample are clean
STEP_STREAM = 242  # which step of a schedule a batch gets, where steps are random
SNR_STREAM = 243  # which SNR of a range a sample's modality gets
DROPOUT_STREAM = 244  # which activations are dropped on a CPU


def either(names: Sequence[str]) -> str:
    """List two or more names in an error message: "float32, float16 or float64"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def integer(name: str, value: Any) -> int:
    """Return the int that an integer of any type holds: Python's, NumPy's, or an array or tensor without dims."""
    if getattr(value, "ndim", 0) == 0:
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}: expected an int, got {value!r} ({type(value).__name__})")


def real(name: str, value: Any) -> float:
    """Return the float that a real number of any type holds: Python's, NumPy's, or an array or tensor without dims."""
    if not isinstance(value, Real) and getattr(value, "ndim", None) == 0:
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")
    return float(value)


def check_kind(kind: str) -> GeneratedKind:
    """Return the kind; raise ValueError unless the generator makes it."""
    if kind not in GENERATED_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(GENERATED_KINDS)}, got {kind!r}")
    return kind  # type: ignore[return-value]


def check_draw(draw: int) -> None:
    """Raise ValueError unless the draw fits its bits."""
    if not isinstance(draw, int) or not 0 <= draw <= MAX_DRAW:
        raise ValueError(f"draw: expected an int from 0 to 2^{DRAW_BITS}-1, got {draw!r}")


def check_stream(stream: int) -> None:
    """Raise ValueError unless the stream fits its bits."""
    if not isinstance(stream, int) or not 0 <= stream <= MAX_STREAM:
        raise ValueError(f"stream: expected an int from 0 to {MAX_STREAM}, got {stream!r}")


def check_elements(name: str, shape: Sequence[int]) -> None:
    """Raise ValueError if a sample of an array [B, ...] has more elements than the counter holds."""
    row = 1
    for extent in shape[1:]:
        row *= extent
    if row > MAX_ELEMENTS:
        raise ValueError(f"{name}: expected at most 2^{ELEMENT_BITS} elements a sample, got shape {tuple(shape)}")

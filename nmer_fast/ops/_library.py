"""Registration of the ops `torch.ops.nmer_fast.*` and loading of the compiled CPU kernels."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("nmer_fast", "DEF")
COMPILED = Path(__file__).resolve().parent.parent / "_torch_ops.so"
INTERFACE = 4  # raised with kInterface in csrc/kernels.h when an op's arguments change


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Register an op; the reference serves on every device until a backend registers a kernel for it."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nmer_fast::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.nmer_fast, name).default


def map_in_a_loop(op: torch._ops.OpOverload) -> None:
    """Vmap for an op that no gradient flows through: slice by slice."""

    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        slices = [
            op(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        return torch.stack(slices), 0

    torch.library.register_vmap(op, vmap, lib=LIBRARY)


def isas() -> list[str]:
    """Instruction sets whose kernels this machine can run, the best one last; none without the C++ library."""
    library = _functions()
    return (
        []
        if library is None
        else [library.nmer_fast_isa_name(i).decode() for i in range(library.nmer_fast_isa_count())]
    )


def isa() -> str | None:
    """The instruction set in use."""
    library = _functions()
    return None if library is None else library.nmer_fast_isa().decode()


def use_isa(name: str) -> None:
    """Use another instruction set's kernels, for tests and benches."""
    library = _functions()
    if library is None or not library.nmer_fast_use_isa(name.encode()):
        raise ValueError(f"isa: expected one of {', '.join(isas()) or 'none, without the C++ library'}, got {name!r}")


@cache
def _functions() -> ctypes.CDLL | None:
    """What the loaded library has beside its torch ops."""
    if str(COMPILED) not in torch.ops.loaded_libraries:
        return None
    library = ctypes.CDLL(str(COMPILED))
    library.nmer_fast_isa_name.restype = library.nmer_fast_isa.restype = ctypes.c_char_p
    return library


def load_compiled() -> bool:
    """Plug the C++ kernels in. Without them everything works, on the reference, and one warning says so."""
    reason = _unusable()
    if reason is None:
        try:
            torch.ops.load_library(str(COMPILED))
            return True
        except OSError as error:
            reason = f"does not load ({error})"
    warnings.warn(
        f"nmer_fast: the C++ library {COMPILED.name} {reason}; plain PyTorch serves instead, more slowly. "
        "To build it: pip install --no-build-isolation --force-reinstall --no-deps nmer_fast",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _unusable() -> str | None:
    """Why the library must not even be loaded; both libraries are built together, and `_native` says of which age."""
    if not COMPILED.exists():
        return "is not built"
    try:
        from nmer_fast import _native
    except ImportError as error:
        return f"is not built whole ({error})"
    found = getattr(_native, "INTERFACE", 0)
    return None if found == INTERFACE else f"is of another version ({found}, expected {INTERFACE})"

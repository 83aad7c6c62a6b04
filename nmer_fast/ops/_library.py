"""Registration of the ops `torch.ops.nmer_fast.*` and loading of the compiled CPU kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LIBRARY = torch.library.Library("nmer_fast", "DEF")
COMPILED = Path(__file__).resolve().parent.parent / "_torch_ops.so"


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register an op; the reference serves on every device until a backend registers a kernel for it."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nmer_fast::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.nmer_fast, name).default


def load_compiled() -> bool:
    """Plug the C++ kernels in. Without them everything works, on the reference, and one warning says so."""
    try:
        torch.ops.load_library(str(COMPILED))
    except OSError as error:
        reason = "is not built" if not COMPILED.exists() else f"does not load ({error})"
        warnings.warn(
            f"nmer_fast: the C++ library {COMPILED.name} {reason}; plain PyTorch serves instead, more slowly. "
            "To build it: pip install --no-build-isolation --force-reinstall --no-deps nmer_fast",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True

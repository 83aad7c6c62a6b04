"""Registers the ops `torch.ops.nmer_fast.*` and loads the compiled CPU kernels."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ._transforms import Derivative, differentiable, mapped_in_a_loop

COMPILED = Path(__file__).resolve().parent.parent / "_torch_ops.so"
INTERFACE = 4  # raised with kInterface in csrc/kernels.h when an op's arguments change


def _library() -> torch.library.Library:
    """The ops' namespace; where this module is imported again, as in a notebook, the ops are defined anew."""
    namespace: Any = torch.ops.nmer_fast
    if "library" in vars(namespace):
        namespace.library._destroy()
    namespace.library = torch.library.Library("nmer_fast", "DEF")
    return namespace.library


LIBRARY = _library()

_CPU_KERNELS: dict[str, Callable[..., Any]] = {}


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    derivative: type[Derivative] = Derivative,
    vmap: Callable[..., Any] = mapped_in_a_loop,
) -> Callable[..., Any]:
    """Register an op under the schema's name, for every device, program and transform, and return the way to call it.

    Args:
        schema: the op's signature in torch's schema language.
        reference: the op in plain PyTorch; it serves on every device for which no backend has registered a kernel.
        fake: the op's output shapes and dtypes, for tracing and for meta tensors.
        derivative: the op's gradient and tangent; an op without them refuses to be differentiated.
        vmap: makes the op's rule for torch.func.vmap.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.nmer_fast, name).default
    kernel = differentiable(op, derivative)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    LIBRARY.impl(name, kernel, "Autograd")
    # torch.onnx decomposes by the first table. Tracing would too, but for an op in the second.
    torch._decomp.decomposition_table[op], torch._decomp.meta_table[op] = reference, fake
    torch.library.register_fake(op, fake, lib=LIBRARY)
    torch.library.register_vmap(op, vmap(op), lib=LIBRARY)

    compiling, modes, transformed = (
        torch.compiler.is_compiling,
        torch._C._len_torch_dispatch_stack,
        torch._C._are_functorch_transforms_active,
    )

    def call(*args: Any) -> Any:
        """Call the op: through the dispatcher where a program is traced or transformed, else its Autograd kernel."""
        if compiling() or modes() or transformed():
            return op(*args)
        return kernel(*args)

    return call


def cpu_kernel(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a CPU kernel in Python that calls parts of the C++ library; it serves once the library is loaded."""

    def keep(kernel: Callable[..., Any]) -> Callable[..., Any]:
        _CPU_KERNELS[name] = kernel
        return kernel

    return keep


def isas() -> list[str]:
    """The instruction sets whose kernels this machine can run, the best one last; empty without the C++ library."""
    library = _functions()
    return (
        []
        if library is None
        else [library.nmer_fast_isa_name(i).decode() for i in range(library.nmer_fast_isa_count())]
    )


def isa() -> str | None:
    """The instruction set in use; None without the C++ library."""
    library = _functions()
    return None if library is None else library.nmer_fast_isa().decode()


def use_isa(name: str) -> None:
    """Select an instruction set's kernels, for tests and benchmarks; ValueError if this machine cannot run them."""
    library = _functions()
    if library is None or not library.nmer_fast_use_isa(name.encode()):
        raise ValueError(f"isa: expected one of {', '.join(isas()) or 'none, without the C++ library'}, got {name!r}")


@cache
def _functions() -> ctypes.CDLL | None:
    """The C functions that the loaded library exports beside its torch ops; None if it is not loaded."""
    if str(COMPILED) not in torch.ops.loaded_libraries:
        return None
    library = ctypes.CDLL(str(COMPILED))
    library.nmer_fast_isa_name.restype = library.nmer_fast_isa.restype = ctypes.c_char_p
    return library


def load_compiled() -> bool:
    """Load the C++ kernels; say whether they serve. Without them the reference serves, and one warning says why."""
    reason = _unusable() or _load()
    if reason is None:
        while _CPU_KERNELS:  # once, where the package is reloaded
            LIBRARY.impl(*_CPU_KERNELS.popitem(), "CPU")
        return True
    warnings.warn(
        f"nmer_fast: the C++ library {COMPILED.name} {reason}; plain PyTorch serves instead, more slowly. "
        "To build it: pip install --no-build-isolation --force-reinstall --no-deps nmer_fast",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def _unusable() -> str | None:
    """The reason for which the library must not be loaded, or None.

    Both libraries are built together, so the version of the NumPy one, `_native`, tells the version of this one.
    """
    if not COMPILED.exists():
        return "is not built"
    try:
        from nmer_fast import _native
    except ImportError as error:
        return f"is not built whole ({error})"
    found = getattr(_native, "INTERFACE", 0)
    return None if found == INTERFACE else f"is of another version ({found}, expected {INTERFACE})"


def _load() -> str | None:
    """Load the library; the reason where it does not load, or None."""
    try:
        torch.ops.load_library(str(COMPILED))
    except OSError as error:
        return f"does not load ({error})"
    return None

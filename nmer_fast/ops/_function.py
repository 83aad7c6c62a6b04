"""What the autograd Functions share: forward mode beside Dynamo, and vmap by folding the mapped axis into the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor


def inside_transform() -> bool:
    """Whether a torch.func transform is being traced; Dynamo asks once, while it traces."""
    return torch._C._functorch.get_dynamic_layer_stack_depth() > 0


# What torch.compiler.assume_constant_result does, but that imports Dynamo, and with it Triton.
inside_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refuse_compiled_transform(name: str) -> None:
    """For an op whose derivatives a torch.func transform inside compiled code would silently lose."""
    if torch.compiler.is_compiling() and inside_transform():
        raise NotImplementedError(f"{name}: a torch.func transform inside compiled code would lose its gradient")


class Function(torch.autograd.Function):
    """An autograd.Function with forward mode (`tangent`) that Dynamo traces all the same.

    Dynamo refuses a Function that defines `jvp`, so eager code applies a subclass in which `tangent` is the jvp. And in
    a torch.func transform inside compiled code Dynamo loses a Function's derivatives without a word, so there the
    reference (`plain`), which is ordinary PyTorch, takes its place. Outside transforms a second subclass sets its
    context in `forward`: with a `setup_context` of its own, torch binds the arguments by inspection, 30 us a call.
    """

    transformed: type[Function]
    eager: type[Function]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "jvp" in vars(cls):
            return

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output

        shared = {"jvp": staticmethod(cls.tangent), "__module__": cls.__module__}
        own = {"forward": staticmethod(forward), "setup_context": staticmethod(torch.autograd.Function.setup_context)}
        metaclass: Any = type(cls)
        cls.transformed = metaclass(f"{cls.__name__}Transformed", (cls,), shared)
        cls.eager = metaclass(f"{cls.__name__}Eager", (cls,), {**shared, **own})

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Any:
        """The tangents of the outputs, from those of the inputs."""
        raise NotImplementedError

    @staticmethod
    def plain(*args: Any) -> Any:
        """The reference, on forward's arguments."""
        raise NotImplementedError

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Apply: traceable by Dynamo under compile, with forward mode in eager."""
        compiling = torch.compiler.is_compiling()
        if compiling and inside_transform():
            return cls.plain(*args)
        if not compiling and torch._C._are_functorch_transforms_active():
            return cls.transformed.apply(*args)
        if torch.is_grad_enabled():
            for a in args:
                if isinstance(a, Tensor) and a.requires_grad:
                    return cls.apply(*args) if compiling else cls.eager.apply(*args)
        if not compiling and fwAD._current_level >= 0:
            return cls.eager.apply(*args)
        return cls.forward(*args)  # no derivative is wanted; Dynamo's own inlining of `apply` stumbles over *args


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep tensors for backward and for forward mode."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def fold(t: Any, dim: int | None, size: int) -> Any:
    """[B, ...] with or without a mapped axis -> [size * B, ...]: the mapped axis outermost."""
    if t is None:
        return None
    t = t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten(0, 1)


def fold_ids(sample_ids: Tensor | None, dim: int | None, size: int, batch: int, device: torch.device) -> Tensor:
    """Folded sample ids: without ids of their own, samples keep 0..B-1 in every slice, as they would alone."""
    if sample_ids is None:
        sample_ids, dim = torch.arange(batch, device=device), None
    return fold(sample_ids, dim, size)


def fold_scale(t: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """alpha_bar [] or [B]: one for all stays, one per slice is repeated, one per sample is folded."""
    if t.dim() == (dim is not None):  # a scalar in each slice
        return t if dim is None else t.repeat_interleave(batch)
    return fold(t, dim, size)


def loop(function: type[Function], size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """Vmap slice by slice, for what cannot be folded: a seed per slice, a statistic per slice."""
    outs = [
        function.call(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)))
        for i in range(size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*outs, strict=True))
    return stacked, (0,) * len(stacked)

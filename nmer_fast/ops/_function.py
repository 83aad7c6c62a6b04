"""The base class of the autograd Functions, with forward mode beside Dynamo; vmap by folding an axis into the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor


def inside_transform() -> bool:
    """Whether a torch.func transform is being traced. Dynamo evaluates this once, while it traces."""
    return torch._C._functorch.get_dynamic_layer_stack_depth() > 0


# torch.compiler.assume_constant_result sets the same mark, but imports Dynamo, and with it Triton.
inside_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refuse_compiled_transform(name: str) -> None:
    """Raise NotImplementedError inside a compiled torch.func transform, which would silently drop an op's gradient."""
    if torch.compiler.is_compiling() and inside_transform():
        raise NotImplementedError(f"{name}: a torch.func transform inside compiled code would lose its gradient")


class Function(torch.autograd.Function):
    """An autograd.Function that has forward mode (`tangent`) and that Dynamo can trace.

    Dynamo refuses a Function that defines `jvp`, so eager code applies a subclass whose jvp is `tangent`. In a
    torch.func transform inside compiled code Dynamo silently drops a Function's derivatives, so the reference
    (`plain`), which is ordinary PyTorch, runs there instead. Outside transforms a second subclass sets its context in
    `forward`: for a Function with a `setup_context`, torch inspects the forward's signature in every call, 30 us.

    Attributes:
        transformed: the subclass for eager torch.func transforms.
        eager: the subclass for eager code outside transforms.
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
        """Compute the outputs' tangents from the inputs' tangents."""
        raise NotImplementedError

    @staticmethod
    def plain(*args: Any) -> Any:
        """Run the reference on the arguments of `forward`."""
        raise NotImplementedError

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Apply the Function: traceable by Dynamo under compile, with forward mode in eager code."""
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
        return cls.forward(*args)  # no derivative is wanted; Dynamo cannot inline `apply` with *args


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors for backward and for forward mode."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def fold(t: Any, dim: int | None, size: int) -> Any:
    """Fold a mapped axis into the batch: [B, ...] becomes [size * B, ...]; without one the slices are equal."""
    if t is None:
        return None
    t = t.unsqueeze(0).expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten(0, 1)


def fold_ids(sample_ids: Tensor | None, dim: int | None, size: int, batch: int, device: torch.device) -> Tensor:
    """Fold the sample ids. Samples without ids get 0..B-1 in every slice, as they would in a call of their own."""
    if sample_ids is None:
        sample_ids, dim = torch.arange(batch, device=device), None
    return fold(sample_ids, dim, size)


def fold_scale(t: Tensor, dim: int | None, size: int, batch: int) -> Tensor:
    """Fold alpha_bar [] or [B]: a value for all stays, a value per slice is repeated, values per sample are folded."""
    if t.dim() == (dim is not None):  # a scalar in each slice
        return t if dim is None else t.repeat_interleave(batch)
    return fold(t, dim, size)


def loop(function: type[Function], size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """Run vmap slice by slice, where folding cannot serve: a seed for each slice, or statistics of each slice."""
    outs = [
        function.call(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)))
        for i in range(size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*outs, strict=True))
    return stacked, (0,) * len(stacked)

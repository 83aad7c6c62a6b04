"""The derivative and the vmap rule of a registered op, which every program finds that holds the op.

Both belong to the op in torch's dispatcher: eager code, torch.compile, exported programs, FX passes, torch.func and
direct calls of `torch.ops.nmer_fast.*` take them from there. docs/design.md says what else was tried.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

# ---------------------------------------------------------------- derivatives


class Derivative:
    """The gradient and the tangent of an op, which lacks both unless a subclass defines them.

    Attributes:
        wrt: the names, in the op's schema, of the arguments in which it is differentiable.
        constants: the positions of the outputs that carry no derivative.
    """

    wrt: tuple[str, ...] = ()
    constants: tuple[int, ...] = ()

    @staticmethod
    def save(args: Any, outputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor | None, ...], Any]:
        """Choose what the gradient and the tangent need: tensors, and one value that is no tensor.

        The arguments go by their names in the schema.
        """
        return (), None

    @staticmethod
    def backward(saved: tuple[Any, ...], value: Any, needed: Sequence[Any], *grads: Tensor | None) -> Sequence[Any]:
        """Compute the gradients of the arguments `wrt`, of which some may not be needed, from those of the outputs."""
        raise NotImplementedError

    @staticmethod
    def tangent(saved: tuple[Any, ...], value: Any, *tangents: Any) -> Any:
        """Compute the outputs' tangents from those of the arguments `wrt`, of which some may be None."""
        raise NotImplementedError


def differentiable(op: torch._ops.OpOverload, derivative: type[Derivative]) -> Callable[..., Any]:
    """Make the op's Autograd kernel."""
    lists, lists_out = _lists(op._schema.arguments), _lists(op._schema.returns)
    wrt = [i for i, argument in enumerate(op._schema.arguments) if argument.name in derivative.wrt]
    # torch.autograd.Function.apply would enter a transform a second time: the dispatcher has entered one level of it.
    apply = super(torch.autograd.Function, _node(op, derivative)).apply
    below, run, any_requires_grad = torch._C._AutoDispatchBelowAutograd, op._op, torch._C._any_requires_grad
    unwrap_if_dead = torch._C._functorch.unwrap_if_dead
    grad_enabled, is_transformed = torch.is_grad_enabled, torch._C._are_functorch_transforms_active

    def kernel(*args: Any) -> Any:
        transformed = is_transformed()
        if not transformed and fwAD._current_level < 0 and not (grad_enabled() and any_requires_grad(*args)):
            with below():
                return run(*args)
        sizes = {i: len(args[i]) for i in lists}
        if transformed:
            with enable_single_level_autograd_function():
                outputs = apply(*_flatten(args, sizes), (sizes, _modes()))
        else:
            alive = list(args)
            for i in wrt:  # a tensor that has left its transform stands for the one inside it
                one = args[i]
                alive[i] = [unwrap_if_dead(t) for t in one] if i in sizes else unwrap_if_dead(one)
            outputs = apply(*(_flatten(alive, sizes) if sizes else alive), (sizes, None))
        if not lists_out:
            return outputs
        return tuple(_unflatten(outputs, {lists_out[0]: len(outputs) - len(op._schema.returns) + 1}))

    return kernel


def _modes() -> tuple[bool, bool]:
    """Whether gradients and tangents are recorded."""
    return torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()


@contextmanager
def _restored(modes: tuple[bool, bool]) -> Iterator[None]:
    """Record as before the node, which records nothing itself: the levels of a transform below it may."""
    with torch.set_grad_enabled(modes[0]), fwAD._set_fwd_grad_enabled(modes[1]):
        yield


def _lists(declared: Sequence[Any]) -> list[int]:
    """The positions of the lists of tensors among an op's arguments, or among its outputs (which have at most one)."""
    return [i for i, one in enumerate(declared) if str(one.type) == "List[Tensor]"]


def _node(op: torch._ops.OpOverload, derivative: type[Derivative]) -> Any:
    """The autograd.Function of an op.

    Its arguments are the op's, flat, and then the lists' sizes with the modes to restore. Its methods do little, since
    each line costs a noticeable part of a call on 1,000 elements.
    """
    arguments = op._schema.arguments
    names, lists_out = [argument.name for argument in arguments], _lists(op._schema.returns)
    defaults = [argument.default_value for argument in arguments if argument.has_default_value()]
    make: Any = namedtuple  # mypy wants literal names
    Arguments = make("Arguments", names, defaults=defaults)
    wrt = [names.index(name) for name in derivative.wrt]
    others = [i for i in range(len(names)) if i not in wrt]
    places = [wrt.index(i) if i in wrt else -1 for i in range(len(names) + 1)]  # of each argument's gradient

    def refuse(given: Sequence[Any]) -> None:
        """Raise RuntimeError where an argument has a derivative (True, or a tangent) that the op does not have."""
        for i in others:
            one = given[i]
            if any(one) if isinstance(one, list) else one is not None and one is not False:
                raise RuntimeError(f"{op.name()}: it has no derivative in {names[i]}; detach() it if none is wanted")

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *flat_and_how: Any) -> Any:
            *flat, (ctx.sizes, modes) = flat_and_how
            args = Arguments(*_unflatten(flat, ctx.sizes))
            if modes is None:
                with torch._C._AutoDispatchBelowAutograd():
                    outputs = op._op(*args)
            else:
                with _restored(modes), torch._C._AutoDispatchBelowAutograd():
                    outputs = op(*args)
            by_position = (outputs,) if isinstance(outputs, Tensor) else _flatten(outputs, lists_out)
            tensors, ctx.value = derivative.save(args, by_position)
            ctx.save_for_backward(*tensors)
            if modes is not None or fwAD._current_level >= 0:
                ctx.save_for_forward(*tensors)
            if derivative.constants:
                ctx.mark_non_differentiable(*[by_position[i] for i in derivative.constants])
            ctx.set_materialize_grads(False)  # an unused output may be as large as all states of an LSTM
            return outputs if isinstance(outputs, Tensor) else by_position

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            saved = ctx.saved_tensors  # once: under activation checkpointing each reading runs the forward again
            given, sizes = ctx.needs_input_grad, ctx.sizes
            if grads[0] is None and all(grad is None for grad in grads):
                return (None,) * len(given)
            if sizes:
                given = _unflatten(given, sizes)
            needed = [given[i] for i in wrt]
            if sizes or given.count(True) != needed.count(True):
                refuse(given)
            found = (*derivative.backward(saved, ctx.value, needed, *grads), None)
            gradients = [found[place] for place in places]
            if not sizes:
                return tuple(gradients)
            for i, size in sizes.items():
                gradients[i] = [None] * size if gradients[i] is None else gradients[i]
            return _flatten(gradients, sizes)

        @staticmethod
        def jvp(ctx: Any, *flat: Any) -> Any:
            tangents = _unflatten(flat, ctx.sizes)
            refuse(tangents)
            if derivative.tangent is Derivative.tangent:
                raise NotImplementedError(f"{op.name()}: it has no forward mode")
            return derivative.tangent(ctx.saved_tensors, ctx.value, *[tangents[i] for i in wrt])

    Node.__name__ = Node.__qualname__ = op._opname
    return Node


def _flatten(args: Iterable[Any], lists: Collection[int]) -> tuple[Any, ...]:
    """Put the entries of the lists at these positions in their places: autograd sees no tensors inside a list."""
    flat: list[Any] = []
    for i, a in enumerate(args):
        flat.extend(a if i in lists else (a,))
    return tuple(flat)


def _unflatten(flat: Sequence[Any], sizes: Mapping[int, int]) -> Sequence[Any]:
    """Gather the entries of lists again; `sizes` has each list's position and length."""
    if not sizes:
        return flat
    rest, count = iter(flat), len(flat) - sum(sizes.values()) + len(sizes)
    return [[next(rest) for _ in range(sizes[i])] if i in sizes else next(rest) for i in range(count)]


# ---------------------------------------------------------------- vmap


def mapped_in_a_loop(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """Make a vmap rule that calls the op for each slice."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        slices = [op(*map(_select, args, in_dims, [i] * len(args))) for i in range(info.batch_size)]
        stacked = _stack(slices)
        return stacked, _dims(stacked)

    return rule


def mapped_in_the_batch(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """Make a vmap rule that folds the mapped axis into the batch, so that one call serves all slices.

    The rows of all slices share a seed, a draw and p in one call; slices that have their own, and statistics, which
    are sums over a batch, are computed slice by slice.
    """
    loop, names = mapped_in_a_loop(op), [argument.name for argument in op._schema.arguments]

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        given, dims = dict(zip(names, args, strict=True)), dict(zip(names, in_dims, strict=True))
        if dims.get("rng") is not None or dims.get("p") is not None or given.get("return_stats"):
            return loop(info, in_dims, *args)
        size, batch = info.batch_size, _batch_of(args[0], in_dims[0])
        if "sample_ids" in given and given["sample_ids"] is None:  # each slice has 0..B-1, as in a call of its own
            given["sample_ids"] = torch.arange(batch, device=given["rng"].device)
        outputs = op(*(_fold(name, value, dims[name], size, batch) for name, value in given.items()))
        unfolded = _unfold(outputs, size, batch)
        return unfolded, _dims(unfolded)

    return rule


def _select(value: Any, dim: Any, i: int) -> Any:
    if isinstance(value, list):
        return [_select(one, d, i) for one, d in zip(value, dim or [None] * len(value), strict=True)]
    return value.select(dim, i) if isinstance(dim, int) else value


def _stack(slices: list[Any]) -> Any:
    if isinstance(slices[0], Tensor):
        return torch.stack(slices)
    return type(slices[0])(_stack(list(column)) for column in zip(*slices, strict=True))


def _dims(outputs: Any) -> Any:
    """The outputs' mapped axes, all of which are the first."""
    return 0 if isinstance(outputs, Tensor) else type(outputs)(_dims(one) for one in outputs)


def _batch_of(rows: Any, dim: Any) -> int:
    """The batch of one slice of [B, ...], or of the first of several."""
    if isinstance(rows, list):
        return _batch_of(rows[0], dim[0] if dim else None)
    return rows.shape[1 if dim == 0 else 0]


def _fold(name: str, value: Any, dim: Any, size: int, batch: int) -> Any:
    """Fold the mapped axis of an argument into its batch: slices of [B, ...] become [size * B, ...]."""
    if isinstance(value, list):
        return [_fold(name, one, d, size, batch) for one, d in zip(value, dim or [None] * len(value), strict=True)]
    if not isinstance(value, Tensor) or name in ("rng", "p"):
        return value
    if name == "alpha_bar" and dim is None and value.numel() == 1:  # a Python number's, which may have a dim
        return value
    slice_dims = value.dim() - (dim is not None)
    if slice_dims == {"alpha_bar": 0, "alpha_bars": 1}.get(name):  # one value for all rows of a slice
        return value if dim is None else value.movedim(dim, 0).repeat_interleave(batch, dim=0)
    value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)


def _unfold(outputs: Any, size: int, batch: int) -> Any:
    """Give outputs their mapped axis back. An output that was not asked for is empty in every slice."""
    if not isinstance(outputs, Tensor):
        return type(outputs)(_unfold(one, size, batch) for one in outputs)
    if outputs.shape[0] != size * batch:
        return outputs.expand(size, *outputs.shape)
    return outputs.unflatten(0, (size, batch))

"""What public functions do with tensors that are not plain: subclasses, FX's proxies, nested tensors, DTensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

is_compiling = torch.compiler.is_compiling
P = ParamSpec("P")
R = TypeVar("R")

PLAIN = frozenset(
    (Tensor, torch.nn.Parameter, type(None), int, float, bool, str, torch.Size, torch.dtype, torch.device)
)
"""Types of arguments that every function takes as they are."""


def public(*rows: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a public function, so that a tensor's own type has the call first, as in torch's functions.

    Args:
        *rows: the function's arguments [B, ...] that are computed sample by sample. They may be nested tensors, which
            equal padded tensors with lengths, or DTensors that are replicated or sharded by samples.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            if is_compiling() or (_plain(args) and _plain(options.values())):
                return function(*args, **options)
            values = list(_leaves((*args, *options.values())))
            if has_torch_function(values):
                return handle_torch_function(call, values, *args, **options)
            if any(isinstance(v, Tensor) and v.is_nested for v in values):
                return _by_name(_nested, function, rows, args, options)
            if any(_is_distributed(v) for v in values):
                return _by_name(_distributed, function, rows, args, options)
            return function(*args, **options)

        return call

    return decorate


def _plain(values: Iterable[Any]) -> bool:
    """Whether all values, and those inside lists, are of types that every function takes."""
    for value in values:
        kind = type(value)
        if kind not in PLAIN and not (kind in (list, tuple) and PLAIN.issuperset(map(type, value))):
            return False
    return True


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _is_distributed(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "placements")


def _by_name(run: Callable[..., Any], function: Any, rows: tuple[str, ...], args: Any, options: Any) -> Any:
    """Call `run(function, rows, given, names)` with the arguments by name, and the names that the function knows."""
    given = inspect.signature(function).bind(*args, **options).arguments
    names = {*inspect.signature(function).parameters, *KNOWN.get(function.__name__, ())}
    given |= given.pop("options", {})
    for name, value in given.items():
        for one in _leaves([value]):
            if name not in rows and isinstance(one, Tensor) and (one.is_nested or not rows):
                remedy = "to_local()" if _is_distributed(one) else "torch.nested.to_padded_tensor"
                raise ValueError(f"{name}: expected a plain tensor ({remedy} makes one), got {type(one).__name__}")
    return run(function, rows, given, names)


BY_SAMPLE = {"alpha_bar": 1, "alpha_bars": 2, "sample_ids": 1, "noisy": 1, "lengths": 1}
"""Arguments that may have a value for each sample, and the dims that they then have at least."""
KNOWN = {"noise_like": ("seed", "lengths")}
"""Names of arguments that a function hands on."""


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Change a tensor, or each tensor of a list or a tuple."""
    if isinstance(value, (list, tuple)):
        return type(value)(change(one) for one in value)
    return change(value)


def _results(change: Callable[[Any], Any], of_sums: Callable[[Any], Any], outputs: Any) -> Any:
    """Change a result, each of two, or a list of results beside statistics, which are sums over the batch."""
    if isinstance(outputs, tuple) and isinstance(outputs[0], list):
        return _mapped(change, outputs[0]), of_sums(outputs[1])
    return _mapped(change, outputs)


# ---------------------------------------------------------------- nested tensors


def _nested(function: Callable[..., Any], rows: tuple[str, ...], given: dict[str, Any], names: set[str]) -> Any:
    """Call a function on padded tensors with lengths, and nest the results that have the padded tensors' steps."""
    if given.get("lengths") is not None:
        raise ValueError("lengths: expected none beside a nested tensor, whose components have their own")
    steps = _Steps(rows[0], next(t for t in _leaves(given[name] for name in rows) if t.is_nested))
    given |= {name: _mapped(steps.pad, given[name]) for name in rows}
    if "lengths" in names:
        given["lengths"] = [steps.lengths] * len(given["xs"]) if "xs" in given else steps.lengths
    return _results(steps.nest, lambda stats: stats, function(**given))


class _Steps:
    """Where the steps of a jagged tensor lie in a padded one."""

    def __init__(self, name: str, like: Any) -> None:
        if like.layout is not torch.jagged or like.lengths() is not None or like._ragged_idx != 1:
            raise ValueError(
                f"{name}: expected a nested tensor of layout torch.jagged, [B, any number of steps, ...], got layout "
                f"{like.layout}"
            )
        self.name, self.offsets = name, like.offsets()
        self.lengths = self.offsets.diff()
        self.rows = torch.repeat_interleave(self.lengths)
        self.steps = torch.arange(len(self.rows), device=self.rows.device) - self.offsets[self.rows]
        self.shape = (len(self.lengths), int(self.lengths.max()) if len(self.lengths) else 0)

    def pad(self, t: Any) -> Tensor:
        """A jagged tensor as [B, T, ...], 0 beyond the lengths."""
        if not t.is_nested or not torch.equal(t.offsets(), self.offsets):
            raise ValueError(
                f"{self.name}: expected nested tensors of equal lengths beside a nested tensor, got others"
            )
        values = t.values()
        return values.new_zeros(*self.shape, *values.shape[1:]).index_put((self.rows, self.steps), values)

    def nest(self, t: Tensor) -> Tensor:
        """A result [B, T, ...] as a jagged tensor; one value for each sample stays."""
        if t.dim() < 2:
            return t
        return torch.nested.nested_tensor_from_jagged(t[self.rows, self.steps], self.offsets)


# ---------------------------------------------------------------- DTensors


def _distributed(function: Callable[..., Any], rows: tuple[str, ...], given: dict[str, Any], names: set[str]) -> Any:
    """Call a function on this rank's samples, by their ids in the whole batch, so that sharding changes nothing."""
    from torch.distributed.tensor import DTensor, Partial

    tensors = list(_leaves(given[name] for name in rows))
    first = next((t for t in tensors if isinstance(t, DTensor)), None)
    if first is None or not all(isinstance(t, DTensor) and t.placements == first.placements for t in tensors):
        raise ValueError(f"{rows[0]}: expected DTensors of one placement, or none among all arguments, got a mixture")
    if not all(p.is_replicate() or p.is_shard(0) for p in first.placements):
        raise ValueError(
            f"{rows[0]}: expected a DTensor that is replicated or sharded by samples, Shard(0), got "
            f"{first.placements}: redistribute it first"
        )
    if "seed" in names and given.get("seed") is None:
        raise ValueError("seed: expected one beside a DTensor, since the ranks' own generators differ, got None")
    start, stop = _rows_here(first)

    def here(name: str, value: Any) -> Any:
        """This rank's part of an argument with a value for each sample, as one of BY_SAMPLE with so many dims has."""
        if not isinstance(value, Tensor):
            return value
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        return whole[start:stop] if whole.dim() >= BY_SAMPLE.get(name, whole.dim() + 1) else whole

    def whole(t: Tensor) -> Tensor:
        """A result of this rank's samples as one of the batch."""
        shape = torch.Size((first.shape[0], *t.shape[1:]))
        return DTensor.from_local(t, first.device_mesh, first.placements, shape=shape, stride=t.stride())

    given = {n: _mapped((lambda t: t.to_local()) if n in rows else partial(here, n), v) for n, v in given.items()}
    if "seed" in names and given.get("sample_ids") is None:
        given["sample_ids"] = torch.arange(start, stop, device=first.device)
    sums = [Partial() if p.is_shard() else p for p in first.placements]
    return _results(whole, lambda stats: DTensor.from_local(stats, first.device_mesh, sums), function(**given))


def _rows_here(t: Any) -> tuple[int, int]:
    """The first of this rank's samples, and the one after its last."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(t.shape, t.device_mesh, t.placements)
    return offset[0], offset[0] + shape[0]

"""Several processes that train one model together under torchrun, each on its rows of every batch.

What they compute is what one process would, up to rounding: the same batches, the same noise for every sample, and the
gradient of the whole batch's loss. Gloo on CPUs; NCCL on GPUs, which nobody has run yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import Config
from ..errors import UserError
from ..models import Batch, Output

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is; by default the only one, for which nothing here does anything."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, logs, prints and evaluates."""
        return self.rank == 0

    def check(self, config: Config, train_rows: int) -> None:
        """Refuse what depends on batch mates, and batches with less than a sample for each process."""
        if self.size == 1:
            return
        model, batch_size = config.model, config.training.batch_size
        for name, given, refused, expected in (
            ("model.tokens", model.tokens, "batch", "one or modality"),
            ("model.classifier_batch_norm", model.classifier_batch_norm, True, "False"),
            ("noise.steps", config.noise.steps, "random", "snr_db, or steps of each modality"),
        ):
            if given == refused:
                raise UserError(f"{name}: expected {expected} in {self.size} processes, got {given}")
        smallest = train_rows // -(-train_rows // batch_size)
        if smallest < self.size:
            raise UserError(
                f"training.batch_size: expected batches of {self.size} samples or more, one for each process, "
                f"got one of {smallest}"
            )

    def own(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch: a contiguous part."""
        return rows.tensor_split(self.size)[self.rank]

    def seed_generators(self, seed: int) -> None:
        """Dropout of each process's own; the first keeps that of one process."""
        if not self.first:
            torch.manual_seed((seed + 0x9E3779B9 * self.rank) % 2**32)  # all that the CPU's generator takes

    def parallel(self, model: nn.Module, step: Callable[[Batch], Output]) -> Callable[[Batch], Output]:
        """The step with gradients averaged over the processes; all begin with the first one's weights."""
        if self.size == 1:
            return step
        torch._dynamo.config.optimize_ddp = False  # which would cut the compiled step at every bucket of gradients
        # Looking for unused parameters keeps the buckets of gradients as they are; else they are laid out anew after
        # the first step, and after a resume sums are in another order.
        return DistributedDataParallel(_Step(model, step), find_unused_parameters=True)

    def objective(self, loss: Tensor, batch: Batch) -> Tensor:
        """From a mean over this process's rows to what, averaged over the processes, is the mean over the batch."""
        return loss if self.size == 1 else loss * (self.size * _share(batch))

    def whole_batch(self, x: Tensor, batch: Batch) -> Tensor:
        """All processes' rows, of this process's [b, ...], for a loss that is no sum over samples.

        Its gradient is for a loss that goes through `objective`.
        """
        if batch.whole_lengths is None:
            return x
        return _Gather.apply(x, self.rank, [len(part) for part in torch.empty(batch.whole).tensor_split(self.size)])

    def mean(self, columns: Sequence[Tensor], shares: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the processes of columns [steps, ...] times shares [steps], in the order of ranks, on the CPU."""
        weighted = [c.cpu().double() * s.view(-1, *[1] * (c.dim() - 1)) for c, s in zip(columns, shares, strict=True)]
        flat = torch.cat([w.flatten() for w in weighted])
        total = sum(self._all(flat), torch.zeros_like(flat))
        parts = total.split([w.numel() for w in weighted])
        return [part.view(c.shape).to(c) for part, c in zip(parts, columns, strict=True)]

    def agree(self, *numbers: int) -> list[int]:
        """The largest of each over the processes, without waiting for a GPU."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of one shape in every process: the first one's under their names, the others' as name.rank."""
        if self.size == 1:
            return tensors
        parts = {name: self._all(t.cpu()) for name, t in tensors.items()}
        return {f"{name}.{i}" if i else name: t for name, all_of in parts.items() for i, t in enumerate(all_of)}

    def first_does(self, act: Callable[[], T]) -> T:
        """What the first process's act returns, in all; where it fails, the others end without a word."""
        if self.size == 1:
            return act()
        outcome: list[Any] = [None, False]
        try:
            if self.first:
                outcome = [act(), True]
        finally:
            dist.broadcast_object_list(outcome, device=torch.device("cpu"))
        if not outcome[1]:
            raise SystemExit(2)
        return outcome[0]

    def _all(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x)
        return parts


def place() -> Ranks:
    """Which process this is, as torchrun says it; nothing is set up yet."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def join(device: torch.device) -> Ranks:
    """Meet the other processes that torchrun started."""
    ranks = place()
    if ranks.size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return ranks


def lost_another(error: RuntimeError) -> bool:
    """Whether this is what a process says whose peer is gone."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def own_device(device: torch.device) -> torch.device:
    """Of the GPUs of this machine, this process's."""
    here, wanted = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cuda" or wanted == 1:
        return device
    if torch.cuda.device_count() < wanted:
        raise UserError(f"torchrun: expected a GPU for each of {wanted} processes, got {torch.cuda.device_count()}")
    torch.cuda.set_device(here)
    return torch.device("cuda", here)


def _share(batch: Batch) -> float:
    """This process's part of the batch."""
    return len(batch.labels) / batch.whole


class _Step(nn.Module):
    """A step as the module that DistributedDataParallel wants, around the model whose parameters it trains."""

    def __init__(self, model: nn.Module, step: Callable[[Batch], Output]) -> None:
        super().__init__()
        self.model, self.step = model, step
        self.unused = nn.Parameter(next(model.parameters()).new_zeros(1))  # without one, being looked for is warned of

    def forward(self, batch: Batch) -> Output:
        return self.step(batch)


class _Gather(torch.autograd.Function):
    """Every process computes the same loss of all rows; each keeps the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, sizes: list[int]) -> Tensor:
        ctx.rank, ctx.sizes = rank, sizes
        padded = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        own = grad.split(ctx.sizes)[ctx.rank]
        return own * (sum(ctx.sizes) / len(own)), None, None  # `objective` multiplies by the inverse, and by the ranks

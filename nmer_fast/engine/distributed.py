"""Data-parallel training under torchrun: every rank trains on its share of the rows of each batch.

The result equals that of a single process, up to rounding: the batches, the noise of every sample and the gradient (of
the loss over the global batch) are the same. The backend is Gloo on CPUs and NCCL on GPUs; NCCL has not been run yet.
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
    """This process's rank and the number of processes. With one process, the default, all methods are no-ops.

    Attributes:
        rank: the rank of this process, from 0.
        size: the number of processes (the world size).
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes, logs, prints and evaluates."""
        return self.rank == 0

    def check(self, config: Config, train_rows: int, depends_on_batch: bool) -> None:
        """Refuse settings that do not work in several processes.

        Args:
            config: the run's config.
            train_rows: the number of training samples.
            depends_on_batch: whether the system's predictions depend on other samples of their batch.

        Raises:
            UserError: a sample's result would depend on other samples of its batch, or the smallest batch has fewer
                samples than there are processes.
        """
        if self.size == 1:
            return
        model, batch_size = config.model, config.training.batch_size
        for name, given, refused, expected in (
            ("model.tokens", getattr(model, "tokens", None), "batch", "one or modality"),
            ("model.classifier_batch_norm", model.classifier_batch_norm, True, "False"),
            ("noise.steps", config.noise.steps, "random", "snr_db, or steps of each modality"),
        ):
            if given == refused:
                raise UserError(f"{name}: expected {expected} in {self.size} processes, got {given}")
        if depends_on_batch:
            raise UserError(
                f"model.system: expected one whose predictions do not depend on the batch in {self.size} processes, "
                f"got {model.system}"
            )
        smallest = train_rows // -(-train_rows // batch_size)
        if smallest < self.size:
            raise UserError(
                f"training.batch_size: expected batches of {self.size} samples or more, one for each process, "
                f"got one of {smallest}"
            )

    def local_rows(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of a batch: a contiguous slice."""
        return rows.tensor_split(self.size)[self.rank]

    def dropout_seed(self, seed: int) -> int:
        """Return a seed that differs in every rank, so that dropout differs; rank 0 has the run's."""
        return (seed + 0x9E3779B9 * self.rank) % 2**32  # the CPU's generator takes 32 bits

    def parallel(self, model: nn.Module, step: Callable[[Batch], Output]) -> Callable[[Batch], Output]:
        """Wrap a step in DistributedDataParallel: gradients are averaged over ranks, weights are copied from rank 0."""
        if self.size == 1:
            return step
        torch._dynamo.config.optimize_ddp = False  # True would split the compiled step at every gradient bucket
        # find_unused_parameters keeps the gradient buckets fixed. Without it DDP rebuilds them after the first step,
        # and a resumed run would add gradients in a different order.
        return DistributedDataParallel(_Step(model, step), find_unused_parameters=True)

    def scale_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        """Scale a mean over this rank's rows so that the average over ranks is the mean over the global batch."""
        return loss if self.size == 1 else loss * (self.size * _share(batch))

    def gather_batch(self, x: Tensor, batch: Batch) -> Tensor:
        """Gather the rows of all ranks, for a loss that is not a sum over samples, such as a distance of moments.

        The gradient is scaled for a loss that is passed through `scale_loss` afterwards.

        Args:
            x: this rank's rows, [b, ...].
            batch: this rank's share of the batch.

        Returns:
            the rows of the global batch, [B, ...].
        """
        if batch.all_ranks_lengths is None:
            return x
        parts = torch.empty(batch.global_size).tensor_split(self.size)
        return _Gather.apply(x, self.rank, [len(part) for part in parts])

    def mean(self, columns: Sequence[Tensor], shares: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted sums over ranks, added in the order of ranks on the CPU.

        Args:
            columns: this rank's recorded values, [steps, ...] each.
            shares: the weight of each step in this rank, [steps] for each column.
        """
        weighted = [c.cpu().double() * s.view(-1, *[1] * (c.dim() - 1)) for c, s in zip(columns, shares, strict=True)]
        flat = torch.cat([w.flatten() for w in weighted])
        total = sum(self._all(flat), torch.zeros_like(flat))
        parts = total.split([w.numel() for w in weighted])
        return [part.view(c.shape).to(c) for part, c in zip(parts, columns, strict=True)]

    def all_max(self, *numbers: int) -> list[int]:
        """Return the maximum of each number over all ranks, without waiting for a GPU."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather tensors that have the same shape in every rank.

        Returns:
            rank 0's tensors under their names, and those of rank r as `name.r`.
        """
        if self.size == 1:
            return tensors
        parts = {name: self._all(t.cpu()) for name, t in tensors.items()}
        return {f"{name}.{i}" if i else name: t for name, all_of in parts.items() for i, t in enumerate(all_of)}

    def main_does(self, act: Callable[[], T]) -> T:
        """Call a function in rank 0 and return its result in every rank.

        Raises:
            SystemExit: in the other ranks, silently, if the function fails in rank 0.
        """
        if self.size == 1:
            return act()
        outcome: list[Any] = [None, False]
        try:
            if self.is_main:
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


def ranks_of_torchrun() -> Ranks:
    """Read rank and world size from torchrun's environment variables, without setting up communication."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def join_ranks(device: torch.device) -> Ranks:
    """Set up communication with the other processes that torchrun started."""
    ranks = ranks_of_torchrun()
    if ranks.size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return ranks


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether an error was raised because another process ended."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: under torchrun each process of a machine gets its own GPU.

    Raises:
        UserError: the machine has fewer GPUs than processes.
    """
    here, wanted = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type != "cuda" or wanted == 1:
        return device
    if torch.cuda.device_count() < wanted:
        raise UserError(f"torchrun: expected a GPU for each of {wanted} processes, got {torch.cuda.device_count()}")
    torch.cuda.set_device(here)
    return torch.device("cuda", here)


def _share(batch: Batch) -> float:
    """Return this rank's share of the samples of the global batch."""
    return len(batch.labels) / batch.global_size


class _Step(nn.Module):
    """An nn.Module around the training step and the model, since DistributedDataParallel wraps modules alone."""

    def __init__(self, model: nn.Module, step: Callable[[Batch], Output]) -> None:
        super().__init__()
        self.model, self.step = model, step
        self.unused = nn.Parameter(next(model.parameters()).new_zeros(1))  # DDP warns if it finds none unused

    def forward(self, batch: Batch) -> Output:
        return self.step(batch)


class _Gather(torch.autograd.Function):
    """All-gather with a gradient: every rank computes the same loss of all rows and keeps its own rows' gradient."""

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
        return own * (sum(ctx.sizes) / len(own)), None, None  # `scale_loss` scales by the inverse

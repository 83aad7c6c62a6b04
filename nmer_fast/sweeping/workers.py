"""The workers that do runs: this process, one run after the other, or Ray tasks in parallel."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from ..errors import UserError
from .grid import Job
from .work import Failure, attempt

MAX_RESTARTS = 3
"""The maximum number of restarts of a run whose worker process died."""
Outcome = tuple[Job, Failure | None]


class Workers(Protocol):
    """Workers that do runs in any order: `submit` the runs, then call `next` once for each of them."""

    def submit(self, job: Job) -> None:
        """Add a run to the queue."""

    def next(self) -> Outcome:
        """Wait until a run ends, and return it with its failure or None."""

    def close(self) -> None:
        """Release the workers' resources."""


class InProcess:
    """Workers that do the runs in this process, one after the other."""

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Add a run to the end of the queue."""
        self.queue.append(job)

    def next(self) -> Outcome:
        """Do the first run of the queue."""
        job = self.queue.popleft()
        return job, attempt(job)

    def close(self) -> None:
        """Do nothing; there are no resources to release."""


class OnRay:
    """Workers that are Ray tasks, on a local Ray instance that is started here or on a running cluster.

    Args:
        cpus: the number of CPUs, and of threads, of each run.
        address: the address of the running cluster; None starts a local Ray instance.

    Raises:
        UserError: no cluster answers at the address, or no machine has that many CPUs.
    """

    def __init__(self, cpus: int, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless the user enables them
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            try:
                check_listens(address)
                ray.init(address=address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"address: expected a Ray cluster that is running, got {address}: {reason}") from None
        there = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if there < cpus:
            ray.shutdown()
            raise UserError(f"cpus-per-run: expected at most {there:g}, the largest machine's, got {cpus}")
        self.ray, self.cpus = ray, cpus
        self.task = ray.remote(num_cpus=cpus, max_retries=MAX_RESTARTS)(attempt_in_threads)
        self.jobs: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        """Submit a run to Ray, which starts it when CPUs are free."""
        self.jobs[self.task.remote(job, self.cpus)] = job

    def next(self) -> Outcome:
        """Wait until any run ends, and return it with its failure or None."""
        (done,), _ = self.ray.wait(list(self.jobs), num_returns=1)
        job = self.jobs.pop(done)
        try:
            return job, self.ray.get(done)
        except self.ray.exceptions.RayError as error:  # the worker died too often, or could not start
            return job, Failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", str(error))

    def close(self) -> None:
        """Shut down Ray or disconnect; unfinished runs end, and can be resumed later from their saved states."""
        self.ray.shutdown()


def check_listens(address: str) -> None:
    """Check that a server listens at host:port, because Ray would wait for it forever; "auto" is not checked.

    Raises:
        OSError: no server listens there.
        ValueError: the address is not host:port.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def attempt_in_threads(job: Job, threads: int) -> Failure | None:
    """Run `attempt` as a Ray task, with as many threads as it has CPUs."""
    torch.set_num_threads(threads)
    return attempt(job)


def workers_of(ray: bool, address: str | None, cpus: int | None) -> Callable[[], Workers]:
    """Return the function that starts the workers: this process, a local Ray instance, or a Ray cluster.

    Args:
        ray: whether to start a local Ray instance.
        address: the address of a running Ray cluster.
        cpus: the number of CPUs, and of threads, of each run on Ray.

    Raises:
        UserError: the options contradict each other, or Ray is not installed.
    """
    on_ray = ray or address is not None
    if ray and address is not None:
        raise UserError(f"ray, address: expected one of the two, got --ray and {address}")
    if cpus is not None and not on_ray:
        raise UserError(f"cpus-per-run: expected with --ray or --address alone, got {cpus}")
    if cpus is not None and cpus < 1:
        raise UserError(f"cpus-per-run: expected 1 or more, got {cpus}")
    if on_ray and find_spec("ray") is None:
        raise UserError("ray: expected Ray, which is not installed: pip install 'nmer_fast[sweep]'")

    return (lambda: OnRay(cpus or 1, address)) if on_ray else InProcess

"""Where runs are done: in this process, one after the other, or as Ray tasks. `submit` runs, then `next` outcomes."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from typing import Any, Protocol

import torch

from ..errors import UserError
from .grid import Job
from .work import Failure, attempt

DEATHS = 3
"""How often a run is begun again whose worker process died."""
Outcome = tuple[Job, Failure | None]


class Workers(Protocol):
    """Do jobs in any order."""

    def submit(self, job: Job) -> None:
        """Add a run to what is to be done."""

    def next(self) -> Outcome:
        """Wait for a run to end, well or not."""

    def close(self) -> None:
        """Let go of what is held."""


class InProcess:
    """One after the other, here."""

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Add to the end of the queue."""
        self.queue.append(job)

    def next(self) -> Outcome:
        """Do the first of the queue."""
        job = self.queue.popleft()
        return job, attempt(job)

    def close(self) -> None:
        """Nothing is held."""


class OnRay:
    """Tasks of a Ray of its own, on this machine, or of a cluster that is running.

    Args:
        cpus: of each run, which are its threads, too.
        address: of the cluster.
    """

    def __init__(self, cpus: int, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user wants it
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
        self.task = ray.remote(num_cpus=cpus, max_retries=DEATHS)(attempt_in_threads)
        self.jobs: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        """Hand it to Ray, which begins it when there are CPUs."""
        self.jobs[self.task.remote(job, self.cpus)] = job

    def next(self) -> Outcome:
        """Wait for the first to end."""
        (done,), _ = self.ray.wait(list(self.jobs), num_returns=1)
        job = self.jobs.pop(done)
        try:
            return job, self.ray.get(done)
        except self.ray.exceptions.RayError as error:  # its worker died too often, or could not begin
            return job, Failure(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", str(error))

    def close(self) -> None:
        """Leave Ray; runs that are under way end, and go on from their saved states another time."""
        self.ray.shutdown()


def check_listens(address: str) -> None:
    """Whether somebody does at host:port, which Ray would wait for without end; "auto" it looks up itself.

    Raises:
        OSError, ValueError: nobody does, or it is no such address.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def attempt_in_threads(job: Job, threads: int) -> Failure | None:
    """A Ray task: `attempt`, in as many threads as it has CPUs."""
    torch.set_num_threads(threads)
    return attempt(job)

"""Engines run trials, each in a fresh process; ``ray_tune`` (default) and ``local`` (no Ray).

Both hand every trial to the same supervisor, so a trial's result does not depend on the engine.
Whether a trial is done is told by its record in the store alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Protocol

from sdbench.engine.job import Job
from sdbench.spec import Status


@dataclass(frozen=True)
class Resources:
    """What the trials may use. cpus, gpus: None means all that are there. cpus_per_trial: of each of the
    ``gpus_per_trial`` processes of a trial, of which each has a GPU where there are GPUs. jobs: at most so many trials
    at once; None means as many as fit."""

    cpus: int | None = None
    gpus: int | None = None
    cpus_per_trial: int = 1
    per_gpu: int = 1
    gpus_per_trial: int = 1
    address: str | None = None
    jobs: int | None = None


class Engine(Protocol):
    """Runs all jobs; returns when each has a record, or early when ``stop`` is set."""

    def __call__(self, jobs: list[Job], resources: Resources, stop: Event) -> None: ...


class Work(Protocol):
    """What an engine does with a job where there is room for it: ``supervise``, or what a benchmark hands in.

    environ: variables for the trial's process alone, such as the GPU that it is to see.
    """

    def __call__(self, job: Job, stop: Event, environ: dict[str, str] | None = None) -> Status | None: ...


__all__ = ["Engine", "Job", "Resources", "Work"]

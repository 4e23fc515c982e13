"""What a worker of Ray Tune does with one trial, on whichever node it is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from threading import Event
from typing import Any

from sdbench.engine import Work
from sdbench.engine.job import Job
from sdbench.engine.ray_cluster import obedient
from sdbench.engine.ray_nodes import Place, software_problems, storage_problems
from sdbench.engine.shipping import unpacked

ADMISSION_S = 30.0
"""How long a node that joined late may take to see the results folder."""


@dataclass(frozen=True)
class Errand:
    """What every supervisor is told. place: None on a Ray of this command's own. halt: None where it finds the trials
    by itself."""

    jobs: list[str]
    work: Work
    place: Place | None = None
    halt: Any = None


def trainable(config: dict[str, Any], errand: Errand) -> None:
    """What a Tune worker runs: the supervisor of one trial."""
    from ray import tune

    job = Job.model_validate_json(errand.jobs[config["job"]])
    with contextlib.ExitStack() as kept:
        stop = kept.enter_context(obedient(errand.halt, job.trial.id)) if errand.halt is not None else Event()
        if errand.place is not None:
            job = job.with_plugins(kept.enter_context(unpacked(errand.place.plugins)))
            admit(errand.place, stop)
        status = None if stop.is_set() else errand.work(job, stop)
    tune.report({"status": status or "interrupted"})


_admitted = ""  # module state: one supervisor's process serves many trials


def admit(place: Place, stop: Event) -> None:
    """Refuse to work where a node that joined after the start lacks what the others have; Tune then asks another."""
    global _admitted
    if _admitted == place.token:
        return
    deadline = time.monotonic() + ADMISSION_S
    while not stop.is_set() and (problems := [*storage_problems(place), *software_problems(place)]):
        if time.monotonic() > deadline:
            raise RuntimeError(f"this node {'; '.join(problems)}")
        stop.wait(1)
    _admitted = place.token

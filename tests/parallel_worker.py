"""One process of several: trains the trials of a list one after the other, all of them together with its peers."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sdbench import registry
from sdbench.assembly import open_session
from sdbench.engine import Job
from sdbench.engine.group import stay_on_loopback
from sdbench.graph import each_tensor
from sdbench.session import Session
from sdbench.store import Store
from sdbench.train import run_trial
from sdbench.workers import ProcessGroup


def as_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def in_double(session: Session) -> Session:
    """The same session in float64, so that rounding does not grow to where it hides a mistake."""
    session.network.double()
    session.method.double()
    data = session.data
    epoch, held_out, test = data.epoch, data.validation_batches, data.test_batches
    data.epoch = lambda *a, **k: (each_tensor(b, as_double) for b in epoch(*a, **k))  # type: ignore[method-assign]
    data.validation_batches = lambda *a, **k: ((as_double(x), y) for x, y in held_out(*a, **k))  # type: ignore
    data.test_batches = lambda *a, **k: ((as_double(x), y) for x, y in test(*a, **k))  # type: ignore[method-assign]
    return session


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    rank, until = int(sys.argv[2]), told["until"]
    stay_on_loopback()
    meeting, size = f"file://{told['meeting']}", told["size"]
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timedelta(hours=1))
    for plugin in told["plugins"]:
        registry.load_plugin(plugin)

    def open_it(*arguments: Any) -> Session:
        session = open_session(*arguments)
        return in_double(session) if told["double"] else session

    for text in told["jobs"]:
        job = Job.model_validate(text)
        steps = iter(range(10**9))
        stop = (lambda steps=steps: next(steps) >= until) if until else (lambda: False)
        torch.manual_seed(rank)  # what was drawn before must not matter
        run_trial(job.trial, Store(Path(job.store)), job.options, stop=stop, opener=open_it, workers=ProcessGroup())
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""One process of several: trains the trials of a list one after the other, all of them together with its peers."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from sdbench import registry
from sdbench.engine import Job
from sdbench.engine.group import stay_on_loopback
from sdbench.store import Store
from sdbench.train import run_trial
from sdbench.workers import ProcessGroup


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    rank, until = int(sys.argv[2]), told["until"]
    stay_on_loopback()
    meeting, size = f"file://{told['meeting']}", told["size"]
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timedelta(hours=1))
    for plugin in told["plugins"]:
        registry.load_plugin(plugin)
    for text in told["jobs"]:
        job = Job.model_validate(text)
        steps = iter(range(10**9))
        stop = (lambda steps=steps: next(steps) >= until) if until else (lambda: False)
        torch.manual_seed(rank)  # what was drawn before must not matter
        run_trial(job.trial, Store(Path(job.store)), job.options, stop=stop, workers=ProcessGroup())
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Run trials in fresh processes on this machine, without Ray."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

from sdbench import environment
from sdbench.engine import Resources, Work
from sdbench.engine.job import Job
from sdbench.engine.supervise import supervise


def slots(resources: Resources) -> list[str | None]:
    """One entry per trial that may run at once: the GPU it sees, or several, or None for a trial on the CPU."""
    visible = _visible_gpus()
    gpus = visible if resources.gpus is None else visible[: resources.gpus]
    each = resources.gpus_per_trial
    if gpus and each > 1:
        sets: list[str | None] = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        return sets[: resources.jobs]
    if gpus:
        packed: list[str | None] = [gpu for _ in range(resources.per_gpu) for gpu in gpus]
        return packed[: resources.jobs]
    cpus = resources.cpus if resources.cpus is not None else environment.cpu_count()
    return [None] * min(max(1, cpus // (resources.cpus_per_trial * each)), resources.jobs or 2**16)


def _visible_gpus() -> list[str]:
    """GPUs that CUDA would show a trial, as CUDA_VISIBLE_DEVICES names them; NVML counts them."""
    import pynvml

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part for part in chosen.split(",") if part and part != "-1"]
    try:
        pynvml.nvmlInit()
        try:
            return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []


def run(jobs: list[Job], resources: Resources, stop: Event, work: Work = supervise) -> None:
    """Run all jobs, as many at once as there are slots."""
    free: SimpleQueue[str | None] = SimpleQueue()
    available = slots(resources)
    for slot in available:
        free.put(slot)

    def one(job: Job) -> None:
        if stop.is_set():
            return
        slot = free.get()
        try:
            environ = {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
            work(job, stop, environ)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(max_workers=len(available)) as pool:
        for future in [pool.submit(one, job) for job in jobs]:
            future.result()

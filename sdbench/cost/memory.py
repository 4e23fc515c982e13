"""Peak memory of a training step, one fresh process per method: ``python -m sdbench.cost.memory``.

On a CPU every storage that an operator returns is counted by its bytes from then until it is freed, which is
exact and repeats. Scratch space within an operator is not seen, nor is the caching of the C allocator; the
resident set stands beside it. On a GPU the allocator and the driver are asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sdbench import environment, registry
from sdbench.cost.records import Memory, MemorySplit, Setting
from sdbench.cost.setting import Contestant, Stepper, open_data, open_session
from sdbench.graph import each_tensor
from sdbench.method import Batch
from sdbench.session import Session
from sdbench.spec import Record, Value

STEPS_BEFORE = 2
"""Steps before the measured one: the first brings the optimizer's state."""
ANSWER = "memory: "
"""What the line on standard output begins with that holds the answer."""


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that live, now and at the peak, by what they are for.

    ``seed`` names storages that exist already; whatever an operator returns later is "activations". A storage is
    counted once, however many tensors view it, and until the last of them, and autograd, lets go of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, tuple[int, str]] = {}
        self._now: Counter[str] = Counter()
        self.total = 0
        self.peak = 0
        self.at_peak: dict[str, int] = {}

    def seed(self, kind: str, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._add(tensor, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                self._add(leaf, "activations")
        return result

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = storage.nbytes()
        if key in self._live or not size:
            return
        self._live[key] = (size, kind)
        self._now[kind] += size
        self.total += size
        if self.total > self.peak:
            self.peak = self.total
            self.at_peak = dict(self._now)
        # The Python object of a storage lives as long as the storage itself.
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        size, kind = self._live.pop(key)
        self._now[kind] -= size
        self.total -= size


class MemoryJob(Record):
    """What the process that measures is asked on its standard input."""

    setting: Setting
    method: str
    params: dict[str, Value]
    plugins: tuple[str, ...] = ()
    data_dir: str | None = None
    device: str = "cpu"


def measure_memory(job: MemoryJob) -> Memory:
    """The peak of a training step, in this process; it should have done nothing else."""
    device = torch.device(job.device)
    for plugin in job.plugins:
        registry.load_plugin(plugin)
    dataset = open_data(job.setting, device, Path(job.data_dir) if job.data_dir else None)
    stepper = Stepper(open_session(job.setting, Contestant(job.method, job.params), dataset, device))
    batches = [stepper.batch() for _ in range(STEPS_BEFORE + 1)]
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    for batch in batches[:STEPS_BEFORE]:
        stepper.train(batch)
    stepper.settle()
    measured = each_tensor(batches[-1], torch.clone)  # labels and index are views of the whole epoch's
    del batches, batch
    return _on_gpu(stepper, measured, device, held) if device.type == "cuda" else _on_cpu(stepper, measured)


def _on_cpu(stepper: Stepper, batch: Batch) -> Memory:
    resident = environment.peak_resident_bytes()
    tracker = LiveTensors()
    session = stepper.session
    session.optimizer.zero_grad(set_to_none=True)
    for kind, tensors in holdings(session, batch).items():
        tracker.seed(kind, tensors)
    with tracker:
        stepper.train(batch)
    split = MemorySplit.model_validate({kind: tracker.at_peak.get(kind, 0) for kind in MemorySplit.model_fields})
    return Memory(peak_bytes=tracker.peak, split=split, peak_resident_bytes=resident)


def holdings(session: Session, batch: Batch) -> Mapping[str, list[Tensor]]:
    """What lives before a step, by what it is for. The data set is not among it."""
    auxiliary: list[Tensor] = list(session.auxiliary.values())
    owned = {id(p) for p in auxiliary}
    method = [t for t in [*session.method.parameters(), *session.method.buffers()] if id(t) not in owned]
    state = [v for values in session.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return {
        "network": [*session.network.parameters(), *session.network.buffers()],
        "auxiliary_parameters": auxiliary,
        "optimizer": state,
        "batch": [batch.images, *batch.views, *batch.partners, batch.labels, batch.index],
        "method_state": method,
    }


def _on_gpu(stepper: Stepper, batch: Batch, device: torch.device, held: int) -> Memory:
    """``held`` bytes were the data set, batches, network and method before the first step."""
    session = stepper.session
    session.optimizer.zero_grad(set_to_none=True)
    own = sum(_bytes(tensors) for kind, tensors in holdings(session, batch).items() if kind != "optimizer")
    dataset = max(0, held - own)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    stepper.train(batch)
    torch.cuda.synchronize(device)
    return Memory(
        peak_bytes=max(0, torch.cuda.max_memory_allocated(device) - dataset),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device),
        driver_bytes=environment.driver_memory_bytes(device),
        peak_resident_bytes=environment.peak_resident_bytes(),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def memory_of(job: MemoryJob, timeout_s: float = 600.0) -> Memory | str:
    """Measure in a fresh process; the reason, where that failed."""
    threads = str(job.setting.threads)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sdbench.cost.memory"],
            input=job.model_dump_json(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:g} s"
    for line in reversed(done.stdout.splitlines()):
        if done.returncode == 0 and line.startswith(ANSWER):
            return Memory.model_validate_json(line.removeprefix(ANSWER))
    last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    return last[0]


def main() -> None:
    job = MemoryJob.model_validate_json(sys.stdin.read())
    answer = measure_memory(job)
    print(f"{ANSWER}{answer.model_dump_json()}", flush=True)
    os._exit(0)  # a plug-in's threads or exit handlers must not keep a finished process alive


if __name__ == "__main__":
    main()

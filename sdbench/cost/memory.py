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
from collections.abc import Iterable, Iterator, Mapping
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
from sdbench.holdings import bytes_of, dense_parts
from sdbench.method import Batch
from sdbench.session import Session
from sdbench.spec import Record, Value

STEPS_BEFORE = 2
"""Steps before the measured one: the first brings the optimizer's state."""
ANSWER = "memory: "
"""What the line on standard output begins with that holds the answer."""


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that live, now and at the peak, by what they are for.

    ``seed`` names storages that exist already; whatever else an operator takes or returns is "activations". A storage
    is counted once, however many tensors view it, with the size that it grew to, until the last of them, and autograd,
    lets go of it.
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
            for part in dense_parts(tensor):
                self._add(part, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seed("activations", _tensors((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        self.seed("activations", _tensors((args, kwargs, result)))  # an argument may have grown
        return result

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        before, known_kind = self._live.get(key, (None, kind))
        if size == (before or 0):
            return
        self._live[key] = (size, known_kind)
        self._now[known_kind] += size - (before or 0)
        self.total += size - (before or 0)
        if self.total > self.peak:
            self.peak = self.total
            self.at_peak = dict(self._now)
        if before is None:
            # The Python object of a storage lives as long as the storage itself.
            weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        size, kind = self._live.pop(key)
        self._now[kind] -= size
        self.total -= size


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


class MemoryJob(Record):
    """What the process that measures is asked on its standard input. known: processes that were on the GPU before."""

    setting: Setting
    method: str
    params: dict[str, Value]
    plugins: tuple[str, ...] = ()
    data_dir: str | None = None
    device: str = "cpu"
    known: tuple[int, ...] = ()


def measure_memory(job: MemoryJob) -> Memory:
    """The peak of a training step, in this process; it should have done nothing else."""
    device = torch.device(job.device)
    for plugin in job.plugins:
        registry.load_plugin(plugin)
    dataset = open_data(job.setting, device, Path(job.data_dir) if job.data_dir else None)
    stepper = Stepper(open_session(job.setting, Contestant(job.method, job.params), dataset, device))
    # Copies: labels and index are views of the whole epoch's.
    batches = [each_tensor(stepper.batch(), torch.clone) for _ in range(STEPS_BEFORE + 1)]
    stepper.close()
    while len(batches) > 1:
        stepper.train(batches.pop())
    stepper.settle()
    stepper.session.optimizer.zero_grad(set_to_none=True)
    return _on_gpu(stepper, batches[0], device, job.known) if device.type == "cuda" else _on_cpu(stepper, batches[0])


def _on_cpu(stepper: Stepper, batch: Batch) -> Memory:
    resident = environment.peak_resident_bytes()
    tracker = LiveTensors()
    for kind, tensors in holdings(stepper.session, batch).items():
        tracker.seed(kind, tensors)
    with tracker:
        stepper.train(batch)
    split = MemorySplit.model_validate({kind: tracker.at_peak.get(kind, 0) for kind in MemorySplit.model_fields})
    return Memory(peak_bytes=tracker.peak, split=split, peak_resident_bytes=resident)


def holdings(session: Session, batch: Batch) -> Mapping[str, list[Tensor]]:
    """What lives before a step, by what it is for. The data set is not among it."""
    state = [v for values in session.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return {
        "network": [*session.network.parameters(), *session.network.buffers()],
        "auxiliary_parameters": list(session.auxiliary.values()),
        "optimizer": state,
        "batch": [batch.images, *batch.views, *batch.partners, batch.labels, batch.index],
        "method_state": session.method_state(),
    }


def _on_gpu(stepper: Stepper, batch: Batch, device: torch.device, known: Iterable[int]) -> Memory:
    """What is allocated beyond the holdings before the step, the data set above all, is left out of the peak."""
    torch.cuda.synchronize(device)
    own = {kind: bytes_of(tensors) for kind, tensors in holdings(stepper.session, batch).items()}
    others = torch.cuda.memory_allocated(device) - sum(own.values())
    torch.cuda.reset_peak_memory_stats(device)
    stepper.train(batch)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - others
    return Memory(
        peak_bytes=peak,
        split=MemorySplit(**own, activations=peak - sum(own.values())),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device),
        driver_bytes=environment.driver_memory_bytes(device, known),
        peak_resident_bytes=environment.peak_resident_bytes(),
    )


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
    print(f"\n{ANSWER}{answer.model_dump_json()}", flush=True)  # a plug-in may have left a line open
    os._exit(0)  # a plug-in's threads or exit handlers must not keep a finished process alive


if __name__ == "__main__":
    main()

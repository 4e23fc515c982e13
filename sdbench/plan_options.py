"""How a run's trials are to be carried out, read from a request: what changes no result."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from sdbench import data, registry, shards
from sdbench.engine import Resources, ray_cluster
from sdbench.environment import choose_device
from sdbench.errors import UserError
from sdbench.paths import absolute_text
from sdbench.protocol import Protocol
from sdbench.public_command import public_command
from sdbench.request import Problems, Request
from sdbench.selectors import parse_duration
from sdbench.spec import Options


def options_of(request: Request, protocol: Protocol, problems: Problems, command: Sequence[str]) -> Options:
    def flag(name: str, text: str | None, default: str) -> bool:
        return problems.choice(name, text, ("true", "false"), default) == "true"

    per_gpu = problems.number("per_gpu", request.per_gpu, int, 1, 64) or 1
    timeout = problems.attempt(lambda: parse_duration(request.timeout or "")) if request.timeout else None
    failures = problems.number("max_failures", request.max_failures, int, 0, 100)
    every = problems.number("eval_every", request.eval_every, int, 0, 100_000)
    device = problems.choice("device", request.device, ("auto", "cpu", "cuda"), "auto")
    return Options.model_validate(
        {
            "data_dir": absolute_text(request.data_dir) if request.data_dir else None,
            "folders": _folders(request.dataset),
            "plugins": tuple(absolute_text(p) for p in request.plugin),
            "device": device,
            "keep_weights": flag("weights", request.weights, "true"),
            "keep_logits": flag("logits", request.logits, "true"),
            "logits_every": _logits_every(request, problems),
            "keep_checkpoints": flag("keep-checkpoints", request.keep_checkpoints, "false"),
            "eval_every": protocol.eval_every if every is None else every,
            "timeout_s": timeout,
            "max_failures": 1 if failures is None else failures,
            "workers": problems.number("workers", request.workers, int, 0, 256),
            "cpus_per_trial": problems.number("cpus_per_trial", request.cpus_per_trial, int, 1, 1024) or 1,
            "state": problems.choice("state", request.state, ("auto", "memory", "disk"), "auto"),
            "compile": _compile(request, device, problems),
            "packed": per_gpu > 1,
            "baseline": registry.baseline_name(),
            "command": public_command(list(command)),
        }
    )


def _folders(names: Sequence[str]) -> dict[str, str]:
    """Where the folders of images are that a request names, by their names in records."""
    found = {}
    for name in names:
        if name.startswith("folder:"):
            with contextlib.suppress(UserError):  # the plan tells of names that are none
                found[data.canonical_name(name)] = absolute_text(name.removeprefix("folder:"))
    return found


def _logits_every(request: Request, problems: Problems) -> int:
    """N of ``every:N``; 0 where only the last epoch's logits are kept."""
    if request.keep_logits is None:
        return 0
    every, colon, number = request.keep_logits.partition(":")
    if (every, colon) != ("every", ":"):
        problems.found.append(f"--keep-logits {request.keep_logits!r}: expected every:N, such as every:10")
        return 0
    if request.logits == "false":
        problems.found.append("--keep-logits and --no-logits together; drop one")
    return problems.number("keep_logits", number, int, 1, 100_000) or 0


def _compile(request: Request, device: str, problems: Problems) -> str:
    """How steps run; a graph that was asked for needs a GPU, here unless the trials run elsewhere."""
    wanted = problems.choice("compile", request.compile, ("auto", "off", "graph"), "auto")
    if wanted == "graph" and not request.address and choose_device(device).type != "cuda":
        problems.found.append("--compile graph: a CUDA graph needs a GPU; leave it out, or see `sdbench doctor`")
    return wanted


def joined(request: Request, problems: Problems) -> Request:
    """The request with the address of the cluster that its trials go to, from ``--address`` or RAY_ADDRESS."""
    if request.engine == "local" and request.address:
        problems.found.append(f"--engine local and --address {request.address} together: only Ray joins; drop one")
    address = None if request.engine == "local" else problems.attempt(lambda: ray_cluster.chosen(request.address))
    return request.model_copy(update={"address": address})


def resources_of(request: Request, problems: Problems) -> Resources:
    gpus = None if request.gpus in (None, "all") else problems.number("gpus", request.gpus, int, 0, 4096)
    if request.device == "cpu":
        gpus = 0
    return Resources(
        cpus=problems.number("cpus", request.cpus, int, 1, 65536),
        gpus=gpus,
        cpus_per_trial=problems.number("cpus_per_trial", request.cpus_per_trial, int, 1, 1024) or 1,
        per_gpu=problems.number("per_gpu", request.per_gpu, int, 1, 64) or 1,
        gpus_per_trial=shards.count(request, problems),
        address=request.address,
        jobs=problems.number("jobs", request.jobs, int, 1, 65536),
    )

"""``sdbench doctor``: one line per fact, with ok, warn or FAIL and the remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sdbench import environment
from sdbench.errors import UserError
from sdbench.paths import path_of
from sdbench.store import Store

Level = Literal["ok", "warn", "FAIL"]

MIN_TORCH = (2, 10)
MIN_FREE_BYTES = 2 * 2**30
MIN_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Fact:
    """One line: what was looked at, how it is, what was found, what to do about it."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def version_line() -> str:
    """sdbench, Python, torch, Ray, CUDA and driver on one line."""
    versions = environment.versions()
    parts = [f"sdbench {versions.pop('sdbench')}", f"python {versions.pop('python')}"]
    parts += [f"{name} {versions[name]}" for name in ("torch", "torchvision", "ray") if name in versions]
    parts.append(f"CUDA {_cuda_version() or 'none'}")
    parts.append(f"driver {environment.driver_version() or 'none'}")
    return ", ".join(parts)


def _cuda_version() -> str:
    """The CUDA that torch was built for, read from its files: importing it takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", Path(spec.origin).with_name("version.py").read_text(), re.M)
    return found[1] if found else ""


def examine(results: str, data_dir: str | None) -> list[Fact]:
    """Look at everything that a run depends on."""
    facts = [_python(), *_libraries(), _torchvision(), *_device(), _processor(), _load(), *_memory()]
    return [*facts, _results(results), _disk(results), *_data(data_dir), *_methods()]


def render(facts: list[Fact], as_json: bool) -> str:
    """The facts as lines, or as a JSON list of objects."""
    if as_json:
        return json.dumps([asdict(fact) for fact in facts], indent=1)
    lines = [f"{f.level:<4} {f.name}: {f.found}{'. ' + f.remedy if f.remedy else ''}" for f in facts]
    bad = sum(fact.level == "FAIL" for fact in facts)
    warned = sum(fact.level == "warn" for fact in facts)
    return "\n".join([*lines, f"{len(facts) - bad - warned} ok, {warned} warn, {bad} FAIL"])


def _python() -> Fact:
    return Fact("python", "ok", ".".join(map(str, sys.version_info[:3])))


def _libraries() -> Iterator[Fact]:
    versions = environment.versions()
    torch_version = versions.get("torch")
    if torch_version is None:
        yield Fact("torch", "FAIL", "not installed", "pip install torch torchvision")
    else:
        number = tuple(int(part) for part in torch_version.split("+")[0].split(".")[:2])
        remedy = (
            "" if number >= MIN_TORCH else "upgrade: older versions run code from checkpoints even with weights_only"
        )
        yield Fact("torch", "FAIL" if remedy else "ok", torch_version, remedy)
    if "ray" in versions:
        yield Fact("ray", "ok", versions["ray"])
    else:
        yield Fact(
            "ray", "warn", "not installed", "trials run with --engine local; pip install 'ray[tune]' for clusters"
        )


def _torchvision() -> Fact:
    """A torchvision built for another torch imports with an error, not at installation."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        remedy = "install torch and torchvision together: pip install --force-reinstall torch torchvision"
        return Fact("torchvision", "FAIL", f"does not import ({error})", remedy)
    return Fact("torchvision", "ok", torchvision.__version__)


def _device() -> Iterator[Fact]:
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        yield Fact(
            "gpu", "warn", "none that torch can use", "trials run on the CPU: choose a small network and few epochs"
        )
        return
    for i in range(torch.cuda.device_count()):
        device = torch.device("cuda", i)
        free, total = torch.cuda.mem_get_info(device)
        busy = environment.timing_problems(device, packed=False)
        found = f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        remedy = f"timings taken now do not count: {'; '.join(busy)}" if busy else ""
        yield Fact(f"gpu {i}", "warn" if busy else "ok", found, remedy)


def _processor() -> Fact:
    flags = environment.cpu_flags()
    found = f"{environment.cpu_model()}, {environment.cpu_count()} usable"
    if not flags or flags & {"avx512_bf16", "amx_bf16", "avx_ne_convert"}:
        return Fact("cpu", "ok", found)
    return Fact("cpu", "warn", f"{found}, no bfloat16 arithmetic", "on the CPU, --precision fp32 may be faster")


def _load() -> Fact:
    load, cores = os.getloadavg()[0], environment.cpu_count()
    if load > cores:
        return Fact(
            "load", "warn", f"{load:.1f} on {cores} cores", "timings taken now do not count; wait for other work"
        )
    return Fact("load", "ok", f"{load:.1f} on {cores} cores")


def _memory() -> Iterator[Fact]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    low = memory.available < MIN_MEMORY_BYTES
    yield Fact("memory", "warn" if low else "ok", found, "run fewer trials at once: --cpus 1" if low else "")


def _results(results: str) -> Fact:
    store = Store(path_of(results).absolute())
    try:
        store.prepare()
    except UserError as error:
        return Fact("results", "FAIL", str(error))
    scan = store.scan()
    if scan.damaged:
        first = scan.damaged[0]
        remedy = f"run its command again; the first is {first.path.parent.name}: {first.reason}"
        return Fact("results", "warn", f"{len(scan.results)} records, {len(scan.damaged)} damaged", remedy)
    return Fact("results", "ok", f"{results}: writable, {len(scan.results)} records")


def _disk(results: str) -> Fact:
    free = shutil.disk_usage(path_of(results).absolute()).free
    low = free < MIN_FREE_BYTES
    return Fact("disk", "warn" if low else "ok", f"{free / 2**30:.1f} GiB free", "free some space" if low else "")


def _data(data_dir: str | None) -> Iterator[Fact]:
    from sdbench import data

    location = path_of(data_dir).absolute() if data_dir else None
    for name in data.LOCAL_FIRST:
        try:
            where = data.find(name, location)
        except UserError as error:
            yield Fact(f"data {name}", "warn", "not in the folder given", str(error))
        else:
            remedy = "" if where else "downloaded at first use, or give --data-dir"
            yield Fact(f"data {name}", "ok", "found and verified" if where else "not here yet", remedy)


def _methods() -> Iterator[Fact]:
    from sdbench import registry

    try:
        found = registry.names()
    except UserError as error:
        yield Fact("methods", "FAIL", str(error))
    else:
        yield Fact("methods", "ok", f"{len(found)}: {', '.join(found)}")

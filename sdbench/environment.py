"""Facts about the machine: versions, device, commit, load. No host name, no user name, no path."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdbench

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "ray", "numpy", "torchmetrics", "pydantic")

COMMIT_FILE = "COMMIT"
"""In a copy of the package: the commit that it was copied from, and whether it had changes."""


def now() -> str:
    """The time in UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Versions of sdbench, Python and the libraries that matter; a missing one is left out."""
    found = {"sdbench": sdbench.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def cpu_model() -> str:
    """The processor's name, with its vector extensions for bfloat16 where it tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in fields.items()}
    return " ".join(stripped.get("model name", platform.machine()).split())


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the processor; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def source_commit() -> tuple[str, bool | None]:
    """Commit of the checkout that sdbench runs from and whether it has changes; ("", None) outside one."""
    root = Path(__file__).resolve().parent.parent
    copied = Path(__file__).with_name(COMMIT_FILE)
    if copied.is_file():
        commit, dirty = copied.read_text(encoding="utf-8").split()
        return commit, {"True": True, "False": False}.get(dirty)
    if not (root / ".git").exists():
        return "", None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "", None


def choose_device(wanted: str, index: int = 0) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"; "auto" takes a GPU where there is one. index: which GPU."""
    import torch

    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", index)
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """ "cpu", or the GPU's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def driver_version() -> str:
    """The GPU driver's version, or empty."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        found = pynvml.nvmlSystemGetDriverVersion()
        return found.decode() if isinstance(found, bytes) else str(found)
    finally:
        pynvml.nvmlShutdown()


def timing_problems(device: torch.device, packed: bool) -> list[str]:
    """Why a timing taken at this moment would not count: shared device, packed trials, high load."""
    problems = []
    if packed:
        problems.append("several trials shared the device")
    cores = cpu_count()
    load = os.getloadavg()[0]
    if load > cores:
        problems.append(f"load {load:.1f} above {cores} cores")
    if device.type == "cuda":
        problems += _foreign_gpu_processes(device) + _fraction_of_gpu(device)
    return problems


@contextmanager
def nvml_handle(device: torch.device) -> Iterator[Any]:
    """The driver's handle of a GPU, found by UUID since NVML ignores CUDA_VISIBLE_DEVICES; None without one."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError:
            handle = None
        yield handle
    finally:
        pynvml.nvmlShutdown()


def _gpu_users(device: torch.device) -> list[Any] | None:
    """Processes that compute on a GPU; None where the driver does not tell."""
    import pynvml

    with nvml_handle(device) as handle:
        try:
            return None if handle is None else list(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except pynvml.NVMLError:
            return None


def _foreign_gpu_processes(device: torch.device) -> list[str]:
    """Other processes that compute on the same GPU."""
    import torch

    torch.cuda.synchronize(device)  # makes this process's context, so that it is among the users
    users = _gpu_users(device)
    if users is None:
        return ["the driver does not tell who uses the GPU"]
    # In a container the driver may tell the host's process numbers: this process is then counted, not looked up.
    # It may also tell none at all, which cannot be told from being alone.
    known = any(user.pid == os.getpid() for user in users)
    others = sum(user.pid != os.getpid() for user in users) if known else max(0, len(users) - 1)
    return [f"{others} other process(es) on the GPU"] if others else []


def _fraction_of_gpu(device: torch.device) -> list[str]:
    """A slice of a GPU (MIG), or a share of its processors (MPS)."""
    import torch

    problems = []
    if "MIG" in torch.cuda.get_device_name(device):
        problems.append("a MIG slice, not a whole GPU")
    share = os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "")
    if share and share != "100":
        problems.append(f"{share} % of the GPU's processors (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE)")
    return problems


def gpu_process_ids(device: torch.device) -> tuple[int, ...]:
    """The driver's numbers of the processes on a GPU, in a container possibly those of the host."""
    return tuple(int(user.pid) for user in _gpu_users(device) or [])


def driver_memory_bytes(device: torch.device, known: Iterable[int] = ()) -> int | None:
    """What the driver counts for this process on a GPU, context and libraries included; None where it does not tell.

    known: ``gpu_process_ids`` before this process came to the device. Where its own number is not among the users,
    as in a container that shows the host's, the one process that is not known is this one.
    """
    users = _gpu_users(device) or []
    before = set(known)
    ours = [u for u in users if u.pid == os.getpid()] or [u for u in users if u.pid not in before]
    return int(ours[0].usedGpuMemory) if len(ours) == 1 and ours[0].usedGpuMemory else None


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Bytes at most so far: of live tensors and reserved, on a GPU; on the CPU of the resident set, and 0."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return peak_resident_bytes(), 0


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_disk(folder: Path) -> int:
    """Bytes free, steady, on the disk of a folder, or of the nearest above it that is there."""
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    return steady(shutil.disk_usage(there).free)


def steady(count: int) -> int:
    """A number of bytes that changes all the time, rounded down to its four leading bits, so that it reads the same
    when it is asked for again.

    >>> steady(53_176_856_576) == steady(53_124_419_584), steady(100), steady(3)
    (True, 96, 3)
    """
    granule = 1 << max(0, count.bit_length() - 4)
    return count // granule * granule

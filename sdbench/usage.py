"""Memory in use while a run lasts, of processes and of GPUs, for people to look at. Nothing rests on it."""

from __future__ import annotations

import contextlib


def memory_in_use() -> str:
    """Memory of the processes below this one, and of GPUs where there are some."""
    import psutil

    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return f"memory of all processes: {total / 2**30:.1f} GiB{_gpu_memory()}"


def _gpu_memory() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            infos = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ""
    return "".join(f"; GPU {i}: {m.used / 2**30:.1f} of {m.total / 2**30:.1f} GiB" for i, m in enumerate(infos))

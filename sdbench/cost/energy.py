"""Energy of a training step on a GPU, from the driver's counter."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sdbench.environment import nvml_handle

SECONDS = 2.0
"""How long steps run for one figure: the counter moves in steps of some tens of milliseconds."""


def joules_per_1000_images(
    step: Callable[[], object], labelled: float, device: torch.device, seconds: float = SECONDS
) -> float | None:
    """Joules that the whole device takes while steps follow each other, per 1,000 labelled images.

    labelled: labelled images of one step. Idle power is in it, and so is whatever else uses the device: do not
    read it on a shared one. None where the driver has no counter.
    """
    before = _millijoules(device)
    if before is None:
        return None
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
        if steps % 16 == 0:  # the host would run far ahead of the device otherwise
            torch.cuda.synchronize(device)
    torch.cuda.synchronize(device)
    after = _millijoules(device)
    return None if after is None else (after - before) / (steps * labelled)


def _millijoules(device: torch.device) -> int | None:
    """Energy since the driver was loaded; a millijoule per image is a joule per 1,000."""
    import pynvml

    with nvml_handle(device) as handle:
        if handle is None:
            return None
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError:
            return None

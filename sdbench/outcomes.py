"""How a trial ended, told from what was raised."""

from __future__ import annotations

from pathlib import Path

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch says that memory ran out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def explain(error: BaseException) -> str:
    """The error and the innermost place of the traceback, without the folders it lies in."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    where = ""
    if frame:
        where = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})"
    return f"{type(error).__name__}: {error}{where}"

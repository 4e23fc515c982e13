"""How a trial ended: the reason in words, where the record comes from, and the last word in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdbench import checkpoint, environment
from sdbench.identity import plugin_sha256
from sdbench.spec import Options, Provenance, TrialResult
from sdbench.store import DamagedRecord, Store, WriteProblem, read_result, write_curve

REASON_CHARS = 2000
"""Of what an exception says; the beginning and the end where it says more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory ran out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in _text(error)


def explain(error: BaseException) -> str:
    """The error and the innermost place of the traceback, without the folders it lies in; text that any file can
    hold, at most ``REASON_CHARS`` of what the error says."""
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    where = ""
    if frame:
        where = f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})"
    text = f"{type(error).__name__}: {_text(error)}"
    if len(text) > REASON_CHARS:
        text = f"{text[: REASON_CHARS // 2]} [...] {text[-REASON_CHARS // 2 :]}"
    return (text + where).encode(errors="backslashreplace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a plug-in's exception may fail to say what it is
        return "(it cannot be printed)"


def provenance(options: Options, device: torch.device | None, started: str, method: str = "") -> Provenance:
    """Where a record of this process comes from. method: of a trial, whose file is named where it is a plug-in."""
    commit, dirty = environment.source_commit()
    cuda = device is not None and device.type == "cuda"
    return Provenance(
        versions=environment.versions(),
        device=environment.device_name(device) if device else "none",
        driver=environment.driver_version() if cuda else "",
        cpu=environment.cpu_model(),
        commit=commit,
        dirty=dirty,
        command=options.command,
        config=options.config,
        origins=options.origins,
        started=started,
        finished=environment.now(),
        plugin_sha256=plugin_sha256(method) if method else "",
    )


def conclude(store: Store, result: TrialResult, options: Options, curve: Sequence[dict[str, Any]]) -> TrialResult:
    """Write the last word on a trial and drop what it is not gone on from; returns the record that stands then.

    curve: its lines so far. A trial that was being run again and is interrupted keeps the result that it had.
    WriteProblem where the record cannot be written.
    """
    folder = store.folder(result.spec, result.trial_id)
    if result.status == "interrupted" and _has_result(folder):
        return result
    try:
        if not curve and result.final:
            write_curve(folder / "curve.jsonl", [])
        store.write(result)
    except WriteProblem:
        checkpoint.make_room(folder / "checkpoint")  # for the record, where the disk is full
        store.write(result)
    if result.final and not options.keep_checkpoints:
        checkpoint.remove(folder / "checkpoint")
    return result


def _has_result(folder: Path) -> bool:
    try:
        return read_result(folder / "trial.json").status == "ok"
    except (FileNotFoundError, DamagedRecord):
        return False

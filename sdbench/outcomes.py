"""How a trial ended: the reason in words, where the record comes from, and the last word in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdbench import attempts, checkpoint, environment, kept
from sdbench.identity import plugin_sha256
from sdbench.spec import Options, Provenance, TrialResult
from sdbench.store import Store, WriteProblem, write_curve
from sdbench.trial_folder import AGAIN

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


def is_over(result: TrialResult) -> bool:
    """Whether nobody goes on from a trial's checkpoints: it is finished, or would diverge again. What failed otherwise
    may have failed for want of memory, of time, or for a file that could not be read just then."""
    return result.status in ("ok", "nan")


def conclude(
    store: Store, result: TrialResult, options: Options, curve: Sequence[dict[str, Any]], *, again: bool = False
) -> None:
    """Write the last word on a trial and drop what it is not gone on from.

    curve: its lines so far. again: the trial was finished before and wrote into ``again/``. A finished record is only
    replaced by a finished one, with all its files. WriteProblem where the record cannot be written.
    """
    folder = store.folder(result.spec, result.trial_id)
    own = folder / AGAIN if again else folder
    if result.status == "interrupted" and attempts.standing(folder) is not None:
        return
    try:
        _write(store, result, options, curve, again)
    except WriteProblem:
        checkpoint.make_room(own / "checkpoint")  # for the record, where the disk is full
        _write(store, result, options, curve, again)
    if is_over(result) and not options.keep_checkpoints:
        checkpoint.remove(own / "checkpoint")
    if result.status != "ok":
        return
    if again:
        checkpoint.remove(folder / "checkpoint")  # of the training that it replaces
        if options.keep_checkpoints and (own / "checkpoint").is_dir():
            (own / "checkpoint").rename(folder / "checkpoint")
    attempts.close(folder)


def _write(store: Store, result: TrialResult, options: Options, curve: Sequence[dict[str, Any]], again: bool) -> None:
    folder = store.folder(result.spec, result.trial_id)
    if again and result.status == "ok":
        kept.take_over(folder, folder / AGAIN, options, result.spec.recipe.epochs)
    if not (again or curve) and result.final:
        write_curve(folder / "curve.jsonl", [])
    store.conclude(result)

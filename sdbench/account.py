"""What a trial has done and cost so far, and the record that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sdbench.outcomes import provenance
from sdbench.session import Session
from sdbench.spec import Cost, Metrics, Options, Pairing, Scaled, Status, Trial, TrialResult

CLOCKS = ("train_s", "process_s", "eval_s", "setup_s")


@dataclass
class Progress:
    """What a trial has done so far; all of it is in the checkpoint."""

    epoch: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    resumes: list[int] = field(default_factory=list)
    clocks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0.0))
    labelled_images: int = 0
    pairing: dict[str, str] = field(default_factory=dict)
    timing_problems: list[str] = field(default_factory=list)
    started: str = ""


@dataclass(frozen=True)
class Scores:
    """What the last epoch's network is worth, before and after temperature scaling, or, of a search trial, on the
    held-out images alone; nothing before that epoch."""

    metrics: Metrics | None = None
    scaled: Scaled | None = None
    validation_top1: float | None = None


def pairing_of(session: Session) -> dict[str, str]:
    """SHA-256 of the initial weights and of the first batch, to prove that trials are paired."""
    weights = hashlib.sha256()
    for name, value in sorted(session.network.state_dict().items()):
        weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    batch = next(session.batches(0, whole=True))
    first = hashlib.sha256()
    for value in (batch.images, batch.labels, batch.index):
        first.update(value.cpu().contiguous().numpy().tobytes())
    return {"initial_weights": weights.hexdigest(), "first_batch": first.hexdigest()}


def record_of(
    trial: Trial,
    options: Options,
    progress: Progress,
    status: Status,
    reason: str,
    session: Session | None = None,
    scores: Scores = Scores(),
    resumable: bool = False,
) -> TrialResult:
    pairing = Pairing(**progress.pairing) if progress.pairing else None
    return TrialResult(
        trial_id=trial.id,
        status=status,
        reason=reason,
        caveat=trial.caveat,
        baseline=options.baseline,
        spec=trial.spec,
        identity=trial.identity,
        metrics=scores.metrics,
        scaled=scores.scaled,
        validation_top1=scores.validation_top1,
        tuned=trial.tuned,
        cost=cost_of(session, progress) if session else None,
        pairing=pairing,
        provenance=provenance(options, session.device if session else None, progress.started, trial.spec.method),
        resumes=tuple(progress.resumes),
        epochs_done=progress.epoch,
        num_classes=session.data.num_classes if session else None,
        resumable=resumable,
    )


def cost_of(session: Session, progress: Progress) -> Cost:
    problems = tuple(dict.fromkeys(progress.timing_problems))
    step, step_reason = session.step_kind
    live, reserved = session.joiner.peak_memory(session.device)
    return Cost(
        **progress.clocks,
        labelled_images=progress.labelled_images,
        images_with_gradient=session.network.passes.with_gradient,
        images_without_gradient=session.network.passes.without_gradient,
        peak_memory_bytes=live,
        peak_reserved_bytes=reserved,
        auxiliary_parameters=session.auxiliary_parameters(),
        state_bytes=session.state_bytes(),
        timing_valid=not problems,
        timing_problems=problems,
        step=step,
        step_reason=step_reason,
    )

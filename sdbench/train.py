"""The one training loop: ``run_trial(trial, store, options) -> TrialResult``.

What every method shares is here and only here: streams, precision, optimizer, schedule, checkpoints,
the last epoch as the score. Nothing inside an epoch waits for the device. Where images are held out, the
score is also given after temperature scaling.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdbench import checkpoint, environment, kept
from sdbench.assembly import open_session
from sdbench.errors import TrialInterrupted
from sdbench.evaluate import evaluate
from sdbench.method import Terms
from sdbench.outcomes import conclude, explain, is_out_of_memory, provenance
from sdbench.schedule import learning_rate
from sdbench.session import Session
from sdbench.spec import Cost, Metrics, Options, Pairing, Scaled, Status, StepKind, Trial, TrialResult
from sdbench.store import Store, WriteProblem, append_line, write_curve
from sdbench.temperature import rescore
from sdbench.trial_folder import make_way

CLOCKS = ("train_s", "process_s", "eval_s", "setup_s")

BEGUN = "started and not finished"

GRADIENT_DEADLINE = 10
"""Steps within which every auxiliary parameter must have had a gradient."""


class Diverged(Exception):
    """The loss or the weights are no longer finite."""


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
    """What the last epoch's network is worth, before and after temperature scaling; nothing before that epoch."""

    metrics: Metrics | None = None
    scaled: Scaled | None = None


Opener = Callable[[Trial, Store, Options], Session]


def run_trial(
    trial: Trial,
    store: Store,
    options: Options,
    *,
    stop: Callable[[], bool] = lambda: False,
    opener: Opener = open_session,
    anew: str = "",
) -> TrialResult:
    """Train one trial, or finish it from its newest checkpoint, and write its record.

    Every outcome that Python can see becomes a record: ok, nan, oom, failed, interrupted. ``stop`` is
    asked before each step; when it says True the trial ends as interrupted, its checkpoint kept.
    ``opener`` builds the session; the conformance checks give one that needs no data set on disk.
    anew: when a finished trial was started that is to be run again; its own checkpoints are not gone on from.
    WriteProblem where not even the record can be written.
    """
    folder = store.folder(trial.spec, trial.id)
    progress = Progress(started=environment.now())
    session: Session | None = None
    status: Status = "ok"
    reason, scores, resumable = "", Scores(), False
    try:
        make_way(folder)
        earlier = None if anew else store.started(trial)
        if earlier is None:
            store.write(_record(trial, options, progress, "interrupted", BEGUN), "started.json")
        began = time.perf_counter()
        session = opener(trial, store, options)
        session.choose_step(_step_kind(options, session))
        _resume(session, progress, folder, anew, earlier)
        if progress.resumes:
            store.write(_record(trial, options, progress, "interrupted", BEGUN), "started.json")
        progress.clocks["setup_s"] += time.perf_counter() - began
        scores = _train(session, progress, folder, options, stop)
    except TrialInterrupted as error:
        status, reason = "interrupted", str(error)
    except Diverged as error:
        status, reason = "nan", str(error)
    except MemoryError as error:
        status, reason = "oom", f"out of memory: {error}"
    except WriteProblem as error:
        status, reason, resumable = "failed", f"{error.strerror}: {Path(error.filename).name} was not written", True
    except BaseException as error:  # a plug-in may raise anything; the trial becomes a row that says so
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise  # a Ctrl-C, which the process of a trial ignores
        status = "oom" if is_out_of_memory(error) else "failed"
        reason = explain(error)
    result = _record(trial, options, progress, status, reason, session, scores, resumable)
    return conclude(store, result, options, progress.curve)


def _step_kind(options: Options, session: Session) -> StepKind:
    """A CUDA graph wherever there is a GPU, unless it is not wanted; the same kernels as eagerly."""
    if options.compile == "off" or (options.compile == "auto" and session.device.type != "cuda"):
        return "eager"
    return "graph"


def _train(session: Session, progress: Progress, folder: Path, options: Options, stop: Callable[[], bool]) -> Scores:
    """All remaining epochs, then the test set, once, and the held-out images where there are any."""
    epochs = session.spec.recipe.epochs
    progress.timing_problems += environment.timing_problems(session.device, options.packed)
    if not progress.pairing:
        progress.pairing = session.pairing()
    scored: tuple[Tensor, Tensor] | None = None
    while progress.epoch < epochs:
        epoch = progress.epoch
        line = _train_epoch(session, progress, epoch, stop)
        began = time.perf_counter()
        last = epoch == epochs - 1
        keeps = kept.wants(options, epoch + 1)
        if last or keeps or (options.eval_every and (epoch + 1) % options.eval_every == 0):
            scored = logits, labels = session.test_logits()
            line["top1"] = (logits.argmax(1) == labels).double().mean().item()
            if keeps:
                kept.write_epoch(folder, epoch + 1, logits, labels)
        progress.clocks["eval_s"] += time.perf_counter() - began
        progress.curve.append(line)
        progress.epoch = epoch + 1
        _save(session, progress, folder)
        if epoch == 0:  # until here, a finished trial that is run again has all its files
            write_curve(folder / "curve.jsonl", progress.curve)
            kept.cut_back(folder, 1)
        else:
            append_line(folder / "curve.jsonl", line)
    began = time.perf_counter()
    logits, labels = scored or session.test_logits()  # None where the checkpoint was at the last epoch
    held_out = session.validation_logits()
    if not all(bool(z.isfinite().all()) for z, _ in [(logits, labels), *([held_out] if held_out else [])]):
        raise Diverged(f"the logits on the test set or the held-out images are not finite after epoch {epochs - 1}")
    scores = Scores(evaluate(logits, labels), rescore(logits, labels, *held_out) if held_out else None)
    progress.clocks["eval_s"] += time.perf_counter() - began
    progress.timing_problems += environment.timing_problems(session.device, options.packed)
    tensors = {"logits": logits, "labels": labels}
    if held_out is not None:
        tensors |= {"validation_logits": held_out[0], "validation_labels": held_out[1]}
    kept.write_last(folder, options, session.network.state_dict(), tensors)
    return scores


def _train_epoch(session: Session, progress: Progress, epoch: int, stop: Callable[[], bool]) -> dict[str, Any]:
    """One epoch; returns its line of the curve."""
    spec, steps = session.spec, session.steps
    session.begin_epoch(epoch)
    sums: Terms = {}
    images = 0
    wall, process = time.perf_counter(), time.process_time()
    for step, batch in enumerate(session.batches(epoch)):
        if stop():
            raise TrialInterrupted(f"stopped in epoch {epoch}; run the same command to resume from its start")
        rate = learning_rate(spec.recipe, epoch, step, steps)
        terms = session.step(batch, rate, (epoch * steps + step) / (spec.recipe.epochs * steps))
        for name, term in terms.items():
            value = term.detach().double() * len(batch.labels)
            sums[name] = sums[name] + value if name in sums else value
        images += len(batch.labels)
        if epoch * steps + step + 1 == min(GRADIENT_DEADLINE, spec.recipe.epochs * steps):
            session.refuse_unused_parameters()
    session.end_epoch()
    values = torch.stack([*sums.values(), session.finite().double()]).tolist()  # waits for the device, once
    losses = {name: total / images for name, total in zip(sums, values[:-1], strict=True)}
    wall, process = time.perf_counter() - wall, time.process_time() - process
    progress.clocks["train_s"] += wall
    progress.clocks["process_s"] += process
    progress.labelled_images += images
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad or not values[-1]:
        what = f"loss term {', '.join(bad)} is" if bad else "the weights are"
        raise Diverged(f"{what} not finite in epoch {epoch}; lower lr or the method's coefficients")
    session.validate()
    rate = learning_rate(spec.recipe, epoch, 0, steps)
    loss = math.fsum(losses.values())
    speed = round(images / wall, 1)
    return {"epoch": epoch, "lr": rate, "loss": loss, "terms": losses, "images_per_s": speed}


def _save(session: Session, progress: Progress, folder: Path) -> None:
    state = {"trial_id": session.trial_id, "progress": vars(progress), "session": session.state()}
    checkpoint.save(folder / "checkpoint", progress.epoch, state)


def _resume(
    session: Session, progress: Progress, folder: Path, anew: str = "", earlier: TrialResult | None = None
) -> None:
    """Continue from the newest checkpoint and cut the curve back to it; otherwise start clean.

    anew: as in ``run_trial``. earlier: what the process before this one wrote when it started, for the resumes that no
    checkpoint holds because their epoch was not finished.
    """
    state = checkpoint.load(folder / "checkpoint")
    if state is not None and state["session"].get("device", session.device.type) != session.device.type:
        state = None  # streams of random numbers differ between devices: nothing to go on from
    if state is not None and anew and state["progress"]["started"] == anew:
        state = None
    if state is not None and state["trial_id"] == session.trial_id:
        session.restore(state["session"])
        for key, value in state["progress"].items():
            setattr(progress, key, value)
        if earlier is not None and earlier.provenance.started == progress.started:
            progress.resumes = max(progress.resumes, list(earlier.resumes), key=len)
        progress.resumes.append(progress.epoch)
    if state is not None or not anew:
        write_curve(folder / "curve.jsonl", progress.curve)
        kept.cut_back(folder, progress.epoch)


def _record(
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
        cost=_cost(session, progress) if session else None,
        pairing=pairing,
        provenance=provenance(options, session.device if session else None, progress.started),
        resumes=tuple(progress.resumes),
        epochs_done=progress.epoch,
        num_classes=session.data.num_classes if session else None,
        resumable=resumable,
    )


def _cost(session: Session, progress: Progress) -> Cost:
    problems = tuple(dict.fromkeys(progress.timing_problems))
    step, step_reason = session.step_kind
    cuda = session.device.type == "cuda"
    return Cost(
        **progress.clocks,
        labelled_images=progress.labelled_images,
        images_with_gradient=session.network.passes.with_gradient,
        images_without_gradient=session.network.passes.without_gradient,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if cuda else environment.peak_resident_bytes(),
        peak_reserved_bytes=torch.cuda.max_memory_reserved() if cuda else 0,
        auxiliary_parameters=session.auxiliary_parameters(),
        state_bytes=session.state_bytes(),
        timing_valid=not problems,
        timing_problems=problems,
        step=step,
        step_reason=step_reason,
    )

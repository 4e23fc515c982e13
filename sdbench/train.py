"""The one training loop: ``run_trial(trial, store, options) -> TrialResult``.

What every method shares is here and only here: streams, precision, optimizer, schedule, checkpoints,
the last epoch as the score. Nothing inside an epoch waits for the device. Where images are held out, the
score is also given after temperature scaling.
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdbench import checkpoint, environment, kept
from sdbench.account import Progress, Scores, pairing_of, record_of
from sdbench.assembly import open_session
from sdbench.errors import TrialInterrupted
from sdbench.evaluate import evaluate
from sdbench.method import Terms
from sdbench.outcomes import conclude, explain, is_out_of_memory, is_over
from sdbench.schedule import learning_rate
from sdbench.session import Session
from sdbench.spec import Options, Status, StepKind, Trial, TrialResult
from sdbench.store import Store, WriteProblem, append_line, write_curve
from sdbench.temperature import rescore
from sdbench.trial_folder import AGAIN, make_way
from sdbench.workers import ALONE, PeerLost, Workers

OK: Status = "ok"
BEGUN = "started and not finished"

GRADIENT_DEADLINE = 10
"""Steps within which every auxiliary parameter must have had a gradient."""


class Diverged(Exception):
    """The loss or the weights are no longer finite."""


Opener = Callable[[Trial, Store, Options, Workers], Session]


def run_trial(
    trial: Trial,
    store: Store,
    options: Options,
    *,
    stop: Callable[[], bool] = lambda: False,
    opener: Opener = open_session,
    workers: Workers = ALONE,
    anew: TrialResult | None = None,
) -> TrialResult:
    """Train one trial, or finish it from its newest checkpoint, and write its record.

    Every outcome that Python can see becomes a record: ok, nan, oom, failed, interrupted. ``stop`` is asked before each
    step; when it says True the trial ends as interrupted, its checkpoint kept. ``opener`` builds the session.
    ``workers``: the processes of the trial, each of which calls this. The first one writes the record, another only
    that of its own failure. Raises PeerLost where one of them is gone.
    anew: the finished record that is to be replaced, after ``attempts.begin``; it stands until this is finished too.
    WriteProblem where not even the record can be written.
    """
    folder = store.folder(trial.spec, trial.id)
    place = folder / AGAIN if anew else folder
    progress = Progress(started=environment.now())
    session: Session | None = None
    status, reason, scores, resumable = OK, "", Scores(), False
    try:
        make_way(folder)
        earlier = None if anew else store.started(trial)
        if earlier is None and workers.leads:
            store.write(record_of(trial, options, progress, "interrupted", BEGUN), "started.json")
        began = time.perf_counter()
        session = opener(trial, store, options, workers)
        session.choose_step(_step_kind(options, session))
        _resume(session, progress, place, earlier)
        if progress.resumes and workers.leads:
            store.write(record_of(trial, options, progress, "interrupted", BEGUN), "started.json")
        progress.clocks["setup_s"] += time.perf_counter() - began
        scores = _train(session, progress, place, options, stop)
    except PeerLost:
        raise
    except BaseException as error:  # a plug-in may raise anything; the trial becomes a row that says so
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise  # a Ctrl-C, which the process of a trial ignores
        status, reason, resumable = _ending(error)
    result = record_of(trial, options, progress, status, reason, session, scores, resumable)
    if not (workers.leads or status in ("failed", "oom")):
        return result
    conclude(store, result, options, progress.curve, again=anew is not None)
    if is_over(result) and not options.keep_checkpoints and session is not None:
        session.rows.remove()  # not before the record: until then, the last checkpoint needs them
    return result


def _ending(error: BaseException) -> tuple[Status, str, bool]:
    """What an error makes of a trial, why, and whether the same command takes it up again."""
    if isinstance(error, TrialInterrupted):
        return "interrupted", str(error), False
    if isinstance(error, Diverged):
        return "nan", str(error), False
    if isinstance(error, MemoryError):
        return "oom", f"out of memory: {error}", False
    if isinstance(error, WriteProblem):
        return "failed", f"{error.strerror}: {Path(error.filename).name} was not written", True
    return ("oom" if is_out_of_memory(error) else "failed"), explain(error), False


def _step_kind(options: Options, session: Session) -> StepKind:
    """A CUDA graph wherever there is one GPU, unless it is not wanted; the same kernels as eagerly."""
    off = options.compile == "off" or session.workers.shard.size > 1
    return "eager" if off or (options.compile == "auto" and session.device.type != "cuda") else "graph"


def _train(session: Session, progress: Progress, folder: Path, options: Options, stop: Callable[[], bool]) -> Scores:
    """All remaining epochs, then the test set, once, and the held-out images where there are any. A search trial never
    looks at the test set."""
    epochs, search, leads = session.spec.recipe.epochs, session.spec.search, session.workers.leads
    judged = "validation_top1" if search else "top1"
    _look_for_timing_problems(session, progress, options)
    if not progress.pairing:
        progress.pairing = pairing_of(session)
    scored: tuple[Tensor, Tensor] | None = None
    while progress.epoch < epochs:
        epoch = progress.epoch
        line = _train_epoch(session, progress, epoch, stop)
        began = time.perf_counter()
        last = epoch == epochs - 1
        keeps = kept.wants(options, epoch + 1)
        if leads and (last or keeps or (options.eval_every and (epoch + 1) % options.eval_every == 0)):
            scored = logits, labels = session.judged_logits()
            line[judged] = (logits.argmax(1) == labels).double().mean().item()
            if keeps:
                kept.write_epoch(folder, epoch + 1, logits, labels)
        progress.clocks["eval_s"] += time.perf_counter() - began
        progress.curve.append(line)
        progress.epoch = epoch + 1
        _save(session, progress, folder)
    _look_for_timing_problems(session, progress, options)
    if not leads:
        return Scores()
    began = time.perf_counter()
    logits, labels = scored or session.judged_logits()  # None where the checkpoint was at the last epoch
    held_out = None if search else session.validation_logits()
    if not all(bool(z.isfinite().all()) for z, _ in [(logits, labels), *([held_out] if held_out else [])]):
        raise Diverged(f"the logits on the test set or the held-out images are not finite after epoch {epochs - 1}")
    metrics = evaluate(logits, labels)
    scores = Scores(metrics, rescore(logits, labels, *held_out) if held_out else None)
    progress.clocks["eval_s"] += time.perf_counter() - began
    if search:
        kept.write_last(folder, options, session.network.state_dict(), {})
        return Scores(validation_top1=metrics.top1)
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
        labelled = session.labelled(step)
        done = (epoch * steps + step) / (spec.recipe.epochs * steps)
        terms = session.step(batch, rate, done, len(batch.labels) / labelled)
        for name, term in terms.items():
            value = term.detach().double() * labelled
            sums[name] = sums[name] + value if name in sums else value
        images += labelled
        if epoch * steps + step + 1 == min(GRADIENT_DEADLINE, spec.recipe.epochs * steps):
            session.refuse_unused_parameters()
    session.end_epoch()
    *totals, finite = torch.stack([*sums.values(), session.finite().double()]).tolist()  # waits for the device, once
    told = session.workers.gather((dict(zip(sums, totals, strict=True)), time.process_time() - process))
    names = dict.fromkeys(name for part, _ in told for name in part)
    losses = {name: math.fsum(part.get(name, 0.0) for part, _ in told) / images for name in names}
    wall = time.perf_counter() - wall
    progress.clocks["train_s"] += wall
    progress.clocks["process_s"] += math.fsum(seconds for _, seconds in told)
    progress.labelled_images += images
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad or not finite:
        what = f"loss term {', '.join(bad)} is" if bad else "the weights are"
        raise Diverged(f"{what} not finite in epoch {epoch}; lower lr or the method's coefficients")
    session.validate()
    session.joiner.refuse_differences(epoch)
    rate = learning_rate(spec.recipe, epoch, 0, steps)
    loss = math.fsum(losses.values())
    speed = round(images / wall, 1)
    return {"epoch": epoch, "lr": rate, "loss": loss, "terms": losses, "images_per_s": speed}


def _look_for_timing_problems(session: Session, progress: Progress, options: Options) -> None:
    for found in session.workers.gather(environment.timing_problems(session.device, options.packed)):
        progress.timing_problems += found


def _save(session: Session, progress: Progress, folder: Path) -> None:
    """A checkpoint, and then the epoch's line of the curve."""
    state = {"trial_id": session.trial_id, "progress": vars(progress), "session": session.state()}
    if session.workers.leads:
        checkpoint.save(folder / "checkpoint", progress.epoch, state)
        append_line(folder / "curve.jsonl", progress.curve[-1])
        session.rows.retire()


def _resume(session: Session, progress: Progress, folder: Path, earlier: TrialResult | None = None) -> None:
    """Continue from the newest checkpoint and cut the curve back to it; otherwise start clean.

    earlier: what the process before this one wrote when it started, for the resumes that no
    checkpoint holds because their epoch was not finished.
    """
    held = {"network": session.network.state_dict(), "method": session.method.state_dict()}
    limit = checkpoint.room(held, session.rows.nbytes)
    state = checkpoint.load(folder / "checkpoint", limit, Progress())
    if state is not None and state["session"].get("device", session.device.type) != session.device.type:
        state = None  # streams of random numbers differ between devices: nothing to go on from
    if state is not None and (problem := session.rows.problem(state["session"].get("rows", {}))):
        warnings.warn(f"the checkpoint cannot be gone on from ({problem}); training starts again", stacklevel=2)
        state = None
    if state is not None and state["trial_id"] == session.trial_id:
        session.restore(state["session"])
        for key, value in state["progress"].items():
            setattr(progress, key, value)
        if earlier is not None and earlier.provenance.started == progress.started:
            progress.resumes = max(progress.resumes, list(earlier.resumes), key=len)
        progress.resumes.append(progress.epoch)
    session.joiner.refuse_differences(progress.epoch)
    if session.workers.leads:
        write_curve(folder / "curve.jsonl", progress.curve)
        kept.cut_back(folder, progress.epoch)

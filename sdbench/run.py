"""Make every trial of a plan exist: run what is missing, in the order that teachers allow."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import FrameType

from filelock import Timeout

from sdbench import attempts, environment
from sdbench.budget import Meter, Spending, watched
from sdbench.engine import Engine, Job, local, ray_tune
from sdbench.engine.ray_head import last_words
from sdbench.errors import EnvironmentProblem
from sdbench.plan import Plan
from sdbench.progress import AUTOMATIC, Monitor, Reporter, Shown, label
from sdbench.spec import Provenance, Status, Trial, TrialResult
from sdbench.store import DamagedRecord, Store, read_result
from sdbench.superseded import stale_records

ENGINES: dict[str, Engine] = {"local": local.run, "ray": ray_tune.run}
SETTLE_S = 10.0


@dataclass
class Outcome:
    """What a run left behind. signal: the number of the signal that ended it, or 0. spending: how its budget stands.
    problem: why its boards could not be written. undone: trials that were to be run again and whose older record
    stands, with how that ended and why."""

    results: list[TrialResult] = field(default_factory=list)
    reused: int = 0
    missing: list[Trial] = field(default_factory=list)
    signal: int = 0
    spending: Spending | None = None
    problem: str = ""
    undone: list[tuple[Trial, Status, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all trials ok, 1 some not, 3 all ok and no boards, 128 + signal after an interruption."""
        if self.signal:
            return 128 + self.signal
        bad = self.missing or self.undone or any(result.status != "ok" for result in self.results)
        return 1 if bad else 3 if self.problem else 0


def to_do(plan: Plan, store: Store) -> list[Trial]:
    """The trials that are to be run, in the order of the plan; ``decided`` says which."""
    return [trial for trial, _ in decided(plan, store)]


def decided(plan: Plan, store: Store) -> list[tuple[Trial, str]]:
    """The trials without a final record, the finished ones that ``rerun`` names, and those whose weights are gone or
    damaged while a student that is to be run needs them. With ``rerun`` "stale" only those that supersede a finished
    record, and their teachers: nothing is started that was never there. A finished trial failed as well where the
    attempt to run it again did. With each trial the seal of the record that is there now and is to be replaced, or "":
    where it is another one when the trial's turn comes, another command has done it."""
    wanted: dict[str, str] = {}
    needed: set[str | None] = set()
    for trial in reversed(plan.trials):  # students stand behind their teachers
        folder, there = store.folder(trial.spec, trial.id), None
        with contextlib.suppress(FileNotFoundError, DamagedRecord):
            there = read_result(folder / "trial.json")
        found = store.result(trial)
        failed = found is not None and (found.status != "ok" or attempts.ended(folder, found) is not None)
        again = found is not None and (plan.rerun == "all" or (plan.rerun == "failed" and failed))
        lost = found is not None and found.status == "ok" and trial.id in needed and not store.teaches(trial.id)
        if found is None or again or lost:
            wanted[trial.id] = there.checksums["trial.json"] if there is not None and there.final else ""
            needed.add(trial.spec.teacher)
    waiting = [trial for trial in plan.trials if trial.id in wanted]
    chosen = _renewed(waiting, store) if plan.rerun == "stale" else waiting
    return [(trial, wanted[trial.id]) for trial in chosen]


def _renewed(waiting: Sequence[Trial], store: Store) -> list[Trial]:
    """Of trials without a final record, those that supersede one, and the teachers that they lack."""
    wanted = set(stale_records(store, waiting))
    for trial in reversed(waiting):  # teachers stand before their students
        if trial.id in wanted and trial.spec.teacher:
            wanted.add(trial.spec.teacher)
    return [trial for trial in waiting if trial.id in wanted]


def waves(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials in groups such that every teacher among them stands in an earlier group."""
    left = {trial.id: trial for trial in trials}
    found: list[list[Trial]] = []
    while left:
        ready = [t for t in left.values() if t.spec.teacher not in left]
        assert ready, "a chain of teachers has a beginning"
        found.append(ready)
        for trial in ready:
            del left[trial.id]
    return found


def execute(plan: Plan, *, quiet: bool = False, shown: Shown = AUTOMATIC) -> Outcome:
    """Run what is missing and return every trial's record."""
    store = Store(Path(plan.results))
    due = decided(plan, store)
    waiting, replaced = [trial for trial, _ in due], {trial.id: seal for trial, seal in due}
    teachers = {trial.spec.teacher for trial in plan.trials}
    outcome = Outcome(reused=len(plan.trials) - len(waiting))
    meter = meter_of(plan, store)
    if waiting:
        monitor = Monitor(waiting, store, verbose=shown.verbose)
        reporter = Reporter(monitor, sys.stderr, quiet=quiet, shown=shown)
        parting = last_words(lambda: _tell_what_is_left(plan, store, outcome, replaced))
        with signals() as caught, reporter, watched(meter, caught.stop), parting:
            for wave in waves(waiting):
                ready = [trial for trial in wave if _has_teacher(plan, store, trial, replaced[trial.id])]
                jobs = [job_of(plan, store, trial, replaced[trial.id], trial.id in teachers) for trial in ready]
                ENGINES[plan.engine](jobs, plan.typed_resources(), caught.stop)
                if caught.stop.is_set():
                    settle(store, wave)
                    break
            outcome.signal = caught.number
    outcome.spending = meter.look(working=bool(waiting)) if meter else None
    return _looked_up(plan, store, outcome, replaced)


def _looked_up(plan: Plan, store: Store, outcome: Outcome, replaced: Mapping[str, str]) -> Outcome:
    """The outcome with every trial's record, or its absence. replaced: the seals of records that were to be replaced:
    one that still stands tells how the attempt ended."""
    for trial in plan.trials:
        folder = store.folder(trial.spec, trial.id)
        try:
            outcome.results.append(found := read_result(folder / "trial.json"))
            if found.status == "ok" and found.checksums["trial.json"] == replaced.get(trial.id):
                last = attempts.ended(folder, found)
                outcome.undone.append((trial, last.status, last.reason) if last else (trial, "interrupted", ""))
        except (FileNotFoundError, DamagedRecord):
            outcome.missing.append(trial)
    return outcome


def _tell_what_is_left(plan: Plan, store: Store, outcome: Outcome, replaced: Mapping[str, str]) -> None:
    """The closing lines of a run that ends at once."""
    settle(store, plan.trials)
    empty = replace(outcome, results=[], missing=[], undone=[])
    for line in summary(plan, _looked_up(plan, store, empty, replaced), None):
        print(line, file=sys.stderr)


def meter_of(plan: Plan, store: Store) -> Meter | None:
    """What counts the plan's budget, where it has one."""
    if plan.budget is None:
        return None
    resources = plan.typed_resources()
    devices = 1 / resources.per_gpu if plan.budget.kind == "gpu" else resources.cpus_per_trial
    return Meter(plan.budget, plan.trials, store, devices)


def job_of(plan: Plan, store: Store, trial: Trial, replaces: str = "", teaches: bool = False) -> Job:
    """What an engine is given. teaches: whether students need its weights, which are kept then."""
    options = plan.options.model_copy(update={"keep_weights": True}) if teaches else plan.options
    return Job(trial=trial, options=options, store=str(store.root), replaces=replaces)


def _has_teacher(plan: Plan, store: Store, trial: Trial, replaces: str) -> bool:
    """Whether the trial's teacher is finished and can teach; where it failed, the trial is recorded as failed too."""
    if trial.spec.teacher is None:
        return True
    folder = store.find(trial.spec.teacher)
    teacher = None
    if folder is not None:
        with contextlib.suppress(FileNotFoundError, DamagedRecord):
            teacher = read_result(folder / "trial.json")
    if teacher is None or not teacher.final:
        return False
    status = teacher.status
    if status == "ok":
        return store.teaches(trial.spec.teacher)
    # Without its record, the trial counts as not run; where a process works on it, that will say how it ended.
    with contextlib.suppress(OSError), store.lock(store.folder(trial.spec, trial.id), timeout=0):
        found = store.result(trial)
        if found is not None and found.checksums["trial.json"] != replaces:
            return False  # finished by another command
        now = environment.now()
        provenance = Provenance(
            versions=environment.versions(), device="none", cpu=environment.cpu_model(), started=now, finished=now
        )
        reason = f"its teacher, trial {trial.spec.teacher}, ended as {status}"
        store.conclude(
            TrialResult(
                trial_id=trial.id,
                status="failed",
                reason=reason,
                baseline=plan.baseline,
                spec=trial.spec,
                identity=trial.identity,
                provenance=provenance,
            )
        )
    return False


@dataclass
class Caught:
    """The stop that signals set, and which signal it was."""

    stop: Event = field(default_factory=Event)
    number: int = 0


@contextlib.contextmanager
def signals() -> Iterator[Caught]:
    """First Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP (unless ignored, as under nohup): end in good order. A second one: end
    now."""
    caught = Caught()

    def handle(number: int, frame: FrameType | None) -> None:
        if caught.stop.is_set():
            os._exit(128 + number)
        caught.number = number
        caught.stop.set()
        message = "\nstopping: checkpoints stay, the same command resumes; once more to end at once\n"
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, message.encode())

    watched = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        watched.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in watched}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def settle(store: Store, trials: Sequence[Trial]) -> None:
    """Wait until no process works on these trials any more, so that the last word on each is written."""
    deadline = time.monotonic() + SETTLE_S
    for trial in trials:
        folder = store.folder(trial.spec, trial.id)
        if folder.exists():
            with contextlib.suppress(Timeout), store.lock(folder, timeout=max(0.0, deadline - time.monotonic())):
                pass


def summary(plan: Plan, outcome: Outcome, board: Path | None) -> list[str]:
    """The closing lines of a run: what finished, what failed and why, where the board is, what to type next."""
    good = sum(result.status == "ok" for result in outcome.results)
    lines = [f"{good} of {len(plan.trials)} trials ok ({outcome.reused} of them done before)"]
    bad = [result for result in outcome.results if result.status != "ok"]
    trials = {trial.id: trial for trial in plan.trials}
    lines += [f"  {r.status}: {label(trials[r.trial_id])}: {r.reason}" for r in bad]
    for trial, status, reason in outcome.undone:
        why = "; ".join([reason, "its older record stands"] if reason else ["its older record stands"])
        lines.append(f"  {status} when run again: {label(trial)}: {why}")
    lines += [f"  not run: {label(trial)}" for trial in outcome.missing]
    if outcome.missing:
        try:
            Store(Path(plan.results)).prepare()
        except EnvironmentProblem as error:
            lines.append(f"  {error}")
    if outcome.problem:
        lines.append(f"  {outcome.problem}")
    if board is not None:
        lines.append(f"leaderboard: {board}")
    spending = outcome.spending
    if spending is not None:
        lines.append(spending.text)
    failed = next((r.trial_id for r in bad if r.final), None)
    failed = failed or next((trial.id for trial, status, _ in outcome.undone if status != "interrupted"), None)
    if spending is not None and spending.reached and good < len(plan.trials) and not outcome.signal:
        left = len(plan.trials) - good
        lines.append(f"next: the same command with a larger --budget; {left} trial(s) are left, from their checkpoints")
    elif outcome.signal or outcome.missing or any(not r.final for r in bad) or (outcome.undone and not failed):
        lines.append("next: the same command again; it resumes from the checkpoints")
    elif failed is not None:
        lines.append(f"next: sdbench show {failed}, then the same command with --rerun failed")
    else:
        lines.append("next: sdbench leaderboard --format csv, or sdbench describe METHOD")
    return lines

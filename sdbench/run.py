"""Make every trial of a plan exist: run what is missing, in the order that teachers allow."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from types import FrameType

from filelock import Timeout

from sdbench import environment
from sdbench.budget import Meter, Spending, watched
from sdbench.engine import Engine, Job, local, ray_tune
from sdbench.engine.ray_head import last_words
from sdbench.errors import EnvironmentProblem
from sdbench.plan import Plan
from sdbench.progress import AUTOMATIC, Monitor, Reporter, Shown, label
from sdbench.spec import Provenance, Trial, TrialResult
from sdbench.store import DamagedRecord, Store, read_result
from sdbench.superseded import stale_records

ENGINES: dict[str, Engine] = {"local": local.run, "ray": ray_tune.run}
SETTLE_S = 10.0


@dataclass
class Outcome:
    """What a run left behind. signal: the number of the signal that ended it, or 0. spending: how its budget stands.
    problem: why its boards could not be written."""

    results: list[TrialResult] = field(default_factory=list)
    reused: int = 0
    missing: list[Trial] = field(default_factory=list)
    signal: int = 0
    spending: Spending | None = None
    problem: str = ""

    @property
    def exit_code(self) -> int:
        """0 all trials ok, 1 some not, 3 all ok and no boards, 128 + signal after an interruption."""
        if self.signal:
            return 128 + self.signal
        bad = self.missing or any(result.status != "ok" for result in self.results)
        return 1 if bad else 3 if self.problem else 0


def to_do(plan: Plan, store: Store) -> list[Trial]:
    """The trials without a final record, the finished ones that ``rerun`` names, and those whose weights are gone or
    damaged while a student that is to be run needs them. With ``rerun`` "stale" only those that supersede a finished
    record, and their teachers: nothing is started that was never there."""
    wanted: dict[str, Trial] = {}
    needed: set[str | None] = set()
    for trial in reversed(plan.trials):  # students stand behind their teachers
        found = store.result(trial)
        again = found is not None and (plan.rerun == "all" or (plan.rerun == "failed" and found.status != "ok"))
        lost = found is not None and found.status == "ok" and trial.id in needed and not store.teaches(trial.id)
        if found is None or again or lost:
            wanted[trial.id] = trial
            needed.add(trial.spec.teacher)
    waiting = [trial for trial in plan.trials if trial.id in wanted]
    return _renewed(waiting, store) if plan.rerun == "stale" else waiting


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
    waiting = to_do(plan, store)
    outcome = Outcome(reused=len(plan.trials) - len(waiting))
    meter = meter_of(plan, store)
    if waiting:
        monitor = Monitor(waiting, store, verbose=shown.verbose)
        reporter = Reporter(monitor, sys.stderr, quiet=quiet, shown=shown)
        parting = last_words(lambda: _tell_what_is_left(plan, store, outcome))
        with signals() as caught, reporter, watched(meter, caught.stop), parting:
            for wave in waves(waiting):
                jobs = [job_of(plan, store, trial) for trial in wave if _has_teacher(plan, store, trial)]
                ENGINES[plan.engine](jobs, plan.typed_resources(), caught.stop)
                if caught.stop.is_set():
                    settle(store, wave)
                    break
            outcome.signal = caught.number
    outcome.spending = meter.look(working=bool(waiting)) if meter else None
    return _looked_up(plan, store, outcome)


def _looked_up(plan: Plan, store: Store, outcome: Outcome) -> Outcome:
    """The outcome with every trial's record, or its absence."""
    for trial in plan.trials:
        try:
            outcome.results.append(read_result(store.folder(trial.spec, trial.id) / "trial.json"))
        except (FileNotFoundError, DamagedRecord):
            outcome.missing.append(trial)
    return outcome


def _tell_what_is_left(plan: Plan, store: Store, outcome: Outcome) -> None:
    """The closing lines of a run that ends at once."""
    settle(store, plan.trials)
    for line in summary(plan, _looked_up(plan, store, replace(outcome, results=[], missing=[])), None):
        print(line, file=sys.stderr)


def meter_of(plan: Plan, store: Store) -> Meter | None:
    """What counts the plan's budget, where it has one."""
    if plan.budget is None:
        return None
    resources = plan.typed_resources()
    devices = 1 / resources.per_gpu if plan.budget.kind == "gpu" else resources.cpus_per_trial
    return Meter(plan.budget, plan.trials, store, devices)


def job_of(plan: Plan, store: Store, trial: Trial) -> Job:
    old = store.result(trial)
    keeps = trial.id in {t.spec.teacher for t in plan.trials}  # a teacher's weights are needed by its students
    options = plan.options.model_copy(update={"keep_weights": True}) if keeps else plan.options
    return Job(trial=trial, options=options, store=str(store.root), replaces=old.provenance.finished if old else "")


def _has_teacher(plan: Plan, store: Store, trial: Trial) -> bool:
    """Whether the trial's teacher is finished; where it failed, the trial is recorded as failed too."""
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
        return True
    with contextlib.suppress(OSError):  # without its record, the trial counts as not run
        now = environment.now()
        provenance = Provenance(
            versions=environment.versions(), device="none", cpu=environment.cpu_model(), started=now, finished=now
        )
        reason = f"its teacher, trial {trial.spec.teacher}, ended as {status}"
        store.write(
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
    failed = next((r for r in bad if r.final), None)
    if spending is not None and spending.reached and good < len(plan.trials) and not outcome.signal:
        left = len(plan.trials) - good
        lines.append(f"next: the same command with a larger --budget; {left} trial(s) are left, from their checkpoints")
    elif outcome.signal or outcome.missing or any(not r.final for r in bad):
        lines.append("next: the same command again; it resumes from the checkpoints")
    elif failed is not None:
        lines.append(f"next: sdbench show {failed.trial_id}, then the same command with --rerun failed")
    else:
        lines.append("next: sdbench leaderboard --format csv, or sdbench describe METHOD")
    return lines

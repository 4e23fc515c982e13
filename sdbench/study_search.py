"""The searches of ``sdbench tune``: a random one is a run in the study's folder, the others are steered by Ray Tune."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

from filelock import Timeout

from sdbench.engine import ray_search
from sdbench.engine.ray_search import Ask
from sdbench.engine.supervise import say
from sdbench.plan import Plan
from sdbench.progress import Monitor, Reporter
from sdbench.run import execute, job_of, settle, signals
from sdbench.spec import Trial
from sdbench.store import DamagedRecord, Store, read_result
from sdbench.study import Study, read_trials
from sdbench.study_records import StudyResult, stopped_after, write_study
from sdbench.study_values import values_of

TRIAL = "trial.json"
LOCK_POLL_S = 1.0


def search(searched: Sequence[Study], base: Plan, *, quiet: bool) -> tuple[list[StudyResult], int]:
    """Carry out what is missing of all studies and write their records. base: how trials are run. Returns the records,
    and the number of the signal that cut the search short, or 0."""
    results = Path(base.results)
    by_tune = [s for s in searched if s.budget.scheduler != "none" or s.budget.search == "optuna"]
    signal = 0
    for study in searched:
        if study not in by_tune and not signal:
            signal = execute(search_plan(base, study), quiet=quiet).signal
    if by_tune and not signal:
        signal = _with_tune(base, by_tune, quiet=quiet)
    studies = []
    for study in searched:
        studies.append(read_trials(study, results, chains_of(study, results)))
        write_study(study.root(results), studies[-1])
    return studies, signal


def search_plan(base: Plan, study: Study) -> Plan:
    """A study as a run of its own in the study's folder. Neither weights nor logits of search trials are kept, but for
    those of teachers."""
    early = study.budget.scheduler != "none"
    own = {"keep_weights": False, "keep_logits": False, "logits_every": 0, "eval_every": 1 if early else 0}
    return base.model_copy(
        update={
            "trials": tuple({trial.id: trial for chain in study.chains for trial in chain}.values()),
            "options": base.options.model_copy(update=own),
            "results": str(study.root(Path(base.results))),
            "rerun": "failed" if base.rerun == "failed" else "none",
        }
    )


def chains_of(study: Study, results: Path) -> list[list[Trial]]:
    """The trials of every configuration known: those planned, then what a searcher proposed, in the order of their
    beginning, as many as the budget has. Two stores that were merged may hold more."""
    chains = study.chains
    if study.budget.search == "random":
        return chains
    planned = {chain[-1].id for chain in chains}
    scanned = Store(study.root(results)).scan().results
    others = [r for r in scanned if r.trial_id not in planned]
    others.sort(key=lambda r: (r.provenance.started, r.trial_id))
    proposed = [[Trial(spec=r.spec, identity=r.identity, caveat=r.caveat)] for r in others]
    return [*chains, *proposed][: study.budget.trials]


def _with_tune(base: Plan, studies: Sequence[Study], *, quiet: bool) -> int:
    """The searches that Ray Tune steers; returns the number of the signal that ended them, or 0."""
    plans = [search_plan(base, study) for study in studies]
    asked = [(study, plan, ask) for study, plan in zip(studies, plans, strict=True) if (ask := ask_for(study, plan))]
    with signals() as caught, Reporter(_StudyMonitor(plans), sys.stderr, quiet=quiet):
        with contextlib.closing(asks_for(asked, caught.stop)) as asks:
            ray_search.run([ask.template for *_, ask in asked], asks, base.typed_resources(), caught.stop)
        if caught.stop.is_set():
            for plan in plans:
                store = Store(Path(plan.results))
                settle(store, [Trial(spec=r.spec, identity=r.identity) for r in store.scan().results])
    return caught.number


def asks_for(searches: Sequence[tuple[Study, Plan, Ask]], stop: Event) -> Generator[Ask, None, None]:
    """What is left of each study by now, whose lock is held until the next is asked for: of two commands that propose
    or stop trials, one would not know what the other does. With each search, what was left of it before."""
    for study, plan, before in searches:
        with _alone(study, Path(plan.results), stop):
            ask = None if stop.is_set() else ask_for(study, plan, before.again)
            if ask is not None:
                yield ask


@contextlib.contextmanager
def _alone(study: Study, root: Path, stop: Event) -> Iterator[None]:
    """The lock of a study's folder, waited for until ``stop`` is set."""
    lock = Store(root).lock(root)
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        say(f"note: waiting for another command that searches for the values of {name_of(study)}")
    while not lock.is_locked and not stop.is_set():
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


def name_of(study: Study) -> str:
    """A study in a sentence."""
    return f"{study.cell.method} on {study.cell.dataset}/{study.cell.network} (study {study.id})"


def ask_for(study: Study, plan: Plan, failed: Mapping[str, str] | None = None) -> Ask | None:
    """What is left of a study, with all that is known of it; None where nothing is left. A search trial that failed
    counts as tried, unless failed ones are to be run again: all, or those of ``failed``, as in ``Ask.again``, so that
    of two commands only one does it."""
    store = Store(Path(plan.results))
    store.prepare()
    drawn = study.budget.search == "random"
    trials = [chain[-1] for chain in chains_of(study, _results_of(plan))]
    ended = {trial.id: _failed(store, trial) for trial in trials if plan.rerun == "failed"}
    again = {name: at for name, at in ended.items() if at and (failed is None or failed.get(name) == at)}
    begun = [trial for trial in trials if trial.id in again or not is_over(store, trial)]
    proposed = 0 if drawn else study.budget.trials - len(trials)
    if not begun and not proposed:
        return None
    over = [[trial] for trial in trials if trial not in begun]
    seen = read_trials(study, _results_of(plan), over).tried if over else ()
    return Ask(
        template=job_of(plan, store, study.chain(study.points[0])[-1]),
        points=tuple(values_of(trial.spec, study.space) for trial in (trials if drawn else begun)),
        asha=study.budget.scheduler == "asha",
        space=study.space,
        propose=proposed,
        seed=study.budget.seed + len(over),
        known=tuple((each.values, max(each.validation_top1.items())[1]) for each in seen if each.validation_top1),
        again=again,
    )


def _failed(store: Store, trial: Trial) -> str:
    """The seal of the record of a search trial that failed; empty for all others."""
    found = None if stopped_after(store.folder(trial.spec, trial.id)) is not None else store.result(trial)
    return found.checksums["trial.json"] if found is not None and found.status != "ok" else ""


def _results_of(plan: Plan) -> Path:
    """The results folder that a study's folder lies in."""
    return Path(plan.results).parent.parent


def is_over(store: Store, trial: Trial) -> bool:
    """Whether a search trial has its record, or was stopped for good."""
    return store.result(trial) is not None or stopped_after(store.folder(trial.spec, trial.id)) is not None


class _StudyMonitor(Monitor):
    """Follows the trials of studies, also those that a searcher has yet to propose."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__([], Store(Path(plans[0].results)))
        self._stores = [Store(Path(plan.results)) for plan in plans]
        self._known = {path for store in self._stores for path in self._begun(store) if (path.parent / TRIAL).exists()}

    @staticmethod
    def _begun(store: Store) -> list[Path]:
        return sorted(store.trials.glob("*/*/*/*/started.json"))

    def poll(self) -> list[str]:
        for store in self._stores:
            for path in self._begun(store):
                if path not in self._known:
                    self._known.add(path)
                    with contextlib.suppress(FileNotFoundError, DamagedRecord):
                        result = read_result(path)
                        self.watch(Trial(spec=result.spec, identity=result.identity), store, begun=True)
        return super().poll()

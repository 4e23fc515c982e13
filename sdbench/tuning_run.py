"""``sdbench tune`` at work: the searches, the choice, the trials with the chosen values, and what is told of them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdbench import boards
from sdbench.commands import carry_out
from sdbench.engine import ray_search
from sdbench.engine.ray_search import Ask
from sdbench.leaderboard_tuning import tuned_text, values_text
from sdbench.plan import Plan
from sdbench.progress import Monitor, Reporter
from sdbench.run import Outcome, execute, job_of, settle, signals, summary
from sdbench.spec import Trial
from sdbench.store import DamagedRecord, Store, read_result
from sdbench.study import Study, read_trials
from sdbench.study_records import StudyResult, stopped_after, write_study
from sdbench.study_values import values_of
from sdbench.tuning import TuningPlan, final_plan, plan_tuning

TRIAL = "trial.json"


@dataclass
class TuneOutcome:
    """What a search left behind: the studies, the baseline's first, and the trials with the chosen values. signal: the
    number of the signal that ended the search, or 0."""

    studies: list[StudyResult] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """As of a run; 1 where a study has no configuration to choose, too. A failed search trial is no failure."""
        if self.signal:
            return 128 + self.signal
        return self.outcome.exit_code or int(any(study.chosen is None for study in self.studies))


def run(
    flags: Mapping[str, Any],
    command: Sequence[str] = (),
    *,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> tuple[str, list[str], int]:
    """Search and train what is missing. Returns the board as text or JSON, closing lines, and the exit code."""
    found = plan_tuning(flags, command)
    if dry_run:
        return preview(found, as_json), [], 0
    done, finals, written = carry_through(found, quiet=quiet)
    told = [line for study in done.studies for line in lines_of(study)]
    if finals is None:
        return "", [*told, "next: the same command again; it resumes from the checkpoints"], done.exit_code
    results = Path(found.base.results)
    board = boards.text_of(done.outcome.results, found.base.baseline, "json" if as_json else "text", results)
    return board.rstrip("\n"), [*told, *summary(finals, done.outcome, written)], done.exit_code


def carry_through(found: TuningPlan, *, quiet: bool) -> tuple[TuneOutcome, Plan | None, Path | None]:
    """The searches, then the trials with what was chosen; those are not begun before all searches are over."""
    done = TuneOutcome()
    done.studies, done.signal = search(found, quiet=quiet)
    if done.signal or not all(study.over for study in done.studies):
        return done, None, None
    finals = final_plan(found, done.studies)
    done.outcome, written = carry_out(finals, quiet=quiet)
    return done, finals, written


def search(found: TuningPlan, *, quiet: bool) -> tuple[list[StudyResult], int]:
    """Carry out what is missing of all studies and write their records. Returns those, and the number of the signal
    that cut the search short, or 0."""
    results = Path(found.base.results)
    by_tune = [s for s in found.studies if s.budget.scheduler != "none" or s.budget.search == "optuna"]
    signal = 0
    for study in found.studies:
        if study not in by_tune and not signal:
            signal = execute(_search_plan(found, study), quiet=quiet).signal
    if by_tune and not signal:
        signal = _with_tune(found, by_tune, quiet=quiet)
    studies = []
    for study in found.studies:
        studies.append(read_trials(study, results, _chains(study, results)))
        write_study(study.root(results), studies[-1])
    return studies, signal


def _search_plan(found: TuningPlan, study: Study) -> Plan:
    """A study as a run of its own in the study's folder. Neither weights nor logits of search trials are kept, but for
    those of teachers."""
    early = study.budget.scheduler != "none"
    own = {"keep_weights": False, "keep_logits": False, "logits_every": 0, "eval_every": 1 if early else 0}
    return found.base.model_copy(
        update={
            "trials": tuple({trial.id: trial for chain in study.chains for trial in chain}.values()),
            "options": found.base.options.model_copy(update=own),
            "results": str(study.root(Path(found.base.results))),
            "rerun": "none",
        }
    )


def _chains(study: Study, results: Path) -> list[list[Trial]]:
    """The trials of every configuration known: those planned, then what a searcher proposed, in the order of their
    beginning."""
    chains = study.chains
    if study.budget.search == "random":
        return chains
    planned = {chain[-1].id for chain in chains}
    scanned = Store(study.root(results)).scan().results
    others = [r for r in scanned if r.trial_id not in planned]
    others.sort(key=lambda r: (r.provenance.started, r.trial_id))
    return [*chains, *([Trial(spec=r.spec, identity=r.identity, caveat=r.caveat)] for r in others)]


def _with_tune(found: TuningPlan, studies: Sequence[Study], *, quiet: bool) -> int:
    """The searches that Ray Tune steers; returns the number of the signal that ended them, or 0."""
    plans = [_search_plan(found, study) for study in studies]
    asks = [ask for study, plan in zip(studies, plans, strict=True) if (ask := _ask(study, plan)) is not None]
    with signals() as caught, Reporter(_StudyMonitor(plans), sys.stderr, quiet=quiet):
        ray_search.run(asks, found.base.typed_resources(), caught.stop)
        if caught.stop.is_set():
            for plan in plans:
                store = Store(Path(plan.results))
                settle(store, [Trial(spec=r.spec, identity=r.identity) for r in store.scan().results])
    return caught.number


def _ask(study: Study, plan: Plan) -> Ask | None:
    """What is left of a study, with all that is known of it; None where nothing is left. A search trial that failed
    counts as tried."""
    store = Store(Path(plan.results))
    store.prepare()
    drawn = study.budget.search == "random"
    trials = [chain[-1] for chain in _chains(study, _results_of(plan))]
    begun = [trial for trial in trials if not _over(store, trial)]
    proposed = 0 if drawn else max(0, study.budget.trials - len(trials))
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
    )


def _results_of(plan: Plan) -> Path:
    """The results folder that a study's folder lies in."""
    return Path(plan.results).parent.parent


def _over(store: Store, trial: Trial) -> bool:
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


def lines_of(study: StudyResult) -> list[str]:
    """What a study found, and what it cost, in a sentence."""
    budget, told = study.budget, study.told
    who = f"{study.spec.method} on {study.spec.dataset}/{study.spec.network}"
    spent = f"{len(study.tried)} of {budget.trials} search trials, {study.epochs} epochs"
    if told is None:
        return [f"tuned {who}: {'no search trial finished' if study.over else 'the search is not over'} ({spent})"]
    lines = [f"tuned {who}: {values_text(told.values)}; {tuned_text(told)}; {spent}"]
    bad = [f"{each.status}: {values_text(each.values)}: {each.reason}" for each in study.tried if each.reason]
    return lines + [f"  {line}" for line in bad]


def preview(found: TuningPlan, as_json: bool) -> str:
    """What a search would do: per study its space and how many of its trials are over, and the trials that follow."""
    rows = []
    for study in found.studies:
        store, cell = Store(study.root(Path(found.base.results))), study.cell
        over = sum(_over(store, chain[-1]) for chain in _chains(study, Path(found.base.results)))
        rows.append(
            {
                "study_id": study.id,
                "dataset": cell.dataset,
                "network": cell.network,
                "method": cell.method,
                "space": {name: str(space) for name, space in study.space.items()},
                "default": study.points[0],
                "trials": study.budget.trials,
                "over": over,
                "epochs": study.budget.epochs,
                "seeds": found.seeds,
            }
        )
    if as_json:
        return json.dumps({"studies": rows, "engine": found.base.engine}, indent=1)
    lines = []
    for row in rows:
        space = ", ".join(f"{name} {each}" for name, each in row["space"].items())  # type: ignore[attr-defined]
        lines.append(
            f"{row['method']} on {row['dataset']}/{row['network']}: {row['trials']} search trials of {row['epochs']} "
            f"epochs, {row['over']} of them over; {space}"
        )
    lines.append(f"then {len(found.studies)} methods with {len(found.seeds)} seeds each; nothing was started")
    return "\n".join(lines)

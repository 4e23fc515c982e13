"""``sdbench tune`` at work: the searches, the choice, the trials with the chosen values, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdbench import boards
from sdbench.commands import carry_out
from sdbench.leaderboard_tuning import tuned_text, values_text
from sdbench.plan import Plan
from sdbench.run import Outcome, summary
from sdbench.store import Store
from sdbench.study_records import StudyResult
from sdbench.study_search import chains_of, is_over, search
from sdbench.tuning import TuningPlan, final_plan, plan_tuning


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
    if finals is None:
        return "", closing_lines(done, finals, written), done.exit_code
    results = Path(found.base.results)
    board = boards.text_of(done.outcome.results, found.base.baseline, "json" if as_json else "text", results)
    return board.rstrip("\n"), closing_lines(done, finals, written), done.exit_code


def closing_lines(done: TuneOutcome, finals: Plan | None, written: Path | None) -> list[str]:
    """What was found, what became of the trials with it, and what to type next."""
    told = [line for study in done.studies for line in lines_of(study)]
    if finals is None:
        return [*told, "next: the same command again; it resumes from the checkpoints"]
    after = summary(finals, done.outcome, written) if finals.trials else ["next: the same command again"]
    if done.outcome.exit_code == 0 and any(study.chosen is None for study in done.studies):
        after[-1] = "next: the same command with --rerun failed, which runs failed search trials again"
    return told + after


def carry_through(found: TuningPlan, *, quiet: bool) -> tuple[TuneOutcome, Plan | None, Path | None]:
    """The searches, then the trials with what was chosen; those are not begun before all searches are over."""
    done = TuneOutcome()
    done.studies, done.signal = search(found.studies, found.base, quiet=quiet)
    if done.signal or not all(study.over for study in done.studies):
        return done, None, None
    finals = final_plan(found, done.studies)
    done.outcome, written = carry_out(finals, quiet=quiet)
    return done, finals, written


def lines_of(study: StudyResult) -> list[str]:
    """What a study found, and what it cost, in a sentence."""
    budget, told = study.budget, study.told
    who = f"{study.spec.method} on {study.spec.dataset}/{study.spec.network}"
    spent = f"{len(study.tried)} of {budget.trials} search trials, {study.epochs} epochs"
    if told is not None:
        lines = [f"tuned {who}: {values_text(told.values)}; {tuned_text(told)}; {spent}"]
    else:
        lines = [f"tuned {who}: {'no search trial finished' if study.over else 'the search is not over'} ({spent})"]
    bad = [f"{each.status}: {values_text(each.values)}: {each.reason}" for each in study.tried if each.reason]
    return lines + [f"  {line}" for line in bad]


def preview(found: TuningPlan, as_json: bool) -> str:
    """What a search would do: per study its space and how many of its trials are over, and the trials that follow."""
    rows = []
    for study in found.studies:
        store, cell = Store(study.root(Path(found.base.results))), study.cell
        over = sum(is_over(store, chain[-1]) for chain in chains_of(study, Path(found.base.results)))
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

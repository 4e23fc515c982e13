"""``sdbench tune``: the same number of search trials for every method, then fresh seeds with what was chosen.

Each method variant is a study of its own (``sdbench.study``), the baseline always among them. Search trials train on a
split of the training set and are judged on its held-out images; they never see the test set. What they choose is
trained on the whole training set under protocol ``tuned``, whose trials say in their records how they came to their
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sdbench import registry
from sdbench.engine import ray_search, ray_tune
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.plan import Plan, make_plan
from sdbench.protocol import PROTOCOLS, TUNED, Cell, expand, tuned_rules
from sdbench.request import Problems, Request
from sdbench.selectors import parse_variant, split_list
from sdbench.spec import Trial, canonical
from sdbench.study import Study, make_study
from sdbench.study_records import StudyResult
from sdbench.study_values import split
from sdbench.tuning_records import Scheduler, Search
from sdbench.variants import choose_variants

TRIALS = 16
OWN = ("trials", "search", "scheduler", "search_seed")
"""What only this command takes; its other flags are those of a run."""


@dataclass(frozen=True)
class TuningPlan:
    """A search, ready to start. base: how trials are run, and with which seeds; its trials are those of the default
    points. seeds: of the trials with the chosen values."""

    base: Plan
    studies: tuple[Study, ...]
    seeds: tuple[int, ...]


def plan_tuning(flags: Mapping[str, Any], command: Sequence[str] = ()) -> TuningPlan:
    """Judge what was asked for. flags: those of ``Request``, as text, and ``OWN``; lists may be comma-separated.

    Raises UserError with the problems, EnvironmentProblem where Ray or Optuna is wanted and missing.
    """
    problems = Problems()
    request = Request.gather({key: value for key, value in flags.items() if key not in OWN}, None, {})
    budget = _budget(flags, problems)
    problems.choice("rerun", request.rerun, ("none", "failed", "all"), "none")
    plans = [_base(request, dataset, command, problems) for dataset in request.dataset or ("glyphs",)]
    if problems.found or None in plans:
        raise UserError(list(dict.fromkeys(problems.found)))
    base = _together([plan for plan in plans if plan])
    studies = _studies(_cells(base.trials), _fixed(request, problems), budget, problems)
    problems.found += [problem for study in studies for problem in _obstacles(study)]
    if problems.found:
        raise UserError(list(dict.fromkeys(problems.found)))
    _refuse_missing(budget, base.engine, request.engine)
    return TuningPlan(base, studies, tuple(dict.fromkeys(trial.spec.seed for trial in base.trials)))


def _studies(
    cells: Sequence[Cell],
    fixed: Mapping[tuple[str, str, str], Sequence[str]],
    budget: Mapping[str, object],
    problems: Problems,
) -> tuple[Study, ...]:
    made = []
    for cell in cells:
        try:
            made.append(make_study(cell, tuned_rules(cell.dataset), fixed.get(_key(cell), ()), budget))
        except UserError as error:
            problems.found += error.problems
    return tuple(made)


def _budget(flags: Mapping[str, Any], problems: Problems) -> dict[str, object]:
    return {
        "trials": problems.number("trials", flags.get("trials"), int, 1, 10_000) or TRIALS,
        "seed": problems.number("search_seed", flags.get("search_seed"), int, 0, 2**32 - 1) or 0,
        "search": problems.choice("search", flags.get("search"), get_args(Search), "random"),
        "scheduler": problems.choice("scheduler", flags.get("scheduler"), get_args(Scheduler), "none"),
    }


def _base(request: Request, dataset: str, command: Sequence[str], problems: Problems) -> Plan | None:
    """The run of the default points on one data set, the baseline among them."""
    own: dict[str, object] = {"dataset": (dataset,), "baseline": "true"}
    if not request.seeds and not request.num_seeds:
        own["seeds"] = tuple(map(str, PROTOCOLS[TUNED].seeds))
    try:
        return make_plan(request.model_copy(update=own), command)
    except EnvironmentProblem:
        raise
    except UserError as error:
        problems.found += error.problems
        return None


def _together(plans: Sequence[Plan]) -> Plan:
    """The plans of several data sets as one. Raises UserError where two folders of images have one name."""
    first = plans[0]
    folders: dict[str, str] = {}
    for plan in plans:
        twice = [name for name, place in plan.options.folders.items() if folders.get(name, place) != place]
        if twice:
            raise UserError(f"two folders of images are called {twice[0]} in records; rename one, or tune them apart")
        folders |= plan.options.folders
    trials = tuple({trial.id: trial for plan in plans for trial in plan.trials}.values())
    return first.model_copy(update={"trials": trials, "options": first.options.model_copy(update={"folders": folders})})


def _cells(trials: Sequence[Trial]) -> list[Cell]:
    """What is tuned, the baseline first: each variant once, whatever its seeds, generations and splits."""
    found: dict[str, Cell] = {}
    for trial in trials:
        if trial.spec.generation is None:
            named = trial.spec.model_dump(include=set(Cell.model_fields) - {"recipe", "tuning"})
            cell = Cell(**named, recipe=trial.spec.recipe, fingerprint=trial.identity.data_fingerprint)
            found.setdefault(canonical(cell.model_dump(mode="json")), cell)
    base = registry.baseline_name()
    return sorted(found.values(), key=lambda cell: (cell.dataset, cell.network, cell.method != base))


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.dataset, cell.method, canonical(cell.params)


def _fixed(request: Request, problems: Problems) -> dict[tuple[str, str, str], list[str]]:
    """The hyper-parameters that a variant names, which are not searched over. Two variants that are one at their
    default points, and search over other values, are a problem: they would share a row."""
    from sdbench import data

    names = [data.canonical_name(name) for name in request.dataset or ("glyphs",)]
    items = split_list(request.methods)
    plain = [item for item in items if "[" not in item]
    asked: list[tuple[str, list[str], list[str]]] = [(item, [item], _named(item)) for item in items if "[" in item]
    found: dict[tuple[str, str, str], list[str]] = {}
    meant: dict[tuple[str, str, str], str] = {}
    for called, chosen, given in [("", plain, []), *asked] if plain else asked:
        for dataset, variants in choose_variants(chosen, names, Problems()).items():
            for method, params in variants:
                key = (dataset, method, canonical(params))
                if set(found.setdefault(key, given)) != set(given):
                    problems.found.append(
                        f"tune {meant[key]} and {called}: the same values to start from, of which one searches over "
                        "more; name one of them, or another value"
                    )
                meant.setdefault(key, called or method)
    return found


def _named(item: str) -> list[str]:
    """The hyper-parameters that a variant gives, as a trial's parameters name them.

    >>> _named("zipf[power=1]+cutmix[alpha=2]")
    ['power', 'cutmix.alpha']
    """
    members = parse_variant(item)
    prefixes = ["", *(f"{name}." for name, _ in members[1:])]
    return [prefix + key for prefix, (_, own) in zip(prefixes, members, strict=True) for key in own]


def _obstacles(study: Study) -> list[str]:
    """Why a study cannot be carried out as asked."""
    budget, method, problems = study.budget, study.cell.method, []
    early = budget.scheduler != "none" or budget.search == "optuna"
    if early and len(study.chain(study.points[0])) > 1:
        problems.append(
            f"tune {method}: it trains several generations, which are searched with --search random --scheduler none"
        )
    outside = [name for name, value in study.points[0].items() if value not in study.space[name]]
    if budget.search == "optuna" and outside:
        problems.append(
            f"tune {method}: the default of {', '.join(outside)} lies outside its space, from where Optuna cannot "
            "start; use --search random"
        )
    return problems


def _refuse_missing(budget: Mapping[str, object], engine: str, wanted: str | None) -> None:
    """Raises where Ray or Optuna is needed and not to be had."""
    needs = [
        f"--{name} {budget[name]}"
        for name, value in (("scheduler", "asha"), ("search", "optuna"))
        if budget[name] == value
    ]
    if needs and wanted == "local":
        raise UserError(f"{' and '.join(needs)}: done by Ray Tune; leave out --engine local")
    if needs and engine != "ray":
        raise EnvironmentProblem(f"{' and '.join(needs)}: Ray Tune is not installed; pip install 'ray[tune]'")
    if budget["search"] == "optuna" and not ray_search.optuna_available():
        raise EnvironmentProblem(
            "--search optuna: Optuna is not installed; pip install 'sdbench[tune]', or use --search random"
        )
    assert not needs or ray_tune.available()


def final_plan(found: TuningPlan, studies: Sequence[StudyResult]) -> Plan:
    """The trials with the chosen values: the baseline's on every split that is in use, so that all are paired."""
    trials: dict[str, Trial] = {}
    for study, result in zip(found.studies, studies, strict=True):
        if result.chosen is None:
            continue
        recipe, own = split(result.tried[result.chosen].values)
        cell = study.cell.model_copy(
            update={
                "params": {**study.cell.params, **own},
                "recipe": study.cell.recipe.model_copy(update=recipe),
                "tuning": result.tuning,
            }
        )
        rules = tuned_rules(cell.dataset)
        chosen = expand([cell], rules, found.seeds, baseline=False)
        if cell.method == registry.baseline_name() and _holding_out(found.studies, cell):
            chosen += expand([cell], rules.holding_out(), found.seeds, baseline=False)
        trials |= {trial.id: trial.model_copy(update={"tuned": result.told}) for trial in chosen}
    return found.base.model_copy(update={"trials": tuple(trials.values())})


def _holding_out(studies: Sequence[Study], cell: Cell) -> bool:
    """Whether a method beside this one trains on a split."""
    beside = [s.cell for s in studies if (s.cell.dataset, s.cell.network) == (cell.dataset, cell.network)]
    return any(registry.build(other.method, other.params).wants_validation for other in beside)

"""A tuning study: one method's search, as a function of its space, budget, seed and everything else that is fixed.

The published coefficients and the protocol's recipe, the *default point*, are the first configuration of every study,
so that by its own rule a search never does worse than they do. The others are drawn, each value from a stream of its
own: learning rates and weight decays are the same for every method, and more trials continue the same sequence. All
search trials of one seed share a random stream, from which no other trial draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from sdbench import registry
from sdbench.errors import UserError
from sdbench.protocol import HOLDOUT, SEARCH, TUNED_SPACE, Cell, Protocol, expand
from sdbench.space import Space
from sdbench.spec import Trial, TrialResult, digest
from sdbench.store import DamagedRecord, Store, read_curve, read_result
from sdbench.study_records import FOLDER, Ended, StudyResult, Tried, accuracies, choose, stopped_after
from sdbench.study_values import DECAY, LR, Point, drawn, split, values_of
from sdbench.tuning_records import Budget

ATTEMPTS = 1000
"""Draws after which a method whose constructor refuses all of them is given up."""


@dataclass(frozen=True)
class Study:
    """One method's search. points: what is known before it begins: all configurations of a random search, else the
    default point. chains: per point, its trials, teachers first, the one that is scored last."""

    id: str
    cell: Cell
    rules: Protocol
    space: Mapping[str, Space]
    budget: Budget
    points: tuple[Point, ...]

    @property
    def chains(self) -> list[list[Trial]]:
        return [self.chain(point) for point in self.points]

    def chain(self, point: Point) -> list[Trial]:
        """The search trials of a configuration, the one that is scored last."""
        recipe, own = split(point)
        changed = {"params": {**self.cell.params, **own}, "recipe": self.cell.recipe.model_copy(update=recipe)}
        cell = self.cell.model_copy(update={**changed, "search": True})
        return expand([cell], self.rules, [self.budget.seed], baseline=False)

    def root(self, results: Path) -> Path:
        """The study's folder: a store of its own."""
        return results / FOLDER / self.id


def make_study(cell: Cell, rules: Protocol, fixed: Sequence[str], budget: Mapping[str, object]) -> Study:
    """The study of a method variant on one data set and network. cell: at the default point. rules: protocol ``tuned``
    there. fixed: hyper-parameters that keep the cell's value. budget: trials, search, scheduler and seed.

    Raises UserError where the method's constructor refuses whatever is drawn.
    """
    recipe = cell.recipe
    given = {"epochs": recipe.epochs, "split": HOLDOUT, "lr": recipe.lr, "weight_decay": recipe.weight_decay}
    whole = Budget.model_validate({**budget, **given})
    space = {**TUNED_SPACE, **{name: s for name, s in own_space(cell.method).items() if name not in fixed}}
    searching = rules.model_copy(update={"name": rules.name + SEARCH, "split": HOLDOUT})
    default: Point = {LR: recipe.lr, DECAY: recipe.weight_decay}
    default |= {name: cell.params[name] for name in space if name not in default}
    points = [default]
    if whole.search == "random":
        points += draw(cell, space, whole.trials - 1, whole.seed)
    study = Study("", cell, searching, space, whole, tuple(points))
    first = study.chain(default)[-1]
    content = [first.spec, first.identity, whole]
    ranges = {name: str(s) for name, s in space.items()}
    study_id = digest([*(each.model_dump(mode="json") for each in content), ranges])
    return Study(study_id, cell, searching, space, whole, tuple(points))


def own_space(method: str) -> dict[str, Space]:
    """The ranges of a method's hyper-parameters, those of a mixer with its name and a dot before them."""
    base, _, mixer = method.partition("+")
    found = dict(registry.get(base).space)
    return found | ({f"{mixer}.{name}": s for name, s in registry.get(mixer).space.items()} if mixer else {})


def draw(cell: Cell, space: Mapping[str, Space], count: int, seed: int) -> list[Point]:
    """Configurations of a random search, each value from its own stream; those that the method's constructor refuses
    are drawn again. Raises UserError where it refuses a thousand in a row."""
    streams = {
        name: Random(f"{seed}/{name}" if name in TUNED_SPACE else f"{seed}/{cell.method}/{name}") for name in space
    }
    own = [name for name in space if name not in TUNED_SPACE]
    points: list[Point] = []
    for _ in range(count):
        recipe = {name: drawn(space[name], streams[name], 0.0) for name in space if name in TUNED_SPACE}
        for _ in range(ATTEMPTS):
            values = {name: drawn(space[name], streams[name], cell.params[name]) for name in own}
            if accepted(cell, values):
                break
        else:
            raise UserError(f"tune {cell.method}: its constructor refuses {ATTEMPTS} draws from its space in a row")
        points.append({**recipe, **values})
    return points


def accepted(cell: Cell, values: Point) -> bool:
    """Whether the method's constructor takes these values together."""
    try:
        registry.build(cell.method, {**cell.params, **values})
    except Exception:  # a plug-in's constructor may raise anything to refuse
        return False
    return True


def read_trials(study: Study, results: Path, chains: Sequence[Sequence[Trial]]) -> StudyResult:
    """The study as its trials' records tell it."""
    store = Store(study.root(results))
    tried = tuple(_tried(study, store, chain) for chain in chains)
    first = chains[0][-1]
    return StudyResult(
        study_id=study.id,
        budget=study.budget,
        spec=first.spec,
        identity=first.identity,
        space={name: str(s) for name, s in study.space.items()},
        tried=tried,
        chosen=choose(tried, study.budget),
    )


def _tried(study: Study, store: Store, chain: Sequence[Trial]) -> Tried:
    records = [found for trial in chain if (found := record_of(store, trial)) is not None]
    last = chain[-1]
    folder = store.folder(last.spec, last.id)
    found = records[-1] if records and records[-1].trial_id == last.id else None
    curve = accuracies(folder)
    if found is not None and found.validation_top1 is not None:
        curve[study.budget.epochs] = found.validation_top1
    # A trial trains on while the scheduler decides; what it gets done until it ends is a matter of its speed.
    stop = stopped_after(folder)
    status: Ended = "stopped" if stop is not None else found.status if found else "interrupted"
    return Tried(
        trial_id=last.id,
        values=values_of(last.spec, study.space),
        status=status,
        reason=found.reason if found and stop is None else "",
        epochs=sum(_trained(store, trial) for trial in chain),
        train_s=sum(record.cost.train_s for record in records if record.cost),
        validation_top1={epoch: top1 for epoch, top1 in curve.items() if stop is None or epoch <= stop},
    )


def _trained(store: Store, trial: Trial) -> int:
    """The epochs that a trial trained. One whose process was killed wrote no record, and its curve knows."""
    record = record_of(store, trial)
    curve = read_curve(store.folder(trial.spec, trial.id) / "curve.jsonl")
    return max(record.epochs_done if record else 0, len(curve))


def record_of(store: Store, trial: Trial) -> TrialResult | None:
    """A trial's record, whatever it says; None where there is none to be read."""
    try:
        return read_result(store.folder(trial.spec, trial.id) / "trial.json")
    except (FileNotFoundError, DamagedRecord):
        return None

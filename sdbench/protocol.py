"""The rules of the benchmark, top to bottom, in one place.

A protocol fixes everything about training that is not the method. Raise its version whenever
anything here, in the trainer, the networks or the data changes what a trial computes: results of
different versions never share a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from sdbench import registry
from sdbench.identity import method_source
from sdbench.method import Method
from sdbench.space import LogUniform, Space
from sdbench.spec import Identity, Recipe, Record, Trial, TrialSpec, Tuning, Value

HOLDOUT = "holdout-0.1"
"""The split of methods that need validation data and of the baselines they are paired with; with
``--temperature-scaling``, of every method."""

DISTILLED = "-distill"
"""Behind the name of a protocol: its rules, for students that a finished network teaches (``sdbench distill``)."""

TUNED = "tuned"
"""The protocol whose values ``sdbench tune`` searches for, with the same number of search trials for every method."""

SEARCH = "-search"
"""Behind the name of a protocol: its rules, for the search trials, which no board shows."""

TUNED_SPACE: dict[str, Space] = {"recipe.lr": LogUniform(0.01, 1.0), "recipe.weight_decay": LogUniform(5e-5, 5e-3)}
"""What is searched for of every method, ``ce`` included, beside the method's own ``space``: a factor of ten and more on
either side of the papers' recipe."""


class Protocol(Record):
    """One named set of rules. ``selection`` is the rule that picks the number on the board."""

    name: str
    version: str
    summary: str
    epochs: int
    recipe: Recipe
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    split: str = "full"
    seeds: tuple[int, ...]
    network: str
    eval_every: int
    recommended: bool = True
    selection: str = "test accuracy of the last epoch"

    def holding_out(self) -> Protocol:
        """The same rules, with images held out for every method: what temperature scaling needs."""
        return self if self.split != "full" else self.model_copy(update={"split": HOLDOUT})

    def recipe_for(self, augment: str, overrides: Mapping[str, object]) -> Recipe:
        """The recipe on a data set with its own augmentation, with what the user set."""
        values = {**self.recipe.model_dump(), "augment": augment, **overrides}
        values["warmup_epochs"] = self.warmup_share * float(str(values["epochs"]))
        return Recipe.model_validate(values)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="fixed",
            version="1",
            summary="the papers' recipe: SGD, 200 epochs, rate / 10 at 50 % and 75 %, published coefficients",
            epochs=200,
            recipe=Recipe(epochs=200),
            seeds=(0, 1, 2),
            network="preact_resnet18",
            eval_every=10,
        ),
        Protocol(
            name="holdout",
            version="1",
            summary="as fixed, with a tenth of the training set held out for validation",
            epochs=200,
            recipe=Recipe(epochs=200),
            split=HOLDOUT,
            seeds=(0, 1, 2),
            network="preact_resnet18",
            eval_every=10,
        ),
        Protocol(
            name="demo",
            version="1",
            summary="two epochs in small batches, warm-up and cosine: shows the tool at work, ranks nothing",
            epochs=2,
            recipe=Recipe(epochs=2, batch_size=32, lr=0.25, schedule="cosine"),
            warmup_share=0.25,
            seeds=(0, 1),
            network="resnet8",
            eval_every=1,
        ),
        Protocol(
            name=TUNED,
            version="1",
            summary="as fixed (on glyphs as demo), with rate, decay and coefficients that sdbench tune searches for",
            epochs=200,
            recipe=Recipe(epochs=200),
            seeds=(0, 1, 2),
            network="preact_resnet18",
            eval_every=10,
        ),
    )
}


def tuned_rules(dataset: str) -> Protocol:
    """Protocol ``tuned`` on a data set: the rules that a run takes there by default, before any value is chosen."""
    own, base = PROTOCOLS[TUNED], PROTOCOLS["demo" if dataset == "glyphs" else "fixed"]
    return base.model_copy(update={"name": TUNED, "version": own.version, "summary": own.summary, "seeds": own.seeds})


def known(name: str, dataset: str = "") -> Protocol | None:
    """The protocol of a record by its name, that of a student's or a search trial included; None where there is none
    such. dataset: on which protocol ``tuned`` depends.

    >>> known("demo-distill").epochs == PROTOCOLS["demo"].epochs
    True
    >>> known("tuned-search", "glyphs").epochs == PROTOCOLS["demo"].epochs
    True
    """
    plain = name.removesuffix(DISTILLED).removesuffix(SEARCH)
    base = tuned_rules(dataset) if plain == TUNED else PROTOCOLS.get(plain)
    return base.model_copy(update={"name": name}) if base else None


class Cell(Record):
    """One method variant on one data set and network, before seeds and generations. search, tuning: as in TrialSpec."""

    method: str
    params: dict[str, Value]
    dataset: str
    image_size: int | None
    fingerprint: str
    network: str
    recipe: Recipe
    precision: str
    threads: int
    limit_steps: int | None = None
    search: bool = False
    tuning: Tuning | None = None
    shards: int = 1


def expand(cells: Sequence[Cell], protocol: Protocol, seeds: Sequence[int], *, baseline: bool) -> list[Trial]:
    """All trials of a run, teachers before their students, seed by seed, without duplicates.

    With ``baseline`` the baseline is added on every data set, network and split in use.
    """
    trials: dict[str, Trial] = {}
    for seed in seeds:
        for cell in cells:
            probe = traits(cell.method, cell.params)
            split = HOLDOUT if probe.wants_validation else protocol.split
            chain: list[Trial] = []
            if baseline:
                chain.append(_trial(_baseline(cell), protocol, split, seed))
            chain += _generations(cell, protocol, split, seed, probe.generations)
            trials.update({trial.id: trial for trial in chain if trial.id not in trials})
    return list(trials.values())


def baselines(cells: Sequence[Cell], protocol: Protocol, seeds: Sequence[int]) -> list[Trial]:
    """The baseline alone under each cell's conditions and on the split that its method needs, without duplicates."""
    trials: dict[str, Trial] = {}
    for seed in seeds:
        for cell in cells:
            probe = traits(cell.method, cell.params)
            trial = _trial(_baseline(cell), protocol, HOLDOUT if probe.wants_validation else protocol.split, seed)
            trials.setdefault(trial.id, trial)
    return list(trials.values())


def traits(name: str, params: Mapping[str, Value]) -> Method | type[Method]:
    """A method, for its class attributes; the class itself where its constructor is broken, which its trial will say.

    UserError, ValueError and TypeError go through: they tell that the values do not suit it.
    """
    try:
        return registry.build(name, params)
    except (ValueError, TypeError):
        raise
    except Exception:  # a plug-in's constructor may raise anything
        return registry.get(name.partition("+")[0])


def _generations(cell: Cell, protocol: Protocol, split: str, seed: int, generations: int) -> list[Trial]:
    """A chain: the baseline on the stream (seed, 0), then the method, last on the seed's own stream."""
    chain: list[Trial] = []
    for generation in range(generations):
        last = generation == generations - 1
        first_teacher = generation == 0 and not last
        chain.append(
            _trial(
                _baseline(cell) if first_teacher else cell,
                protocol,
                split,
                seed,
                generation=None if last else generation,
                teacher=chain[-1].id if chain else None,
            )
        )
    return chain


def _baseline(cell: Cell) -> Cell:
    name = registry.baseline_name()
    return cell.model_copy(update={"method": name, "params": registry.resolve(name, cell.dataset, {})})


def _trial(
    cell: Cell,
    protocol: Protocol,
    split: str,
    seed: int,
    generation: int | None = None,
    teacher: str | None = None,
) -> Trial:
    spec = TrialSpec(
        **cell.model_dump(exclude={"fingerprint", "recipe"}),
        recipe=cell.recipe,
        split=split,
        protocol=protocol.name,
        seed=seed,
        generation=generation,
        teacher=teacher,
    )
    identity = Identity(
        method_source=method_source(cell.method),
        data_fingerprint=cell.fingerprint,
        protocol_version=protocol.version,
    )
    return Trial(spec=spec, identity=identity, caveat=registry.caveat(cell.method))

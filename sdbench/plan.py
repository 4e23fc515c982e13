"""From what a user typed to a list of trials. Everything is read loosely and judged together, so
that all mistakes are named at once and before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdbench import data, registry, shards, zoo
from sdbench.budget import Budget, budget_for
from sdbench.engine import Resources, ray_tune
from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.iso_cost import iso_cost_cells
from sdbench.paths import absolute_text, path_of
from sdbench.plan_options import joined, options_of, resources_of
from sdbench.protocol import PROTOCOLS, TUNED, Cell, Protocol, baselines, expand
from sdbench.request import Problems, Request
from sdbench.selectors import parse_seeds
from sdbench.spec import POLICIES, Options, Recipe, Record, Trial, Value
from sdbench.store import Store
from sdbench.variants import choose_variants

MAX_TRIALS = 100_000
"""Of one run: more are rather a slip of the pen, and a plan of them would not fit in memory."""


class Plan(Record):
    """A run, ready to start."""

    trials: tuple[Trial, ...]
    options: Options
    resources: dict[str, Any]
    engine: str
    results: str
    rerun: str
    baseline: str
    budget: Budget | None = None

    def typed_resources(self) -> Resources:
        return Resources(**self.resources)


def make_plan(request: Request, command: Sequence[str] = (), *, look: bool = False) -> Plan:
    """Judge a request as a whole. Raises UserError with every problem, or EnvironmentProblem where nothing is wrong
    with the request but the machine lacks something. look: no results folder is needed."""
    request = joined(request, problems := Problems())
    for plugin in request.plugin:
        problems.attempt(lambda plugin=plugin: registry.load_plugin(plugin))  # type: ignore[misc]
    protocol = _protocol(request, problems)
    overrides = _overrides(request, problems)
    networks = problems.attempt(lambda: zoo.choose(request.model or [protocol.network]))
    seeds = _seeds(request, protocol, problems)
    precision = problems.choice("precision", request.precision, ("bf16", "fp32"), "bf16")
    threads = problems.number("threads", request.threads, int, 1, 1024) or 1
    variants = choose_variants(request.methods or registry.core_names(), _dataset_names(request, problems), problems)
    options = options_of(request, protocol, problems, command)
    resources = resources_of(request, problems)
    engine = problems.choice("engine", request.engine, ("auto", "ray", "local"), "auto")
    rerun = problems.choice("rerun", request.rerun, ("none", "failed", "stale", "all"), "none")
    baseline = problems.choice("baseline", request.baseline, ("true", "false"), "true") == "true"
    limit_steps = problems.number("limit_steps", request.limit_steps, int, 1, 2**31)
    iso_cost = problems.choice("iso-cost", request.iso_cost, ("true", "false"), "false") == "true"
    budget = problems.attempt(lambda: budget_for(request.budget, options.device, elsewhere=bool(request.address)))
    results = Path(absolute_text(request.results or "results"))
    if not look:
        problems.attempt(Store(results).prepare)
    datasets = _datasets(request, problems)  # last: it may download, which only a sound request is worth
    recipes = _recipes(protocol, datasets, overrides, problems)
    shards.judge(resources.gpus_per_trial, variants, recipes, problems)
    if problems.found or networks is None:
        raise problems.raised()
    shared = precision, threads, resources.gpus_per_trial, limit_steps
    cells = [
        _cell(facts, network, name, params, recipes[facts.name], *shared)
        for facts in datasets
        for network in networks
        for name, params in variants[facts.name]
    ]
    _refuse_too_many(len(cells), len(seeds))
    trials = expand(cells, protocol, seeds, baseline=baseline)
    if iso_cost:
        trials += _longer_baselines(cells, datasets, protocol, overrides, results, options.device, seeds)
    return Plan(
        trials=tuple(trials),
        options=options,
        resources=vars(resources),
        engine=_engine(engine, request.address),
        results=str(results),
        rerun=rerun,
        baseline=registry.baseline_name(),
        budget=budget,
    )


def _refuse_too_many(cells: int, seeds: int) -> None:
    if cells * seeds > MAX_TRIALS:
        raise UserError(f"{cells} settings with {seeds} seeds each: more than {MAX_TRIALS} trials; ask for fewer")


def _cell(
    facts: DataChoice,
    network: str,
    method: str,
    params: dict[str, Value],
    recipe: Recipe,
    precision: str,
    threads: int,
    shards: int,
    limit_steps: int | None,
) -> Cell:
    return Cell(
        method=method,
        params=params,
        dataset=facts.name,
        image_size=facts.spec_image_size,
        fingerprint=facts.fingerprint,
        network=network,
        recipe=recipe,
        precision=precision,
        threads=threads,
        shards=shards,
        limit_steps=limit_steps,
    )


def _longer_baselines(
    cells: Sequence[Cell],
    datasets: Sequence[DataChoice],
    protocol: Protocol,
    overrides: Mapping[str, object],
    results: Path,
    device: str,
    seeds: Sequence[int],
) -> list[Trial]:
    """The iso-cost baseline of every method."""
    facts = {each.name: each for each in datasets}

    def recipe_for(dataset: str, epochs: int) -> Recipe:
        return protocol.recipe_for(facts[dataset].augment, {**overrides, "epochs": epochs})

    sizes = {name: each.num_classes for name, each in facts.items()}
    return baselines(iso_cost_cells(cells, results, device, sizes, recipe_for), protocol, seeds)


def _protocol(request: Request, problems: Problems) -> Protocol:
    default = "demo" if all(name == "glyphs" for name in request.dataset) else "fixed"
    name = request.protocol or default
    if name not in PROTOCOLS:
        problems.found.append(unknown("protocol", name, PROTOCOLS))
        name = default
    if name == TUNED:
        problems.found.append("--protocol tuned: its values have to be searched for first; `sdbench tune` does both")
    scale = problems.choice("temperature-scaling", request.temperature_scaling, ("true", "false"), "false")
    return PROTOCOLS[name].holding_out() if scale == "true" else PROTOCOLS[name]


def _overrides(request: Request, problems: Problems) -> dict[str, object]:
    read = {
        "epochs": problems.number("epochs", request.epochs, int, 1, 100_000),
        "batch_size": problems.number("batch_size", request.batch_size, int, 2, 1_000_000),
        "lr": problems.number("lr", request.lr, float, 1e-12, 1000),
        "weight_decay": problems.number("weight_decay", request.weight_decay, float, 0, 10),
        "policy": problems.choice("augment", request.augment, POLICIES, "basic"),
    }
    if request.limit_steps is not None and request.epochs is None:
        read["epochs"] = 1
    return {key: value for key, value in read.items() if value is not None}


def _recipes(
    protocol: Protocol, datasets: Sequence[DataChoice], overrides: Mapping[str, object], problems: Problems
) -> dict[str, Recipe]:
    """The recipe on each data set, which differs in its augmentation only."""
    found = {}
    for facts in datasets:
        try:
            found[facts.name] = protocol.recipe_for(facts.augment, overrides)
        except ValidationError as error:
            problems.found += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return found


@dataclass(frozen=True)
class DataChoice:
    """A data set that was found, as the plan needs it."""

    name: str
    fingerprint: str
    augment: str
    num_classes: int
    spec_image_size: int | None


def _dataset_names(request: Request, problems: Problems) -> list[str]:
    """The names that records hold, of those data sets that exist by name."""
    names = request.dataset or ("glyphs",)
    if sum(name.startswith("folder:") for name in names) > 1:
        problems.found.append("more than one folder: data set in one run; give each a run of its own")
    found = [problems.attempt(lambda name=name: data.canonical_name(name)) for name in names]  # type: ignore[misc]
    return [name for name in found if name is not None]


def _datasets(request: Request, problems: Problems) -> list[DataChoice]:
    """The data sets, found and checked; where the request has mistakes already, nothing is downloaded."""
    size = problems.number("image_size", request.image_size, int, 8, 4096)
    location = path_of(request.data_dir).absolute() if request.data_dir else None
    found = []
    for name in request.dataset or ("glyphs",):
        if problems.found and name in data.LOCAL_FIRST:
            problems.attempt(lambda name=name: data.find(name, location))  # type: ignore[misc]
            continue
        facts = problems.attempt(lambda name=name: data.inspect(name, location, size))  # type: ignore[misc]
        if facts is not None:
            found.append(
                DataChoice(data.canonical_name(name), facts.fingerprint, facts.augment, facts.num_classes, size)
            )
    return found


def _seeds(request: Request, protocol: Protocol, problems: Problems) -> tuple[int, ...]:
    if request.seeds and request.num_seeds:
        problems.found.append("--seeds and --num-seeds together; give one of them")
    if request.seeds:
        return problems.attempt(lambda: parse_seeds(request.seeds)) or protocol.seeds
    count = problems.number("num_seeds", request.num_seeds, int, 1, 10_000)
    return tuple(range(count)) if count else protocol.seeds


def _engine(wanted: str, address: str | None) -> str:
    if wanted == "local":
        return "local"
    if ray_tune.available():
        return "ray"
    if wanted == "ray" or address:
        what = f"--address {address}" if address else "--engine ray"
        raise EnvironmentProblem(f"{what}: Ray is not installed; pip install 'ray[tune]', or use --engine local")
    return "local"

"""From what a user typed to a list of trials. Everything is read loosely and judged together, so
that all mistakes are named at once and before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdbench import data, registry, zoo
from sdbench.engine import Resources, ray_tune
from sdbench.environment import choose_device, public_command
from sdbench.errors import EnvironmentProblem, unknown
from sdbench.iso_cost import iso_cost_cells
from sdbench.protocol import PROTOCOLS, Cell, Protocol, baselines, expand
from sdbench.request import Problems, Request
from sdbench.selectors import parse_duration, parse_seeds
from sdbench.spec import Options, Recipe, Record, Trial, Value
from sdbench.store import Store
from sdbench.variants import choose_variants


class Plan(Record):
    """A run, ready to start."""

    trials: tuple[Trial, ...]
    options: Options
    resources: dict[str, Any]
    engine: str
    results: str
    rerun: str
    baseline: str

    def typed_resources(self) -> Resources:
        return Resources(**self.resources)


def make_plan(request: Request, command: Sequence[str] = ()) -> Plan:
    """Judge a request as a whole. Raises UserError with every problem, or EnvironmentProblem where
    nothing is wrong with the request but the machine lacks something."""
    problems = Problems()
    for plugin in request.plugin:
        problems.attempt(lambda plugin=plugin: registry.load_plugin(plugin))  # type: ignore[misc]
    protocol = _protocol(request, problems)
    overrides = _overrides(request, problems)
    networks = problems.attempt(lambda: zoo.choose(request.model or [protocol.network]))
    seeds = _seeds(request, protocol, problems)
    precision = problems.choice("precision", request.precision, ("bf16", "fp32"), "bf16")
    threads = problems.number("threads", request.threads, int, 1, 1024) or 1
    variants = choose_variants(request.methods or registry.core_names(), _dataset_names(request, problems), problems)
    options = _options(request, protocol, problems, command)
    resources = _resources(request, problems)
    engine = problems.choice("engine", request.engine, ("auto", "ray", "local"), "auto")
    rerun = problems.choice("rerun", request.rerun, ("none", "failed", "all"), "none")
    baseline = problems.choice("baseline", request.baseline, ("true", "false"), "true") == "true"
    iso_cost = problems.choice("iso-cost", request.iso_cost, ("true", "false"), "false") == "true"
    results = Path(request.results or "results").expanduser().absolute()
    problems.attempt(Store(results).prepare)
    datasets = _datasets(request, problems)  # last: it may download, which only a sound request is worth
    recipes = _recipes(protocol, datasets, overrides, problems)
    if problems.found or networks is None:
        raise problems.raised()
    cells = [
        _cell(facts, network, name, params, recipes[facts.name], precision, threads)
        for facts in datasets
        for network in networks
        for name, params in variants[facts.name]
    ]
    trials = expand(cells, protocol, seeds, baseline=baseline)
    if iso_cost:
        trials += _longer_baselines(cells, datasets, protocol, overrides, results, options.device, seeds)
    return Plan(
        trials=tuple(trials),
        options=options,
        resources=vars(resources),
        engine=_engine(engine),
        results=str(results),
        rerun=rerun,
        baseline=registry.baseline_name(),
    )


def _cell(
    facts: DataChoice,
    network: str,
    method: str,
    params: dict[str, Value],
    recipe: Recipe,
    precision: str,
    threads: int,
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
    scale = problems.choice("temperature-scaling", request.temperature_scaling, ("true", "false"), "false")
    return PROTOCOLS[name].holding_out() if scale == "true" else PROTOCOLS[name]


def _overrides(request: Request, problems: Problems) -> dict[str, object]:
    read = {
        "epochs": problems.number("epochs", request.epochs, int, 1, 100_000),
        "batch_size": problems.number("batch_size", request.batch_size, int, 2, 1_000_000),
        "lr": problems.number("lr", request.lr, float, 1e-12, 1000),
        "weight_decay": problems.number("weight_decay", request.weight_decay, float, 0, 10),
    }
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
    location = Path(request.data_dir).expanduser().absolute() if request.data_dir else None
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


def _options(request: Request, protocol: Protocol, problems: Problems, command: Sequence[str]) -> Options:
    def flag(name: str, text: str | None, default: str) -> bool:
        return problems.choice(name, text, ("true", "false"), default) == "true"

    per_gpu = problems.number("per_gpu", request.per_gpu, int, 1, 64) or 1
    timeout = problems.attempt(lambda: parse_duration(request.timeout or "")) if request.timeout else None
    failures = problems.number("max_failures", request.max_failures, int, 0, 100)
    every = problems.number("eval_every", request.eval_every, int, 0, 100_000)
    device = problems.choice("device", request.device, ("auto", "cpu", "cuda"), "auto")
    location = [name.removeprefix("folder:") for name in request.dataset if name.startswith("folder:")]
    place = location[0] if location else request.data_dir
    return Options.model_validate(
        {
            "data_dir": str(Path(place).expanduser().absolute()) if place else None,
            "plugins": tuple(str(Path(p).expanduser().absolute()) for p in request.plugin),
            "device": device,
            "keep_weights": flag("weights", request.weights, "true"),
            "keep_logits": flag("logits", request.logits, "true"),
            "logits_every": _logits_every(request, problems),
            "keep_checkpoints": flag("keep-checkpoints", request.keep_checkpoints, "false"),
            "eval_every": protocol.eval_every if every is None else every,
            "timeout_s": timeout,
            "max_failures": 1 if failures is None else failures,
            "workers": problems.number("workers", request.workers, int, 0, 256) or 0,
            "compile": _compile(request, device, problems),
            "packed": per_gpu > 1,
            "baseline": registry.baseline_name(),
            "command": public_command(list(command)),
        }
    )


def _logits_every(request: Request, problems: Problems) -> int:
    """N of ``every:N``; 0 where only the last epoch's logits are kept."""
    if request.keep_logits is None:
        return 0
    every, colon, number = request.keep_logits.partition(":")
    if (every, colon) != ("every", ":"):
        problems.found.append(f"--keep-logits {request.keep_logits!r}: expected every:N, such as every:10")
        return 0
    if request.logits == "false":
        problems.found.append("--keep-logits and --no-logits together; drop one")
    return problems.number("keep_logits", number, int, 1, 100_000) or 0


def _compile(request: Request, device: str, problems: Problems) -> str:
    """How steps run; a graph that was asked for needs a GPU, here unless the trials run elsewhere."""
    wanted = problems.choice("compile", request.compile, ("auto", "off", "graph"), "auto")
    if wanted == "graph" and not request.address and choose_device(device).type != "cuda":
        problems.found.append("--compile graph: a CUDA graph needs a GPU; leave it out, or see `sdbench doctor`")
    return wanted


def _resources(request: Request, problems: Problems) -> Resources:
    gpus = None if request.gpus in (None, "all") else problems.number("gpus", request.gpus, int, 0, 4096)
    if request.device == "cpu":
        gpus = 0
    return Resources(
        cpus=problems.number("cpus", request.cpus, int, 1, 65536),
        gpus=gpus,
        cpus_per_trial=problems.number("cpus_per_trial", request.cpus_per_trial, int, 1, 1024) or 1,
        per_gpu=problems.number("per_gpu", request.per_gpu, int, 1, 64) or 1,
        address=request.address,
    )


def _engine(wanted: str) -> str:
    if wanted == "local":
        return "local"
    if ray_tune.available():
        return "ray"
    if wanted == "ray":
        raise EnvironmentProblem("--engine ray: Ray is not installed; pip install 'ray[tune]', or use --engine local")
    return "local"

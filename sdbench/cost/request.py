"""From what a user typed to a profile's plan. Everything is judged together before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdbench import data, registry, zoo
from sdbench.cost.records import SYNTHETIC, Setting
from sdbench.cost.setting import Contestant, noise_count
from sdbench.errors import UserError, unknown
from sdbench.paths import absolute_text, path_of
from sdbench.public_command import public_command
from sdbench.request import Problems
from sdbench.selectors import parse_duration, split_list
from sdbench.spec import Options, Record, StepKind
from sdbench.variants import choose_variants

SWEEPS = ("classes", "batch-size", "model")
DEFAULT_NETWORK = "resnet20"


class ProfileRequest(Record):
    """What was asked for, as text; field names are the names of options."""

    methods: tuple[str, ...] = ()
    dataset: str | None = None
    model: str | None = None
    classes: str | None = None
    image_size: str | None = None
    batch_size: str | None = None
    precision: str | None = None
    compile: str | None = None
    rounds: str | None = None
    margin: str | None = None
    max_seconds: str | None = None
    memory: bool = True
    sweep: str | None = None
    device: str | None = None
    data_dir: str | None = None
    plugin: tuple[str, ...] = ()
    results: str | None = None


@dataclass(frozen=True)
class ProfilePlan:
    """One setting to profile. contestants: the baseline first."""

    setting: Setting
    contestants: tuple[Contestant, ...]
    options: Options
    memory: bool = True

    @property
    def location(self) -> Path | None:
        return Path(self.options.data_dir) if self.options.data_dir else None

    def step_kind(self, device_type: str) -> StepKind:
        """How steps run: "auto" is a CUDA graph on a GPU and eager on a CPU, where compiling gains nothing."""
        if self.setting.step == "auto":
            return "graph" if device_type == "cuda" else "eager"
        return "eager" if self.setting.step == "off" else self.setting.step


@dataclass(frozen=True)
class Sweep:
    """A quantity of ``SWEEPS`` and its values as text; no values without a sweep."""

    quantity: str = ""
    values: tuple[str, ...] = ()


def make_plans(request: ProfileRequest, command: Sequence[str] = ()) -> tuple[Sweep, list[ProfilePlan]]:
    """A plan for each value of the sweep, or one. Raises UserError with every problem."""
    problems = Problems()
    for plugin in request.plugin:
        problems.attempt(lambda plugin=plugin: registry.load_plugin(plugin))  # type: ignore[misc]
    sweep = _sweep(request, problems)
    asked = request.dataset
    dataset = (problems.attempt(lambda: data.canonical_name(asked)) if asked else None) or SYNTHETIC
    contestants = _contestants(request, dataset, problems)
    field = sweep.quantity.replace("-", "_")
    if sweep.quantity and getattr(request, field) is not None:
        problems.found.append(f"--sweep {sweep.quantity} and --{sweep.quantity} together; drop one")
    if request.data_dir and not request.dataset:
        problems.found.append("--data-dir without --dataset: noise lies nowhere; give --dataset, or drop it")
    requests = [request.model_copy(update={field: value}) for value in sweep.values] or [request]
    settings = [_setting(each, dataset, problems) for each in requests]
    options = _options(request, command, problems)
    if problems.found:
        raise UserError(list(dict.fromkeys(problems.found)))
    return sweep, [ProfilePlan(s, contestants, options, request.memory) for s in settings if s is not None]


def _contestants(request: ProfileRequest, dataset: str, problems: Problems) -> tuple[Contestant, ...]:
    """The baseline with its defaults first, whatever was asked for; then the methods asked for, or the core ones."""
    base = registry.baseline_name()
    wanted = split_list(request.methods) or list(registry.core_names())
    found = choose_variants([base], [dataset], problems)[dataset]
    others = choose_variants(wanted, [dataset], problems, named_teachers=True)[dataset]
    found += [(name, params) for name, params in others if name != base]
    names = [name for name, _ in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.found.append(f"{name} is asked for with several sets of parameters; profile one at a time")
    return tuple(Contestant(name, params) for name, params in found)


def _sweep(request: ProfileRequest, problems: Problems) -> Sweep:
    if request.sweep is None:
        return Sweep()
    quantity, equals, text = request.sweep.partition("=")
    values = tuple(dict.fromkeys(split_list([text])))
    if quantity not in SWEEPS:
        problems.found.append(f"--sweep: {unknown('quantity', quantity, SWEEPS)}")
        return Sweep()
    if not equals or not values:
        problems.found.append(f"--sweep {request.sweep!r}: expected {quantity}=VALUE,VALUE,...")
        return Sweep()
    if quantity == "classes" and request.dataset:
        problems.found.append("--sweep classes and --dataset together: a data set has one number of classes; drop one")
    return Sweep(quantity, values)


def _setting(request: ProfileRequest, dataset: str, problems: Problems) -> Setting | None:
    before = len(problems.found)
    network = request.model or DEFAULT_NETWORK
    if (named := problems.attempt(lambda: zoo.choose([network]))) and named != [network]:
        problems.found.append(f"--model {network}: a profile is of one network; name one of {', '.join(named)}")
    classes = problems.number("classes", request.classes, int, 2, 1_000_000)
    size = problems.number("image_size", request.image_size, int, 8, 4096)
    batch_size = problems.number("batch_size", request.batch_size, int, 2, 1_000_000) or 128
    rounds = problems.number("rounds", request.rounds, int, 1, 1_000_000) or 60
    margin = problems.number("margin", request.margin, float, 1e-4, 0.5) or 0.03
    seconds = problems.attempt(lambda: parse_duration(request.max_seconds or "480"))
    precision = problems.choice("precision", request.precision, ("bf16", "fp32"), "bf16")
    step = problems.choice("compile", request.compile, ("auto", "off", "graph", "inductor"), "auto")
    if request.classes and request.dataset:
        problems.found.append("--classes and --dataset together: the data set has its own classes; drop one")
    if len(problems.found) > before:
        return None
    if dataset == SYNTHETIC:
        side = size or 32
        classes = classes or 100
        num_train, augment = noise_count(side, batch_size), "crop-flip"
    else:
        location = path_of(request.data_dir).absolute() if request.data_dir else None
        facts = problems.attempt(lambda: data.inspect(request.dataset or "", location, size))
        if facts is None:
            return None
        side, classes, num_train, augment = facts.image_size, facts.num_classes, facts.num_train, facts.augment
        if num_train < batch_size:
            problems.found.append(f"--batch-size {batch_size}: {dataset} has {num_train} training images; take fewer")
            return None
    return Setting.model_validate(
        {
            "dataset": dataset,
            "network": network,
            "num_classes": classes,
            "num_train": num_train,
            "image_size": side,
            "augment": augment,
            "batch_size": batch_size,
            "precision": precision,
            "step": step,
            "margin": margin,
            "rounds": rounds,
            "max_seconds": seconds,
        }
    )


def _options(request: ProfileRequest, command: Sequence[str], problems: Problems) -> Options:
    device = problems.choice("device", request.device, ("auto", "cpu", "cuda"), "auto")
    if request.compile == "graph" and device == "cpu":
        problems.found.append("--compile graph: a CUDA graph needs a GPU; leave it out, or take --device cuda")
    location = request.data_dir
    if request.dataset and request.dataset.startswith("folder:"):
        location = request.dataset.removeprefix("folder:")
    return Options.model_validate(
        {
            "data_dir": absolute_text(location) if location else None,
            "plugins": tuple(absolute_text(p) for p in request.plugin),
            "device": device,
            "baseline": registry.baseline_name(),
            "command": public_command(list(command)),
        }
    )

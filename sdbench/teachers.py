"""Which finished trials of a store can teach: chosen by method, data set, network and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench import data
from sdbench.errors import UserError
from sdbench.protocol import DISTILLED
from sdbench.request import Request
from sdbench.selectors import parse_seeds, parse_variant
from sdbench.spec import TrialResult, Value, canonical
from sdbench.store import Store, sha256

WEIGHTS = "network.safetensors"


@dataclass(frozen=True)
class Teacher:
    """One variant of a method, with a finished trial for each seed. label: as it was asked for."""

    label: str
    method: str
    trials: Mapping[int, TrialResult]

    @property
    def fingerprint(self) -> str:
        """Of the data that it learned from."""
        return next(iter(self.trials.values())).identity.data_fingerprint


def find_teachers(store: Store, wanted: Sequence[str], request: Request, epochs: str | None = None) -> list[Teacher]:
    """The teachers asked for, all from one setting and with the same seeds.

    wanted: methods, ``name[param=value]`` for one of several variants. request: its dataset, model (the teachers'),
    protocol and seeds narrow the choice; by default the seeds are those that all of them have. epochs: for how long
    they were trained. Raises UserError where the choice is empty or not clear, or weights are gone or changed.
    """
    if not wanted:
        raise UserError("no teacher named; give finished methods with --teachers, for example --teachers ce,ls")
    fitting = [r for r in store.scan().results if _fits(r, request, epochs)]
    problems: list[str] = []
    found: dict[str, dict[str, list[TrialResult]]] = {}
    for text in dict.fromkeys(wanted):
        own = [r for r in fitting if is_variant(r, text)]
        by_setting: dict[str, list[TrialResult]] = defaultdict(list)
        for result in own:
            by_setting[_setting(result)].append(result)
        found[text] = by_setting
        if not own:
            have = ", ".join(sorted({f"{r.spec.method} on {r.spec.dataset} with {r.spec.network}" for r in fitting}))
            problems.append(f"no finished trial of {text} fits; finished ones that do: {have or 'none'}. `sdbench run`")
    if problems:
        raise UserError(problems)
    setting = _common(found, request.gpus_per_trial)
    teachers = [_teacher(text, by_setting[setting]) for text, by_setting in found.items()]
    seeds = _seeds(teachers, request)
    chosen: dict[tuple[str, ...], Teacher] = {}  # by trials: one teacher may be asked for in two ways
    for t in teachers:
        by_seed = {seed: t.trials[seed] for seed in seeds}
        chosen.setdefault(tuple(r.trial_id for r in by_seed.values()), Teacher(t.label, t.method, by_seed))
    _check_weights(store, chosen.values())
    return list(chosen.values())


def _fits(result: TrialResult, request: Request, epochs: str | None) -> bool:
    spec = result.spec
    datasets = {data.canonical_name(name) for name in request.dataset}
    return (
        result.status == "ok"
        and spec.generation is None
        and spec.limit_steps is None
        and not spec.protocol.endswith(DISTILLED)
        and (not datasets or spec.dataset in datasets)
        and (not request.model or spec.network in request.model)
        and request.protocol in (None, spec.protocol)
        and epochs in (None, str(spec.recipe.epochs))
    )


def is_variant(result: TrialResult, text: str) -> bool:
    """Whether a trial is of the variant that ``text`` names; parameters that it does not give may have any value."""
    members = parse_variant(text)
    if result.spec.method != "+".join(name for name, _ in members):
        return False
    given = dict(members[0][1]) | {f"{name}.{k}": v for name, own in members[1:] for k, v in own.items()}
    return all(_says(result.spec.params.get(key), value) for key, value in given.items())


def _says(value: Value | None, text: str) -> bool:
    if value is None or isinstance(value, bool | str):
        return str(value).lower() == text.lower()
    try:
        return float(value) == float(text)
    except ValueError:
        return False


def _setting(result: TrialResult) -> str:
    """All that teachers must have in common, as text."""
    spec = result.spec
    keys = ("dataset", "network", "protocol", "recipe", "split", "precision", "image_size")
    own = {key: spec.model_dump(mode="json")[key] for key in keys} | {"shards": spec.shards}
    version = (result.identity.protocol_version, result.identity.data_fingerprint)
    return canonical([own, version])


def _common(found: Mapping[str, Mapping[str, Sequence[TrialResult]]], processes: str | None) -> str:
    """The one setting in which all methods have finished trials. processes: of each student, as typed; where teachers
    were trained both on so many and on others, it names those."""
    shared = set.intersection(*(set(by_setting) for by_setting in found.values()))
    have = {s: r[0] for by_setting in found.values() for s, r in by_setting.items() if s in shared or not shared}
    shared = {s for s in shared if str(have[s].spec.shards) == processes} or shared
    if len(shared) == 1:
        return shared.pop()
    listed = "; ".join(sorted({_told(result) for result in have.values()}))
    if not shared:
        raise UserError(f"the teachers have no setting in common in which all are finished: {listed}")
    raise UserError(
        f"the teachers are finished in several settings: {listed}. Choose with --dataset, --model, --protocol, "
        "--teacher-epochs or --gpus-per-trial"
    )


def _told(result: TrialResult) -> str:
    spec = result.spec
    shards = f", {spec.shards} processes each" if spec.shards > 1 else ""
    return (
        f"{spec.dataset}, {spec.network}, {spec.protocol}, {spec.recipe.epochs} epochs, split {spec.split}, "
        f"lr {spec.recipe.lr:g}, batch size {spec.recipe.batch_size}, {spec.precision}{shards}"
    )


def _teacher(label: str, trials: Iterable[TrialResult]) -> Teacher:
    """The variant that the trials are of, in its newest source; UserError where they are of several variants."""
    by_params: dict[str, list[TrialResult]] = defaultdict(list)
    for result in trials:
        by_params[canonical(result.spec.params)].append(result)
    if len(by_params) > 1:
        raise UserError(f"{label} is finished with several parameters: {', '.join(sorted(by_params))}; name one")
    (own,) = by_params.values()
    newest = max(own, key=lambda r: r.provenance.finished).identity.method_source
    by_seed: dict[int, TrialResult] = {}
    for result in sorted(own, key=lambda r: (r.provenance.finished, r.trial_id)):
        if result.identity.method_source == newest:
            by_seed[result.spec.seed] = result
    return Teacher(label, own[0].spec.method, dict(sorted(by_seed.items())))


def _seeds(teachers: Sequence[Teacher], request: Request) -> tuple[int, ...]:
    shared = set.intersection(*(set(t.trials) for t in teachers))
    if request.num_seeds:
        raise UserError("--num-seeds: name the teachers' seeds with --seeds, for example --seeds 0-2")
    if not request.seeds:
        if not shared:
            raise UserError("the teachers have no finished seed in common; train them on the same seeds")
        return tuple(sorted(shared))
    wanted = parse_seeds(request.seeds)
    lacking = [f"{t.label} seed {seed}" for t in teachers for seed in wanted if seed not in t.trials]
    if lacking:
        raise UserError(f"not finished: {', '.join(lacking)}; train them with `sdbench run`, or choose other --seeds")
    return wanted


def _check_weights(store: Store, teachers: Iterable[Teacher]) -> None:
    problems = []
    for teacher in teachers:
        for seed, result in teacher.trials.items():
            path = store.folder(result.spec, result.trial_id) / WEIGHTS
            who = f"{teacher.label} seed {seed} (trial {result.trial_id})"
            if not path.is_file():
                problems.append(f"{who}: its weights were not kept; run it again without --no-weights (--rerun all)")
            elif sha256(path) != result.checksums.get(WEIGHTS):
                problems.append(f"{who}: its weights are not those that were recorded; run it again (--rerun all)")
    if problems:
        raise UserError(problems)

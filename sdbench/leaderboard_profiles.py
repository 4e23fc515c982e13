"""Which profile tells what a row's training step costs. Pure; no torch.

A profile stands beside trials of the same network, number of classes, image size, precision, threads,
device, CPU type and torch version, measured against the same baseline, and of the same source of the method.
Not covered: the number of training images, which is not required to be equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.cost.records import ProfileResult, ProfileRow, Ratio
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_records import StepCost
from sdbench.leaderboard_variants import Variant
from sdbench.spec import TrialResult, Value


@dataclass(frozen=True, slots=True)
class Measured:
    """A method's row and the profile that it is of."""

    profile: ProfileResult
    row: ProfileRow

    @property
    def timed(self) -> bool:
        """Whether its timing counts."""
        return self.row.timing_valid and self.row.time_ratio is not None

    @property
    def reference(self) -> bool:
        """Whether it is the baseline's, which needs no ratio to itself."""
        return self.row.method == self.profile.baseline

    @property
    def untimed_because(self) -> str:
        """Why its timing does not count; empty where it does or is the reference."""
        missing = not self.row.timing_valid or (self.row.time_ratio is None and not self.reference)
        return ("; ".join(self.row.timing_problems) or "no reason recorded") if missing else ""


Key = tuple[str, int, str, Hardware, str]
"""Network, number of classes, precision, hardware, method."""

ProfileIndex = Mapping[Key, Sequence[Measured]]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a table's trials have in common that decides what a step costs.

    num_classes: None where nobody knows; then no profile fits. image_size: side in pixels; None where nobody
    knows; then any fits. baseline: the method's name; empty where none is named; then any fits.
    """

    network: str
    num_classes: int | None
    image_size: int | None
    precision: str
    batch_size: int
    baseline: str


def index_profiles(profiles: Iterable[ProfileResult]) -> ProfileIndex:
    """All rows that were measured, by what has to be equal."""
    found: dict[Key, list[Measured]] = defaultdict(list)
    for profile in profiles:
        setting, place = profile.setting, profiled_on(profile)
        for row in profile.rows:
            if row.status == "ok":
                key = (setting.network, setting.num_classes, setting.precision, place, row.method)
                found[key].append(Measured(profile, row))
    return dict(found)


def profiled_on(profile: ProfileResult) -> Hardware:
    """The hardware, number of threads and torch version of a profile."""
    where = profile.provenance
    return Hardware(where.device, where.cpu, profile.setting.threads, where.versions.get("torch", ""))


def conditions(results: Sequence[TrialResult], baseline: str) -> Conditions:
    """What the trials of one table have in common. Where the records lack the number of classes or the side of
    the images, those of the named data set are taken."""
    from sdbench.data import DATASETS  # here, since it loads NumPy

    spec = results[0].spec
    info = DATASETS.get(spec.dataset)
    recorded = {r.num_classes for r in results if r.num_classes is not None}
    return Conditions(
        network=spec.network,
        num_classes=recorded.pop() if len(recorded) == 1 else info.num_classes if info else None,
        image_size=spec.image_size or (info.image_size if info else None),
        precision=spec.precision,
        batch_size=spec.recipe.batch_size,
        baseline=baseline,
    )


def same_work(a: Mapping[str, Value], b: Mapping[str, Value]) -> bool:
    """Whether a method does the same work per step with either of two sets of hyper-parameters.

    They are equal but for coefficients (numbers of which at least one is a float), which may differ where both
    are non-zero: they change values, not the work. At zero a method may leave a term out.
    """
    return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)


def _alike(a: Value, b: Value) -> bool:
    if isinstance(a, bool | str) or isinstance(b, bool | str):
        return type(a) is type(b) and a == b
    return a == b or (float in (type(a), type(b)) and a != 0 and b != 0)


def newest_timed(found: Iterable[Measured]) -> Measured | None:
    """The latest whose timing counts; where none counts, the latest. None where there is none."""
    every = list(found)
    return max([m for m in every if m.timed] or every, key=_began, default=None)


def _began(measured: Measured) -> tuple[str, str]:
    return measured.profile.provenance.started, measured.profile.profile_id


def step_costs(
    found: Sequence[Variant], task: Conditions, hardware: Sequence[Hardware], index: ProfileIndex
) -> tuple[list[StepCost | None], list[str]]:
    """What a step of each variant costs, and notes on the profiles that say so.

    All come from one kind of hardware: the first of ``hardware`` on which a variant other than the baseline was
    profiled. Among several profiles of a variant one with the recipe's batch size goes first, then
    ``newest_timed`` chooses.
    """
    for place in hardware:
        chosen = [_choose(variant, task, place, index) for variant in found]
        if any(m is not None and not m.reference for m in chosen):
            return [_cost(m, place) for m in chosen], _notes(found, chosen, task, place if hardware[1:] else None)
    return [None] * len(found), []


def _choose(variant: Variant, task: Conditions, place: Hardware, index: ProfileIndex) -> Measured | None:
    if task.num_classes is None:
        return None
    sources = {result.identity.method_source for result in variant.trials.values()}
    return fitting(variant.method, variant.params, sources, task, place, index)


def fitting(
    method: str,
    params: Mapping[str, Value],
    sources: Collection[str],
    task: Conditions,
    place: Hardware,
    index: ProfileIndex,
) -> Measured | None:
    """The profile's row that tells what a step of a method costs; None where there is none.

    params: all of the method's hyper-parameters. sources: hashes of its source that count. ``task.num_classes`` has to
    be known.
    """
    assert task.num_classes is not None
    found = [
        m
        for m in index.get((task.network, task.num_classes, task.precision, place, method), ())
        if task.image_size in (None, m.profile.setting.image_size)
        and task.baseline in ("", m.profile.baseline)
        and same_work(params, m.row.params)
        and (not m.row.source or m.row.source in sources)
    ]
    found.sort(key=lambda m: m.row.params != params)  # of one profile's rows the very same variant first
    same_batch = [m for m in found if m.profile.setting.batch_size == task.batch_size]
    return newest_timed(same_batch or found)


def iso_cost_epochs(epochs: int, ratio: Ratio, generations: int = 1) -> int:
    """Epochs of the baseline that cost what ``epochs`` of a method do: epochs (1 + (G - 1) r) for G > 1 generations, of
    which the first is the baseline, and epochs r otherwise, rounded, at least 1.

    ratio: of the method's step to the baseline's; r is its median, and 1 where its verdict is "equal".
    """
    r = 1.0 if ratio.verdict == "equal" else ratio.median
    return max(1, round(epochs * (r if generations == 1 else 1 + (generations - 1) * r)))


def _cost(measured: Measured | None, place: Hardware) -> StepCost | None:
    if measured is None:
        return None
    row = measured.row
    return StepCost(
        profile_id=measured.profile.profile_id,
        hardware=place.label,
        batch_size=measured.profile.setting.batch_size,
        time=row.time_ratio if measured.timed else None,
        predicted=row.predicted_ratio,
        memory=row.memory_ratio,
        flagged=row.flagged and measured.timed,
        generations=row.generations,
    )


def _notes(
    found: Sequence[Variant], chosen: Sequence[Measured | None], task: Conditions, place: Hardware | None
) -> list[str]:
    """Which profiles were used, for which rows, and what was unlike the trials'. ``place`` where it has to be told."""
    profiles = {m.profile.profile_id: m.profile for m in chosen if m is not None}
    notes = []
    for name, profile in sorted(profiles.items()):
        rows = [v.label for v, m in zip(found, chosen, strict=True) if m is not None and m.profile is profile]
        on = f" on {place.label}" if place else ""
        notes.append(f"step costs of {', '.join(sorted(rows))}: profile {name}{on} ({_told(profile, task)})")
    for variant, m in zip(found, chosen, strict=True):
        if m is None:
            continue
        if m.untimed_because:
            notes.append(f"{variant.label}: timing of its step left out: {m.untimed_because}")
        unlike = [f"{k}={m.row.params[k]}" for k in sorted(variant.params) if variant.params[k] != m.row.params[k]]
        if unlike:
            notes.append(f"{variant.label}: its step was profiled with {', '.join(unlike)}")
    return notes


def _told(profile: ProfileResult, task: Conditions) -> str:
    """The data, the batch size where it is not the recipe's, how steps ran, and the margin of the verdicts."""
    setting = profile.setting
    parts = [f"{setting.dataset} images of {setting.image_size} pixels"]
    if setting.batch_size != task.batch_size:
        parts.append(f"batch size {setting.batch_size}, the recipe's is {task.batch_size}")
    kinds = sorted({row.step for row in profile.rows if row.status == "ok"} - {"eager"})
    parts += [f"steps run by {' and '.join(kinds)}"] if kinds else []
    parts += ["against " + profile.baseline] if profile.baseline != task.baseline else []
    return ", ".join([*parts, f"margin {setting.margin:g}"])

"""What a run would do: which trials are there, which it would train, how long by finished ones, how much disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, get_args

from tabulate import tabulate

from sdbench import environment
from sdbench.budget import Spending
from sdbench.engine.local import slots
from sdbench.forecast_facts import forecast_of
from sdbench.forecast_records import Forecast
from sdbench.plan import Plan
from sdbench.progress import duration
from sdbench.run import meter_of, to_do
from sdbench.spec import Record, Trial, TrialResult, TrialSpec, canonical
from sdbench.store import DamagedRecord, Store, read_curve, read_result
from sdbench.superseded import cell_records, stale_records, what_changed

State = Literal["done", "failed", "interrupted", "stale", "missing"]
"""failed: in whatever way. interrupted: started and not finished. stale: finished, but under an earlier source of
the method, on earlier data or by an earlier version of the protocol. missing: never started."""

STATES: tuple[State, ...] = get_args(State)


class Planned(Record):
    """One trial of a plan. status: of its record, empty where it has none. runs: whether the run would train it.
    epochs_left: that it would train. seconds: what it would take by finished trials of its kind; None without one.
    changed: for a stale one, what has changed since."""

    trial_id: str
    state: State
    status: str = ""
    runs: bool
    epochs_left: int
    seconds: float | None = None
    changed: str = ""
    spec: TrialSpec


class Cell(Record):
    """The trials of one variant of a method on one data set, network and protocol. method: with the parameters in
    which the plan's variants of it differ. counts: trials per state."""

    dataset: str
    network: str
    protocol: str
    epochs: int
    method: str
    counts: dict[State, int]


class Preview(Record):
    """What a run would do. missing: how many trials it would train. seconds: of all trials that can be told, one after
    another; ``untold`` is the number of others. disk_bytes: that they would leave behind, by finished trials of their
    kind; None without one. free_bytes: on the disk of the results folder. spending: how the plan's budget stands."""

    trials: tuple[Planned, ...]
    cells: tuple[Cell, ...]
    missing: int
    engine: str
    at_once: int | None
    seconds: float
    untold: int
    disk_bytes: int | None
    free_bytes: int
    spending: Spending | None = None
    forecast: Forecast | None = None

    @property
    def text(self) -> str:
        """The matrix, then a line each on what would run, how long it takes and how much disk it needs."""
        shown = [
            state for state in STATES if state in ("done", "missing") or any(c.counts.get(state) for c in self.cells)
        ]
        headers = ["dataset", "network", "protocol", "epochs", "method", *shown]
        rows = [
            [c.dataset, c.network, c.protocol, str(c.epochs), c.method, *(c.counts.get(state, 0) for state in shown)]
            for c in self.cells
        ]
        table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
        budget = [self.spending.text] if self.spending else []
        expected = self.forecast.lines if self.forecast else []
        told = [f"{self.missing} of {len(self.trials)} trials to run, engine {self.engine}; nothing was started"]
        return "\n".join([table, *told, *self._stale(), *self._time(), *self._disk(), *budget, *expected])

    def _stale(self) -> list[str]:
        changed = Counter(trial.changed for trial in self.trials if trial.state == "stale")
        return [
            f"{count} stale, finished before a change of {what}: once they are superseded, gc --stale removes them"
            for what, count in changed.items()
        ]

    def _time(self) -> list[str]:
        if not self.missing:
            return []
        if self.untold == self.missing:
            return ["time: no finished trial of these kinds tells; `sdbench profile` measures what a step takes"]
        more = f", and {self.untold} trial(s) of which none of their kind has finished" if self.untold else ""
        packed = ""
        if self.at_once and self.at_once > 1:
            packed = f", {duration(self.seconds / min(self.at_once, self.missing))} with {self.at_once} at once"
        return [f"time: {duration(self.seconds)} of trials by finished ones of their kind{packed}{more}"]

    def _disk(self) -> list[str]:
        """Where the disk is too small for what finished trials of these kinds leave behind."""
        if not self.missing or self.disk_bytes is None or self.disk_bytes <= self.free_bytes:
            return []
        need, free = self.disk_bytes / 2**20, self.free_bytes / 2**20
        return [f"disk: {need:.1f} MiB needed, {free:.1f} MiB free: free some, or drop --keep-logits and weights"]


@dataclass(frozen=True)
class _Kind:
    """What finished trials of one kind took. seconds: per epoch. size: bytes of a trial's folder."""

    seconds: float
    size: int


def preview_of(plan: Plan) -> Preview:
    """Look at every trial of a plan. Starts nothing, writes nothing."""
    store = Store(Path(plan.results))
    running = {trial.id for trial in to_do(plan, store)}
    stale = stale_records(store, plan.trials)
    kinds = _kinds(store, plan.trials)
    planned = [_planned(store, trial, trial.id in running, stale.get(trial.id), kinds) for trial in plan.trials]
    due = [trial for trial in planned if trial.runs]
    known = [kind.size for trial in due if (kind := kinds.get(_kind(trial.spec))) is not None]
    meter = meter_of(plan, store)
    return Preview(
        trials=tuple(planned),
        cells=tuple(_cells(planned)),
        missing=len(due),
        engine=plan.engine,
        at_once=None if plan.resources.get("address") else len(slots(plan.typed_resources())),
        seconds=sum(trial.seconds or 0.0 for trial in due),
        untold=sum(trial.seconds is None for trial in due),
        disk_bytes=round(sum(known) / len(known) * len(due)) if known else None,
        free_bytes=environment.free_disk(Path(plan.results)),
        spending=meter.look(working=False) if meter else None,
        forecast=forecast_of(plan, [trial for trial in plan.trials if trial.id in running]),
    )


def _planned(store: Store, trial: Trial, runs: bool, old: TrialResult | None, kinds: Mapping[str, _Kind]) -> Planned:
    folder = store.folder(trial.spec, trial.id)
    found = _record(folder)
    state: State = "stale" if old is not None else "missing"
    done = 0
    if found is not None and found.trial_id == trial.id:
        state = {"ok": "done", "interrupted": "interrupted"}.get(found.status, "failed")  # type: ignore[assignment]
        done = 0 if state == "done" else len(read_curve(folder / "curve.jsonl"))
    left = max(0, trial.spec.recipe.epochs - done) if runs else 0
    kind = kinds.get(_kind(trial.spec))
    return Planned(
        trial_id=trial.id,
        state=state,
        status=found.status if found else "",
        runs=runs,
        epochs_left=left,
        seconds=kind.seconds * left if kind and runs else None,
        changed=what_changed(trial, old) if old is not None and state == "stale" else "",
        spec=trial.spec,
    )


def _record(folder: Path) -> TrialResult | None:
    """The trial's record, or that it was started."""
    for name in ("trial.json", "started.json"):
        try:
            return read_result(folder / name)
        except (FileNotFoundError, DamagedRecord):
            continue
    return None


def _kind(spec: TrialSpec) -> str:
    """Equal for trials that take the same time per epoch on one machine."""
    kept = {"method", "dataset", "image_size", "network", "precision", "threads", "split", "shards", "limit_steps"}
    return canonical([spec.model_dump(mode="json", include=kept), spec.recipe.batch_size])


def _kinds(store: Store, trials: Iterable[Trial]) -> dict[str, _Kind]:
    """What finished trials in the store say of the kinds of trials that are planned."""
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for folder, result in cell_records(store, trials):
        if result.status == "ok" and result.cost:
            cost, kind = result.cost, _kind(result.spec)
            seconds[kind].append((cost.train_s + cost.eval_s + cost.setup_s) / result.spec.recipe.epochs)
            sizes[kind].append(sum(path.lstat().st_size for path in folder.iterdir() if not path.is_dir()))
    return {kind: _Kind(median(found), round(median(sizes[kind]))) for kind, found in seconds.items()}


def _cells(planned: Sequence[Planned]) -> list[Cell]:
    names = variant_names(trial.spec for trial in planned)
    counts: dict[tuple[str, str, str, int, str], Counter[State]] = {}
    for trial in planned:
        spec = trial.spec
        name = names[spec.method, canonical(spec.params)]
        key = (spec.dataset, spec.network, spec.protocol, spec.recipe.epochs, name)
        counts.setdefault(key, Counter())[trial.state] += 1
    return [
        Cell(dataset=d, network=n, protocol=p, epochs=e, method=m, counts=dict(count))
        for (d, n, p, e, m), count in counts.items()
    ]


def variant_names(specs: Iterable[TrialSpec]) -> dict[tuple[str, str], str]:
    """What to call each method and its parameters: with those parameters in which its variants differ."""
    found: dict[str, dict[str, TrialSpec]] = defaultdict(dict)
    for spec in specs:
        found[spec.method][canonical(spec.params)] = spec
    names = {}
    for method, variants in found.items():
        keys = sorted({key for spec in variants.values() for key in spec.params})
        differing = [k for k in keys if len({canonical(s.params.get(k)) for s in variants.values()}) > 1]
        for text, spec in variants.items():
            told = ",".join(f"{k}={str(spec.params[k]).lower()}" for k in differing if k in spec.params)
            names[method, text] = f"{method}[{told}]" if told else method
    return names

"""Records that an edit has overtaken: finished trials of the same settings, by an earlier source, data or protocol.

A trial's id is the hash of its settings and of the method's source, the data's fingerprint and the protocol's version.
When one of these three changes, the same settings get a new id, the new trial is missing, and the old record stays: it
is *stale*. Boards keep both apart, in rows that name the source or in tables of their own. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sdbench.spec import Trial, TrialResult, TrialSpec, canonical
from sdbench.store import DamagedRecord, Store, read_result


def lineage(spec: TrialSpec) -> str:
    """Equal for a trial and those that it supersedes. A teacher's id is left out: it changes with the teacher's
    source, and the student of a newer teacher supersedes that of the older one."""
    return canonical(spec.model_dump(mode="json", exclude={"teacher"}))


def cell_records(store: Store, trials: Iterable[Trial]) -> Iterator[tuple[Path, TrialResult]]:
    """Every readable trial.json of the data sets, networks and methods of ``trials``, with its folder."""
    parents = dict.fromkeys(store.folder(trial.spec, trial.id).parent for trial in trials)
    for parent in parents:
        for path in sorted(parent.glob("*/trial.json")):
            try:
                yield path.parent, read_result(path)
            except (FileNotFoundError, DamagedRecord):
                continue


def stale_records(store: Store, trials: Iterable[Trial]) -> dict[str, TrialResult]:
    """By the id of a trial, the newest finished record that it supersedes."""
    wanted = list(trials)
    by_lineage = {lineage(trial.spec): trial for trial in wanted}
    own = {trial.id for trial in wanted}
    found: dict[str, TrialResult] = {}
    for _, result in cell_records(store, wanted):
        trial = by_lineage.get(lineage(result.spec))
        if trial is None or result.trial_id in own or result.status != "ok" or result.identity == trial.identity:
            continue
        other = found.get(trial.id)
        if other is None or other.provenance.finished < result.provenance.finished:
            found[trial.id] = result
    return found


def what_changed(trial: Trial, old: TrialResult) -> str:
    """What of a trial's identity is another than that of a record it supersedes, in words."""
    names = {"method_source": "method", "data_fingerprint": "data", "protocol_version": "protocol"}
    return ", ".join(
        word for name, word in names.items() if getattr(trial.identity, name) != getattr(old.identity, name)
    )

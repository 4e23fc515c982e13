"""``sdbench gc``, ``rm`` and ``rescore`` as functions; what goes is told first, and asked about on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

from sdbench import bundle
from sdbench.boards import Filter
from sdbench.bundle import Bundle
from sdbench.errors import UserError, unknown
from sdbench.housekeeping import Current, litter, results_folder, whole_trials
from sdbench.housekeeping_records import Sweep
from sdbench.housekeeping_removal import carry_out
from sdbench.rescoring import Rescoring
from sdbench.rescoring import rescore as scores
from sdbench.selectors import split_list
from sdbench.spec import Status, TrialResult
from sdbench.store import Store

LEAST_DIGITS = 4
"""Of a trial's id that stand for it when something is removed."""


def gc(
    results: str, *, stale: bool = False, failed: bool = False, plugins: Sequence[str] = (), dry_run: bool = True
) -> Sweep:
    """What of a results folder is of no more use, removed unless ``dry_run``: checkpoints of finished trials, leftovers
    of kills; damaged records are moved to ``quarantine/``. stale: superseded trials as well (``sdbench.superseded``).
    failed: checkpoints of trials that failed as well.

    Raises UserError where there is no results folder.
    """
    found = litter(results_folder(results), _todays(plugins) if stale else None, failed=failed)
    return found if dry_run else carry_out(found)


def rm(
    results: str, names: Sequence[str], chosen: Filter, statuses: Sequence[str] = (), *, dry_run: bool = True
) -> Sweep:
    """Trials by id or the beginning of one, or all that the filter and the statuses choose, removed unless ``dry_run``.

    Raises UserError with every name that is none or several, and where nothing is chosen.
    """
    root, wanted, status = results_folder(results), split_list(names), split_list(statuses)
    problems = [unknown("status", each, get_args(Status)) for each in status if each not in get_args(Status)]
    selects = chosen != Filter() or bool(status)
    if not wanted and not selects:
        problems.append("name trials to remove, see `sdbench list runs`, or choose with --methods, --status, ...")
    if wanted and selects:
        problems.append("trials by name and by --methods, --status, ... together; give one or the other")
    ids = _ids(root, wanted, problems)
    if problems:
        raise UserError(problems)

    def removes(record: TrialResult) -> bool:
        if wanted:
            return record.trial_id in ids
        named = not chosen.methods or any(p == "all" or fnmatchcase(record.spec.method, p) for p in chosen.methods)
        return chosen.keeps(record) and named and (not status or record.status in status)

    found = whole_trials(root, removes)
    return found if dry_run else carry_out(found)


def _ids(root: Path, wanted: Sequence[str], problems: list[str]) -> set[str]:
    """The trials that names stand for."""
    known = [record.trial_id for record in Store(root).scan().results] if wanted else []
    ids = set()
    for name in (Path(each).name for each in wanted):
        matches = sorted({i for i in known if i.startswith(name)})
        if len(name) < LEAST_DIGITS or len(matches) != 1:
            why = "too short" if len(name) < LEAST_DIGITS else f"the beginning of {len(matches)} trials"
            problems.append(f"trial {name!r}: {why}; see `sdbench list runs`")
        ids.update(matches)
    return ids


def rescore(results: str, names: Sequence[str], chosen: Filter, *, write: bool = False) -> Rescoring:
    """The metrics of finished trials from their logits (``sdbench.rescoring``): of those named, else of those that the
    filter chooses. Raises UserError for names that are none, and where no finished trial is meant."""
    root, wanted, problems = results_folder(results), split_list(names), list[str]()
    ids = _ids(root, wanted, problems)
    if problems:
        raise UserError(problems)
    found = scores(Store(root), lambda r: r.trial_id in ids if wanted else chosen.keeps(r), write=write)
    if not found.trials:
        raise UserError(f"no finished trial under {results} is meant; see `sdbench list runs`")
    return found


def export(results: str, names: Sequence[str], chosen: Filter, output: str | None = None) -> Bundle:
    """Records of trials, of those named or else of those that the filter chooses, in a zip file (``sdbench.bundle``).
    Raises UserError for names that are none as well."""
    root, wanted, problems = results_folder(results), split_list(names), list[str]()
    ids = _ids(root, wanted, problems)
    if problems:
        raise UserError(problems)
    return bundle.export(root, output, lambda r: r.trial_id in ids if wanted else chosen.keeps(r))


def _todays(plugins: Sequence[str]) -> Current:
    """Whether a record's method and protocol are as they are now; None for those that are not known here."""
    from sdbench import registry
    from sdbench.identity import method_source
    from sdbench.protocol import known

    for plugin in plugins:
        registry.load_plugin(plugin)
    names = set(registry.names())

    def current(record: TrialResult) -> bool | None:
        protocol = known(record.spec.protocol)
        if protocol is None or not set(record.spec.method.split("+")) <= names:
            return None
        now = method_source(record.spec.method), protocol.version
        return now == (record.identity.method_source, record.identity.protocol_version)

    return current


def agreed(sweep: Sweep, *, yes: bool, dry_run: bool, ask: Callable[[str], bool] | None) -> bool:
    """Whether to go on: what goes was told. ask: None where nobody is there to be asked. Raises UserError then."""
    if dry_run or not sweep.pieces:
        return False
    if yes:
        return True
    if ask is None:
        raise UserError("nothing was removed: there is no terminal to ask at; add --yes, or --dry-run to look only")
    return ask(f"remove {len(sweep.pieces)} piece(s)?")

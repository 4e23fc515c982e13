"""``sdbench validate``: whether records are what they say, as a list of findings.

Files are only read, within bounds; links are never followed; nothing that is read can run code. Not covered: whether
metrics follow from the logits, and whether a trial was trained as its record says, which only running it again shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from sdbench.cost.records import PROFILE_SCHEMA_VERSION, ProfileResult
from sdbench.errors import UserError
from sdbench.paths import path_of
from sdbench.spec import SCHEMA_VERSION, TrialResult
from sdbench.store import DamagedRecord, read_sealed
from sdbench.validation_files import Found, search
from sdbench.validation_profile import profile_findings
from sdbench.validation_records import Finding, Validation, error, warning
from sdbench.validation_reference import band_findings
from sdbench.validation_sets import reference_findings, set_findings
from sdbench.validation_trial import protocol_findings, trial_findings

INVALID = 4
"""The exit code where a finding is an error."""

AnyRecord = TypeVar("AnyRecord", TrialResult, ProfileResult)

REMEDIES = {
    "unreadable": "run it again, or take the file out",
    "newer": "upgrade sdbench",
    "schema": "run it again, or take the file out; `sdbench schema` says what a record holds",
    "checksum": "put back the file as it was written, or run it again",
}


def validate(paths: Sequence[str], against: str | None = None) -> Validation:
    """Check all records at the paths: results folders, trials' folders, single records.

    against: a results folder that these records are to agree with: none of its trials removed, worse or with other
    metrics. Raises UserError where a path is no record and holds none.
    """
    if not paths:
        raise UserError("name a results folder, a trial's folder or a record, such as: sdbench validate results")
    searches = [search(path) for path in paths]
    findings: list[Finding] = [finding for each in searches for finding in each.findings]
    trial_files = _once([each.trials for each in searches])
    profile_files = _once([each.profiles for each in searches])
    trials = _read(trial_files, TrialResult, SCHEMA_VERSION, findings)
    profiles = _read(profile_files, ProfileResult, PROFILE_SCHEMA_VERSION, findings)
    for found, trial in trials:
        findings += trial_findings(found, trial)
        findings += protocol_findings(found.place, trial)
    for found, profile in profiles:
        findings += profile_findings(found, profile)
    findings += set_findings(trials, profiles)
    findings += band_findings(trials)
    if against is not None:
        findings += _compare(trials, against, any(each.whole for each in searches))
    ordered = sorted(findings, key=lambda finding: finding.level)  # "error" before "warning", else as found
    return Validation(trials=len(trial_files), profiles=len(profile_files), findings=tuple(ordered))


def _once(searched: Sequence[Sequence[Found]]) -> list[Found]:
    """The files of all searches, each once, however often its path was given."""
    found: dict[Path, Found] = {}
    for one in searched:
        for each in one:
            found.setdefault(each.path.resolve(), each)
    return list(found.values())


def _read(
    files: Sequence[Found], kind: type[AnyRecord], newest: int, findings: list[Finding]
) -> list[tuple[Found, AnyRecord]]:
    """The records that can be read; the others become findings."""
    records = []
    for found in files:
        try:
            if found.path.is_symlink():
                findings.append(error("link", found.place, "a link, which is not followed", "put the file there"))
                continue
            records.append((found, read_sealed(found.path, kind, newest)))
        except FileNotFoundError:
            findings.append(warning("unreadable", found.place, "went away meanwhile", "validate again"))
        except DamagedRecord as damage:
            findings.append(error(damage.kind, found.place, str(damage)[:500], REMEDIES[damage.kind]))
    return records


def _compare(trials: Sequence[tuple[Found, TrialResult]], against: str, whole: bool) -> list[Finding]:
    if not path_of(against).is_dir():
        raise UserError(f"--against {against}: no such folder; give the results folder to compare with")
    damaged: list[Finding] = []
    reference = _read(search(against).trials, TrialResult, SCHEMA_VERSION, damaged)
    told = [finding.model_copy(update={"level": "warning"}) for finding in damaged]
    return [*told, *reference_findings(trials, reference, whole=whole)]

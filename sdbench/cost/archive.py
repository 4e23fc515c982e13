"""Profiles in the store, beside the trials, written whole and sealed like them. No torch.

ROOT/profiles/<data set>/<network>/<profile_id>/profile.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdbench.cost.records import PROFILE_SCHEMA_VERSION, SYNTHETIC, ProfileResult
from sdbench.errors import EnvironmentProblem
from sdbench.store import Damaged, DamagedRecord, component, read_sealed, seal, write_atomic

FILE = "profile.json"


@dataclass(frozen=True)
class Profiles:
    """All profiles of a results folder, the oldest first, and the damaged files."""

    results: tuple[ProfileResult, ...]
    damaged: tuple[Damaged, ...]


def folder(root: Path, result: ProfileResult) -> Path:
    """Where a profile is kept; noise is told apart by its number of classes."""
    setting = result.setting
    data = f"{setting.dataset}-{setting.num_classes}" if setting.dataset == SYNTHETIC else setting.dataset
    return root / "profiles" / component(data) / component(setting.network) / component(result.profile_id)


def write(root: Path, result: ProfileResult) -> Path:
    """Write a profile's record; returns its file. Raises EnvironmentProblem where the folder cannot be written."""
    path = folder(root, result) / FILE
    try:
        write_atomic(path, seal(result, FILE))
    except OSError as error:
        raise EnvironmentProblem(
            f"results folder {root} cannot be written ({error.strerror or error}); give another with --results FOLDER"
        ) from error
    return path


def scan(root: Path) -> Profiles:
    """Every profile under a results folder, ordered by the time at which it began."""
    results: list[ProfileResult] = []
    damaged: list[Damaged] = []
    for path in sorted((root / "profiles").glob(f"*/*/*/{FILE}")):
        try:
            results.append(read_sealed(path, ProfileResult, PROFILE_SCHEMA_VERSION))
        except DamagedRecord as error:
            damaged.append(Damaged(path, str(error)))
    return Profiles(tuple(sorted(results, key=_began)), tuple(damaged))


def _began(result: ProfileResult) -> tuple[str, str]:
    return result.provenance.started, result.profile_id

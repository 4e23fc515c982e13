"""``sdbench export``: records of trials in one zip file, to be sent or published; no weights, logits or logs.

It holds each trial's trial.json and curve.jsonl where they stand in a results folder, so that unpacking it makes one,
which ``sdbench validate`` and ``sdbench merge`` take. The same records give the same bytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sdbench.bounded import read_plain
from sdbench.curve_lines import MAX_CURVE_BYTES
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.housekeeping import trial_folders
from sdbench.housekeeping_looks import looked_at
from sdbench.paths import path_of
from sdbench.sealed import MAX_RECORD_BYTES
from sdbench.spec import Count, Record, TrialResult
from sdbench.store import replacing

FILES = {"trial.json": MAX_RECORD_BYTES, "curve.jsonl": MAX_CURVE_BYTES}
"""What is exported of a trial, and how large it may be: what is larger no reader takes."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: the oldest that the format knows."""


class Bundle(Record):
    """What was written. left: trials and files that are not in it, and why."""

    file: str
    trials: Count
    bytes: Count
    left: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = [f"left out: {line}" for line in self.left]
        what = f"{self.trials} trial(s), {self.bytes / 1024:.1f} KiB in {self.file}: records and curves, no tensors"
        return "\n".join([*lines, what, "who gets it: unpack it, then sdbench merge FOLDER --into results"])


def export(root: Path, output: str | None, chosen: Callable[[TrialResult], bool]) -> Bundle:
    """Write the finished records that are chosen, those of failed trials included. Raises UserError where nothing is
    chosen, for a file that is no .zip or is there already, EnvironmentProblem where it cannot be written."""
    path = path_of(output or "trials.zip").absolute()
    problems = [] if path.suffix == ".zip" else [f"--output {output}: expected a .zip file"]
    if path.exists():
        problems.append(f"{path} exists, so it is kept; give another with --output, or move it")
    if not path.parent.is_dir():
        problems.append(f"{path.parent} is no folder; make it, or give another with --output")
    left: list[str] = []
    folders = list(_chosen(root, chosen, left))
    if not folders:
        problems.append(f"no finished record under {root} is meant; see `sdbench list runs`")
    if problems:
        raise UserError(problems)
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            whole = [_added(archive, root, folder, record, left) for folder, record in folders]
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror or error}); give another") from error
    return Bundle(file=str(path), trials=sum(whole), bytes=path.stat().st_size, left=tuple(left))


def _chosen(root: Path, chosen: Callable[[TrialResult], bool], left: list[str]) -> Iterator[tuple[Path, TrialResult]]:
    for folder in trial_folders(root, left):
        record = None if (folder / "trial.json").is_symlink() else looked_at(folder / "trial.json")
        if isinstance(record, TrialResult):
            if record.status != "interrupted" and chosen(record):
                yield folder, record
        elif record is not None:
            left.append(f"{folder.relative_to(root)}: damaged: {record}")


def _added(archive: zipfile.ZipFile, root: Path, folder: Path, record: TrialResult, left: list[str]) -> bool:
    """A trial's files, if they are what the record seals; whether its record is among them."""
    seal, found = record.checksums["trial.json"], dict[str, bytes]()
    for name, limit in FILES.items():
        path = folder / name
        try:
            found[name] = b"" if path.is_symlink() else read_plain(path, limit)
        except OSError as error:
            left.append(f"{path.relative_to(root)}: {error.strerror or error}")
            continue
        # A record's own checksum stands in it, and it was checked when it was chosen.
        same = seal.encode() in found[name] if name == "trial.json" else _sealed(found[name], record, name)
        if not same:
            left.append(f"{path.relative_to(root)}: not there, or changed after the record was written")
            del found[name]
    if "trial.json" not in found:
        return False
    for name, content in found.items():
        entry = zipfile.ZipInfo((folder / name).relative_to(root).as_posix(), EPOCH)
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        archive.writestr(entry, content)
    return True


def _sealed(content: bytes, record: TrialResult, name: str) -> bool:
    return hashlib.sha256(content).hexdigest() == record.checksums.get(name)

"""``sdbench merge``: trials and profiles of other stores into one, each folder as a whole or not at all.

A record is copied with its files into a hidden folder of the destination, its checksums are verified on the copy, and
the copy takes its place by one rename, or by one exchange where an older record stands there. A kill at any moment
leaves every record of the destination as it was or as it became; what it left half-copied, the next merge removes.
Tuning studies, each a store of its own below ``tuning/``, are merged likewise, with their records.

Not covered: two machines that merge into one folder over a network file system without locks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock

from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.merging_copies import (
    Refused,
    Standing,
    copied,
    exchange,
    held,
    keep_damaged,
    lacks,
    move_in,
    passable,
    recover,
    source,
    standing_at,
)
from sdbench.paths import path_of, readable
from sdbench.spec import Record
from sdbench.store import DamagedRecord, Store, sha256, sync_folder
from sdbench.study_records import FILE, FOLDER, mark_stopped, read_study, stopped_after, write_study
from sdbench.validation_files import PROFILE, TREES, TRIAL, Found, Unsound, curve_lines, search
from sdbench.validation_trial import safe_sibling

Keep = Literal["newest", "oldest", "fail"]
Outcome = Literal["copied", "already there", "replaced", "refused"]

LOCK = ".merging.lock"
STUDY_ID = re.compile("[0-9a-f]{16}")
NOT_LOOKED_AT = ("link", "unreadable", "place")
"""Kinds of findings of a search that may hide records."""

SOURCE_BUSY = "a process still works on it; merge again when it is done"
TARGET_BUSY = "a process works on this trial in the destination; merge again when it is done"


class Merged(Record):
    """What became of one record of a source. place: its file. target: its folder in the destination, empty where the
    record could not be read."""

    outcome: Outcome
    place: str
    target: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """One line of printable characters."""
        line = f"{self.outcome}: {self.place}{': ' + self.reason if self.reason else ''}"
        return "".join(c if c.isprintable() else " " for c in line)


class Merge(Record):
    """What a merge did, record by record."""

    into: str
    records: tuple[Merged, ...]

    def count(self, outcome: Outcome) -> int:
        return sum(each.outcome == outcome for each in self.records)

    @property
    def text(self) -> str:
        """What was replaced, refused or kept for a reason, and how many of each outcome."""
        told = [each.text for each in self.records if each.reason]
        counts = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in get_args(Outcome))
        return "\n".join([*told, f"{counts}; in {self.into}"])


def merge(sources: Sequence[str], into: str | None, keep: str = "newest") -> Merge:
    """Copy trials, profiles and tuning studies of other results folders into one, which is made where it is missing.

    Of two records of one trial, one that finished wins over one that failed, and that over one that was interrupted.
    Between two that finished, or two that failed, ``keep`` decides: the one made last ("newest"), or first ("oldest"),
    or the destination's, while the source's is refused ("fail"). A finished record without weights or logits that the
    other one has, as bundles hold them, never replaces it. Of two that were interrupted the one with more epochs
    stays. A record that stands there already, to the byte, is left alone, but for files that it seals and lacks there.
    Damaged records, those on which a process works, and what a newer sdbench wrote are refused. Raises UserError where
    a path is no results folder or source and destination are the same, EnvironmentProblem where ``into`` cannot be
    written, or holds what a newer merge left behind.
    """
    if keep not in get_args(Keep):
        raise UserError(f"--keep: {unknown('value', keep, get_args(Keep))}")
    if not into:
        raise UserError("name the folder to merge into: --into results")
    roots = _sources(sources, into)
    store = Store(path_of(into).absolute())
    store.prepare()
    try:
        with FileLock(store.root / LOCK):
            records = [each for root in roots for each in _merged_from(root, store.root, keep)]
    except OSError as error:
        problem = f"{into} cannot be written ({error.strerror or error}); what was merged stays, merge again"
        raise EnvironmentProblem(problem) from error
    return Merge(into=readable(into), records=tuple(records))


def _sources(sources: Sequence[str], into: str) -> list[str]:
    """The source folders. Raises UserError with every problem."""
    problems = []
    target = path_of(into).resolve()
    for name in sources:
        root = path_of(name)
        if not any((root / tree).is_dir() and not (root / tree).is_symlink() for tree in TREES):
            problems.append(f"{name}: no results folder: it has neither trials/ nor profiles/; links are not followed")
        elif root.resolve() == target:
            problems.append(f"{name}: source and destination are the same folder; give another with --into")
    if not sources:
        problems.append("name the results folders to merge, such as: sdbench merge their/results --into results")
    if problems:
        raise UserError(problems)
    return list(sources)


def _merged_from(source: str, root: Path, keep: str) -> Iterator[Merged]:
    """Copy all records of a source and of the tuning studies below it, whose folders bear their ids."""
    yield from _records_from(source, root, keep)
    below = path_of(source) / FOLDER
    for folder in sorted(below.glob("*")) if not below.is_symlink() else ():
        if not STUDY_ID.fullmatch(folder.name) or (folder / "trials").is_symlink() or not (folder / "trials").is_dir():
            continue
        place, target = str(Path(source) / FOLDER / folder.name), root / FOLDER / folder.name
        try:
            if folder.is_symlink():
                raise Refused("a link, which is not followed")
            passable(root, target.relative_to(root))
        except Refused as refusal:
            yield Merged(outcome="refused", place=readable(place), reason=str(refusal))
            continue
        Store(target).prepare()
        with FileLock(target / LOCK):
            yield from _records_from(place, target, keep)


def _records_from(source: str, root: Path, keep: str) -> Iterator[Merged]:
    """Copy all records of a store, and say where others may be that could not be looked at."""
    recover(root)
    searched = search(source)
    for found in (*searched.trials, *searched.profiles):
        yield _merged(found, root, keep)
    for finding in searched.findings:
        if finding.kind in NOT_LOOKED_AT:
            yield Merged(outcome="refused", place=finding.place, reason=finding.problem)
    yield from _study(path_of(source), root)
    recover(root)


def _study(folder: Path, root: Path) -> Iterator[Merged]:
    """Bring in the record of a study, where the destination has none or one of a search that is not over. It tells what
    the study's trials tell; the next search writes it anew."""
    path = folder / FILE
    if not path.is_file():
        return
    outcome: Outcome = "already there"
    reason = ""
    try:
        if path.is_symlink():
            raise Refused("a link, which is not followed")
        theirs = read_study(folder)
        ours = None
        with suppress(FileNotFoundError, DamagedRecord):
            ours = read_study(root)
        if ours is None or (theirs.over and not ours.over):
            write_study(root, theirs)
            outcome = "replaced" if ours else "copied"
            reason = "the destination's search was not over" if ours else ""
    except (DamagedRecord, Refused) as error:
        outcome, reason = "refused", str(error)
    yield Merged(outcome=outcome, place=readable(str(path)), target="", reason=reason)


def _merged(found: Found, root: Path, keep: str) -> Merged:
    """Copy one record, or say why not."""
    target = ""
    try:
        theirs = source(found)
        target = theirs.target.as_posix()
        with held(theirs.folder, SOURCE_BUSY, source=True):
            outcome, reason = _brought(theirs, root, keep)
    except Refused as refusal:
        outcome, reason = "refused", str(refusal)
    return Merged(outcome=outcome, place=found.place, target=target, reason=reason)


def _brought(theirs: Standing, root: Path, keep: str) -> tuple[Outcome, str]:
    """Bring a sound record in. Raises Refused."""
    outcome: Outcome
    target = root / theirs.target
    passable(root, theirs.target)
    if not target.exists() and move_in(copied(theirs, root), target):
        return "copied", ""
    with held(target, TARGET_BUSY):
        ours = standing_at(target)
        if ours and ours.seal == theirs.seal:
            _marked(theirs.folder, target)
            return _filled(theirs, root)
        outcome, reason = _choose(theirs, ours, keep) if ours else ("copied", "")
        if outcome in ("copied", "replaced"):
            staged = copied(theirs, root)
            if keep_damaged(target, staged) and ours is None:
                outcome, reason = "replaced", "the destination's was damaged"
            exchange(staged, target)
        return outcome, reason


def _filled(theirs: Standing, root: Path) -> tuple[Outcome, str]:
    """Give a finished trial, which the destination has as well, the sealed files that it lacks or has broken there.
    One that is not finished may have been taken up again, and its files be newer than its record. Raises Refused."""
    target, sealed = root / theirs.target, theirs.record.checksums
    lacking = [name for name in sealed if name not in (TRIAL, PROFILE) and safe_sibling(name)]
    lacking = [name for name in lacking if not _holds(target / name, sealed[name])]
    if theirs.rank < 2 or not any((theirs.folder / name).is_file() for name in lacking):
        return "already there", ""
    staged = copied(theirs, root)
    try:
        names = [name for name in lacking if (staged / name).exists()]
        for name in names:
            path = target / name
            passable(root, (theirs.target / name).parent)
            if path.is_dir() and not path.is_symlink():
                raise Refused(f"the destination has a folder at {name}; move it away and merge again")
            path.parent.mkdir(exist_ok=True)
            (staged / name).replace(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(staged)
    if not names:
        return "already there", ""
    return "replaced", f"the destination's lacked, or had broken: {', '.join(names)[:200]}"


def _marked(folder: Path, target: Path) -> None:
    """Bring in a scheduler's mark beside the same record, which may be older than the mark."""
    after = stopped_after(folder)
    if after is not None and stopped_after(target) is None:
        mark_stopped(target, "asha", after)


def _holds(path: Path, checksum: str) -> bool:
    return path.is_file() and sha256(path) == checksum


def _choose(theirs: Standing, ours: Standing, keep: str) -> tuple[Outcome, str]:
    """Which of two records of one id stays."""
    if theirs.rank != ours.rank:
        reason = f"this one is {theirs.state}, the destination's {ours.state}"
        return _replaced_if(theirs.rank > ours.rank), reason
    if theirs.rank == 0:
        more = _epochs(theirs) > _epochs(ours)
        return _replaced_if(more), "this one got further" if more else "both are interrupted"
    if keep == "fail":
        raise Refused("the destination has another record of it; choose with --keep newest or --keep oldest")
    made, had = theirs.record.provenance.finished, ours.record.provenance.finished
    wanted = made > had if keep == "newest" else made < had
    if wanted and theirs.rank == 2 and (missing := lacks(theirs, ours)):
        return "already there", f"kept, as only the destination's has {', '.join(missing)[:200]}"
    return _replaced_if(wanted), f"made {made[:40]}, the destination's {had[:40]}; kept {keep}"


def _replaced_if(better: bool) -> Outcome:
    return "replaced" if better else "already there"


def _epochs(standing: Standing) -> int:
    """How far an interrupted trial got: the record of one that was killed says 0 and its files know better."""
    folder, curve = standing.folder / "checkpoint", standing.folder / "curve.jsonl"
    count = 0
    if curve.is_file() and not curve.is_symlink():
        with suppress(Unsound, OSError):  # a torn last line is not counted
            for _ in curve_lines(curve):
                count += 1
    names = [] if folder.is_symlink() else [path.name for path in folder.glob("epoch-*.pt")]
    newest = [int(match[1]) for match in (re.fullmatch(r"epoch-([0-9]{6})\.pt", name) for name in names) if match]
    return max(getattr(standing.record, "epochs_done", 0), count, *newest)

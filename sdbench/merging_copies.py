"""How a record's folder gets into another store: a verified copy beside, then one rename or one exchange."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sdbench.cost import archive
from sdbench.cost.records import PROFILE_SCHEMA_VERSION, ProfileResult
from sdbench.errors import EnvironmentProblem
from sdbench.spec import SCHEMA_VERSION, TrialResult
from sdbench.store import EPOCH_LOGITS, DamagedRecord, Store, read_sealed, sync_folder
from sdbench.study_records import STOPPED
from sdbench.trial_folder import STATE
from sdbench.validation_files import PROFILE, STARTED, TREES, TRIAL, Found
from sdbench.validation_profile import expected_ids
from sdbench.validation_trial import expected_id, safe_sibling

STAGING = ".merging"
"""A hidden folder in each tree of a store, where copies are made and old records go before they are removed."""

OLD = ".old"
CHUNK = 2**20
MAX_NAME = 200
"""Characters of a name that becomes a folder."""

BESIDE = ("log.txt", STOPPED)
UNSEALED = ("curve.jsonl", "checkpoint", STATE, EPOCH_LOGITS)
"""What an interrupted trial goes on from; its record seals none of it."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Refused(Exception):
    """A record that is not merged; the text says why."""


class Newer(Refused):
    """A record that only a newer sdbench can read."""


@dataclass(frozen=True)
class Standing:
    """A record with its folder and file, and what decides between two of one id."""

    folder: Path
    name: str
    record: TrialResult | ProfileResult

    @property
    def id(self) -> str:
        return self.record.trial_id if isinstance(self.record, TrialResult) else self.record.profile_id

    @property
    def rank(self) -> int:
        """2 finished, 1 failed in whatever way, 0 interrupted."""
        if isinstance(self.record, ProfileResult):
            return 0 if self.record.interrupted else 2
        return {"ok": 2, "interrupted": 0}.get(self.record.status, 1)

    @property
    def state(self) -> str:
        if isinstance(self.record, ProfileResult):
            return "interrupted" if self.record.interrupted else "ok"
        return self.record.status

    @property
    def target(self) -> Path:
        """Its folder relative to a results folder. Names from the record are made into single path components."""
        if isinstance(self.record, TrialResult):
            return Store(Path()).folder(self.record.spec, self.record.trial_id)
        return archive.folder(Path(), self.record)

    @property
    def seal(self) -> str:
        """Tells any two records apart."""
        return self.record.checksums.get(TRIAL if isinstance(self.record, TrialResult) else PROFILE, "")


def read(folder: Path, name: str) -> Standing:
    """A record that can be trusted, with the id that its content has. Raises Refused otherwise."""
    path = folder / name
    try:
        if name == PROFILE:
            profile = read_sealed(path, ProfileResult, PROFILE_SCHEMA_VERSION)
            standing, expected = Standing(folder, name, profile), expected_ids(profile)
        else:
            trial = read_sealed(path, TrialResult, SCHEMA_VERSION)
            standing, expected = Standing(folder, name, trial), {expected_id(trial)}
    except (DamagedRecord, FileNotFoundError) as error:
        if getattr(error, "kind", "") == "newer":
            raise Newer(str(error)) from error
        raise Refused(f"damaged: {error}") from error
    if standing.id not in expected:
        raise Refused("damaged: its id is not the hash of its content")
    if max(map(len, standing.target.parts)) > MAX_NAME:
        raise Refused(f"a name in it is longer than {MAX_NAME} characters")
    return standing


def standing_at(folder: Path) -> Standing | None:
    """The sound record in a folder of the destination, or None. Raises Refused where one is a newer sdbench's."""
    sound = None
    for name in (TRIAL, STARTED, PROFILE):
        if (folder / name).is_file():
            try:
                found = read(folder, name)
            except Newer:
                raise Refused("the destination's record is of a newer sdbench; upgrade sdbench") from None
            except Refused:
                continue
            sound = sound or found
    return sound


def passable(root: Path, place: Path) -> None:
    """Raises Refused where a file, or a link below the tree, stands in the way to a folder of the destination."""
    for path in [place, *place.parents][-2::-1]:
        linked = (root / path).is_symlink()
        if (linked and len(path.parts) > 1) or ((linked or (root / path).exists()) and not (root / path).is_dir()):
            what = "link" if linked else "file"
            raise Refused(f"the destination has a {what} at {path.as_posix()}; move it away and merge again")


def source(found: Found) -> Standing:
    """The record of a source. Raises Refused where it cannot be trusted or is a link."""
    if found.path.is_symlink():
        raise Refused("a link, which is not followed")
    return read(found.path.parent, found.path.name)


@contextmanager
def held(folder: Path, why: str, *, source: bool = False) -> Iterator[None]:
    """The lock of a trial's folder. Raises Refused where a process has it, or it is a link, which locking would follow.
    A source's is taken only where the file exists and can be locked: sources may be read-only."""
    if (folder / ".lock").is_symlink():
        whose = "its" if source else "the destination's"
        raise Refused(f"{whose} .lock is a link, which is not followed; delete the link and merge again")
    with ExitStack() as stack:
        try:
            if not source or ((folder / ".lock").is_file() and os.access(folder / ".lock", os.W_OK)):
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
        except Timeout:
            raise Refused(why) from None
        yield


def lacks(one: Standing, other: Standing) -> list[str]:
    """The tensors that another record seals and has, and that are not beside this one."""
    sealed = [name for name in other.record.checksums if name.endswith(".safetensors") and safe_sibling(name)]
    return [name for name in sealed if (other.folder / name).is_file() and not (one.folder / name).is_file()]


def copied(standing: Standing, root: Path) -> Path:
    """A durable copy in the staging folder below ``root``, its checksums verified. Raises Refused, OSError."""
    record, own = standing.record, standing.name
    sealed = {name: value for name, value in record.checksums.items() if name not in (TRIAL, PROFILE)}
    unsafe = next((name for name in sealed if not safe_sibling(name)), None)
    if unsafe is not None:
        raise Refused(f"damaged: it seals {unsafe[:60]!r}, which is no file beside it")
    staged = root / standing.target.parts[0] / STAGING / standing.target.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        for name in dict.fromkeys([own, *sealed, *_unsealed(standing)]):
            found = _copy(standing.folder / name, staged / name)
            if found is not None and name in sealed and found != sealed[name]:
                raise Refused(f"damaged: {name} was changed after the record was written")
        again = read(staged, own)
        if again.seal != standing.seal:
            raise Refused("it was changed while it was copied; merge again")
        for folder, _, _ in os.walk(staged):
            sync_folder(Path(folder))
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return staged


def _unsealed(standing: Standing) -> list[str]:
    """Files that no checksum covers and that are wanted: the log, a scheduler's mark, and what an interrupted trial
    goes on from."""
    if standing.name == PROFILE:
        return []
    names = list(BESIDE)
    for name in UNSEALED if standing.rank == 0 else ("checkpoint", STATE):
        path = standing.folder / name
        if path.is_dir() and not path.is_symlink():
            try:
                names += [f"{name}/{each.name}" for each in sorted(path.iterdir()) if each.is_file()]
            except OSError as error:
                raise Refused(f"{name} cannot be read ({error.strerror})") from error
        else:
            names.append(name)
    return [name for name in names if safe_sibling(name) and name not in standing.record.checksums]


def _copy(path: Path, to: Path) -> str | None:
    """Copy one plain file durably; its SHA-256, or None where there is none. Raises Refused where it cannot be read."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return None
    total = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise Refused(f"{path.name} cannot be read ({error.strerror})") from error
    to.parent.mkdir(exist_ok=True)
    with os.fdopen(descriptor, "rb") as origin, to.open("xb") as copy:
        while chunk := _chunk(origin, path.name):
            total.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return total.hexdigest()


def _chunk(origin: object, name: str) -> bytes:
    try:
        return origin.read(CHUNK)  # type: ignore[attr-defined, no-any-return]
    except OSError as error:
        raise Refused(f"{name} cannot be read ({error.strerror})") from error


def keep_damaged(target: Path, staged: Path) -> bool:
    """Copy records of the destination that cannot be read beside the one that replaces them; False for none."""
    kept = False
    for name in (TRIAL, STARTED, PROFILE):
        if (target / name).is_file():
            try:
                read(target, name)
            except Refused:
                shutil.copyfile(target / name, staged / f"{name}.damaged-1")
                kept = True
    return kept


def move_in(staged: Path, target: Path) -> bool:
    """Rename a copy to where nothing stands yet; False where something does by now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    sync_folder(target.parent)
    return True


def exchange(staged: Path, target: Path) -> None:
    """Put a copy in the place of what stands there, and remove that. Where the system cannot exchange two folders at
    once, the old one is moved away first; after a kill in between, ``recover`` puts it back."""
    if _exchanged(staged, target):
        old = staged
    else:
        old = staged.with_name(staged.name + OLD)
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        staged.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old)


def _exchanged(a: Path, b: Path) -> bool:
    """Linux's renameat2 with RENAME_EXCHANGE; False where it is not to be had."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def recover(root: Path) -> None:
    """Put back what a killed merge had moved away, and remove what it had not finished."""
    for tree in TREES:
        staging = root / tree / STAGING
        if not staging.is_dir():
            continue
        for entry in sorted(staging.iterdir()):
            try:
                old = standing_at(entry) if entry.name.endswith(OLD) else None
            except Refused as refusal:
                raise EnvironmentProblem(f"{entry}, left behind by a merge that was killed: {refusal}") from None
            if old is not None and not (root / old.target).exists():
                entry.rename(root / old.target)
                sync_folder((root / old.target).parent)
        shutil.rmtree(staging)

"""Record files under a path, and the files beside them, read within bounds. Links are never followed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdbench.cost import archive
from sdbench.errors import UserError
from sdbench.paths import path_of, readable
from sdbench.trial_folder import REMOVED
from sdbench.validation_records import Finding, warning

TRIAL, STARTED, PROFILE = "trial.json", "started.json", archive.FILE
TREES = ("trials", "profiles")
SEALED = ("curve.jsonl", "network.safetensors", "logits.safetensors")
"""Files beside a finished trial's record, which it seals where they are there."""

MAX_DEPTH = 16
"""Folders below a path in which records are looked for; a store has five."""

MAX_CURVE_BYTES = 64 * 2**20
MAX_LINE_BYTES = 2**20
MAX_HEADER_BYTES = 2**20
"""Of a safetensors file: the description of its tensors, which stands before them."""

BYTES_PER_VALUE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A record file. place: how messages call it. named: given by itself, not met in a store."""

    path: Path
    place: str
    named: bool = False


@dataclass(frozen=True)
class Search:
    """What a path holds: files of trials (their trial.json, or else started.json), of profiles, and remarks."""

    trials: tuple[Found, ...]
    profiles: tuple[Found, ...]
    findings: tuple[Finding, ...]
    whole: bool


class Unsound(Exception):
    """A file that is not what its name says; the text says why."""


def search(given: str) -> Search:
    """All record files at a path: a results folder, any folder above or below it, or one record.

    Raises UserError where there is nothing of that kind.
    """
    path = path_of(given)
    if path.is_file():
        if path.name not in (TRIAL, STARTED, PROFILE):
            raise UserError(f"{given}: not a record; give a {TRIAL}, a {PROFILE}, a trial's folder or a results folder")
        one = (Found(path.absolute(), readable(given), named=True),)
        return Search((), one, (), False) if path.name == PROFILE else Search(one, (), (), False)
    if not path.is_dir():
        raise UserError(f"{given}: no such file or folder; give a results folder, a trial's folder or a record")
    trees = [path / name for name in TREES if (path / name).is_dir() and not (path / name).is_symlink()]
    named = not trees and any((path / name).is_file() for name in (TRIAL, STARTED, PROFILE))
    found = _Walk(named)
    for top in trees or [path]:
        found.walk(top, readable(given if top == path else os.path.join(given, top.name)))  # noqa: PTH118
    for name in TREES if trees else ():
        if (path / name).is_symlink():
            found.warn_link(readable(os.path.join(given, name)))  # noqa: PTH118
    if not (trees or found.trials or found.profiles):
        raise UserError(f"{given}: holds no record; give a results folder, a trial's folder or a record")
    return Search(tuple(found.trials), tuple(found.profiles), tuple(found.findings), not named)


class _Walk:
    """Goes through folders in order of names; neither links nor the store's own hidden files are entered."""

    def __init__(self, named: bool) -> None:
        self.named = named
        self.trials: list[Found] = []
        self.profiles: list[Found] = []
        self.findings: list[Finding] = []

    def walk(self, top: Path, place: str) -> None:
        waiting = [(top, place, 0)]
        while waiting:
            folder, where, depth = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._warn("unreadable", where, f"cannot be read ({error.strerror})", "mend its rights")
                continue
            self._records(folder, where, {e.name for e in entries if not e.is_symlink()})
            below = []
            for entry in entries:
                inside = f"{where}/{readable(entry.name)}"
                if entry.is_symlink():
                    self.warn_link(inside)
                elif ".damaged-" in entry.name or entry.name.endswith(".tmp"):
                    self._warn("litter", inside, "left behind by a damaged record or a kill", "delete it when unneeded")
                elif entry.is_dir() and entry.name.startswith("."):
                    self._warn(
                        "litter", inside, "left behind by an interrupted merge or rm", "merge again, or sdbench gc"
                    )
                elif entry.is_dir() and depth >= MAX_DEPTH:
                    self._warn("place", inside, "nested too deeply for a store; not looked into", "move it away")
                elif entry.is_dir():
                    below.append((Path(entry.path), inside, depth + 1))
            waiting += reversed(below)

    def _hidden(self, name: str, inside: str) -> None:
        if name.startswith(REMOVED):
            self._warn("litter", inside, "left behind by an interrupted rm", "sdbench gc removes it")
        else:
            self._warn("litter", inside, "left behind by an interrupted merge", "merge again, which removes it")

    def _records(self, folder: Path, where: str, names: set[str]) -> None:
        name = TRIAL if TRIAL in names else STARTED
        if name in names:
            self.trials.append(Found((folder / name).absolute(), f"{where}/{name}", self.named))
        if PROFILE in names:
            self.profiles.append(Found((folder / PROFILE).absolute(), f"{where}/{PROFILE}", self.named))

    def warn_link(self, place: str) -> None:
        self._warn("link", place, "a link, which is not followed", "put the file or folder itself there")

    def _warn(self, kind: str, place: str, problem: str, remedy: str) -> None:
        self.findings.append(warning(kind, place, problem, remedy))


def curve_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a curve, one after another. Raises Unsound for a torn, huge or non-finite one."""
    if path.stat().st_size > MAX_CURVE_BYTES:
        raise Unsound(f"larger than {MAX_CURVE_BYTES} bytes")
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise Unsound(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            try:
                line = json.loads(raw, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise Unsound(f"line {number} is not JSON ({error})") from error
            if not isinstance(line, dict):
                raise Unsound(f"line {number} is not a JSON object")
            yield line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a safetensors file, from its header alone. Raises Unsound where the header
    does not describe exactly the bytes that follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise Unsound("not a safetensors file: the length of its header is impossible")
        raw = file.read(length)
    try:
        header = json.loads(raw, parse_constant=_no_constant)
        spans, shapes = [], {}
        for name, told in header.items():
            if name != "__metadata__":
                dtype, shape, (low, high) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
                if len(shape) > 16 or not all(isinstance(n, int) and 0 <= n < 2**60 for n in (*shape, low, high)):
                    raise Unsound(f"tensor {name[:60]!r} has an impossible shape")
                if high - low != math.prod(shape) * BYTES_PER_VALUE[dtype]:
                    raise Unsound(f"tensor {name[:60]!r} is not as long as its shape says")
                spans.append((low, high))
                shapes[name] = (dtype, shape)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Unsound(f"not a safetensors file: its header does not read ({type(error).__name__})") from error
    end = 0
    for low, high in sorted(spans):
        if low != end:
            raise Unsound("its tensors overlap or leave gaps")
        end = high
    if end != size - 8 - length:
        raise Unsound("cut off, or longer than its header says")
    return shapes

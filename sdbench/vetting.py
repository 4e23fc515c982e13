"""Whether a checkpoint's file is of the kind that ``checkpoint.save`` writes, before torch opens it, and after.

``torch.load(weights_only=True)`` runs no code, but unpacks what was compressed, allocates what is declared and accepts
many kinds of objects, more with each release. A checkpoint may come with a results folder that was copied from
elsewhere: it must be an uncompressed archive of bounded size whose pickle calls nothing but what puts tensors together.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_MEMBERS = 100_000
MAX_VALUES = 4_000_000
"""Values in a checkpoint, each counted as often as it is reached: a hundred thousand epochs of some dozen figures."""
MAX_DEPTH = 16
MAX_MEMO = 2**24

MARK = b"sha256:"
COMMENT = len(MARK) + 64
"""Bytes of an archive's comment, in which ``checkpoint.save`` keeps its digest."""

OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "SETITEM", "SETITEMS", "APPEND", "APPENDS", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "GLOBAL", "REDUCE", "BUILD",
    "BINPERSID",
})  # fmt: skip
CALLED = frozenset({
    "collections OrderedDict", "torch Size", "torch.serialization _get_layout", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_parameter",
})  # fmt: skip


class Unfit(ValueError):
    """Not a checkpoint of sdbench; the text says why."""


def vet(file: BinaryIO, limit: int) -> None:
    """Raises Unfit where a file is larger than ``limit`` bytes, or is not an archive as ``torch.save`` makes it."""
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise Unfit(f"{size} bytes, where {limit} would do")
    _vet_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            pickles = [m for m in members if m.filename.endswith("/data.pkl")]
            packed = any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members)
            if packed or sum(m.file_size for m in members) > size:
                raise Unfit("an archive that unpacks to more than it is")
            if len(pickles) != 1 or len({m.filename for m in members}) != len(members):
                raise Unfit("not one archive of one object")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise Unfit(f"its description is larger than {MAX_PICKLE_BYTES} bytes")
            content = archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OverflowError, struct.error) as error:
        raise Unfit(f"not a whole archive: {error}") from error
    _vet_pickle(content)


def _vet_directory(file: BinaryIO, size: int) -> None:
    """The archive ends with one directory of bounded size, so that all who read it see the same members."""
    file.seek(max(0, size - 98 - COMMENT))
    tail = file.read(98 + COMMENT)
    comment = COMMENT if tail[-COMMENT:].startswith(MARK) else 0
    size, tail = size - comment, tail[: len(tail) - comment][-98:]
    end = tail[-22:]
    if len(tail) < 22 or end[:4] != b"PK\5\6" or int.from_bytes(end[20:], "little") != comment:
        raise Unfit("not an archive")
    count, length, offset = struct.unpack("<HII", end[10:20])
    begins = size - 22
    if tail[-42:-38] == b"PK\6\7" and tail[-98:-94] == b"PK\6\6":
        count, length, offset = struct.unpack("<QQQ", tail[-66:-42])
        begins = size - 98
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES or offset + length != begins:
        raise Unfit("its directory is not the archive's end, or too large")


def _vet_pickle(content: bytes) -> None:
    """Only operations and calls that a saved state of tensors and plain values needs."""
    memo = 0
    try:
        for number, (code, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if code.name not in OPCODES:
                raise Unfit(f"an operation that no checkpoint needs: {code.name}")
            if code.name == "GLOBAL" and argument not in CALLED and not _is_storage(str(argument)):
                raise Unfit(f"names {str(argument)[:80]!r}, which no checkpoint needs")
            memo = argument if code.name.endswith("BINPUT") and isinstance(argument, int) else memo
            if memo > MAX_MEMO or number > 4 * MAX_VALUES:
                raise Unfit("too many values")
    except Unfit:
        raise
    except Exception as error:  # pickletools has no errors of its own: it raises whatever a broken stream leads to
        raise Unfit(f"its description does not read ({type(error).__name__})") from error


def _is_storage(name: str) -> bool:
    module, _, kind = name.partition(" ")
    return module == "torch" and kind.isalnum() and kind.endswith("Storage")


def vet_values(value: Any) -> None:
    """Raises Unfit unless a value consists of mappings, lists, plain values and tensors that lie in memory as large as
    they are, and can be walked through in bounded time."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise Unfit("too many values, or nested too deeply")
        if isinstance(each, dict):
            if not all(isinstance(key, str | int) for key in each):
                raise Unfit("keys that are no names")
            waiting += [(item, depth + 1) for item in each.values()]
        elif isinstance(each, list | tuple):
            waiting += [(item, depth + 1) for item in each]
        elif isinstance(each, Tensor):
            _vet_tensor(each)
        elif not isinstance(each, str | int | float | None):
            raise Unfit(f"holds a {type(each).__name__}")


def _vet_tensor(tensor: Tensor) -> None:
    for part in _parts(tensor):
        if part.layout != torch.strided or part.numel() * part.element_size() > part.untyped_storage().nbytes():
            raise Unfit("a tensor that is larger than the memory it lies in")


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor._indices(), tensor._values()) if tensor.layout == torch.sparse_coo else (tensor,)


def vet_parts(state: dict[str, Any], progress: dict[str, Any]) -> None:
    """Raises Unfit unless a state has a trial's parts, its progress the fields of ``progress`` and their types."""
    found = state.get("progress")
    if not isinstance(state.get("trial_id"), str) or not isinstance(state.get("session"), dict):
        raise Unfit("no trial's checkpoint")
    if not isinstance(found, dict) or not set(found) <= set(progress):
        raise Unfit("its progress has other fields than a trial's")
    if any(type(value) is not type(progress[name]) for name, value in found.items()):
        raise Unfit("its progress is of other types than a trial's")
    if any(not isinstance(line, dict) for line in found.get("curve", ())):
        raise Unfit("its curve has no lines")


def bytes_in(value: Any) -> int:
    """Bytes of the tensors in mappings, lists and tuples."""
    if isinstance(value, Tensor):
        return sum(part.numel() * part.element_size() for part in _parts(value))
    if isinstance(value, dict):
        return sum(map(bytes_in, value.values()))
    return sum(map(bytes_in, value)) if isinstance(value, list | tuple) else 0

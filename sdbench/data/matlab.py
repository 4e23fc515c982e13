"""Arrays of structs in MATLAB's files of level 5 (-v6, -v7), as the development kit of ImageNet describes its classes.

Reads texts and single numbers and allocates nothing that a file only declares: not more than its bytes and, where
they are compressed, ``room`` bytes. Format: MathWorks, "MAT-File Format", level 5. Not covered: levels 4 and 7.3,
cells, nested structs, arrays of numbers, sparse ones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice

Value = str | float | None

HEADER = 128
COMPRESSED, MATRIX = 15, 14
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
"""How ``struct`` calls the types of elements that hold numbers."""
STRUCTS, TEXT, NUMERIC = 2, 4, range(6, 16)
"""Classes of matrices."""
ENCODINGS = {
    1: "utf-8",
    2: "utf-8",
    3: "utf-16",
    4: "utf-16",
    5: "utf-32",
    6: "utf-32",
    16: "utf-8",
    17: "utf-16",
    18: "utf-32",
}
"""By the type of the element that holds the characters."""
Element = tuple[int, bytes]


def read_structs(content: bytes, name: str, fields: Collection[str], room: int) -> list[dict[str, Value]]:
    """The structs of the array ``name``, in order, with those of their ``fields`` that they have; None is a value of
    another kind. Raises ValueError for whatever is wrong with the file."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None or content[125 if order == "<" else 124 : 126][:1] != b"\1":
        raise ValueError("not a MATLAB file of level 5; save it with -v7")
    try:
        for kind, body in _elements(content[HEADER:], order):
            if kind == COMPRESSED:
                unpacked = _unpacked(body, room)
                room -= len(unpacked)
                kind, body = next(_elements(unpacked, order))
            if kind == MATRIX and (found := _structs(body, order, name.encode(), fields)) is not None:
                return found
    except (struct.error, StopIteration, zlib.error) as error:
        raise ValueError(f"damaged: {error or 'cut off'}") from error
    raise ValueError(f"holds no array of structs called {name}")


def _elements(data: bytes, order: str) -> Iterator[Element]:
    """Type and content of each element."""
    view, at = memoryview(data), 0
    while at < len(view):
        (kind,) = struct.unpack_from(f"{order}I", view, at)
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            size = min(size, 5)
        else:
            (size,) = struct.unpack_from(f"{order}I", view, at + 4)
            start = at + 8
            end = start + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > min(end, len(view)):
            raise struct.error("cut off")
        yield kind, bytes(view[start : start + size])
        at = end


def _unpacked(body: bytes, room: int) -> bytes:
    found = zlib.decompressobj().decompress(body, room + 1)
    if len(found) > room:
        raise ValueError("unpacks to more bytes than such a file has")
    return found


def _structs(body: bytes, order: str, name: bytes, fields: Collection[str]) -> list[dict[str, Value]] | None:
    """The structs of a matrix; None where it is another one."""
    parts = _elements(body, order)
    (_, flags), _, (_, own) = next(parts), next(parts), next(parts)
    if own != name or struct.unpack_from(f"{order}I", flags)[0] & 0xFF != STRUCTS:
        return None
    (length,) = struct.unpack(f"{order}i", next(parts)[1])
    _, text = next(parts)
    if length < 1:
        raise ValueError("damaged: names of no length")
    names = [text[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), length)]
    found = []
    while row := list(islice(parts, max(1, len(names)))):
        values = dict(zip(names, row, strict=False))
        found.append({field: _value(*values[field], order) for field in fields if field in values})
    return found


def _value(kind: int, body: bytes, order: str) -> Value:
    """The text or the number that a matrix holds."""
    parts = list(islice(_elements(body, order), 4))
    if kind != MATRIX or len(parts) < 4:
        return None
    (_, flags), _, _, (stored, content) = parts
    what = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    if what == TEXT and stored in ENCODINGS:
        encoding = ENCODINGS[stored]
        return content.decode(encoding if encoding == "utf-8" else encoding + ("-le" if order == "<" else "-be"))
    if what in NUMERIC and stored in NUMBERS and len(content) == struct.calcsize(f"={NUMBERS[stored]}"):
        return float(struct.unpack(f"{order}{NUMBERS[stored]}", content)[0])
    return None

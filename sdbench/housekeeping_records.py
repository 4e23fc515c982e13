"""What ``sdbench gc`` and ``sdbench rm`` answer: the pieces that go, and what was left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sdbench.spec import Count, Record

Kind = Literal["checkpoint", "temporary", "damaged", "stale", "trial"]
QUARANTINE = "quarantine"
RECORDS = ("trial.json", "started.json")


class Piece(Record):
    """Something that can go. place: below the results folder. reason: why, and for a damaged record what is wrong.
    seal: the checksum of the trial's record when it was looked at, where that decides."""

    kind: Kind
    place: str
    bytes: Count
    reason: str
    seal: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is the folder of a trial."""
        return self.kind in ("stale", "trial")


class Sweep(Record):
    """What goes, or went where ``done``; what was left alone, with the reason; and what was to go and could not."""

    results: str
    pieces: tuple[Piece, ...]
    left: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    done: bool = False

    @property
    def bytes(self) -> int:
        """That are freed; what is moved to quarantine stays on the disk."""
        return sum(piece.bytes for piece in self.pieces if piece.kind != "damaged")

    @property
    def text(self) -> str:
        """A line per piece, then the sum."""
        verb = {True: ("removed", "moved to quarantine"), False: ("to remove", "to move to quarantine")}[self.done]
        lines = [
            f"{verb[piece.kind == 'damaged']}: {piece.place}: {piece.reason} ({piece.bytes / 2**20:.1f} MiB)"
            for piece in self.pieces
        ]
        return "\n".join([*(printable(line) for line in lines), *self.stayed(), self.counted])

    def stayed(self, known: Sequence[str] = ()) -> list[str]:
        """A line for each thing that stays, but for those that are ``known``."""
        lines = [f"left alone: {line}" for line in self.left if line not in known]
        return [printable(line) for line in (*lines, *(f"could not go: {line}" for line in self.failed))]

    @property
    def counted(self) -> str:
        return f"{len(self.pieces)} piece(s), {self.bytes / 2**20:.1f} MiB {'freed' if self.done else 'to free'}"


def printable(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)

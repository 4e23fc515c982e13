"""Memories with one row per training image: a tensor where it fits, else two files that take turns.

PS-KD remembers 4 bytes for every image and class: 20 MB on CIFAR-100, 5 GB on ImageNet, 107 GB on iNat21. What does
not fit in memory lies in files mapped into it, in the trial's own folder, and works to the same bits: epoch e reads
the file of epoch e - 1 and writes its own.

    state/<name>-epoch-NNNNNN.bin     float32 [num_train, K], the rows as epoch N left them

A row that was written in this epoch is read from this epoch's file, any other from the last one's, so that reads and
writes may come in any order, as they may with a tensor. A checkpoint names the finished file, with its size and a
check of its content; the file before it is deleted once that checkpoint is durable. So at most two files exist per
memory, and after a kill at any moment the newest checkpoint's file is whole: the half-written one is written anew.

Not covered: the check of a file of more than 64 MiB takes 4,096 of its rows, evenly spread, not all.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdbench.durable import WriteProblem, sync_folder

MAPPED_BYTES = 256 * 2**20
"""Bytes of files that are kept in a process's memory at a time."""
CHECKED_BYTES = 64 * 2**20
"""Up to this size the whole file is checked."""
CHECKED_ROWS = 4096
CHUNK_BYTES = 16 * 2**20

Floats = NDArray[np.float32]


class Note(TypedDict):
    """What a checkpoint says of a file: its name, its size, K, and a check of its content."""

    file: str
    bytes: int
    columns: int
    check: str


class RowFile:
    """A memory [num_rows, columns] of float32 in files. At first every row is ``fill``.

    To be written to between ``begin`` and ``retire``; ``place`` comes first.
    """

    def __init__(self, num_rows: int, columns: int, fill: float = 0.0) -> None:
        self.shape = (num_rows, columns)
        self.fill = fill
        self._folder, self._name = Path(), ""
        self._past: _Mapped | None = None
        self._present: _Mapped | None = None
        self._written = np.zeros(num_rows, dtype=bool)

    @property
    def nbytes(self) -> int:
        """Bytes of one file."""
        return 4 * self.shape[0] * self.shape[1]

    def place(self, folder: Path, name: str) -> None:
        """Where its files lie and what they are called."""
        self._folder, self._name = folder, name

    def begin(self, label: str) -> None:
        """Open this epoch's file; ``label`` tells it from the others. What is not in use is deleted. OSError
        where the disk has no room for it."""
        self._present = None
        self._written[:] = False
        self._tidy()
        self._present = _Mapped.create(self._folder / f"{self._name}-{label}.bin", self.shape)

    def read(self, index: Tensor) -> Tensor:
        """A copy of the rows ``index`` [N]: [N, columns] on the device of ``index``."""
        chosen = index.cpu().numpy()
        return torch.from_numpy(self._rows(chosen)).to(index.device)

    def _rows(self, chosen: NDArray[np.int64]) -> Floats:
        if self._past is None:
            rows = np.full((len(chosen), self.shape[1]), self.fill, np.float32)
        else:
            rows = self._past.read(chosen)
        again = self._written[chosen]
        if again.any():
            assert self._present is not None
            rows[again] = self._present.read(chosen[again])
        return rows

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Overwrite the rows ``index`` [N] with ``rows`` [N, columns]; of two for one image the last counts."""
        if self._present is None:
            raise RuntimeError("a memory that is kept on disk was written to outside of an epoch")
        chosen = index.cpu().numpy()
        self._present.write(chosen, rows.detach().to("cpu", torch.float32).numpy())
        self._written[chosen] = True

    def finish(self) -> Note | None:
        """Make this epoch's file whole and durable; what a checkpoint is to say of it. None before the first epoch."""
        if self._present is None:
            return self._past.note() if self._past else None
        left = np.flatnonzero(~self._written)
        step = max(1, CHUNK_BYTES // max(1, 4 * self.shape[1]))
        for start in range(0, len(left), step):
            chosen = left[start : start + step]
            self._present.write(chosen, self._rows(chosen))
        self._written[:] = True
        self._present.sync()
        sync_folder(self._folder)
        return self._present.note()

    def retire(self) -> None:
        """This epoch's file becomes the last one's, which is deleted: the checkpoint that names it is durable."""
        if self._present is not None:
            self._past, self._present = self._present, None
            self._written[:] = False
        self._tidy()

    def resume(self, note: Note) -> None:
        """Go on from the file that a checkpoint names, which ``problem`` found nothing wrong with."""
        self._past = _Mapped.open(self._folder / Path(note["file"]).name, self.shape)
        self._present = None

    def fill_in(self, rows: Tensor) -> None:
        """Go on from ``rows`` [num_rows, columns], which a checkpoint holds itself."""
        self.begin("restored")
        assert self._present is not None
        step = max(1, CHUNK_BYTES // max(1, 4 * self.shape[1]))
        for start in range(0, self.shape[0], step):
            part = rows[start : start + step].to(torch.float32).numpy()
            self._present.write(np.arange(start, start + len(part)), part)
        self.retire()

    def _tidy(self) -> None:
        """Delete this memory's files that are not in use."""
        kept = {mapped.path for mapped in (self._past, self._present) if mapped}
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"{self._name}-*.bin"):
            if path not in kept:
                path.unlink(missing_ok=True)


class _Mapped:
    """One file of rows, mapped into memory. A few hundred megabytes of it are kept there at most."""

    def __init__(self, path: Path, shape: tuple[int, int], memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self.rows: Floats = np.frombuffer(memory, np.float32).reshape(shape)
        self._touched = 0

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int]) -> _Mapped:
        """A new file with all its room on the disk taken, so that no later write finds it full."""
        size = 4 * shape[0] * shape[1]
        with path.open("xb+") as file:
            try:
                _allocate(file.fileno(), size)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise no_room(size, path, error) from error
            return cls(path, shape, mmap.mmap(file.fileno(), size))

    @classmethod
    def open(cls, path: Path, shape: tuple[int, int]) -> _Mapped:
        with path.open("rb") as file:
            return cls(path, shape, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def read(self, chosen: NDArray[np.int64]) -> Floats:
        rows: Floats = self.rows[chosen]
        self._let_go(rows.nbytes)
        return rows

    def write(self, chosen: NDArray[np.int64], rows: Floats) -> None:
        self.rows[chosen] = rows
        self._let_go(rows.nbytes)

    def _let_go(self, size: int) -> None:
        """Unmap what was touched, which stays in the system's cache of files as long as there is room."""
        self._touched += size
        if self._touched > MAPPED_BYTES:
            self._touched = 0
            if hasattr(mmap, "MADV_DONTNEED"):
                self._memory.madvise(mmap.MADV_DONTNEED)

    def sync(self) -> None:
        self._memory.flush()

    def note(self) -> Note:
        return Note(file=self.path.name, bytes=self.rows.nbytes, columns=self.rows.shape[1], check=self.check())

    def check(self) -> str:
        """Thirty-two hexadecimal digits (BLAKE2b) of all rows, or of a large file's first, last and, evenly spread,
        others, ``CHECKED_ROWS`` in all."""
        count = len(self.rows)
        state = hashlib.blake2b(repr(self.rows.shape).encode(), digest_size=16)
        whole = self.rows.nbytes <= CHECKED_BYTES
        spread = np.arange(count) if whole else np.linspace(0, count - 1, CHECKED_ROWS).round().astype(np.int64)
        for part in np.array_split(spread, 64):
            state.update(self.read(part).tobytes())
        return state.hexdigest()


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def shape_of(note: Note) -> tuple[int, int]:
    """(num_train, K) of the file that a note is of."""
    return note["bytes"] // (4 * note["columns"]), note["columns"]


def content_matches(path: Path, note: Note) -> bool:
    """Whether a file of the right size has the content that a note was made of."""
    return _Mapped.open(path, shape_of(note)).check() == note["check"]


def no_room(size: int, path: Path, error: OSError | None = None) -> WriteProblem:
    """What to say where a file of ``size`` bytes cannot be made."""
    number = error.errno if error is not None and error.errno is not None else errno.ENOSPC
    told = os.strerror(number)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        told = (
            f"{told} (a memory of every image takes {size / 1e9:.3g} GB for each of two files; free some of the disk "
            "of the results folder, or give a larger one with --results FOLDER)"
        )
    return WriteProblem(number, told, str(path))


Rows = Tensor | RowFile
"""A memory of every image, [num_train, K]."""


def read_rows(memory: Rows, index: Tensor) -> Tensor:
    """A copy of the rows of ``memory`` at ``index`` [N]: [N, K], on the device of ``index``."""
    return memory[index] if isinstance(memory, Tensor) else memory.read(index)


def write_rows(memory: Rows, index: Tensor, rows: Tensor) -> None:
    """Overwrite the rows of ``memory`` at ``index`` [N] with ``rows`` [N, K]."""
    if isinstance(memory, Tensor):
        memory.index_copy_(0, index, rows.to(memory.dtype))
    else:
        memory.write(index, rows)


def row_files(module: nn.Module) -> dict[str, RowFile]:
    """The memories that a module and its parts keep in files, by the names that their buffers would have."""
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, RowFile)
    }

"""Where memories of every training image are kept: which lie in files, and what checkpoints say of those."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import psutil
import torch
from torch import nn

from sdbench.rows import Note, RowFile, content_matches, no_room, row_files, shape_of
from sdbench.trial_folder import STATE

SHARE_OF_FREE_MEMORY = 0.25
"""Of what is free on the device: how much memories of every image take there by themselves."""

Mode = Literal["auto", "memory", "disk"]


@dataclass
class Shelf:
    """Decides where a memory of every image is kept. folder: the trial's own, for its files.

    mode: "memory" and "disk" always; "auto" on the device where it takes at most a quarter of what is free there.
    """

    folder: Path
    mode: Mode = "auto"
    placed: int = 0
    free: int | None = None

    def offer(self, num_rows: int, columns: int, fill: float, device: torch.device) -> RowFile | None:
        """A memory in files, or None where it is to be a tensor. OSError where neither has room for it."""
        found = RowFile(num_rows, columns, fill)
        if self.mode == "memory" or (self.mode == "auto" and self._fits(found.nbytes, device)):
            self.placed += found.nbytes
            return None
        self._refuse_full_disk(2 * found.nbytes)
        return found

    def _fits(self, size: int, device: torch.device) -> bool:
        """Together with what was placed before: a tensor of zeros takes no memory until it is used."""
        if self.free is None:
            self.free = free_memory(device)
        return self.placed + size <= SHARE_OF_FREE_MEMORY * self.free

    def _refuse_full_disk(self, needed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in (self.folder / STATE).glob("*.bin"))
        if needed > shutil.disk_usage(self.folder).free + there:
            raise no_room(needed // 2, self.folder / STATE)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, at this moment."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


class RowFiles:
    """All memories of a method that are kept in files. folder: the trial's own; None where there are no files."""

    def __init__(self, method: nn.Module, folder: Path | None) -> None:
        self.folder = folder / STATE if folder else None
        self.files = row_files(method)
        for name, file in self.files.items():
            assert self.folder is not None, "only a shelf, which has a folder, hands out files"
            file.place(self.folder, name)

    @property
    def nbytes(self) -> int:
        """Bytes of one file of each."""
        return sum(file.nbytes for file in self.files.values())

    @property
    def obstacle(self) -> str:
        """Why steps cannot be replayed from a recording; empty where there are no files."""
        return f"its {', '.join(sorted(self.files))} is kept on disk" if self.files else ""

    def begin(self, epoch: int) -> None:
        for file in self.files.values():
            file.begin(f"epoch-{epoch:06d}")

    def notes(self) -> dict[str, Note]:
        """What a checkpoint says of the files, which are made durable first."""
        found = {name: file.finish() for name, file in self.files.items()}
        return {name: note for name, note in found.items() if note is not None}

    def retire(self) -> None:
        """After a durable checkpoint: delete what it does not need."""
        for file in self.files.values():
            file.retire()
        if not self.files:
            self.remove()

    def remove(self) -> None:
        """Delete all files."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def problem(self, notes: dict[str, Note]) -> str:
        """Why training cannot go on from files that a checkpoint names; empty where it can."""
        for memory, note in (notes if isinstance(notes, dict) else {"": notes}).items():
            if not _sensible(note) or (memory in self.files and shape_of(note) != self.files[memory].shape):
                return "what it says of a memory on disk is not of this trial"
            name = Path(note["file"]).name
            path = self.folder / name if self.folder else None
            if path is None or not path.is_file() or path.is_symlink():
                return f"{name}, which it names, is missing"
            if path.stat().st_size != note["bytes"] or not note["bytes"]:
                return f"{name}, which it names, has another size"
            if not content_matches(path, note):
                return f"{name}, which it names, has other content"
        return ""

    def restore(self, notes: dict[str, Note], method_state: dict[str, Any]) -> dict[str, Any]:
        """Go on from a checkpoint, wherever it kept each memory: a file's or a tensor's content is taken over.

        Returns ``method_state`` as the method, whose memories are where they are now, expects it.
        """
        state = dict(method_state)
        for name, file in self.files.items():
            if name in notes:
                file.resume(notes[name])
            elif name in state:
                file.fill_in(state.pop(name))
        for name in notes.keys() - self.files.keys():
            assert self.folder is not None
            path, shape = self.folder / Path(notes[name]["file"]).name, shape_of(notes[name])
            state[name] = torch.from_file(str(path), shared=False, size=shape[0] * shape[1]).view(shape)
        return state


def _sensible(note: object) -> bool:
    """Whether what a checkpoint says of a file has the parts of a ``Note``, and a file can be so."""
    if not isinstance(note, dict) or {k: type(v) for k, v in note.items()} != get_type_hints(Note):
        return False
    size, columns = note["bytes"], note["columns"]
    return bool(size > 0 < columns and size % (4 * columns) == 0 and Path(note["file"]).name == note["file"])

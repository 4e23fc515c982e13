"""What a run shows while it works: a live table on a terminal, plain lines elsewhere; on stderr.

It reads the curves and records in the store and knows nothing of engines, so it shows the same for
all of them, and for trials that another command is working on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

from sdbench.bounded import open_plain
from sdbench.spec import Trial
from sdbench.store import DamagedRecord, Store, read_result
from sdbench.terminal import visible
from sdbench.trial_folder import AGAIN
from sdbench.usage import memory_in_use

POLL_S = 0.5
MOST_AT_ONCE = 2**20
"""Bytes of a curve that are read between two looks."""

STYLES = ("auto", "rich", "plain", "none")
"""How progress is shown: a live table, lines, nothing; auto: a live table on a terminal and lines elsewhere."""


@dataclass(frozen=True)
class Shown:
    """What is shown. style: one of STYLES. verbose: a line for every epoch. color: in the live table."""

    style: str = "auto"
    verbose: bool = False
    color: bool = True

    def live(self, stream: TextIO) -> bool:
        return self.style == "rich" or (self.style == "auto" and stream.isatty() and not self.verbose)


AUTOMATIC = Shown()


@dataclass
class Watched:
    """One trial as far as its files tell."""

    trial: Trial
    folder: Path
    offset: int = 0
    epoch: int = 0
    top1: float | None = None
    images_per_s: float | None = None
    first_seen: float | None = None
    first_epoch: int = 0
    status: str = "waiting"
    reason: str = ""

    @property
    def seconds_left(self) -> float | None:
        """From the epochs seen since this command began; None before two of them."""
        seen = self.epoch - self.first_epoch
        if self.first_seen is None or seen < 1:
            return None
        return (self.trial.spec.recipe.epochs - self.epoch) * (time.monotonic() - self.first_seen) / seen


class Monitor:
    """Follows trials by their files. ``poll`` returns the lines worth telling since the last time; with ``verbose``
    every epoch is, else those with an accuracy."""

    def __init__(self, trials: Sequence[Trial], store: Store, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self.watched: list[Watched] = []
        self._before: dict[int, int] = {}
        self._started: dict[int, int] = {}
        self._open: dict[Path, list[Watched]] = {}
        for trial in trials:
            self.watch(trial, store)

    def watch(self, trial: Trial, store: Store, *, begun: bool = False) -> None:
        """Follow a trial from now on. begun: it began while this command ran, so that what there is is news."""
        w = Watched(trial, store.folder(trial.spec, trial.id))
        self._before[id(w)] = 0 if begun else _stamp(w.folder / "trial.json")
        self._started[id(w)] = 0 if begun else _stamp(w.folder / "started.json")
        self.watched.append(w)
        self._open.setdefault(w.folder.parent, []).append(w)

    def poll(self) -> list[str]:
        """Looks into the folders that are there, of trials that are not done: cheap with thousands of trials too."""
        told: list[str] = []
        for method, trials in self._open.items():
            there = _names(method) if trials else frozenset()
            for w in trials:
                if w.folder.name in there:
                    told += self._look(w)
            self._open[method] = [w for w in trials if w.status in ("waiting", "running")]
        return told

    def _look(self, w: Watched) -> list[str]:
        if w.status == "waiting" and _stamp(w.folder / "started.json") != self._started[id(w)]:
            w.status = "running"
        return self._curve(w) + self._record(w)

    def _curve(self, w: Watched) -> list[str]:
        again = w.folder / AGAIN / "curve.jsonl"
        path = again if again.is_file() else w.folder / "curve.jsonl"
        try:
            size = path.stat().st_size if path.is_file() else 0
        except OSError:
            return []
        if size < w.offset:  # cut back on resume
            w.offset = 0
        if size == w.offset:
            return []
        try:
            with open_plain(path) as file:
                file.seek(w.offset)
                block = file.read(MOST_AT_ONCE)
        except OSError:
            return []
        complete = block[: block.rfind(b"\n") + 1]
        w.offset += len(complete)
        told = []
        for line in complete.splitlines():
            told += self._line(w, line)
        return told

    def _line(self, w: Watched, line: bytes) -> list[str]:
        try:
            values: dict[str, Any] = json.loads(line)
            w.epoch = int(values["epoch"]) + 1
            w.images_per_s = float(values["images_per_s"])
            top1 = float(values["top1"]) if "top1" in values else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return []
        if w.first_seen is None:
            w.first_seen, w.first_epoch, w.status = time.monotonic(), w.epoch, "running"
        told = f"{label(w.trial)}: epoch {w.epoch}/{w.trial.spec.recipe.epochs}"
        if top1 is not None:
            w.top1 = top1
            return [f"{told}, top-1 {w.top1:.2%}, {w.images_per_s:.0f} images/s"]
        loss = values.get("loss")
        said = f"{loss:.4g}" if isinstance(loss, int | float) else "?"
        return [f"{told}, loss {said}, {w.images_per_s:.0f} images/s"] if self.verbose else []

    def _record(self, w: Watched) -> list[str]:
        path = w.folder / "trial.json"
        if _stamp(path) == self._before[id(w)]:
            return []
        try:
            result = read_result(path)
        except (FileNotFoundError, DamagedRecord):
            return []
        if result.status == "interrupted":
            return []
        w.status, w.reason = result.status, result.reason
        score = f", top-1 {result.metrics.top1:.2%}" if result.metrics else ""
        if result.validation_top1 is not None:
            score = f", top-1 on held-out images {result.validation_top1:.2%}"
        return [f"{label(w.trial)}: {result.status}{score}{': ' + result.reason if result.reason else ''}"]


def label(trial: Trial) -> str:
    """How a trial is called on screen."""
    spec = trial.spec
    return f"{spec.dataset}/{spec.network} {spec.title}"


def _names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Reporter:
    """Runs beside the engine and shows progress until it is left. ``quiet`` shows nothing."""

    def __init__(self, monitor: Monitor, stream: TextIO, *, quiet: bool = False, shown: Shown = AUTOMATIC) -> None:
        self.monitor = monitor
        self.stream = stream
        self.shown = shown
        self.quiet = quiet or shown.style == "none"
        self._done = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reporter:
        if not self.quiet:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        if not self.quiet:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        if self.shown.live(self.stream):
            self._live()
        else:
            while not self._done.wait(POLL_S):
                self._tell()
            self._tell()

    def _tell(self) -> None:
        for line in self.monitor.poll():
            print(visible(line), file=self.stream, flush=True)

    def _live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self.stream, no_color=True if not self.shown.color else None)
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while not self._done.wait(POLL_S):
                self.monitor.poll()
                live.update(table(self.monitor.watched))


def table(watched: Sequence[Watched]) -> Any:
    """A rich table of the trials at work, and one line for the rest."""
    from rich.table import Table
    from rich.text import Text

    finished = sum(w.status not in ("waiting", "running") for w in watched)
    waiting = sum(w.status == "waiting" for w in watched)
    title = f"{finished} of {len(watched)} trials done, {waiting} waiting"
    left = seconds_left(watched)
    title += "" if left is None else f"; {duration(left)} left"
    shown = Table(title=title, caption=memory_in_use(), title_justify="left", caption_justify="left")
    for name in ("trial", "epoch", "top-1", "images/s", "left"):
        shown.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    for w in watched:
        if w.status == "running":
            shown.add_row(
                Text(visible(label(w.trial))),
                f"{w.epoch}/{w.trial.spec.recipe.epochs}",
                "–" if w.top1 is None else f"{w.top1:.2%}",
                "–" if w.images_per_s is None else f"{w.images_per_s:.0f}",
                "–" if w.seconds_left is None else duration(w.seconds_left),
            )
    return shown


def seconds_left(watched: Sequence[Watched]) -> float | None:
    """Of the whole run, as fast as the trials at work go by now; None before any of them can tell."""
    pace = [w.seconds_left / left for w in watched if w.seconds_left and (left := _epochs_left(w))]
    if not pace:
        return None
    at_once = sum(w.status == "running" for w in watched)
    return sum(_epochs_left(w) for w in watched) * sum(pace) / len(pace) / max(1, at_once)


def _epochs_left(w: Watched) -> int:
    return w.trial.spec.recipe.epochs - w.epoch if w.status in ("waiting", "running") else 0


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> [duration(s) for s in (4.4, 75, 7260)]
    ['4s', '1m15s', '2h01m']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"

"""A limit of what all trials of a run may take together, over however many commands it takes: ``--budget``.

``6h`` is wall-clock time of the command itself, which a small file under ``budgets/`` of the results folder adds up
over commands that ask for the same trials. ``30cpu-h`` and ``40gpu-h`` are CPU-hours and GPU-hours that the trials
occupied: their seconds times the CPUs or GPUs that each takes, by their records, whichever command made them, and by
the clock for those at work. When the budget is spent no trial starts, those at work stop at their next step and keep
their checkpoints. The time of a process that was killed counts up to its newest checkpoint, once it is resumed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Literal

from sdbench import environment
from sdbench.bounded import read_plain
from sdbench.errors import UserError
from sdbench.progress import duration
from sdbench.selectors import parse_duration
from sdbench.spec import Record, Seconds, Trial, digest
from sdbench.store import DamagedRecord, Store, read_result, write_atomic
from sdbench.terminal import say

POLL_S = 1.0
LEDGER_EVERY_S = 10.0
LEDGERS = "budgets"
"""The folder, in a results folder, of the wall-clock time that runs took so far."""


class Budget(Record):
    """A limit in seconds. kind: of wall-clock time, or of CPUs or GPUs being occupied."""

    seconds: Seconds
    kind: Literal["wall", "cpu", "gpu"]


def parse_budget(text: str) -> Budget:
    """``40gpu-h``, ``30cpu-h``, ``6h``, ``90m`` or seconds. Raises UserError.

    >>> parse_budget("0.5gpu-h")
    Budget(seconds=1800.0, kind='gpu')
    >>> parse_budget("90m")
    Budget(seconds=5400.0, kind='wall')
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(cpu|gpu)-?h", text.strip().lower())
    if match is None:
        try:
            return Budget(seconds=parse_duration(text), kind="wall")
        except UserError as error:
            raise UserError(f"--budget {text!r}: expected hours such as 6h, 40gpu-h or 30cpu-h") from error
    if not 0 < float(match[1]) < 1e8:
        raise UserError(f"--budget {text!r}: expected a number of hours above 0 and below 100,000,000")
    return Budget(seconds=3600 * float(match[1]), kind="gpu" if match[2] == "gpu" else "cpu")


def budget_for(text: str | None, device: str, *, elsewhere: bool) -> Budget | None:
    """The budget that was asked for, if any. elsewhere: trials run on other machines than this one. Raises UserError
    for GPU-hours where no trial would use a GPU."""
    budget = parse_budget(text) if text is not None else None
    if budget and budget.kind == "gpu" and not elsewhere and environment.choose_device(device).type != "cuda":
        raise UserError(f"--budget {text}: no trial would use a GPU; give cpu-h, or hours such as 6h")
    return budget


class Spending(Record):
    """How a budget stands."""

    budget: Budget
    spent: Seconds

    @property
    def reached(self) -> bool:
        return self.spent >= self.budget.seconds

    @property
    def text(self) -> str:
        what = {"wall": "wall-clock time", "cpu": "time that CPUs were occupied", "gpu": "time that GPUs were occupied"}
        return f"budget: {duration(self.spent)} of {duration(self.budget.seconds)} spent, {what[self.budget.kind]}"


@dataclass
class _Clock:
    """The seconds of one trial. recorded: by its record or before its process was started again. since: when its
    process was seen to start."""

    trial: Trial
    share: float
    recorded: float = 0.0
    since: float | None = None
    stamps: dict[str, int] = field(default_factory=dict)

    def seconds(self, store: Store) -> float:
        folder = store.folder(self.trial.spec, self.trial.id)
        ended, started = self._changed(folder / "trial.json"), self._changed(folder / "started.json")
        if ended:
            self.recorded, self.since = _recorded(folder / "trial.json", self.trial.id), None
        elif started:
            self.recorded, self.since = self._now(), time.monotonic()
        return self._now() * self.share

    def _now(self) -> float:
        return self.recorded + (0.0 if self.since is None else time.monotonic() - self.since)

    def _changed(self, path: Path) -> bool:
        """Whether a file is another one than when it was last looked at."""
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            stamp = 0
        before = self.stamps.get(path.name)
        self.stamps[path.name] = stamp
        # At the first look a record counts, while a trial that was started before may be at work no longer.
        return stamp != (before if before is not None else 0 if path.name == "trial.json" else stamp)


def _recorded(path: Path, trial_id: str) -> float:
    """The seconds of a trial by its record; from start to end where its process could not say. 0 without a record."""
    try:
        result = read_result(path)
    except (FileNotFoundError, DamagedRecord):
        return 0.0
    if result.trial_id != trial_id:
        return 0.0
    if result.cost is not None:
        return result.cost.train_s + result.cost.eval_s + result.cost.setup_s
    made = result.provenance
    try:
        return max(0.0, (datetime.fromisoformat(made.finished) - datetime.fromisoformat(made.started)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


class Meter:
    """Adds up what a run has spent. devices: CPUs or GPUs that one trial of one shard occupies."""

    def __init__(self, budget: Budget, trials: tuple[Trial, ...], store: Store, devices: float) -> None:
        self.budget, self.store = budget, store
        self._clocks = [_Clock(trial, devices * trial.spec.shards) for trial in trials]
        self._ledger = store.root / LEDGERS / f"{digest(sorted(trial.id for trial in trials))}.json"
        self._before, self._began, self._written = _read_ledger(self._ledger), time.monotonic(), 0.0
        self._told = False

    def look(self, *, working: bool = True) -> Spending:
        """How the budget stands now. working: whether the command is at work, so that its time counts."""
        if self.budget.kind == "wall":
            spent = self._before + (time.monotonic() - self._began if working else 0.0)
        else:
            spent = sum(clock.seconds(self.store) for clock in self._clocks)
        return Spending(budget=self.budget, spent=spent)

    def keep(self, *, now: bool = False) -> None:
        """Write wall-clock time down, every few seconds or now. Where it cannot be written, which standard error says
        once, the budget holds for this command all the same, and the next one does not know of its time."""
        if self.budget.kind == "wall" and (now or time.monotonic() - self._written > LEDGER_EVERY_S):
            self._written = time.monotonic()
            try:
                write_atomic(self._ledger, json.dumps({"seconds": self.look().spent}) + "\n")
            except OSError as error:
                if not self._told:
                    with suppress(OSError):  # the terminal may be gone
                        say(f"budget: time spent is not written down: {error.strerror or error}", err=True)
                self._told = True


def _read_ledger(path: Path) -> float:
    try:
        seconds = float(json.loads(read_plain(path, 1000))["seconds"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ArithmeticError):
        return 0.0
    return seconds if 0 <= seconds < 1e12 else 0.0


@contextmanager
def watched(meter: Meter | None, stop: Event) -> Iterator[None]:
    """Set ``stop`` once the budget is spent, also where it is spent already. Nothing without a meter."""
    if meter is None:
        yield
        return
    done = Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            meter.keep()
            if meter.look().reached:
                stop.set()
                return

    if meter.look(working=False).reached:
        stop.set()
    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
        meter.keep(now=True)

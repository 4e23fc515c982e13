"""One search trial, told epoch by epoch while it runs: what a scheduler decides by. Imports no torch."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from sdbench.curve_lines import accuracies
from sdbench.engine.job import Job
from sdbench.engine.supervise import supervise
from sdbench.store import Store, read_curve
from sdbench.study_records import stopped_after

POLL_S = 0.1


class Told(NamedTuple):
    """epochs: done so far. top1: on the held-out images after them."""

    epochs: int
    top1: float


class Follower:
    """Runs a search trial in a process of its own, unless it is over, and tells the validation accuracies of its curve
    in order: those that an earlier command left as well, so that whoever decides by them has seen the same."""

    def __init__(self, job: Job) -> None:
        self._store = Store(Path(job.store))
        self._job = job
        self._folder = self._store.folder(job.trial.spec, job.trial.id)
        self._stop = Event()
        self._told = 0
        over = self._store.result(job.trial) is not None or stopped_after(self._folder) is not None
        self._thread = None if over else Thread(target=supervise, args=(job, self._stop), daemon=True)
        if self._thread is not None:
            self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its process is at work."""
        return self._thread is not None and self._thread.is_alive()

    def next(self) -> Told | None:
        """The next accuracy, once it is there; None when there are no more. That of the last epoch comes when the
        trial's record is written, so that nobody stops a trial that is done."""
        last = self._job.trial.spec.recipe.epochs
        while True:
            running = self.running  # before the curve is read: what is written afterwards is read next time
            found = accuracies(read_curve(self._folder / "curve.jsonl"), "validation_top1")
            new = [epochs for epochs in found if epochs > self._told]
            if new and (new[0] < last or not running):
                self._told = new[0]
                return Told(new[0], found[new[0]])
            if not running:
                return None
            time.sleep(POLL_S)

    def end(self) -> None:
        """Stop the trial's process, if it runs, and wait until it is gone. What the scheduler stopped for good needs
        no checkpoint any more."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        if stopped_after(self._folder) is not None:
            shutil.rmtree(self._folder / "checkpoint", ignore_errors=True)

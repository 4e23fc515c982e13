"""One search trial, told epoch by epoch while it runs: what a scheduler decides by. Imports no torch."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from sdbench.engine.job import Job
from sdbench.engine.supervise import supervise
from sdbench.store import Store
from sdbench.study_records import accuracies, stopped_after
from sdbench.trial_folder import STATE

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
        stop = stopped_after(self._folder)
        self._last = job.trial.spec.recipe.epochs if stop is None else stop
        found = self._store.result(job.trial)
        over = stop is not None or (found is not None and found.checksums["trial.json"] != job.replaces)
        self._thread = None if over else Thread(target=supervise, args=(job, self._stop), daemon=True)
        if self._thread is not None:
            self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its process is at work."""
        return self._thread is not None and self._thread.is_alive()

    def next(self) -> Told | None:
        """The next accuracy, once it is there; None when there are no more. That of the last epoch comes when the
        trial's record is written, so that nobody stops a trial that is done. Of a trial that was stopped before, what
        the scheduler had seen."""
        last = self._job.trial.spec.recipe.epochs
        while True:
            running = self.running  # before the curve is read: what is written afterwards is read next time
            known = accuracies(self._folder)
            new = [epochs for epochs in known if self._told < epochs <= self._last]
            if new and (new[0] < last or not running):
                self._told = new[0]
                return Told(self._told, known[self._told])
            if not running:
                return None
            time.sleep(POLL_S)

    def end(self) -> None:
        """Stop the trial's process, if it runs, and wait until it is gone. What the scheduler stopped for good needs
        no checkpoint any more, nor the rows of its method."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        if stopped_after(self._folder) is not None:
            for name in ("checkpoint", STATE):
                shutil.rmtree(self._folder / name, ignore_errors=True)

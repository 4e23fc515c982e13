"""What a trial's process is told."""

from __future__ import annotations

from sdbench.spec import Options, Record, Trial


class Job(Record):
    """One trial to run in a process of its own.

    store: the results folder, absolute. replaces: the seal of the record that is to be replaced, as it was when it was
    decided that the trial runs, so that of two commands only one does it again; empty where there was none.
    """

    trial: Trial
    options: Options
    store: str
    replaces: str = ""

    def with_plugins(self, paths: tuple[str, ...]) -> Job:
        """The same, where its plug-ins lie at these paths."""
        return self.model_copy(update={"options": self.options.model_copy(update={"plugins": paths})})

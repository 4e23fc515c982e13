"""What a trial's process is told."""

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

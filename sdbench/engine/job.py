"""What a trial's process is told."""

from sdbench.spec import Options, Record, Trial


class Job(Record):
    """One trial to run in a process of its own.

    store: the results folder, absolute. replaces: when a finished record is to be run again, the
    time at which it was finished, so that of two commands only one does it again.
    """

    trial: Trial
    options: Options
    store: str
    replaces: str = ""

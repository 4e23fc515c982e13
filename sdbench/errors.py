"""Errors for people: what happened, why, and what to type next."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST_NAME = 200
"""Characters up to which a name is looked up among similar ones, and shown."""


class UserError(ValueError):
    """Bad input. ``problems`` holds every mistake found, each a sentence a user can act on."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class EnvironmentProblem(UserError):
    """The machine lacks something that the command needs (Ray, a writable folder, a GPU)."""


class TrialInterrupted(Exception):
    """A signal asked the trial to stop; its newest checkpoint is on disk."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence for a name that does not exist, with near matches and the list.

    >>> unknown("method", "zpf", ["ce", "zipf"])
    "unknown method 'zpf'; did you mean 'zipf'? Known: ce, zipf"
    """
    known = sorted(known)
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.5) if len(name) <= LONGEST_NAME else []
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    shown = repr(name) if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]!r}..."
    return f"unknown {kind} {shown}; {hint}Known: {', '.join(known) or 'none'}"

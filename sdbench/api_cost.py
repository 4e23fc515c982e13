"""The functions of ``sdbench.api`` that measure and judge cost, as ``sdbench.cli_cost`` has the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from sdbench.api_options import ClaimsOptions, One, ProfileOptions, command, folder, texts, typed, warn

if TYPE_CHECKING:
    from sdbench.cost.claims_records import ClaimsTable
    from sdbench.cost.records import ProfileResult
    from sdbench.cost.request import ProfileRequest


def profiles(results: One = "results") -> list[ProfileResult]:
    """All profiles of a results folder, the oldest first; a damaged record is a warning. Empty where there is no such
    folder."""
    from sdbench.cost import archive

    found = archive.scan(folder(results))
    warn(found.damaged)
    return list(found.results)


def profile(**options: Unpack[ProfileOptions]) -> ProfileResult:
    """What a training step of each method costs beside the baseline's, ``sdbench profile``; the record is kept.

    Many methods are measured in groups and returned as one record. A method that fails has a row with its reason.
    Raises UserError with every problem of the options, EnvironmentProblem where the machine lacks something.
    """
    from sdbench.cost import commands

    _, found, _ = commands.profiles(_request(dict(options)), command("profile", typed(options, options)))
    return found[0]


def profile_sweep(sweep: str, **options: Unpack[ProfileOptions]) -> list[ProfileResult]:
    """A profile for each value of ``sweep``, such as "classes=100,1000", ``sdbench profile --sweep``; fewer after
    Ctrl-C. The records are kept. Raises as ``profile``."""
    from sdbench.cost import commands

    asked = {"sweep": sweep, **options}
    return commands.profiles(_request(asked), command("profile", typed(asked, asked)))[1]


def claims(*, measure: bool = False, **options: Unpack[ClaimsOptions]) -> ClaimsTable:
    """What papers claim about cost beside what was measured, ``sdbench claims``: the baseline's row and those of the
    methods. measure: profile what is missing first; the command does unless told ``--no-measure``.

    Raises UserError with every problem of the options, and without ``measure`` where there is no results folder.
    """
    from sdbench.cost import commands

    words = command("claims", typed(options, ClaimsOptions.__annotations__))
    return commands.judged(_request(dict(options)), words, measure=measure)[0]


def _request(options: dict[str, Any]) -> ProfileRequest:
    from sdbench.cost.request import ProfileRequest

    found = typed(options, ProfileRequest.model_fields)
    for name in ("methods", "plugin"):
        if name in found:
            found[name] = texts(found[name])
    if "memory" in found:
        found["memory"] = found["memory"] == "true"
    return ProfileRequest.model_validate(found)

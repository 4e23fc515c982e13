"""Many methods: profiled in groups, each with the baseline, and shown as one.

A round takes a step of every method of a group, so that a ratio rests on two steps that were seconds apart at most;
with too many in one process rounds would be long, and memory short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from sdbench.cost.records import ProfileResult
from sdbench.cost.request import ProfilePlan

GROUP = 5
"""Methods beside the baseline that take turns in one process."""
GROUP_SECONDS = 300.0
"""The limit of a group's rounds, where there are several groups and none is given."""


def groups(plan: ProfilePlan, *, limited: bool) -> list[ProfilePlan]:
    """The plan in parts of at most ``GROUP`` methods, as even as can be, each with the baseline; or the plan itself.

    limited: whether the limit of seconds was asked for, and so holds for each part.
    """
    baseline, *others = plan.contestants
    count = -(-len(others) // GROUP)
    if count < 2:
        return [plan]
    setting = plan.setting if limited else plan.setting.model_copy(update={"max_seconds": GROUP_SECONDS})
    cuts = [round(i * len(others) / count) for i in range(count + 1)]
    parts = [others[low:high] for low, high in pairwise(cuts)]
    return [replace(plan, setting=setting, contestants=(baseline, *part)) for part in parts]


def together(found: Sequence[ProfileResult]) -> ProfileResult:
    """Profiles of the groups of one plan as one, for people and programs to read; it is never stored.

    Every ratio stays what it is, to the baseline of its own group. The baseline's row is the first group's; the load is
    the largest at the start and at the end of any group.
    """
    first = found[0]
    if len(found) == 1:
        return first
    rows = [row for result in found for row in result.rows if result is first or row.method != result.baseline]
    return first.model_copy(
        update={
            "profile_id": ", ".join(result.profile_id for result in found),
            "rows": tuple(rows),
            "load_start": max(result.load_start for result in found),
            "load_end": max(result.load_end for result in found),
            "seconds": sum(result.seconds for result in found),
            "interrupted": any(result.interrupted for result in found),
            "provenance": first.provenance.model_copy(update={"finished": found[-1].provenance.finished}),
        }
    )

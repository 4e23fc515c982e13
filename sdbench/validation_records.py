"""What ``sdbench validate`` answers: findings, each with a place, what is wrong and what to do."""

from __future__ import annotations

from typing import Literal

from sdbench.spec import Count, Record

Level = Literal["error", "warning"]


class Finding(Record):
    """One thing that is wrong (error) or odd (warning).

    kind: which check found it, one word: unreadable, newer, schema, checksum, identity, place, range, protocol,
    duplicate, suspicious, seeds, pairing, missing, reference, reference band, link, litter.
    place: the file, under the path that was given; or what the records compared have in common.
    """

    level: Level
    kind: str
    place: str
    problem: str
    remedy: str

    @property
    def text(self) -> str:
        """One line of printable characters."""
        line = f"{self.level}: {self.place}: {self.problem}; {self.remedy}"
        return "".join(c if c.isprintable() else " " for c in line)


class Validation(Record):
    """What was looked at, and all findings, errors first. Valid where no finding is an error."""

    trials: Count
    profiles: Count
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def valid(self) -> bool:
        return not self.errors

    @property
    def text(self) -> str:
        """A line per finding, those that say the same of several places together, and one that counts them."""
        places: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            places.setdefault((finding.level, finding.problem, finding.remedy), []).append(finding)
        lines = [same[0].text + (f" (and {len(same) - 1} more)" if same[1:] else "") for same in places.values()]
        counted = f"{self.trials} trial(s), {self.profiles} profile(s): "
        told = f"{len(self.errors)} error(s), {len(self.warnings)} warning(s)" if self.findings else "nothing wrong"
        return "\n".join([*lines, counted + told])


def error(kind: str, place: str, problem: str, remedy: str) -> Finding:
    return Finding(level="error", kind=kind, place=place, problem=problem, remedy=remedy)


def warning(kind: str, place: str, problem: str, remedy: str) -> Finding:
    return Finding(level="warning", kind=kind, place=place, problem=problem, remedy=remedy)

"""What trials will need, as records and as text. No torch."""

from __future__ import annotations

from typing import Literal

from tabulate import tabulate

from sdbench.spec import Count, Record


class Need(Record):
    """What one trial of a method on a data set and network needs; None is unknown.

    trials: how many would run. rows: where a memory of every image is kept, if there is one. training_bytes: on disk
    while it trains, at most. kept_bytes: that it leaves there. profile: that memory and hours rest on. scaled: whether
    that has another batch size. advice: what to type for what is unknown. unknown: why nobody can say what the method
    holds, so that memory, state and disk are unknown.
    """

    dataset: str
    network: str
    method: str
    trials: Count
    memory_bytes: Count | None
    state_bytes: Count | None
    row_bytes: Count | None
    rows: Literal["none", "memory", "disk", "unknown"]
    training_bytes: Count | None
    kept_bytes: Count
    step_hours: float | None
    decode_hours: float | None
    hours: float | None
    profile: str = ""
    scaled: bool = False
    advice: str = ""
    unknown: str = ""


class Forecast(Record):
    """What all trials that would run need. hours: of all that can be told, one after another; ``untold``: the number
    of others. disk_bytes: at most, with ``at_once`` of them running when nearly all are done. shared_memory_bytes: that
    ``sharing`` of them, which run at once on one device, take together, at most. What is unknown is in neither."""

    needs: tuple[Need, ...]
    hours: float
    untold: Count
    at_once: Count
    disk_bytes: Count
    free_disk_bytes: Count
    free_memory_bytes: Count
    decoded_per_s: dict[str, float] = {}
    workers: Count = 0
    sharing: Count = 1
    shared_memory_bytes: Count = 0

    @property
    def problems(self) -> list[str]:
        """What will not do."""
        found = []
        if self.disk_bytes > self.free_disk_bytes:
            found.append(
                f"the disk of the results folder has {size_text(self.free_disk_bytes)} free and up to "
                f"{size_text(self.disk_bytes)} are needed; give another with --results FOLDER, or fewer trials at once"
            )
        large = [n for n in self.needs if n.memory_bytes is not None and n.memory_bytes > self.free_memory_bytes]
        found += [
            f"{n.method} on {n.dataset} takes {size_text(n.memory_bytes or 0)} of memory and "
            f"{size_text(self.free_memory_bytes)} are free; take a smaller --batch-size"
            for n in large
        ]
        if self.shared_memory_bytes > self.free_memory_bytes and not large:
            found.append(
                f"{self.sharing} trials at once take up to {size_text(self.shared_memory_bytes)} of memory together "
                f"and {size_text(self.free_memory_bytes)} are free; run fewer at once with --jobs, or take a smaller "
                "--batch-size"
            )
        return found

    @property
    def lines(self) -> list[str]:
        """The table for people, and a line each on what is short and what is not known."""
        if not self.needs:
            return []
        headers = ["forecast", "data set", "network", "trials", "hours", "memory", "state", "disk", "left", "profile"]
        rows = [_row(need) for need in self.needs]
        unknown = f"{self.untold} trial(s) of unknown length"
        told = [f"{self.hours:.3g} hours of trials"] * (self.hours > 0) + [unknown] * (self.untold > 0)
        total = ", ".join(told)
        rates = [f"{name}: {r:.0f} images/s per processor" for name, r in self.decoded_per_s.items()]
        decoding = [f"decoding {', '.join(rates)}, {self.workers} workers"] if rates else []
        bound = "at least" if any(need.unknown for need in self.needs) else "up to"
        disk = f"disk: {bound} {size_text(self.disk_bytes)}, {size_text(self.free_disk_bytes)} free"
        return [
            tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True),
            *[f"{total}, {self.at_once} at once; {disk}"],
            *decoding,
            *(f"not enough: {problem}" for problem in self.problems),
            *(f"memory, state and disk of {names} are unknown: {why}" for why, names in self._unknown().items()),
            *(f"hours and memory of {names} are unknown; run: {line}" for line, names in self._advice().items()),
        ]

    def _unknown(self) -> dict[str, str]:
        """Why it cannot be said what methods hold, and which."""
        found: dict[str, list[str]] = {}
        for need in self.needs:
            if need.unknown:
                found.setdefault(need.unknown, []).append(need.method)
        return {why: ",".join(dict.fromkeys(methods)) for why, methods in found.items()}

    def _advice(self) -> dict[str, str]:
        """Commands that measure what is unknown, and the methods that each of them measures."""
        found: dict[str, list[str]] = {}
        for need in self.needs:
            if need.advice:
                found.setdefault(need.advice.replace(f" {need.method} ", " {} ", 1), []).append(need.method)
        joined = {line: ",".join(dict.fromkeys(methods)) for line, methods in found.items()}
        return {line.replace("{}", names, 1): names for line, names in joined.items()}


def _row(need: Need) -> list[str]:
    unknown = "unknown"
    hours = unknown if need.hours is None else f"{need.hours:.3g}"
    if need.decode_hours and need.step_hours and need.decode_hours > need.step_hours:
        hours += " (decoding)"
    memory = unknown if need.memory_bytes is None else size_text(need.memory_bytes)
    state = size_text(need.state_bytes) + (" on disk" if need.rows == "disk" else "") if need.state_bytes else "0"
    state = unknown if need.state_bytes is None else state
    training = unknown if need.training_bytes is None else size_text(need.training_bytes)
    profile = (need.profile[:8] + (" scaled" if need.scaled else "")) or "none"
    disk = (training, size_text(need.kept_bytes))
    return [need.method, need.dataset, need.network, str(need.trials), hours, memory, state, *disk, profile]


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(2 * 2_686_843 * 10_000 * 4), size_text(1536)
    ('200 GiB', '1.5 KiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    unit = units[0]
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.3g} {unit}"

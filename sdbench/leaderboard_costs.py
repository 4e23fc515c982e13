"""What finished trials cost, chains of generations included, and ratios to a baseline on equal hardware.

Not covered: the speed of a step measured side by side; these are whole trainings, each timed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdbench.spec import Cost, TrialResult
from sdbench.statistics import MeanStd, mean_std

SHORTEST = 1e-9
"""Seconds; no training takes less, and a ratio to less could overflow."""


@dataclass(frozen=True, order=True, slots=True)
class Hardware:
    """What has to be equal before two costs are compared."""

    device: str
    cpu: str
    threads: int
    torch: str

    @property
    def label(self) -> str:
        """For example ``cpu (AMD EPYC 9554), 1 thread, torch 2.10.0``."""
        text = f"{self.device} ({self.cpu}), {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{text}, torch {self.torch}" if self.torch else text


@dataclass(frozen=True, slots=True)
class Spent:
    """What a finished trial cost together with the earlier generations that it builds on.

    seconds: processor time of training on a CPU, wall time of training on a GPU; None where it is not
    known, for the reason in ``problem``. peak_bytes: the largest of the chain. forward_per_image: images
    forwarded in the whole chain per labelled image of the last generation; None with a gap in the chain.
    before_s: wall time of training the earlier generations; of no use where ``problem`` says why.
    """

    hardware: Hardware
    seconds: float | None
    peak_bytes: int | None
    forward_per_image: float | None
    problem: str
    before_s: float = 0.0


def hardware_of(result: TrialResult) -> Hardware:
    """The hardware, number of threads and torch version that a trial ran with."""
    where = result.provenance
    return Hardware(where.device, where.cpu, result.spec.threads, where.versions.get("torch", ""))


def spent(result: TrialResult, by_id: Mapping[str, TrialResult]) -> Spent | None:
    """The cost of a trial and its chain of teachers, looked up in ``by_id``; None unless it finished ok."""
    if result.status != "ok" or result.cost is None:
        return None
    hardware = hardware_of(result)
    chain, gap = _chain(result, by_id)
    costs = [member.cost for member in chain if member.cost is not None]
    if gap:
        return Spent(hardware, None, None, None, gap)
    images = sum(c.images_with_gradient + c.images_without_gradient for c in costs)
    forwards = images / max(1, result.cost.labelled_images)
    if any(hardware_of(member) != hardware for member in chain):
        return Spent(hardware, None, None, forwards, "its generations ran on unlike hardware")
    problems = [p for c in costs if not c.timing_valid for p in c.timing_problems or ("no reason recorded",)]
    seconds = None if problems else sum(_seconds(c, hardware) for c in costs)
    peak = max(c.peak_memory_bytes for c in costs)
    before_s = sum(c.train_s for c in costs[1:])
    return Spent(hardware, seconds, peak, forwards, "; ".join(dict.fromkeys(problems)), before_s)


def _seconds(cost: Cost, hardware: Hardware) -> float:
    return cost.process_s if hardware.device == "cpu" else cost.train_s


def _chain(result: TrialResult, by_id: Mapping[str, TrialResult]) -> tuple[list[TrialResult], str]:
    """The trial and the generations before it, and why one of them cannot be counted (or nothing)."""
    chain = [result]
    seen = {result.trial_id}
    while (teacher := chain[-1].spec.teacher) is not None:
        before = by_id.get(teacher)
        if before is None:
            return chain, f"the record of its earlier generation {teacher} is missing"
        if teacher in seen:
            return chain, f"its earlier generation {teacher} is its own descendant"
        if before.status != "ok" or before.cost is None:
            return chain, f"its earlier generation {teacher} did not finish ({before.status})"
        seen.add(teacher)
        chain.append(before)
    return chain, ""


def ratios(
    own: Mapping[int, Spent], baseline: Mapping[int, Spent], hardware: Hardware
) -> tuple[MeanStd | None, MeanStd | None]:
    """Training time and peak memory relative to the baseline: means of per-seed ratios.

    own, baseline: costs per seed. Only seeds where both ran on ``hardware`` and both numbers are known
    enter. None where there is no such seed.
    """
    pairs = [
        (own[seed], baseline[seed])
        for seed in sorted(own.keys() & baseline.keys())
        if own[seed].hardware == hardware == baseline[seed].hardware
    ]
    time = [a.seconds / b.seconds for a, b in pairs if a.seconds is not None and b.seconds and b.seconds > SHORTEST]
    memory = [a.peak_bytes / b.peak_bytes for a, b in pairs if a.peak_bytes is not None and b.peak_bytes]
    return mean_std(time) if time else None, mean_std(memory) if memory else None

"""What a profile's row says of a method's needs and of its training iterations, each judged. Pure; no torch."""

from __future__ import annotations

from sdbench.cost.claims_records import ClaimVerdict, Entry, Need, PaperEntry
from sdbench.cost.claims_rules import COUNT_TOLERANCE, combine, judge_count, judge_interval, judge_ratio, of_chain
from sdbench.cost.records import ProfileResult, ProfileRow

READINGS = ("images loaded", "forward passes", "backward passes", "FLOPs", "time")
"""What "training iterations" may mean. Each is per labelled image and relative to the baseline, and where a method
trains several times in a row, of the whole chain. Forward passes count with and without gradient."""


def missing(claimed: bool | float | str | None, why: str) -> Entry:
    """An entry that was not measured, and why; without a claim it has no verdict."""
    return Entry(paper=claimed, verdict=None if claimed is None else "not measured", reason=why)


def needs(paper: PaperEntry | None, row: ProfileRow | None, why: str) -> tuple[Need, Need, Need]:
    """Whether a trained teacher, contrastive samples and auxiliary parameters are needed, in this order.

    A teacher: more than one training in a row. Contrastive samples: more than one image loaded per labelled image,
    a further view of the same image included. Auxiliary parameters: any weights besides the network's.
    row: None where there is none to judge, for which ``why`` gives the reason.
    """
    teacher = paper.pretrained_teacher if paper else None
    samples = paper.contrastive_samples if paper else None
    auxiliary = paper.auxiliary_parameters if paper else None
    trainings, loaded, weights = (row.generations, row.images_loaded, row.auxiliary_parameters) if row else (None,) * 3
    return (
        _need(teacher, trainings, 1, why),
        _need(samples, loaded, 1 + COUNT_TOLERANCE, why or "images loaded were not counted"),
        _need(auxiliary, weights, 0, why or "auxiliary parameters were not counted"),
    )


def _need(claimed: bool | None, value: float | None, most: float, why: str) -> Need:
    """most: the largest value of a method that can do without. why: the reason where there is no value."""
    if value is None:
        return Need(paper=claimed, verdict=None if claimed is None else "not measured", reason=why)
    needed = value > most
    verdict: ClaimVerdict | None = None if claimed is None else "confirmed" if claimed == needed else "refuted"
    return Need(paper=claimed, value=value, needed=needed, verdict=verdict)


def readings(
    paper: PaperEntry | None, row: ProfileRow | None, result: ProfileResult | None, why: str
) -> dict[str, Entry]:
    """Each of ``READINGS`` with its verdict on the paper's training iterations.

    Counts must be as claimed within 0.5 %, FLOPs within the profile's margin, and a time's whole interval within
    that margin. A time that other processes spoiled is not measured.
    """
    claimed = paper.training_iterations if paper else None
    if row is None or result is None:
        return {name: missing(claimed, why) for name in READINGS}
    base = result.row(result.baseline)
    counts = (
        (row.images_loaded, base.images_loaded if base else None),
        (row.forward_images, base.forward_images if base else None),
        (row.backward_images, base.backward_images if base else None),
    )
    found = [
        _count(claimed, own, baseline, row.generations, what)
        for what, (own, baseline) in zip(READINGS, counts, strict=False)
    ]
    margin = result.setting.margin
    found += [_flops(claimed, row, margin), _time(claimed, row, margin)]
    return dict(zip(READINGS, found, strict=True))


def _count(claimed: float | None, own: float | None, baseline: float | None, generations: int, what: str) -> Entry:
    if own is None or not baseline:
        return missing(claimed, f"{what} were not counted")
    value = of_chain(own / baseline, generations)
    return Entry(paper=claimed, value=value, verdict=None if claimed is None else judge_count(value, claimed))


def _flops(claimed: float | None, row: ProfileRow, margin: float) -> Entry:
    if row.predicted_ratio is None:
        return missing(claimed, "FLOPs were not counted")
    value = of_chain(row.predicted_ratio, row.generations)
    return Entry(paper=claimed, value=value, verdict=None if claimed is None else judge_ratio(value, claimed, margin))


def _time(claimed: float | None, row: ProfileRow, margin: float) -> Entry:
    time = row.time_ratio
    if time is None or not row.timing_valid:
        return missing(claimed, "; ".join(row.timing_problems) or "no valid timing")
    value, low, high = (of_chain(v, row.generations) for v in (time.median, time.low, time.high))
    verdict = None if claimed is None else judge_interval(low, high, claimed, margin)
    return Entry(paper=claimed, value=value, low=low, high=high, verdict=verdict)


def iterations(paper: PaperEntry | None, found: dict[str, Entry]) -> Entry:
    """All readings together: their verdict by ``combine``, and the smallest and the largest of them as low and high."""
    claimed = paper.training_iterations if paper else None
    values = [entry.value for entry in found.values() if entry.value is not None]
    verdict = combine(entry.verdict or "not measured" for entry in found.values())
    return Entry(
        paper=claimed,
        low=min(values, default=None),
        high=max(values, default=None),
        verdict=None if claimed is None else verdict,
        reason="; ".join(
            f"{name} not measured: {entry.reason}" for name, entry in found.items() if entry.reason and values
        ),
    )

"""What a profile's row says of a method's memory, judged against a paper's words. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping

from sdbench.cost.claims_readings import missing
from sdbench.cost.claims_records import ClaimVerdict, DataSize, Entry, MemoryClaim
from sdbench.cost.claims_rules import BYTES_PER_WEIGHT, grows_with_images, judge_ratio
from sdbench.cost.records import ProfileResult, ProfileRow


def judge_memory(
    claimed: MemoryClaim | None,
    row: ProfileRow | None,
    result: ProfileResult | None,
    sizes: Mapping[str, DataSize],
    why: str,
) -> Entry:
    """The ratio r of the method's peak to the baseline's, against what the paper says.

    *x1*: confirmed where r <= 1 + margin. *x2*: where |r - 2| <= 2 margin. *x1+O(M)*: where there are auxiliary
    parameters, and r <= 1 + margin once they are taken from the peak, with their gradients and momentum 12
    bytes each. *x1+O(D)*: where r <= 1 + margin once the bytes of the method's state are taken from the peak, and
    that state grows with the number of training images (``grows_with_images``); *inconclusive* where the
    first holds and the second cannot be told. Otherwise *refuted*. Of a chain it is the last training's peak.

    sizes: of data sets by name. row: None where there is none to judge, for which ``why`` gives the reason.
    """
    if row is None or result is None:
        return missing(claimed, why)
    if row.memory_ratio is None:
        return missing(claimed, row.memory_reason or "memory was not measured")
    margin, ratio = result.setting.margin, row.memory_ratio
    told = f"peak ×{ratio:.3f} the baseline's"
    if claimed is None:
        return Entry(value=ratio, reason=told)
    if claimed == "x1+O(M)":
        return _beside_parameters(claimed, row, ratio, margin, told)
    if claimed == "x1+O(D)":
        return _beside_state(claimed, row, ratio, margin, sizes, told)
    verdict: ClaimVerdict = judge_ratio(ratio, 2, margin) if claimed == "x2" else _at_most_one(ratio, margin)
    return Entry(paper=claimed, value=ratio, verdict=verdict, reason=told)


def _beside_parameters(claimed: MemoryClaim, row: ProfileRow, ratio: float, margin: float, told: str) -> Entry:
    weights = row.auxiliary_parameters
    if row.memory is None or weights is None:
        return missing(claimed, f"{told}; what of it auxiliary parameters take is not known")
    rest = _without(row.memory.peak_bytes, ratio, BYTES_PER_WEIGHT * weights)
    verdict = _at_most_one(rest, margin) if weights else "refuted"
    told += f", ×{rest:.3f} without the {BYTES_PER_WEIGHT} bytes for each of {weights:,} auxiliary parameters"
    return Entry(paper=claimed, value=ratio, verdict=verdict, reason=told)


def _beside_state(
    claimed: MemoryClaim,
    row: ProfileRow,
    ratio: float,
    margin: float,
    sizes: Mapping[str, DataSize],
    told: str,
) -> Entry:
    split = row.memory.split if row.memory else None
    state = split.method_state if split else row.state_bytes
    if row.memory is None or state is None:
        return missing(claimed, f"{told}; what of it the method's state takes is not known")
    rest = _without(row.memory.peak_bytes, ratio, state)
    told += f", ×{rest:.3f} without the {state:,} bytes of the method's state"
    grows = grows_with_images(row.state_bytes_at, sizes)
    verdict = _at_most_one(rest, margin)
    if verdict == "confirmed" and grows is None:
        verdict = "inconclusive"
    elif grows is False:
        verdict = "refuted"
    growth = {
        True: "the state grows with the training images",
        False: "the state does not grow with the training images",
        None: "whether the state grows with the training images cannot be told",
    }
    return Entry(paper=claimed, value=ratio, verdict=verdict, reason=f"{told}; {growth[grows]}")


def _at_most_one(ratio: float, margin: float) -> ClaimVerdict:
    return "confirmed" if ratio <= 1 + margin + 1e-12 else "refuted"


def _without(peak: int, ratio: float, taken: int) -> float:
    """The ratio of peaks with bytes taken from the method's, but not below 0."""
    return ratio * max(0, peak - taken) / peak if peak else ratio

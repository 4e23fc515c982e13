"""Whether a baseline reaches what others publish for it: trials beside one that does not are not to be published.

The *reference band* of a data set, network and number of epochs runs from the lowest published top-1 of the baseline to
the highest, widened by ``MARGIN`` points on both sides: most published figures are of one seed and of the best epoch on
the test set. There is one only where ``results/published.toml`` has such a figure, and it is only asked of trials on
the whole training set by a protocol's own recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sdbench.published import PublishedNumber, published_numbers
from sdbench.spec import TrialResult
from sdbench.validation_files import Found
from sdbench.validation_records import Finding, warning
from sdbench.validation_sets import grouped

MARGIN = 2.0
"""Points of top-1."""

_Key = tuple[str, str, int]


def band_findings(trials: Sequence[tuple[Found, TrialResult]]) -> Iterator[Finding]:
    """A warning for every kind of baseline trial whose mean over seeds lies outside its reference band."""
    asked = [(found, record) for found, record in trials if _asked(record)]
    if not asked:
        return
    published = published_numbers()
    for (dataset, network, epochs), group in grouped(asked, lambda read: _key(read[1])).items():
        method = group[0][1].baseline
        band = reference_band(published, method, dataset, network, epochs)
        own = [100 * record.metrics.top1 for _, record in group if record.metrics]
        mean = sum(own) / len(own)
        if band is not None and not band[0] <= mean <= band[1]:
            what = f"{method} on {dataset} with {network} in {epochs} epochs"
            problem = f"{what} reaches {mean:.2f} % ({len(own)} trials), outside the reference band of {band[0]:.2f} to"
            remedy = "not to be published as it is: look at the data, the recipe and the machine"
            yield warning("reference band", group[0][0].place, f"{problem} {band[1]:.2f} %", remedy)


def reference_band(
    published: Sequence[PublishedNumber], method: str, dataset: str, network: str, epochs: int
) -> tuple[float, float] | None:
    """The band in per cent; None where nobody publishes such a figure."""
    values = [
        number.value
        for number in published
        if (number.method, number.dataset, number.network, number.metric) == (method, dataset, network, "top1")
        and _epochs(number) == epochs
    ]
    return (min(values) - MARGIN, max(values) + MARGIN) if values else None


def _epochs(number: PublishedNumber) -> int | None:
    match = re.match(r"(\d{1,6}) epochs\b", number.protocol)
    return int(match[1]) if match else None


def _key(record: TrialResult) -> _Key:
    return record.spec.dataset, record.spec.network, record.spec.recipe.epochs


def _asked(record: TrialResult) -> bool:
    """Whether a trial is of the baseline, finished, on all training images, by a protocol's own recipe."""
    from sdbench.protocol import PROTOCOLS

    spec, protocol = record.spec, PROTOCOLS.get(record.spec.protocol)
    if record.status != "ok" or record.metrics is None or protocol is None or spec.method != record.baseline:
        return False
    plain = spec.split == "full" and spec.generation is None and spec.limit_steps is None
    return plain and protocol.recipe_for(spec.recipe.augment, {}) == spec.recipe

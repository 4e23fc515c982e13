"""Zipf's law and calibration of the logits that trials keep."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.analysis.records import SCORES, Bin, CalibrationRow, ZipfEpoch, ZipfFigures, ZipfRow
from sdbench.analysis.zipf import ZipfFit, fit, sorted_outputs
from sdbench.kept_logits import UnusableLogits, read_logits
from sdbench.leaderboard_variants import Variant
from sdbench.report.reliability import Reliability, bin_edges, pooled, reliability
from sdbench.spec import TrialResult
from sdbench.statistics import mean_std
from sdbench.store import Store

if TYPE_CHECKING:
    from sdbench.kept_logits import Floats, Integers

LAST = "logits.safetensors"


def zipf_row(
    store: Store, variant: Variant, ranks: tuple[int, int], others: bool
) -> tuple[ZipfRow | None, tuple[int, int] | None, list[str]]:
    """The row of a variant, the ranks that were looked at, and notes; no row where no seed's logits can be read.

    others: without the label's class.
    """
    fits: dict[int, ZipfFit] = {}
    outputs: list[Any] = []
    epochs: dict[int, list[ZipfFit]] = defaultdict(list)
    notes = []
    for seed, result in variant.trials.items():
        try:
            values, found = _fit(_path(store, result, LAST), result, ranks, others)
            if outputs and len(values) != len(outputs[0]):
                raise ValueError("its logits have other classes than those of the seeds before it")
            fits[seed] = found
            outputs.append(values)
            for epoch, name in _epochs(result).items():
                epochs[epoch].append(_fit(_path(store, result, name), result, ranks, others)[1])
        except (UnusableLogits, ValueError) as error:
            notes.append(f"{variant.label} seed {seed}: {error}")
    if not fits:
        return None, None, notes
    row = ZipfRow(
        label=variant.label,
        seeds=tuple(fits),
        figures=_figures(list(fits.values())),
        outputs=tuple(float(v) for v in sum(outputs) / len(outputs)),
        epochs=tuple(ZipfEpoch(epoch=e, figures=_figures(own)) for e, own in sorted(epochs.items())),
    )
    one = next(iter(fits.values()))
    return row, (one.first, one.last), notes


def _fit(path: Path, result: TrialResult, ranks: tuple[int, int], others: bool) -> tuple[Any, ZipfFit]:
    logits, labels = _read(path, result)
    values = sorted_outputs(logits, labels if others else None)
    return values, fit(values, *ranks)


def _path(store: Store, result: TrialResult, name: str) -> Path:
    return store.folder(result.spec, result.trial_id) / name


def _read(path: Path, result: TrialResult) -> tuple[Floats, Integers]:
    """Logits whose checksum is the recorded one. Raises UnusableLogits."""
    name = path.name if path.name == LAST else f"{path.parent.name}/{path.name}"
    return read_logits(path, result.checksums.get(name, ""))


def _epochs(result: TrialResult) -> dict[int, str]:
    """The epochs that a record seals the logits of."""
    from sdbench.store import EPOCH_LOGITS

    sealed = (re.fullmatch(rf"{EPOCH_LOGITS}/epoch-([0-9]{{4,9}})\.safetensors", name) for name in result.checksums)
    return {int(match[1]): match[0] for match in sealed if match}


def _figures(fits: Sequence[ZipfFit]) -> ZipfFigures:
    squares = [f.line.r_squared for f in fits if f.line.r_squared is not None]
    return ZipfFigures(
        exponent=mean_std(f.line.exponent for f in fits),
        r_squared=mean_std(squares) if len(squares) == len(fits) else None,
        kl_zipf=mean_std(f.zipf.kl for f in fits),
        kl_exponential=mean_std(f.exponential.kl for f in fits),
        kl_log_normal=mean_std(f.log_normal.kl for f in fits),
    )


def calibration_row(store: Store, variant: Variant) -> tuple[CalibrationRow, list[str]]:
    """The row of a variant, from records, and diagrams from its logits; notes on what is not to be had."""
    done = {seed: r for seed, r in variant.trials.items() if r.metrics}
    scaled = {seed: r.scaled for seed, r in done.items() if r.scaled}
    diagrams: list[Reliability] = []
    after: list[Reliability] = []
    half: dict[str, float] = {}
    notes = []
    for seed, result in done.items():
        try:
            logits, labels = _read(_path(store, result, LAST), result)
            diagrams.append(reliability(logits, labels))
            _compare(half, logits, labels, result)
            if result.scaled:
                z = logits.astype("float32")
                after.append(reliability((z - z.max(axis=1, keepdims=True)) / result.scaled.temperature, labels))
        except (UnusableLogits, ValueError) as error:
            notes.append(f"{variant.label} seed {seed}: {error}; its recorded figures are used, no diagram")
    row = CalibrationRow(
        label=variant.label,
        seeds=tuple(done),
        before={name: mean_std(getattr(r.metrics, name) for r in done.values()) for name in SCORES},
        after={name: mean_std(getattr(s, name) for s in scaled.values()) for name in SCORES} if scaled else {},
        temperature=mean_std(s.temperature for s in scaled.values()) if scaled else None,
        held_out=next(iter(scaled.values())).held_out if scaled else None,
        reliability=bins(pooled(diagrams)) if diagrams else (),
        reliability_after=bins(pooled(after)) if after else (),
        half=half,
    )
    return row, notes


def _compare(half: dict[str, float], logits: Floats, labels: Integers, result: TrialResult) -> None:
    """Enter the largest difference between what half-precision logits give and what is recorded."""
    import torch

    from sdbench.evaluate import evaluate

    z, y = torch.from_numpy(logits.copy()), torch.from_numpy(labels.copy())
    pairs: list[tuple[object, object]] = [(evaluate(z, y), result.metrics)]
    if result.scaled:
        pairs.append((evaluate(z, y, result.scaled.temperature), result.scaled))
    for name in SCORES:
        own = [abs(getattr(found, name) - getattr(recorded, name)) for found, recorded in pairs]
        half[name] = max(half.get(name, 0.0), *own)


def bins(diagram: Reliability) -> tuple[Bin, ...]:
    """The bins of a diagram, with their edges."""
    import numpy as np

    edges = bin_edges(len(diagram.counts), np.dtype(np.float64))
    return tuple(
        Bin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=diagram.counts[b],
            confidence=diagram.confidence_at(b),
            accuracy=diagram.accuracy_at(b),
        )
        for b in range(len(diagram.counts))
    )


def largest(rows: Sequence[CalibrationRow]) -> Mapping[str, float]:
    """The largest difference that half precision makes to each score, over all rows."""
    names = [name for name in SCORES if any(name in row.half for row in rows)]
    return {name: max(row.half[name] for row in rows if name in row.half) for name in names}

"""A paper's comparison table set beside measurements, with a verdict per entry. Pure; no torch.

What is asked of a method that the paper lists:

* *needs*: a trained teacher, contrastive samples, auxiliary parameters; the measurement agrees with the paper's
  tick or refutes it (``claims_readings.needs``);
* *training iterations* xK, which can be read five ways: each is judged (``claims_readings.readings``), and all of
  them together (``claims_rules.combine``);
* *memory* (``claims_memory.judge_memory``);
* *gain* (``claims_rules.judge_gain``), only where data set, network and, where told, epochs are the paper's.

Whether a method is one-pass with no overhead (``sdbench.cost.verdict.overhead``) is asked of every method that was
profiled, in the paper or not. What has no measurement is *not measured*, and says why.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources

from sdbench.cost.claims_memory import judge_memory
from sdbench.cost.claims_readings import iterations, missing, needs, readings
from sdbench.cost.claims_records import (
    Claims,
    ClaimsTable,
    Entry,
    HeadlineClaim,
    MeasuredGain,
    MethodClaims,
    PaperEntry,
    ProfileUsed,
)
from sdbench.cost.claims_rules import LEAST_SEEDS, judge_gain
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio
from sdbench.cost.verdict import overhead

NOT_PROFILED = "not profiled"

Profiled = tuple[ProfileRow, ProfileResult]


def load_claims() -> Claims:
    """The paper's table, which lies beside the methods."""
    text = resources.files("sdbench.methods").joinpath("claims.toml").read_text(encoding="utf-8")
    return Claims.model_validate(tomllib.loads(text))


def judge_claims(claims: Claims, rows: Mapping[str, Profiled], gains: Mapping[str, MeasuredGain]) -> ClaimsTable:
    """The paper's table with what was measured and a verdict per entry.

    rows: per method its row and the profile that it is from. gains: per method. Methods that the paper does
    not list follow those that it does, in the order in which they are given, with the paper's entries blank.
    The margin is each profile's own.
    """
    listed = [entry.name for entry in claims.entries]
    others = [name for name in dict.fromkeys([*rows, *gains]) if name not in listed]
    found = [_judge(name, claims, rows.get(name), gains.get(name)) for name in [*listed, *others]]
    return ClaimsTable(
        headline=_headline(claims, rows.get(claims.headline.method)),
        source=claims.source,
        address=claims.address,
        dataset=claims.dataset,
        network=claims.network_label,
        epochs=claims.epochs,
        baseline_top1=claims.baseline_top1,
        profiles=_profiles(rows.values()),
        rows=tuple(found),
    )


def _judge(name: str, claims: Claims, profiled: Profiled | None, gain: MeasuredGain | None) -> MethodClaims:
    paper = claims.entry(name)
    row, result, why = _own(name, profiled)
    teacher, samples, auxiliary = needs(paper, row, why)
    found = readings(paper, row, result, why)
    return MethodClaims(
        method=name,
        label=paper.label if paper else "",
        caveat=profiled[0].caveat if profiled else "",
        profile=result.profile_id if result else "",
        pretrained_teacher=teacher,
        contrastive_samples=samples,
        auxiliary_parameters=auxiliary,
        iterations=iterations(paper, found),
        readings=found,
        memory=judge_memory(paper.memory if paper else None, row, result, claims.sizes, why),
        gain=_gain(claims, paper, gain),
        one_pass=_one_pass(row, result, why),
    )


def _own(name: str, profiled: Profiled | None) -> tuple[ProfileRow | None, ProfileResult | None, str]:
    """A method's row and its profile, or why there is no row to judge. The baseline costs as much as itself, whatever
    the noise between two runs of it."""
    if profiled is None:
        return None, None, NOT_PROFILED
    row, result = profiled
    if row.status != "ok":
        return None, result, f"its profile did not finish ({row.status}: {row.reason or 'no reason recorded'})"
    if name == result.baseline:
        rounds = row.time_ratio.rounds if row.time_ratio else 0
        time = Ratio(median=1, low=1, high=1, rounds=rounds, verdict="equal")
        same = {"time_ratio": time, "predicted_ratio": 1.0, "memory_ratio": 1.0, "timing_valid": True}
        row = row.model_copy(update=same)
    return row, result, ""


def _one_pass(row: ProfileRow | None, result: ProfileResult | None, why: str) -> Entry:
    if row is None or result is None:
        return Entry(verdict="not measured", reason=why)
    found = overhead(row, result.setting.margin)
    if found is None:
        return Entry(verdict="not measured", reason="passes were not counted")
    if row.method == result.baseline and found.verdict == "confirmed":
        return Entry(verdict="confirmed", reason="it is the baseline, to which all else is relative")
    return Entry(verdict=found.verdict, reason="; ".join(found.because))


def _gain(claims: Claims, paper: PaperEntry | None, measured: MeasuredGain | None) -> Entry:
    """Points over the baseline; where the paper gives none, what was measured stands alone."""
    claimed = paper.gain if paper else None
    if measured is None:
        return missing(claimed, "")
    difference = measured.difference
    if not difference.n:
        return missing(claimed, "no seed in common with the baseline")
    where = [measured.dataset, measured.network, measured.protocol and f"protocol {measured.protocol}"]
    where += [f"{measured.epochs} epochs" if measured.epochs else "", f"n = {difference.n}"]
    told = ", ".join(part for part in where if part)
    entry = Entry(
        paper=claimed,
        value=None if difference.mean is None else 100 * difference.mean,
        low=None if difference.low is None else 100 * difference.low,
        high=None if difference.high is None else 100 * difference.high,
        reason=told,
    )
    if claimed is None:
        return entry
    unlike = [
        "other data" if measured.dataset != claims.dataset else "",
        "another network" if measured.network not in claims.networks else "",
        "another number of epochs" if measured.epochs not in (None, claims.epochs) else "",
    ]
    if any(unlike):
        other = ", ".join(part for part in unlike if part)
        return entry.model_copy(update={"verdict": "not measured", "reason": f"on {other}: {told}"})
    verdict = judge_gain(measured.difference, claimed)
    few = f"; {LEAST_SEEDS} seeds are the fewest that are judged" if difference.n < LEAST_SEEDS else ""
    return entry.model_copy(update={"verdict": verdict, "reason": told + few})


def _headline(claims: Claims, profiled: Profiled | None) -> HeadlineClaim:
    text, method = claims.headline.text, claims.headline.method
    row, result, why = _own(method, profiled)
    answer = _one_pass(row, result, why)
    assert answer.verdict is not None
    if row is None:
        return HeadlineClaim(text=text, method=method, verdict=answer.verdict, reason=answer.reason)
    return HeadlineClaim(
        text=text,
        method=method,
        verdict=answer.verdict,
        reason=answer.reason,
        images_loaded=row.images_loaded,
        forward_images=row.forward_images,
        backward_images=row.backward_images,
        generations=row.generations,
        time=row.time_ratio if row.timing_valid else None,
        memory_ratio=row.memory_ratio,
    )


def _profiles(rows: Iterable[Profiled]) -> tuple[ProfileUsed, ...]:
    """Every profile that a row comes from, in the order of the rows."""
    rounds: dict[str, int] = {}
    results: dict[str, ProfileResult] = {}
    for row, result in rows:
        results.setdefault(result.profile_id, result)
        own = row.time_ratio.rounds if row.time_ratio else 0
        rounds[result.profile_id] = max(own, rounds.get(result.profile_id, 0))
    return tuple(
        ProfileUsed(
            profile_id=key,
            setting=result.setting,
            device=result.provenance.device,
            cpu=result.provenance.cpu,
            torch=result.provenance.versions.get("torch", ""),
            started=result.provenance.started,
            rounds=rounds[key],
        )
        for key, result in results.items()
    )

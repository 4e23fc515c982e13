"""Which records speak for a method when claims are judged: profiles of one task, gains of trials. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdbench.cost.claims_records import Claims, MeasuredGain
from sdbench.cost.records import SYNTHETIC, ProfileResult, ProfileRow, Setting
from sdbench.leaderboard import build_board
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import Measured, newest_timed, profiled_on
from sdbench.leaderboard_records import Row, Table
from sdbench.spec import TrialResult, Value


@dataclass(frozen=True)
class Wanted:
    """What a profile has to be of.

    setting: the task, or None for that of the newest profile. hardware: where it was measured, or None for any.
    params, sources: per method its hyper-parameters and the hash of its source; a method that is not in them counts
    with any. baseline: the method that ratios have to be to.
    """

    setting: Setting | None
    hardware: Hardware | None
    params: Mapping[str, Mapping[str, Value]]
    sources: Mapping[str, str]
    baseline: str


def profiled(profiles: Sequence[ProfileResult], wanted: Wanted) -> dict[str, tuple[ProfileRow, ProfileResult]]:
    """Per method its newest row whose timing counts (or else its newest, if need be of a failure), from profiles of
    one task on one kind of hardware: those wanted, or those of the newest profile."""
    known = [p for p in profiles if p.setting.dataset == SYNTHETIC and p.baseline == wanted.baseline]
    if wanted.setting is not None:
        known = [p for p in known if _task(p.setting) == _task(wanted.setting)]
    if wanted.hardware is not None:
        known = [p for p in known if profiled_on(p) == wanted.hardware]
    if not known:
        return {}
    last = max(known, key=lambda p: p.provenance.started)
    alike = [p for p in known if (_task(p.setting), profiled_on(p)) == (_task(last.setting), profiled_on(last))]
    found: dict[str, list[Measured]] = {}
    for profile in alike:
        for row in profile.rows:
            if _same(row, wanted):
                found.setdefault(row.method, []).append(Measured(profile, row))
    chosen = {name: _best(measured) for name, measured in found.items()}
    return {name: (m.row, m.profile) for name, m in chosen.items() if m is not None}


def _best(measured: Sequence[Measured]) -> Measured | None:
    return newest_timed([m for m in measured if m.row.status == "ok"] or measured)


def _task(setting: Setting) -> tuple[object, ...]:
    """What of a setting changes what a step is; not how long it was measured."""
    return (
        setting.network,
        setting.num_classes,
        setting.image_size,
        setting.batch_size,
        setting.precision,
        setting.threads,
        setting.step,
    )


def _same(row: ProfileRow, wanted: Wanted) -> bool:
    params, source = wanted.params.get(row.method), wanted.sources.get(row.method)
    return (params is None or row.params == params) and (source is None or row.source in ("", source))


def gains(results: Iterable[TrialResult], claims: Claims) -> dict[str, MeasuredGain]:
    """Per method one measured gain: that on the paper's data set and network if there is one, else the one of
    most seeds, all as the leaderboard has them."""
    found: dict[str, tuple[tuple[bool, bool, int], MeasuredGain]] = {}
    for table in build_board(results).tables:
        for row in table.rows:
            if row.gain is None:
                continue
            rank = (table.dataset == claims.dataset, table.network in claims.networks, row.gain.n)
            if row.method not in found or rank > found[row.method][0]:
                found[row.method] = (rank, _gain(table, row))
    return {method: gain for method, (_, gain) in found.items()}


def _gain(table: Table, row: Row) -> MeasuredGain:
    assert row.gain is not None
    return MeasuredGain(
        dataset=table.dataset,
        network=table.network,
        epochs=table.recipe.epochs,
        protocol=table.protocol,
        difference=row.gain,
    )

"""README's headline table: what methods cost and gain, as Markdown made from published records. Pure; no torch.

One table for each hardware, network and number of classes, GPUs first. Where one of these was profiled in
several ways (batch size, precision, image size, how steps ran), a single way is shown: that which is
nearest to what ``sdbench`` does unasked, see ``_way_order``. Not covered: sweeps, claims, energy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sdbench.cost.records import ProfileResult, ProfileRow
from sdbench.leaderboard import build_board
from sdbench.leaderboard_cells import MISSING, bytes_text, count_text, gain_text, markdown_text, marked, number
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import Measured, newest_timed, profiled_on
from sdbench.leaderboard_records import Table
from sdbench.spec import Recipe, TrialResult, Value, canonical

EMPTY = "Nothing has been published yet: `sdbench profile` measures what methods cost on your machine."
STATE_AT = "cifar100"
"""The data set to whose size the state is extrapolated."""

HEADERS = (
    "method",
    "time × [95 %] (rounds), verdict",
    "FLOPs ×",
    "peak memory ×",
    "images loaded / forward / backward",
    "auxiliary weights",
    "state at CIFAR-100",
)

_Place = tuple[Hardware, str, int]
_Way = tuple[int, str, int, str, str]
"""Batch size, precision, side of the images in pixels, how steps were asked to run, the baseline."""


def headline(profiles: Iterable[ProfileResult], trials: Iterable[TrialResult]) -> str:
    """The text between README's markers; one sentence where no profile is given.

    trials: a table whose network and number of classes are those of published trials shows their gains too, on
    whatever hardware they ran.
    """
    places: dict[_Place, list[ProfileResult]] = defaultdict(list)
    for profile in profiles:
        setting = profile.setting
        places[profiled_on(profile), setting.network, setting.num_classes].append(profile)
    if not places:
        return EMPTY + "\n"
    board = build_board(trials)
    blocks = []
    for place in sorted(places, key=lambda p: (p[0].device == "cpu", p)):
        _, network, num_classes = place
        gains = [t for t in board.tables if (t.network, t.num_classes) == (network, num_classes) and t.baseline]
        blocks.append(_block(place, _one_way(places[place]), gains))
    return "\n".join(blocks)


def _one_way(profiles: Sequence[ProfileResult]) -> list[ProfileResult]:
    """The profiles of one place that were made in the way that is shown, the newest first."""
    ways: dict[_Way, list[ProfileResult]] = defaultdict(list)
    for profile in sorted(profiles, key=_began, reverse=True):
        setting = profile.setting
        way = (setting.batch_size, setting.precision, setting.image_size, setting.step, profile.baseline)
        ways[way].append(profile)
    return max(ways.values(), key=_way_order)


def _way_order(profiles: Sequence[ProfileResult]) -> tuple[bool, bool, int, tuple[str, str]]:
    """Steps run as they do by default, then the default batch size, then the most methods, then the newest."""
    setting = profiles[0].setting
    by_default = setting.batch_size == Recipe.model_fields["batch_size"].default
    methods = {row.method for profile in profiles for row in profile.rows if row.status == "ok"}
    return setting.step == "auto", by_default, len(methods), _began(profiles[0])


def _began(profile: ProfileResult) -> tuple[str, str]:
    return profile.provenance.started, profile.profile_id


def _block(place: _Place, profiles: Sequence[ProfileResult], gains: Sequence[Table]) -> str:
    """One table with its title above and its caption and notes below."""
    hardware, network, num_classes = place
    chosen = _rows(profiles)
    labels = _labels([m.row for m in chosen])
    headers = [*HEADERS, *(_gain_header(table, gains) for table in gains)]
    lines = [headers, [":--", *["--:"] * (len(headers) - 1)]]
    for m, label in zip(chosen, labels, strict=True):
        lines.append([markdown_text(cell) for cell in (label, *_cost_cells(m), *(_gain(m.row, t) for t in gains))])
    device = "CPU" if hardware.device == "cpu" else hardware.device
    title = f"**{markdown_text(f'{network}, {num_classes} classes, {device}')}**"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    used = [p for p in profiles if any(m.profile is p for m in chosen)]
    notes = "\n".join(f"* {markdown_text(note)}" for note in _notes(chosen, labels))
    below = [markdown_text(_caption(hardware, used)), *([notes] if notes else [])]
    return "\n\n".join([title, table, *below]) + "\n"


def _rows(profiles: Sequence[ProfileResult]) -> list[Measured]:
    """One row per variant, the baseline first, then in the order of the newest profile, further ones behind.

    Of a variant in several profiles the newest counts whose timing is valid; one that never ran keeps its
    newest row, which says so.
    """
    found: dict[tuple[bool, str, str], list[Measured]] = defaultdict(list)
    for profile in profiles:
        for row in profile.rows:
            found[row.method != profile.baseline, row.method, canonical(row.params)].append(Measured(profile, row))
    chosen = [newest_timed([m for m in rows if m.row.status == "ok"]) or rows[0] for rows in found.values()]
    return sorted(chosen, key=lambda m: not m.reference)


def _labels(rows: Sequence[ProfileRow]) -> list[str]:
    """Methods, with the hyper-parameters in which several rows of one method differ."""
    labels = []
    for row in rows:
        of_method = [r.params for r in rows if r.method == row.method]
        differing = [k for k in sorted(row.params) if len({canonical(p.get(k)) for p in of_method}) > 1]
        told = ",".join(f"{k}={_value(row.params[k])}" for k in differing)
        labels.append(marked(f"{row.method}[{told}]" if told else row.method, row.caveat))
    return labels


def _value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cost_cells(measured: Measured) -> list[str]:
    row = measured.row
    if row.status != "ok":
        return ["out of memory" if row.status == "oom" else row.status, *[MISSING] * (len(HEADERS) - 2)]
    passes = (row.images_loaded, row.forward_images, row.backward_images)
    return [
        _time(measured),
        number(row.predicted_ratio, 3),
        number(row.memory_ratio, 3),
        " / ".join(MISSING if n is None else f"{n:.3g}" for n in passes),
        count_text(row.auxiliary_parameters),
        bytes_text(row.state_bytes_at.get(STATE_AT)),
    ]


def _time(measured: Measured) -> str:
    if measured.reference:
        return "1"
    time = measured.row.time_ratio
    if time is None or not measured.timed:
        return MISSING
    interval = f"{number(time.median, 3)} [{number(time.low, 3)}, {number(time.high, 3)}]"
    return f"{interval} ({time.rounds}), {time.verdict}"


def _gain_header(table: Table, tables: Sequence[Table]) -> str:
    """The data set and the epochs, and the rules where several tables are of one data set."""
    alone = sum(t.dataset == table.dataset for t in tables) == 1
    epochs = f"{table.recipe.epochs} epochs"
    rules = f", {epochs}" if alone else f" ({table.protocol}, {epochs}, {table.precision}, {table.split})"
    return markdown_text(f"gain on {table.dataset}{rules}, points [95 %] (n)")


def _gain(row: ProfileRow, table: Table) -> str:
    """Of the trials with the same hyper-parameters, or of the only variant of the method that was trained."""
    of_method = [r for r in table.rows if r.method == row.method]
    same = [r for r in of_method if r.params == row.params] or of_method
    return gain_text(same[0].gain) if len(same) == 1 else MISSING


def _caption(hardware: Hardware, profiles: Sequence[ProfileResult]) -> str:
    setting = profiles[0].setting
    data = " and ".join(sorted({p.setting.dataset for p in profiles}))
    kinds = sorted({row.step for p in profiles for row in p.rows if row.status == "ok"})
    told = [
        hardware.label,
        f"batch size {setting.batch_size}, precision {setting.precision}, {data} images of {setting.image_size} pixels",
        f"steps run {' and '.join(kinds)}" if kinds else "no step ran",
        "verdicts against a margin of " + " and ".join(sorted({f"{p.setting.margin:g}" for p in profiles})),
    ]
    loads = [f"{p.profile_id} (load {p.load_start:.2f} to {p.load_end:.2f})" for p in profiles]
    return f"{'; '.join(told)}; {'profile' if len(loads) == 1 else 'profiles'} {', '.join(loads)}."


def _notes(chosen: Sequence[Measured], labels: Sequence[str]) -> list[str]:
    """Why a figure is missing, what is above the prediction, and methods that train more than once."""
    notes: list[str] = []
    for m, label in zip(chosen, labels, strict=True):
        row = m.row
        if row.status != "ok":
            notes.append(f"{label}: {row.reason or 'no reason recorded'}")
        elif m.untimed_because:
            notes.append(f"{label}: timing left out: {m.untimed_because}")
        elif row.flagged and row.operators:
            shares = ", ".join(f"{o.name} {100 * o.share:.0f} %" for o in row.operators[:3])
            notes.append(f"{label}: more than 5 % above what FLOPs predict; of the excess: {shares}")
        if row.generations > 1:
            notes.append(f"{label}: {row.generations} trainings in a row; the figures are of the last one's steps")
    return notes

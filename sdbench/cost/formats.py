"""A profile as text for people and as JSON for programs. Pure; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from sdbench.cost.records import SYNTHETIC, ProfileResult, ProfileRow, Ratio
from sdbench.cost.verdict import overhead
from sdbench.leaderboard_cells import MISSING, bytes_text, clean, count_text, marked, number

HEADERS = (
    "method",
    "time × [95 %]",
    "verdict",
    "wall ×",
    "FLOPs ×",
    "step ms",
    "peak",
    "peak ×",
    "loaded",
    "forward",
    "backward",
    "aux",
    "state",
)
LEGEND = (
    "time ×: median over rounds of the step's {clock} over that of {baseline}'s step of the same round, with its "
    "bootstrap interval. FLOPs ×: what counted FLOPs predict. peak: {memory}. loaded, forward, backward: images per "
    "labelled image. aux: weights that are trained and then thrown away. state: bytes that the method keeps. known: "
    "the share of operator time that went to operators whose FLOPs are counted. waits: operators that make the host "
    "wait for a GPU, as far as they can be seen here. What follows them is the peak's parts, then the process's "
    "resident set, and on a GPU what the allocator reserved and what the driver counts."
)
SPLIT = {
    "network": "network",
    "optimizer": "optimizer",
    "auxiliary_parameters": "aux",
    "method_state": "state",
    "batch": "batch",
    "activations": "activations",
}
"""Columns of what the peak is made of."""
WORK_HEADERS = (
    *("a step", "GFLOP", "known", "operators", "kernels", "waits", *SPLIT.values()),
    *("resident", "reserved", "driver"),
)
STATE_HEADERS = ("state at", "CIFAR-100", "TinyImageNet", "ImageNet", "iNat21")


def text(result: ProfileResult) -> str:
    """The table of a profile, what it was measured on, and what to know about its rows."""
    rows = [_cells(row, result.baseline) for row in result.rows]
    align = ("left", "right", "left", *(["right"] * (len(HEADERS) - 3)))
    table = tabulate(rows, headers=HEADERS, tablefmt="simple", disable_numparse=True, colalign=align)
    parts = [about(result), table, "\n".join(notes(result))]
    if any(any(row.state_bytes_at.values()) for row in result.rows):
        parts.insert(2, _state(result.rows))
    if any(row.flops is not None for row in result.rows):
        parts.insert(2, _work(result.rows))
    return clean_lines("\n\n".join(part for part in parts if part))


def about(result: ProfileResult) -> str:
    """What was measured, where, and how quiet the machine was."""
    setting, origin = result.setting, result.provenance
    images = "noise" if setting.dataset == SYNTHETIC else setting.dataset
    task = (
        f"{setting.network}, {setting.num_classes} classes, batches of {setting.batch_size} images ({images}) of "
        f"{setting.image_size} pixels, {setting.precision}"
    )
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    where = f"{origin.device} ({origin.cpu}), {threads}, torch {origin.versions.get('torch', '?')}"
    load = f"load {result.load_start:.1f} at the start, {result.load_end:.1f} at the end"
    return f"{task}\n{where}; {load}; {result.seconds:.0f} s; profile {result.profile_id}"


def _cells(row: ProfileRow, baseline: str) -> list[str]:
    own = row.method == baseline
    valid = row.timing_valid and row.status == "ok"
    time = row.time_ratio if valid and not own else None
    wall = row.wall_ratio if valid and not own else None
    return [
        marked(row.method, row.caveat),
        "1" if own and valid else _interval(time),
        "baseline" if own else (time.verdict if time else (row.status if row.status != "ok" else MISSING)),
        "1" if own and valid else (MISSING if wall is None else f"{wall.median:.3f}"),
        number(row.predicted_ratio, 3),
        MISSING if row.step_ms is None or not valid else f"{row.step_ms:.2f}",
        bytes_text(row.memory.peak_bytes if row.memory else None),
        number(row.memory_ratio, 3),
        number(row.images_loaded),
        number(row.forward_images),
        number(row.backward_images),
        count_text(row.auxiliary_parameters),
        bytes_text(row.state_bytes),
    ]


def _interval(ratio: Ratio | None) -> str:
    return MISSING if ratio is None else f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _state(rows: Sequence[ProfileRow]) -> str:
    keys = ("cifar100", "tinyimagenet", "imagenet", "inat21")
    lines = [
        [marked(row.method, row.caveat), *(bytes_text(row.state_bytes_at.get(key)) for key in keys)]
        for row in rows
        if any(row.state_bytes_at.values())
    ]
    return tabulate(
        lines, headers=STATE_HEADERS, tablefmt="simple", disable_numparse=True, colalign=["left", *["right"] * 4]
    )


def _work(rows: Sequence[ProfileRow]) -> str:
    """What the step launches, how much of it the FLOP counter knows, and what the peak is made of."""
    lines = []
    for row in rows:
        if row.flops is None:
            continue
        memory = row.memory
        split = memory.split.model_dump() if memory and memory.split else {}
        held = memory.model_dump(exclude={"split"}) if memory else {}
        sizes = [held.get(key) for key in ("peak_resident_bytes", "peak_reserved_bytes", "driver_bytes")]
        lines.append(
            [
                marked(row.method, row.caveat),
                f"{row.flops / 1e9:.2f}",
                MISSING if row.flop_coverage is None else f"{100 * row.flop_coverage:.0f} %",
                count_text(row.operators_launched),
                count_text(row.kernels_launched),
                count_text(row.host_syncs),
                *(bytes_text(split.get(kind)) for kind in SPLIT),
                *(bytes_text(size) for size in sizes),
            ]
        )
    align = ("left", *["right"] * (len(WORK_HEADERS) - 1))
    return tabulate(lines, headers=WORK_HEADERS, tablefmt="simple", disable_numparse=True, colalign=align)


def notes(result: ProfileResult) -> list[str]:
    """Sentences on single rows, and the legend."""
    told: list[str] = []
    rounds = max((row.time_ratio.rounds for row in result.rows if row.time_ratio), default=0)
    told.append(f"{rounds} rounds; margin {result.setting.margin:g}" + ("; interrupted" if result.interrupted else ""))
    problems = dict.fromkeys(problem for row in result.rows for problem in row.timing_problems)
    if problems:
        told.append(f"no timing counts here: {'; '.join(problems)}")
    for row in result.rows:
        told += _row_notes(row, result)
    on_gpu = result.gpus > 0
    clock = "device time" if on_gpu else "processor time"
    memory = "the most that the allocator held" if on_gpu else "the most bytes of live tensors, without the data set"
    told.append(LEGEND.format(clock=clock, baseline=result.baseline, memory=memory))
    return told


def _row_notes(row: ProfileRow, result: ProfileResult) -> list[str]:
    told = []
    if row.status != "ok":
        return [f"{row.method}: {row.status}: {row.reason}"]
    answer = overhead(row, result.setting.margin)
    if answer is not None and row.method != result.baseline:
        told.append(f"{row.method}: one pass, no overhead: {answer.verdict} ({'; '.join(answer.because)})")
    if row.flagged and row.time_ratio is not None:
        named = ", ".join(f"{o.name} {o.extra_ms:.2f} ms ({100 * o.share:.0f} %)" for o in row.operators)
        told.append(f"{row.method}: above what its FLOPs predict; of the extra operator time: {named}")
    if row.step_reason:
        told.append(f"{row.method}: eager steps: {row.step_reason}")
    if row.steps_differ:
        told.append(
            f"{row.method}: its steps do unlike work; counts are means, ratios are of sums over blocks of rounds"
        )
    time, wall = row.time_ratio, row.wall_ratio
    if time and wall and row.timing_valid and wall.low > time.high + result.setting.margin:
        told.append(
            f"{row.method}: elapsed time ×{wall.median:.3f} is above that: it waits, or works in other processes"
        )
    if row.generations > 1:
        told.append(f"{row.method}: {row.generations} trainings in a row; the ratios are of the last")
    if row.host_syncs:
        told.append(
            f"{row.method}: {row.host_syncs} operator(s) per step make the host wait for a GPU, or would on one"
        )
    if row.memory_reason:
        told.append(f"{row.method}: memory not measured: {row.memory_reason}")
    if row.joules_per_1000_images is not None:
        told.append(f"{row.method}: {row.joules_per_1000_images:.2f} J per 1,000 images")
    return told


def clean_lines(text_: str) -> str:
    """Lines of printable characters only, whatever a plug-in calls itself."""
    return "\n".join(clean(line) for line in text_.split("\n"))


def document(result: ProfileResult) -> dict[str, Any]:
    """The record as plain values, each row with the answer to whether it is one-pass with no overhead."""
    found = result.model_dump(mode="json", exclude={"checksums"})
    for plain, row in zip(found["rows"], result.rows, strict=True):
        answer = overhead(row, result.setting.margin)
        plain["one_pass"] = answer.model_dump(mode="json") if answer else None
    return found


def json_text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)

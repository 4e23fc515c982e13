"""The words and numbers of a paper's table beside the measured one, shared by the formats for people."""

from __future__ import annotations

from sdbench.cost.claims_readings import READINGS
from sdbench.cost.claims_records import ClaimsTable, ClaimVerdict, Entry, HeadlineClaim, MethodClaims, ProfileUsed
from sdbench.leaderboard_cells import MISSING, count_text, letter, marked, number

MARKS: dict[ClaimVerdict, str] = {
    "confirmed": "=",
    "refuted": "≠",
    "inconclusive": "?",
    "depends on the reading": "~",
    "not measured": MISSING,
}
"""Between the paper's figure and the measured one."""

HEADER = (
    "method",
    "trained\nteacher",
    "contrastive\nsamples",
    "auxiliary\nparameters",
    "training\niterations",
    "memory",
    "gain, points",
    "one pass,\nno overhead",
)
REASON_LENGTH = 300
"""Characters of a reason that formats for people keep; the JSON has all of it."""
READINGS_HEADER = ("method", "paper", *(r.replace(" ", "\n") for r in READINGS[:-1]), "time [95 %]", "together")

MARKS_LEGEND = (
    "A cell is what the paper says, a mark, what was measured: = confirmed, ≠ refuted, ? inconclusive, ~ depends on "
    f"the reading, {MISSING} not measured (in parentheses: what was measured elsewhere, and is not compared)."
)
LEGEND = (
    "Trained teacher: more than one training in a row. Contrastive samples: more than one image loaded per labelled "
    "image, further views of the same one included. Auxiliary parameters: weights besides the network's. Memory: ratio "
    "of peaks, M for auxiliary parameters, D for the data set. Iterations of a method that trains several times in a "
    "row are of the whole chain. One pass, no overhead: one image loaded, one forward and one backward pass per "
    "labelled image, in one training, time and memory not above the margin.",
    "Counts must be as claimed within 0.5 %, FLOPs and memory within the margin. A time is confirmed where its 95 % "
    "interval lies within the margin around the claim, refuted where it lies wholly outside. Readings of which some "
    "are confirmed and some refuted make an entry depend on the reading. A gain is confirmed where its 95 % interval "
    "over at least three seeds holds the paper's and not 0, refuted where it leaves out the paper's.",
)


def headline(claim: HeadlineClaim) -> list[str]:
    """The claim, its verdict and its numbers, on one line; then the reason, where it is not in the numbers."""
    counts = {"loaded": claim.images_loaded, "forward": claim.forward_images, "backward": claim.backward_images}
    numbers = [", ".join(f"{number(n, 2)} {what}" for what, n in counts.items() if n is not None)]
    if claim.generations > 1:
        numbers.append(f"{claim.generations} trainings")
    time, memory = claim.time, claim.memory_ratio
    if claim.images_loaded is not None or time or memory:
        shown = time and f"time ×{number(time.median, 3)} [{number(time.low, 3)}, {number(time.high, 3)}]"
        numbers.append(shown or "time not measured")
        numbers.append(f"memory ×{number(memory, 3)}" if memory else "memory not measured")
    told = "; ".join(part for part in numbers if part)
    because = [] if claim.verdict == "confirmed" else [f"Because: {claim.reason}"]
    return [f"{claim.text}: {claim.verdict}" + (f" ({told})" if told else ""), *because]


def about(table: ClaimsTable) -> list[str]:
    """Which paper, and where was measured: a line for each profile."""
    where = f"{table.dataset}, {table.network}, {table.epochs} epochs, baseline top-1 {table.baseline_top1:g} %"
    lines = [f"Paper: {table.source}, {table.address} ({where})"]
    for i, used in enumerate(table.profiles):
        mark = f" {letter(i)}" if len(table.profiles) > 1 else ""
        lines.append(f"Measured{mark}: {_setting(used)}")
    return lines if table.profiles else [*lines, "Measured: no costs yet; sdbench profile measures them"]


def _setting(used: ProfileUsed) -> str:
    s = used.setting
    hardware = ", ".join(part for part in (used.device, used.cpu, used.torch and f"torch {used.torch}") if part)
    task = f"{s.network}, {s.dataset} images, {s.num_classes} classes, {s.image_size} pixels"
    threads = f"{s.threads} thread" + ("s" if s.threads > 1 else "")
    step = f"batch {s.batch_size}, {s.precision}, {threads}, {used.rounds} rounds, margin {100 * s.margin:g} %"
    return f"{hardware}; {task}; {step}; profile {used.profile_id}"


def name(table: ClaimsTable, row: MethodClaims) -> str:
    """A method's name, the paper's name for it, and the letter of its profile where there are several."""
    shown = marked(marked(row.method, row.label), row.caveat)
    ids = [used.profile_id for used in table.profiles]
    return f"{shown}, {letter(ids.index(row.profile))}" if len(ids) > 1 and row.profile in ids else shown


def cells(table: ClaimsTable, row: MethodClaims, *, words: bool = False) -> list[str]:
    """One row under ``HEADER``; words: verdicts are spelled out, for formats without a terminal's width."""
    teacher, samples, weights = row.pretrained_teacher, row.contrastive_samples, row.auxiliary_parameters
    memory = row.memory
    gain = _cell(row.gain, _gain_paper(row.gain), _points(row.gain), words)
    if row.label and row.gain.paper is None and row.gain.value is None:
        gain = f"{table.baseline_top1:g} % top-1"
    return [
        name(table, row),
        _cell(teacher, _yes(teacher.paper), _yes(teacher.needed), words),
        _cell(samples, _yes(samples.paper), _yes(samples.needed), words),
        _cell(weights, _yes(weights.paper), _weights(weights), words),
        _cell(row.iterations, _times(row.iterations), _span(row.iterations), words),
        _cell(memory, _memory_paper(memory), "" if memory.value is None else number(memory.value, 3), words),
        gain,
        row.one_pass.verdict or MISSING,
    ]


def reading_cells(table: ClaimsTable, row: MethodClaims) -> list[str]:
    """One row under ``READINGS_HEADER``, verdicts in words."""
    shown = [_reading(row.readings[r], 3 if r in READINGS[-2:] else 2) for r in READINGS]
    return [name(table, row), _times(row.iterations), *shown, row.iterations.verdict or ""]


def notes(table: ClaimsTable) -> list[tuple[str, list[str]]]:
    """For each method that was profiled the answer to the headline's question, and the reasons behind its other
    verdicts; last, in one sentence, those that were not profiled."""
    found: list[tuple[str, list[str]]] = []
    for row in table.rows:
        if row.profile:
            answer = f"{name(table, row)}: one pass, no overhead: {row.one_pass.verdict}"
            found.append((f"{answer} ({_clipped(row.one_pass.reason)})", _reasons(row)))
        else:
            found += [(f"{name(table, row)}: {reason}", []) for reason in _reasons(row)]
    unprofiled = [row.method for row in table.rows if not row.profile]
    return [*found, (f"not profiled: {', '.join(unprofiled)}", [])] if unprofiled else found


def _reasons(row: MethodClaims) -> list[str]:
    """What a table's cells leave open: figures that are missing, claims that need more than a ratio, and where a
    gain was measured."""
    told = []
    if row.iterations.reason:
        told.append(("training iterations", _times(row.iterations), row.iterations, ""))
    plain = row.memory.verdict in ("confirmed", None) and "+" not in _memory_paper(row.memory)
    if row.memory.value is None or not plain:
        told.append(("memory", _memory_paper(row.memory), row.memory, ""))
    if row.gain.reason:
        elsewhere = (
            f": {_points(row.gain)}" if row.gain.verdict == "not measured" and row.gain.value is not None else ""
        )
        told.append(("gain", _gain_paper(row.gain), row.gain, elsewhere))
    return [
        f"{what}{f' {paper}: {entry.verdict}' if paper else ''}: {_clipped(entry.reason)}{more}"
        for what, paper, entry, more in told
        if entry.reason != row.one_pass.reason
    ]


def _clipped(reason: str) -> str:
    return reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 1] + "…"


def _cell(entry: Entry, paper: str, measured: str, words: bool) -> str:
    """paper: as printed, empty where there is no claim. measured: empty where nothing was."""
    if entry.verdict is None:
        return measured or MISSING
    if entry.verdict == "not measured":
        measured = measured.partition(" [")[0]  # the interval is in the notes
        elsewhere = f" (elsewhere {measured})" if words else f" ({measured})"
        return f"{paper}{'; not measured' if words else ' ' + MISSING}" + (elsewhere if measured else "")
    return f"{paper}; measured {measured}: {entry.verdict}" if words else f"{paper} {MARKS[entry.verdict]} {measured}"


def _yes(answer: bool | float | str | None) -> str:
    return "" if answer is None else "yes" if answer else "no"


def _weights(entry: Entry) -> str:
    return "" if entry.value is None else count_text(int(entry.value))


def _times(entry: Entry) -> str:
    return f"×{entry.paper:g}" if isinstance(entry.paper, float) else ""


def _memory_paper(entry: Entry) -> str:
    return entry.paper.replace("x", "×", 1) if isinstance(entry.paper, str) else ""


def _gain_paper(entry: Entry) -> str:
    return f"{entry.paper:+.1f}" if isinstance(entry.paper, float) else ""


def _span(entry: Entry) -> str:
    """The smallest and the largest of several figures, or the one that both round to."""
    if entry.low is None or entry.high is None:
        return ""
    low, high = number(entry.low, 2), number(entry.high, 2)
    return low if low == high else f"{low} to {high}"


def _points(entry: Entry) -> str:
    if entry.value is None:
        return ""
    interval = "" if entry.low is None or entry.high is None else f" [{_signed(entry.low)}, {_signed(entry.high)}]"
    return _signed(entry.value) + interval


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _reading(entry: Entry, digits: int) -> str:
    if entry.value is None:
        return entry.verdict or MISSING
    ends = (entry.low, entry.high)
    interval = "" if None in ends else f" [{', '.join(number(end, digits) for end in ends)}]"
    return f"{number(entry.value, digits)}{interval}" + (f" {entry.verdict}" if entry.verdict else "")

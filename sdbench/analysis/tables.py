"""Analyses as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from sdbench.analysis.logits import largest
from sdbench.analysis.records import Analysis, CalibrationRow, ZipfFigures, ZipfRow
from sdbench.leaderboard_cells import MISSING
from sdbench.statistics import MeanStd

UNITS = {"nll": ("NLL", 1, 3), "ece": ("ECE %", 100, 2), "brier": ("Brier", 1, 3)}
UNITS |= {"aurc": ("AURC ×1000", 1000, 2), "eaurc": ("E-AURC ×1000", 1000, 2)}
"""Per score its header, what it is multiplied with, and digits: the units of the PS-KD paper's table."""


def text(analysis: Analysis) -> str:
    """Everything that was found on one group."""
    parts = [analysis.title]
    if analysis.zipf:
        parts.append(_zipf(analysis))
    if analysis.calibration:
        parts.append(_calibration(analysis.calibration))
    if analysis.geometry:
        parts.append(_geometry(analysis))
    parts += ["\n".join(f"* {note}" for note in analysis.notes)] if analysis.notes else []
    return "\n\n".join(parts)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)


def _number(value: MeanStd | None, digits: int = 3, scale: float = 1) -> str:
    if value is None:
        return MISSING
    spread = "" if value.std is None else f" ± {scale * value.std:.{digits}f}"
    return f"{scale * value.mean:.{digits}f}{spread}"


FIGURES: Mapping[str, Callable[[ZipfFigures], str]] = {
    "exponent": lambda f: _number(f.exponent),
    "R²": lambda f: _number(f.r_squared, 4),
    "KL to Zipf": lambda f: _number(f.kl_zipf, 5),
    "KL to exponential": lambda f: _number(f.kl_exponential, 5),
    "KL to log-normal": lambda f: _number(f.kl_log_normal, 5),
}


def _zipf(analysis: Analysis) -> str:
    what = "of the classes other than the label" if analysis.target_left_out else "of all classes"
    ranks = f"ranks {analysis.first_rank} to {analysis.last_rank}"
    rows = [[r.label, str(len(r.seeds)), *(cell(r.figures) for cell in FIGURES.values())] for r in analysis.zipf]
    lines = [
        f"Zipf's law: softmax outputs {what}, sorted and averaged over test images; {ranks}",
        "",
        _table(["method", "n", *FIGURES], rows),
        "",
        "exponent, R²: least squares on log-log; KL in nats, each law fitted by its own likelihood on these ranks. The",
        "log-normal has one parameter more and holds Zipf's law as a limit, so its KL is never the larger one.",
    ]
    return "\n".join([*lines, *_epochs(analysis.zipf)])


def _epochs(rows: Sequence[ZipfRow]) -> list[str]:
    """Per epoch, where logits of epochs were kept."""
    kept = [
        [r.label, str(e.epoch), str(e.figures.exponent.n), *(cell(e.figures) for cell in FIGURES.values())]
        for r in rows
        for e in r.epochs
    ]
    if not kept:
        return [
            "No epoch but the last: `sdbench run --keep-logits every:N` keeps them (--rerun all if trials are done)."
        ]
    return ["", "by epoch:", "", _table(["method", "epochs done", "n", *FIGURES], kept)]


def _calibration(rows: Sequence[CalibrationRow]) -> str:
    headers = [head for head, _, _ in UNITS.values()]
    before = [[r.label, str(len(r.seeds)), *_scores(r.before)] for r in rows]
    lines = ["Calibration on the test set", "", _table(["method", "n", *headers], before), ""]
    after = [[r.label, str(r.temperature.n), _number(r.temperature), *_scores(r.after)] for r in rows if r.temperature]
    if after:
        table = _table(["method", "n", "T", *headers], after)
        lines += ["after temperature scaling, T fitted on held-out images:", "", table, ""]
    without = [r.label for r in rows if r.temperature is None]
    if without:
        lines.append(
            f"{', '.join(without)}: no images were held out, so no temperature was fitted (never on the test set); "
            "train with --temperature-scaling."
        )
    some = [r.label for r in rows if r.temperature and r.temperature.n < len(r.seeds)]
    if some:
        lines.append(f"Only some trials held images out, which the figures after scaling are of: {', '.join(some)}.")
    changes = ", ".join(f"{UNITS[k][0]} {UNITS[k][1] * v:.2g}" for k, v in largest(rows).items())
    if changes:
        lines.append(
            "Figures are the recorded ones, of float32 logits; diagrams are drawn from the kept half-precision logits, "
            f"which change them by at most: {changes}."
        )
    return "\n".join(lines)


def _scores(values: Mapping[str, MeanStd]) -> list[str]:
    return [_number(values.get(name), digits, scale) for name, (_, scale, digits) in UNITS.items()]


def _geometry(analysis: Analysis) -> str:
    rows = []
    for r in analysis.geometry:
        cells = [_number(value, 3) for part in r.parts.values() for value in (part.all_classes, part.in_plane)]
        rows.append([r.label, str(len(r.seeds)), *cells])
    parts = list(analysis.geometry[0].parts)
    headers = [f"{part}, {what}" for part in parts for what in ("all classes", "three in plane")]
    counts = ", ".join(f"{part} {analysis.geometry[0].parts[part].samples}" for part in parts)
    return "\n".join(
        [
            "Geometry: within-class over between-class scatter of the penultimate features; the smaller, the tighter",
            "",
            _table(["method", "n", *headers], rows),
            "",
            f"plane: through the templates of {', '.join(analysis.classes)}; images without augmentation ({counts}), "
            "network in eval mode and float32.",
        ]
    )

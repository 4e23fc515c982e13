"""From a results folder to boards on screen and on disk and comparisons. No torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sdbench import comparison
from sdbench.comparison_gate import parse_conditions
from sdbench.comparison_pace import CurveOf, read_question
from sdbench.comparison_records import METRICS, Comparison
from sdbench.comparison_text import FORMATS, outcome_text, render_comparison
from sdbench.cost import archive
from sdbench.durable import sweep
from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import SUFFIXES, render, write_boards
from sdbench.leaderboard_records import Board
from sdbench.paths import path_of
from sdbench.published import published_numbers
from sdbench.selectors import split_list
from sdbench.spec import TrialResult
from sdbench.store import Scan, Store, read_curve, sha256
from sdbench.study_records import fruitless
from sdbench.terminal import visible


@dataclass(frozen=True)
class Filter:
    """Which trials a board shows; an empty list means all."""

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    protocol: str | None = None

    @classmethod
    def read(
        cls,
        methods: Sequence[str] | None,
        datasets: Sequence[str] | None,
        networks: Sequence[str] | None,
        protocol: str | None,
    ) -> Filter:
        return cls(
            tuple(split_list(methods or ())),
            tuple(split_list(datasets or ())),
            tuple(split_list(networks or ())),
            protocol,
        )

    def keeps(self, result: TrialResult) -> bool:
        spec = result.spec
        return (
            _any(self.methods, spec.method, {"all", result.baseline})
            and _any(self.datasets, spec.dataset)
            and _any(self.networks, spec.network)
            and self.protocol in (None, spec.protocol)
        )


def _any(patterns: Sequence[str], name: str, always: Iterable[str] = ()) -> bool:
    """Whether a name is among the patterns; the baseline is always shown beside the methods chosen."""
    return not patterns or name in always or any(p == "all" or fnmatchcase(name, p) for p in patterns)


def leaderboard(results: str, format_name: str, chosen: Filter, *, published: bool = False) -> tuple[str, int]:
    """The board as text and the exit code: 1 where a record is damaged. Writes the boards to disk too, those without
    published numbers."""
    if format_name not in SUFFIXES:
        raise UserError(unknown("format", format_name, SUFFIXES))
    board, damaged = read_board(results, chosen, write_files=True, published=published)
    return render(board, format_name), 1 if damaged else 0


def read_board(
    results: str, chosen: Filter, *, write_files: bool = False, published: bool = False
) -> tuple[Board, int]:
    """The board of the trials chosen, and how many records are damaged. write_files: the boards of all trials are
    written under the results folder as well. published: with what others print beside what was measured. Raises
    UserError where no trial is found."""
    root = _folder(results)
    with _alone(root) if write_files else contextlib.nullcontext(False) as alone:
        scan, beside = _read(root)
        if write_files and scan.results and alone:
            try:
                write_boards(build_board(scan.results, **beside), root)
            except OSError as error:  # a folder that others share is read-only; the board is still read
                print(f"boards not written: {error.strerror}", file=sys.stderr)
    if not scan.results and beside["profiles"]:
        raise UserError(
            f"no trial under {results}, only {len(beside['profiles'])} profile(s) of what a step costs; "
            "`sdbench claims` shows those, `sdbench run` trains"
        )
    if not scan.results:
        raise UserError(f"no trial under {results}; `sdbench run` trains")
    kept = [result for result in scan.results if chosen.keeps(result)]
    if not kept:
        have = sorted({f"{r.spec.method} on {r.spec.dataset}" for r in scan.results})
        raise UserError(f"no trial under {results} matches; it has {', '.join(have)}")
    numbers = published_numbers() if published else ()
    return build_board(kept, published=numbers, **beside), len(beside["damaged"])


def compare(
    results: str,
    names: Sequence[str],
    chosen: Filter,
    *,
    reference: str | None = None,
    metric: str = "top1",
    fail_if: Sequence[str] = (),
    target: str | None = None,
    at: str | None = None,
    format_name: str = "text",
) -> tuple[str, int]:
    """A comparison (``compared``) as text and the exit code: 4 where a condition of ``fail_if`` holds or cannot be
    decided, else 1 where a record is damaged. format_name: text, md or json.
    """
    if format_name not in FORMATS:
        raise UserError(unknown("format", format_name, FORMATS))
    found, damaged = compared(
        results, names, chosen, reference=reference, metric=metric, fail_if=fail_if, target=target, at=at
    )
    for outcome in found.failed:
        print(visible(outcome_text(outcome)), file=sys.stderr)
    return render_comparison(found, format_name), 4 if found.failed else 1 if damaged else 0


def compared(
    results: str,
    names: Sequence[str],
    chosen: Filter,
    *,
    reference: str | None = None,
    metric: str = "top1",
    fail_if: Sequence[str] = (),
    target: str | None = None,
    at: str | None = None,
) -> tuple[Comparison, int]:
    """A comparison (``comparison.compare``) of the trials chosen, and how many records are damaged.

    names, fail_if: items may be comma-separated lists. metric: of ``comparison_records.METRICS``. target: a top-1 to
    reach, in per cent. at: a time of training, as a duration, at which top-1 is looked up. Raises UserError for
    whatever cannot be read or found.
    """
    if metric not in METRICS:
        raise UserError(unknown("metric", metric, METRICS))
    conditions, root = parse_conditions(split_list(fail_if)), _folder(results)
    question = read_question(target, at, _curves(Store(root)))
    scan, beside = _read(root)
    kept = [result for result in scan.results if chosen.keeps(result)]
    if not kept:
        raise UserError(_nothing_kept(results, chosen, scan.results))
    found = comparison.compare(
        kept, split_list(names), reference=reference, metric=metric, fail_if=conditions, profiles=beside["profiles"],
        damaged=beside["damaged"], question=question,
    )  # fmt: skip
    return found, len(beside["damaged"])


def _curves(store: Store) -> CurveOf:
    """Curves as they lie in a store, those that were changed since their trial was recorded refused."""

    def lines(result: TrialResult) -> list[dict[str, Any]]:
        path = store.folder(result.spec, result.trial_id) / "curve.jsonl"
        recorded = result.checksums.get(path.name)
        try:
            if recorded and path.exists() and sha256(path) != recorded:
                raise ValueError("its checksum does not match, it was changed after it was written")
        except OSError as error:
            raise ValueError(f"its file cannot be read ({error.strerror})") from error
        return read_curve(path)

    return lines


def _nothing_kept(results: str, chosen: Filter, have: Iterable[TrialResult]) -> list[str]:
    """Which of the options matches no trial, with near matches."""
    specs = [result.spec for result in have]
    if not specs:
        return [f"no trial under {results}; `sdbench run` trains"]
    given = {"dataset": chosen.datasets, "network": chosen.networks, "protocol": tuple(filter(None, [chosen.protocol]))}
    problems = []
    for kind, patterns in given.items():
        known = {str(getattr(spec, kind)) for spec in specs}
        problems += [unknown(kind, p, known) for p in patterns if not any(_any((p,), name) for name in known)]
    return problems or [f"no trial under {results} is of these data sets, networks and protocol at once"]


def _folder(results: str) -> Path:
    """The results folder. Raises UserError where there is none."""
    root = path_of(results).absolute()
    if not root.is_dir():
        raise UserError(f"no results folder {results}; `sdbench run` makes one, or give another with --results")
    return root


def write(store: Store) -> Path:
    """Write the boards of all trials in every format; returns the one to look at. OSError where that cannot be."""
    with _alone(store.root):
        scan, beside = _read(store.root)
        write_boards(build_board(scan.results, **beside), store.root)
    return store.root / "leaderboard.md"


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """No other command reads records and writes boards meanwhile: the last one to write has seen all records.

    Yields whether boards may be written: not where a link stands in the lock's place, of which standard error tells.
    """
    with contextlib.ExitStack() as stack:
        allowed = True
        try:
            with contextlib.suppress(OSError):  # a folder that cannot be written needs no lock
                stack.enter_context(Store(root).lock(root))
                sweep(root, "leaderboard.")
        except EnvironmentProblem as problem:
            print(visible(f"boards not written: {problem}"), file=sys.stderr)
            allowed = False
        yield allowed


def text_of(results: Iterable[TrialResult], baseline: str, format_name: str, root: Path | None = None) -> str:
    """The board of some trials only, with the profiles under ``root``."""
    profiles = archive.scan(root).results if root else ()
    without = fruitless(root) if root else ()
    return render(build_board(results, baseline=baseline, profiles=profiles, fruitless=without), format_name)


def _read(root: Path) -> tuple[Scan, dict[str, Any]]:
    """All trials of a results folder, and what a board has beside them; damaged records are reported. Of those a board
    says data set, network, method (of a trial), id and file, and why."""
    scan, profiles = Store(root).scan(), archive.scan(root)
    for damaged, remedy in ((scan.damaged, "run its trial again"), (profiles.damaged, "profile it again")):
        for one in damaged:
            print(visible(f"damaged record left out: {one.path}: {one.reason}; {remedy}"), file=sys.stderr)
    said = [one.told(root) for one in (*scan.damaged, *profiles.damaged)]
    return scan, {"damaged": said, "profiles": profiles.results, "fruitless": fruitless(root)}

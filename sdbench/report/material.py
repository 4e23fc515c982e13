"""What there is to show: records as filtered, the board's rows with the trials behind them, their curves and logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.boards import Filter
from sdbench.cost import archive
from sdbench.cost.records import SYNTHETIC, ProfileResult
from sdbench.errors import UserError
from sdbench.kept_logits import UnusableLogits, read_logits
from sdbench.leaderboard import build_board
from sdbench.leaderboard_cells import clean, full_title, letter, marked
from sdbench.leaderboard_groups import comparable
from sdbench.leaderboard_records import Board, Row, Table
from sdbench.leaderboard_variants import Variant, variants, without_duplicates
from sdbench.paths import path_of
from sdbench.report.curves import Band, band, read_thinned
from sdbench.report.reliability import Reliability, pooled, reliability
from sdbench.spec import TrialResult
from sdbench.store import Damaged, Store
from sdbench.study_records import fruitless

if TYPE_CHECKING:
    from sdbench.kept_logits import Floats, Integers

NAME_LENGTH = 300
"""Characters of a name that are shown; a hostile record's name can be as long as the record."""


@dataclass(frozen=True)
class Entry:
    """A row of a table, a letter that stands for it in its figures, and its finished trials in order of seeds."""

    row: Row
    letter: str
    trials: tuple[TrialResult, ...]

    @property
    def name(self) -> str:
        """The row's label with the method's caveat, as printable text."""
        return printable(marked(self.row.label, self.row.caveat))


@dataclass(frozen=True)
class Group:
    """A table of the board with the trials of each of its rows; all trials, unfinished and earlier generations too."""

    table: Table
    entries: tuple[Entry, ...]
    trials: tuple[TrialResult, ...]

    @property
    def title(self) -> str:
        return printable(full_title(self.table))


@dataclass(frozen=True)
class Material:
    """All that a report or a figure is made of. ``trials`` are those that the filter keeps, each once."""

    root: Path
    results: str
    board: Board
    groups: tuple[Group, ...]
    trials: tuple[TrialResult, ...]
    profiles: tuple[ProfileResult, ...]
    damaged: tuple[Damaged, ...]

    @property
    def store(self) -> Store:
        return Store(self.root)


def printable(text: str, most: int = NAME_LENGTH) -> str:
    """One line of printable characters, shortened."""
    text = clean(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def read(results: str, chosen: Filter) -> Material:
    """Records of a results folder that the filter keeps. Raises UserError where nothing is left to show."""
    root = path_of(results).absolute()
    if not root.is_dir():
        raise UserError(f"no results folder {results}; `sdbench run` makes one, or give another with --results")
    scan, archived = Store(root).scan(), archive.scan(root)
    if not scan.results and not archived.results:
        raise UserError(f"nothing under {results}; `sdbench run` trains, `sdbench profile` measures what steps cost")
    kept = [result for result in scan.results if chosen.keeps(result)]
    profiles = [p for p in archived.results if _keeps(chosen, p)]
    if scan.results and not kept:
        have = sorted({f"{r.spec.method} on {r.spec.dataset}, {r.spec.network}" for r in scan.results})
        listed = ", ".join(have[:20]) + (f" and {len(have) - 20} more" if len(have) > 20 else "")
        raise UserError(printable(f"no trial under {results} matches; it has {listed}", 4000))
    damaged = (*scan.damaged, *archived.damaged)
    said = [d.told(root) for d in damaged]
    board = build_board(kept, damaged=said, profiles=profiles, fruitless=fruitless(root))
    by_id, _ = without_duplicates(kept)
    return Material(root, results, board, _groups(board, by_id), tuple(by_id.values()), tuple(profiles), damaged)


def _keeps(chosen: Filter, profile: ProfileResult) -> bool:
    """Whether a profile is of a network and data set asked for; one of noise is of any."""
    setting = profile.setting

    def named(patterns: Sequence[str], name: str) -> bool:
        return not patterns or any(p == "all" or fnmatchcase(name, p) for p in patterns)

    rows = {row.method for row in profile.rows} - {profile.baseline}
    return (
        named(chosen.networks, setting.network)
        and (setting.dataset == SYNTHETIC or named(chosen.datasets, setting.dataset))
        and (not chosen.methods or any(named(chosen.methods, name) for name in rows))
    )


def _groups(board: Board, by_id: dict[str, TrialResult]) -> tuple[Group, ...]:
    """The board's tables with the trials of their rows, found again by what tables have in common."""
    trials = {_key(found[0]): found for found in comparable(by_id)}
    groups = []
    for table in board.tables:
        own = trials[_table_key(table)]
        found, _ = variants([r for r in own if r.spec.generation is None], by_id)
        by_label = {variant.label: variant for variant in found}
        entries = [_entry(i, row, by_label[row.label]) for i, row in enumerate(table.rows)]
        groups.append(Group(table, tuple(entries), tuple(own)))
    return tuple(groups)


def _entry(i: int, row: Row, variant: Variant) -> Entry:
    return Entry(row, letter(i).lower(), tuple(variant.trials[seed] for seed in row.seeds))


def _key(result: TrialResult) -> tuple[Any, ...]:
    spec, identity = result.spec, result.identity
    recipe = (spec.common_recipe, spec.budget, spec.shards)
    rules = (spec.protocol, identity.protocol_version, spec.split, spec.precision, *recipe)
    return (spec.dataset, identity.data_fingerprint, spec.image_size, spec.network, *rules)


def _table_key(table: Table) -> tuple[Any, ...]:
    recipe = (table.recipe, table.budget, table.shards)
    rules = (table.protocol, table.protocol_version, table.split, table.precision, *recipe)
    return (table.dataset, table.data_fingerprint, table.image_size, table.network, *rules)


def bands(store: Store, entry: Entry, keys: Iterable[str], points: int, seeds: int) -> dict[str, Band]:
    """Curves of a row for those of ``keys`` that were logged, at ``points`` epochs at most, over at most ``seeds``
    finished seeds, the lowest."""
    folders = [store.folder(r.spec, r.trial_id) for r in entry.trials[:seeds]]
    curves = [read_thinned(folder / "curve.jsonl", points) for folder in folders]
    found = {key: band(curves, key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def logits(store: Store, result: TrialResult) -> tuple[Floats, Integers]:
    """Test-set logits and labels of a trial. Raises UnusableLogits."""
    path = store.folder(result.spec, result.trial_id) / "logits.safetensors"
    return read_logits(path, result.checksums.get(path.name, ""))


def diagram(store: Store, entry: Entry, most: int) -> tuple[Reliability | None, str]:
    """The reliability of a row over at most ``most`` finished seeds, the lowest; and what was left out, or nothing."""
    found: list[Reliability] = []
    problems: dict[str, list[int]] = defaultdict(list)
    for result in entry.trials[:most]:
        try:
            found.append(reliability(*logits(store, result)))
        except (UnusableLogits, ValueError) as error:
            problems[str(error)].append(result.spec.seed)
    said = [f"{why} ({len(seeds)} of {len(entry.trials)} trials)" for why, seeds in sorted(problems.items())]
    if len(entry.trials) > most:
        said.append(f"only the first {most} of {len(entry.trials)} seeds were read")
    return (pooled(found) if found else None), "; ".join(said)

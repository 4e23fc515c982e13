"""Records that earlier versions wrote, unchanged, under tests/records/: each keeps loading, and says the same.

All are of schema version 1, whose records gained fields over time:

    first             as the first version wrote them
    with-classes      num_classes, cost.step, cost.step_reason
    with-temperature  scaled, caveat

Whoever adds a field adds a folder with records that ``sdbench run`` wrote before it. Profiles without ``caveat`` and
``one_pass`` are under results/published.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbench import boards
from sdbench.cost import archive
from sdbench.leaderboard import build_board
from sdbench.spec import SCHEMA_VERSION
from sdbench.store import Store
from sdbench.validation import validate

RECORDS = Path(__file__).resolve().parent / "records"
PUBLISHED = RECORDS.parent.parent / "results" / "published"
TOP1 = {"first": 0.0085, "with-classes": 0.0085, "with-temperature": 0.009}
"""Of both methods, read off the files."""


def test_every_schema_version_has_a_folder() -> None:
    found = {r.schema_version for folder in TOP1 for r in Store(RECORDS / folder).scan().results}
    assert found == set(range(1, SCHEMA_VERSION + 1))
    assert {folder.name for folder in RECORDS.iterdir()} == TOP1.keys()


@pytest.mark.parametrize("folder", TOP1)
def test_earlier_trials_load_and_are_valid(folder: str) -> None:
    scan = Store(RECORDS / folder).scan()
    assert scan.damaged == ()
    assert {(r.spec.method, r.status, r.spec.recipe.epochs) for r in scan.results} == {("ce", "ok", 1), ("ls", "ok", 1)}
    assert {r.metrics.top1 for r in scan.results if r.metrics} == {TOP1[folder]}
    assert {r.num_classes for r in scan.results} == {None if folder == "first" else 100}
    assert {r.scaled is not None for r in scan.results} == {folder == "with-temperature"}
    assert {r.cost.step for r in scan.results if r.cost} == {"eager"}
    assert validate([str(RECORDS / folder)]).valid


def test_trials_of_all_versions_share_boards_by_what_they_are() -> None:
    every = [r for folder in TOP1 for r in Store(RECORDS / folder).scan().results]
    board = build_board(every)
    assert sorted(table.split for table in board.tables) == ["full", "holdout-0.1"]
    shown, _ = boards.read_board(str(RECORDS / "first"), boards.Filter())
    assert [row.label for row in shown.tables[0].rows] == ["ce", "ls"]


def test_earlier_profiles_load() -> None:
    found = archive.scan(PUBLISHED)
    assert found.damaged == ()
    assert any('"caveat"' not in path.read_text() for path in PUBLISHED.glob("profiles/*/*/*/profile.json"))

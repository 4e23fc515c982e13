"""What is damaged or blocked is told, by a place below the results folder, and hides nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Sdbench = Callable[..., tuple[int, str, str]]


def test_list_runs_and_show_tell_of_damage(results: Path, folders: list[Path], sdbench: Sdbench) -> None:
    (folders[0] / "trial.json").write_text("{")
    code, out, err = sdbench("list", "runs", "--results", results)
    assert code == 0
    assert folders[1].name in out
    assert "damaged record left out: trials/" in err
    assert f"{folders[0].name}/trial.json" in err
    assert json.loads(sdbench("list", "runs", "--results", results, "--json")[1])[0]["trial"] == folders[1].name
    for wanted in (folders[0].name, folders[0].name[:6], folders[0]):
        code, _, err = sdbench("show", wanted, "--results", results)
        assert code == 2
        assert "is damaged" in err
        assert "run it again" in err
    assert sdbench("show", folders[1].name, "--results", results)[0] == 0


def test_damage_is_named_below_the_results_folder(tmp_path: Path, results: Path, sdbench: Sdbench) -> None:
    """Whatever lies above it may tell whose machine it is."""
    home = tmp_path / "alice"
    results = results.rename(home)
    for place in ("trials/a/b/c/d/trial.json", "profiles/a/b/c/profile.json"):
        (home / place).parent.mkdir(parents=True)
        (home / place).write_text("{")
    for name in ("json", "md", "html"):
        sdbench("leaderboard", "--results", home, "--format", name)
    code, _, err = sdbench("report", "--results", home)
    assert code == 1, err
    for path in (*home.glob("leaderboard.*"), home / "report.html"):
        if path.suffix != ".csv":
            assert "alice" not in path.read_text(), path.name
    told = (home / "leaderboard.json").read_text()
    assert '"record left out: trials/a/b/c/d/trial.json: ' in told
    assert '"record left out: profiles/a/b/c/profile.json: ' in told


def test_a_link_in_the_locks_place_is_left_and_the_board_is_printed(
    results: Path, outside: Path, sdbench: Sdbench
) -> None:
    (results / ".lock").symlink_to(outside / "precious.txt")
    code, out, err = sdbench("leaderboard", "--results", results)
    assert code == 0
    assert "\nls " in out
    assert "boards not written: " in err
    assert "is a link" in err
    assert not list(results.glob("leaderboard.*"))
    assert (outside / "precious.txt").read_text() == "keep me\n"

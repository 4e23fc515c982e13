"""Plug-ins that do what they should not: only their own row fails, with the reason and the end of what they printed."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdbench.boards import Filter, leaderboard
from sdbench.plan import make_plan
from sdbench.request import Request
from sdbench.run import to_do
from sdbench.store import Store
from sdbench.validation import validate

BAD: dict[str, tuple[str, str]] = {
    "bad_init": ("failed", "ZeroDivisionError: no such constant"),
    "bad_late": ("failed", "LookupError: lost in epoch 1"),
    "bad_exit_0": ("failed", "exit code 0"),
    "bad_exit_3": ("failed", "exit code 3"),
    "bad_sys_exit": ("failed", "SystemExit: leaving"),
    "bad_exit_after_epoch": ("failed", "SystemExit: 5"),
    "bad_interrupt": ("failed", "KeyboardInterrupt: not from a keyboard"),
    "bad_segfault": ("failed", "SIGSEGV"),
    "bad_recursion": ("failed", "RecursionError"),
    "bad_message": ("failed", "RuntimeError: 1, 1, "),
    "bad_leak": ("oom", "memory"),
    "bad_gigabyte": ("failed", "said enough"),
    "bad_drips": ("failed", "SIGABRT"),
}
SOUND = (
    "ce",
    "odd_children",
    "odd_escapee",
    "odd_streams",
    "odd_descriptors",
    "odd_threads",
    "odd_process",
    "odd_clock",
)
FAST = ("bad_exit_0", "bad_interrupt", "odd_children")
LOGS = {"bad_exit_0": "the last thing it said", "bad_exit_3": "the last thing it said", "bad_segfault": "Segmentation",
        "bad_drips": "letter by letter, to the end of it"}  # fmt: skip


def mischief(world: Any, faults: Any, names: str, *more: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """A run of these methods beside ce, and the largest resident size of the command itself, in bytes."""
    command = world.command("--baseline", "--max-failures", "0", *more, methods=names, epochs=2)
    command[command.index("--plugin") + 1] = str(faults.plugins / "mischief.py")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.environment
    )
    sizes = [0]

    def watch() -> None:
        while process.poll() is None:
            try:
                sizes.append(psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    out, err = process.communicate(timeout=1800)
    return subprocess.CompletedProcess(command, process.returncode, out, err), max(sizes)


def check(world: Any, done: subprocess.CompletedProcess[str], wanted: set[str]) -> None:
    records = {r.spec.method: r for r in Store(world.results).scan().results}
    assert set(records) == wanted
    for name, record in records.items():
        status, reason = BAD.get(name, ("ok", ""))
        assert record.status == status, (name, record.status, record.reason, record.log_tail)
        assert reason in record.reason, name
        assert LOGS.get(name, "") in record.log_tail, (name, record.log_tail)
        assert len(record.reason) < 5000
        assert record.final
        assert f"{name} " in done.stdout.replace("|", " "), "it is on the board"
    assert done.returncode == (1 if wanted & set(BAD) else 0)
    assert "Traceback" not in done.stderr
    assert Store(world.results).scan().damaged == ()


def test_a_few_at_once(world: Any, faults: Any, counted: Callable[..., None]) -> None:
    counted("a plug-in's mischief", len(FAST))
    done, _ = mischief(world, faults, ",".join(FAST))
    check(world, done, {"ce", *FAST})
    world.assert_no_orphan()


@pytest.mark.slow
def test_all_at_once(world: Any, faults: Any, counted: Callable[..., None]) -> None:
    counted("a plug-in's mischief", len(BAD) + len(SOUND) - 1)
    done, largest = mischief(world, faults, "bad_*,odd_*")
    check(world, done, {*BAD, *SOUND})
    world.assert_no_orphan()
    assert largest < 1.5 * 2**30, "the command keeps little of what its trials print"
    assert sum(p.stat().st_size for p in world.results.rglob("log.txt")) < 2**21
    clock = next(r for r in Store(world.results).scan().results if r.spec.method == "odd_clock")
    assert clock.provenance.finished < clock.provenance.started
    assert clock.cost is not None
    assert 0 < clock.cost.train_s < 600, "durations do not come from the clock on the wall"
    text, code = leaderboard(str(world.results), "md", Filter())
    assert code == 0
    assert "odd_clock" in text


@pytest.mark.slow
@pytest.mark.ray
def test_a_few_under_ray(world: Any, faults: Any, counted: Callable[..., None]) -> None:
    names = ("bad_exit_3", "bad_sys_exit", "bad_segfault", "odd_children")
    counted("a plug-in's mischief under Ray", len(names))
    done, _ = mischief(world, faults, ",".join(names), "--engine", "ray")
    check(world, done, {"ce", *names})
    world.assert_no_orphan(300)


@pytest.mark.parametrize("text", ["raise OSError('at import')", "import sys; sys.exit(4)", "def broken(:", "x = 1"])
def test_a_plug_in_that_does_not_import_is_refused_before_training(
    small_world: Any, tmp_path: Path, own_registry: None, counted: Callable[..., None], text: str
) -> None:
    counted("a plug-in that does not import")
    (tmp_path / "bad.py").write_text(text)
    flags = small_world.flags(methods=["ls"], plugin=[str(tmp_path / "bad.py")], results=str(tmp_path / "results"))
    with pytest.raises(ValueError, match=r"bad\.py"):
        make_plan(Request.gather(flags, None, {}))
    assert not list((tmp_path / "results").glob("trials/*/*"))


def test_a_clock_that_was_set_back(
    write_trial: Callable[..., Path], tmp_path: Path, counted: Callable[..., None]
) -> None:
    """Records whose end lies before their beginning, and a newer trial with an older date, disturb no board."""
    counted("clock set back", 2)
    when = {"versions": {}, "device": "cpu", "cpu": "c"}
    back = {**when, "started": "2026-06-01T00:00:00.000+00:00", "finished": "2025-06-01T00:00:00.000+00:00"}
    for seed in (0, 1):
        write_trial(tmp_path, method="ce", seed=seed)
        write_trial(tmp_path, method="ls", seed=seed, provenance=back)
    text, code = leaderboard(str(tmp_path), "csv", Filter())
    assert code == 0
    assert "ls" in text
    assert "ce" in text
    validate([str(tmp_path)])


def test_a_rerun_does_not_compare_times(small_world: Any, tmp_path: Path, counted: Callable[..., None]) -> None:
    """What is done is told by records, whatever the dates in them and on their files."""
    import os
    import shutil

    counted("dates of files and records set back")
    root = tmp_path / "results"
    shutil.copytree(small_world.results, root)
    for path in root.rglob("*"):
        os.utime(path, (0, 0))
    plan = make_plan(
        Request.gather({**small_world.flags(methods=["ls"], seeds=["0-1"]), "results": str(root)}, None, {})
    )
    assert to_do(plan, Store(root)) == []

"""What a run shows: read off the files of a store, written here by hand."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from sdbench.progress import Monitor, Reporter, Shown, Watched, seconds_left, table
from sdbench.spec import Identity, Provenance, Recipe, Trial, TrialResult, TrialSpec
from sdbench.store import Store
from sdbench.usage import memory_in_use


def make(seed: int) -> Trial:
    spec = TrialSpec(method="toy", dataset="d", network="n", recipe=Recipe(epochs=10), protocol="p", seed=seed)
    return Trial(spec=spec, identity=Identity(method_source="", data_fingerprint="", protocol_version=""))


def finish(store: Store, trial: Trial, status: str, name: str = "trial.json") -> None:
    record = {
        "trial_id": trial.id, "status": status, "reason": "why", "spec": trial.spec, "identity": trial.identity,
        "provenance": Provenance(versions={}, device="cpu", cpu="", started="", finished=""),
    }  # fmt: skip
    store.write(TrialResult.model_validate(record), name)


def write_line(store: Store, trial: Trial, **values: object) -> None:
    path = store.folder(trial.spec, trial.id) / "curve.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def test_monitor_tells_each_thing_once(tmp_path: Path) -> None:
    store, trials = Store(tmp_path), [make(0), make(1)]
    finish(store, trials[1], "failed")  # a record from before: not this run's news
    monitor = Monitor(trials, store)
    assert monitor.poll() == []
    finish(store, trials[0], "interrupted", "started.json")
    assert monitor.poll() == []
    assert [w.status for w in monitor.watched] == ["running", "waiting"]
    write_line(store, trials[0], epoch=0, images_per_s=100.0)
    assert monitor.poll() == []  # no accuracy was logged
    write_line(store, trials[0], epoch=1, images_per_s=110.0, top1=0.25)
    assert monitor.poll() == ["d/n toy seed 0: epoch 2/10, top-1 25.00%, 110 images/s"]
    assert monitor.poll() == []
    finish(store, trials[0], "nan")
    assert monitor.poll() == ["d/n toy seed 0: nan: why"]
    assert [w.status for w in monitor.watched] == ["nan", "waiting"]


def test_the_live_table_shows_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    store, trials = Store(tmp_path), [make(0), make(1)]
    monitor = Monitor(trials, store)
    write_line(store, trials[0], epoch=0, images_per_s=100.0, top1=0.125)
    monitor.poll()
    write_line(store, trials[0], epoch=1, images_per_s=100.0)
    monitor.poll()
    console = Console(file=io.StringIO(), width=100)
    console.print(table(monitor.watched))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("0 of 2 trials done, 1 waiting", "d/n toy seed 0", "2/10", "12.50%", "100", "0s"):
        assert part in shown


def test_plain_lines_when_piped(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), make(0)
    stream = io.StringIO()
    with Reporter(Monitor([trial], store), stream):
        write_line(store, trial, epoch=9, images_per_s=50.0, top1=1.0)
    assert stream.getvalue() == "d/n toy seed 0: epoch 10/10, top-1 100.00%, 50 images/s\n"


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Reporter(Monitor([make(0)], Store(tmp_path)), stream, quiet=True):
        pass
    assert stream.getvalue() == ""


def test_each_epoch_is_told_where_that_is_wanted(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), make(0)
    monitor = Monitor([trial], store, verbose=True)
    write_line(store, trial, epoch=0, images_per_s=100.0, loss=2.5)
    assert monitor.poll() == ["d/n toy seed 0: epoch 1/10, loss 2.5, 100 images/s"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_shown_where() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    assert Shown().live(terminal)
    assert not Shown().live(pipe)
    assert Shown("rich").live(pipe)
    assert not Shown("plain").live(terminal)
    assert not Shown(verbose=True).live(terminal)


def test_styles(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), make(0)
    for style, color, expected in (("none", True, ""), ("plain", True, "images/s\n"), ("rich", False, "trials done")):
        stream = Terminal()
        with Reporter(Monitor([trial], store), stream, shown=Shown(style, color=color)) as reporter:
            write_line(store, trial, epoch=9, images_per_s=50.0, top1=1.0)
            if style == "rich":
                while "trials done" not in stream.getvalue():
                    assert reporter._thread.is_alive()
        assert expected in stream.getvalue()
        assert style == "rich" or "\x1b" not in stream.getvalue()
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", stream.getvalue())


def test_the_time_left_is_that_of_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten epochs each: two trials at work that did 2 and 4 more in 8 s, one that waits: 4 + 2 + 10 epochs left."""
    watched = [Watched(make(seed), tmp_path) for seed in range(4)]
    monkeypatch.setattr(time, "monotonic", lambda: 108.0)
    for w, first, epoch in zip(watched, (4, 4), (6, 8), strict=False):
        w.status, w.first_seen, w.first_epoch, w.epoch = "running", 100.0, first, epoch
    watched[3].status = "ok"
    assert seconds_left(watched) == pytest.approx((4 + 2 + 10) * (4 + 2) / 2 / 2)
    assert seconds_left(watched[2:]) is None
    assert "GiB" in memory_in_use()

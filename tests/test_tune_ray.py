"""What Ray Tune does for a search: stops trials, proposes configurations, goes on where it was cut short."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdbench.engine import Resources, follow, ray_search
from sdbench.engine.follow import Follower, Told
from sdbench.engine.job import Job
from sdbench.engine.ray_nodes import Place
from sdbench.engine.ray_search import Ask
from sdbench.space import Choice, LogUniform, Uniform
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec
from sdbench.store import Store, append_line
from sdbench.study_records import mark_stopped, read_study, stopped_after
from sdbench.study_values import Point

EPOCHS = 9
SPACE = {"recipe.lr": LogUniform(0.01, 1.0), "recipe.weight_decay": LogUniform(5e-5, 5e-3), "gamma": Uniform(0, 10)}


def template(root: Path) -> Job:
    spec = TrialSpec(
        method="focal", params={"gamma": 3.0}, dataset="glyphs", network="resnet8", recipe=Recipe(epochs=EPOCHS),
        split="holdout-0.1", protocol="tuned-search", seed=0, search=True,
    )  # fmt: skip
    trial = Trial(spec=spec, identity=Identity(method_source="s", data_fingerprint="f", protocol_version="1"))
    return Job(trial=trial, options=Options(), store=str(root))


def point(gamma: float, lr: float = 0.1) -> Point:
    return {"recipe.lr": lr, "recipe.weight_decay": 0.0005, "gamma": gamma}


def folder(job: Job) -> Path:
    return Store(Path(job.store)).folder(job.trial.spec, job.trial.id)


def line(job: Job, epoch: int, top1: float) -> None:
    folder(job).mkdir(parents=True, exist_ok=True)
    append_line(folder(job) / "curve.jsonl", {"epoch": epoch, "validation_top1": top1})


class FakeTrial:
    """A supervisor without a process: writes a line of the curve whenever it is let, until it is stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
        self.scores, self.stopped, self.started = scores, False, 0
        self.let = threading.Semaphore(0)
        monkeypatch.setattr(follow, "supervise", self)
        monkeypatch.setattr(follow, "POLL_S", 0.01)

    def __call__(self, job: Job, stop: threading.Event) -> None:
        self.started += 1
        for epoch, score in enumerate(self.scores):
            while not self.let.acquire(timeout=0.01):
                if stop.is_set():
                    self.stopped = True
                    return
            line(job, epoch, score)


def test_a_follower_tells_each_accuracy_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, job = FakeTrial(monkeypatch, [0.1, 0.2, 0.3]), template(tmp_path)
    line(job, 0, 0.1)  # an earlier command got so far
    follower = Follower(job)
    assert follower.next() == Told(1, 0.1)
    (folder(job) / "curve.jsonl").unlink()  # a trial that is taken up cuts its curve back
    for _ in range(3):
        fake.let.release()
    assert [follower.next(), follower.next(), follower.next()] == [Told(2, 0.2), Told(3, 0.3), None]
    follower.end()
    assert not fake.stopped


def test_the_last_epoch_is_told_when_the_trial_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears of it may end the follower, which must not take the record away from a trial that is done."""
    job, written = template(tmp_path), threading.Event()

    def supervise(job: Job, stop: threading.Event) -> None:
        for epoch in range(EPOCHS):
            line(job, epoch, epoch / 10)
        time.sleep(0.3)
        written.set()

    monkeypatch.setattr(follow, "supervise", supervise)
    follower = Follower(job)
    told = [follower.next() for _ in range(EPOCHS)]
    assert told[-1] == Told(EPOCHS, 0.8)
    assert written.is_set()
    assert follower.next() is None


def test_a_trial_that_is_stopped_ends_and_keeps_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, job = FakeTrial(monkeypatch, [0.1, 0.2]), template(tmp_path)
    for name in ("checkpoint", "state"):  # the state: files of rows, gigabytes of a large data set
        (folder(job) / name).mkdir(parents=True)
        (folder(job) / name / "rows.bin").write_bytes(b"x")
    follower = Follower(job)
    fake.let.release()
    assert follower.next() == Told(1, 0.1)
    mark_stopped(folder(job), "asha", 1)
    follower.end()
    assert fake.stopped
    assert {path.name for path in folder(job).iterdir()} == {"curve.jsonl", "stopped.json"}
    line(job, 1, 0.9)  # what it had got done by then, nobody had seen
    again = Follower(job)  # what was stopped stays stopped: only its curve is told
    assert [again.next(), again.next()] == [Told(1, 0.1), None]
    assert fake.started == 1


def test_a_cut_short_trial_keeps_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTrial(monkeypatch, [0.1])
    job = template(tmp_path)
    (folder(job) / "checkpoint").mkdir(parents=True)
    Follower(job).end()
    assert (folder(job) / "checkpoint").exists()


def test_points_and_proposals_become_jobs(tmp_path: Path) -> None:
    job = template(tmp_path)
    ask = Ask(job, (point(3.0), point(1.23456789)), space=SPACE)
    default, second = (ask.job({"point": i}).trial for i in range(2))
    assert default == job.trial
    assert second.spec.params == {"gamma": 1.23456789}
    proposed = ask.job({"recipe.lr": 0.0123456, "recipe.weight_decay": 0.005, "gamma": 2.00004}).trial.spec
    assert (proposed.recipe.lr, proposed.recipe.weight_decay, proposed.params) == (0.01235, 0.005, {"gamma": 2.0})
    given = ask.job({"recipe.lr": 0.1, "recipe.weight_decay": 0.0005, "gamma": 1.23456789}).trial
    assert given == second


@pytest.mark.ray
def test_asha_stops_the_worst_of_a_rung_but_never_the_default_point(tmp_path: Path) -> None:
    """Ray's scheduler, fed by hand: a rung after one epoch of nine and every three times as late, a third goes on."""
    ask = Ask(template(tmp_path), tuple(point(3.0 + i) for i in range(6)), asha=True)
    scheduler = ray_search._asha(ask)
    trials = [SimpleNamespace(trial_id=str(i), config={"point": i}) for i in range(6)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)

    def report(place: int, epochs: int, top1: float) -> Any:
        return scheduler.on_trial_result(None, trials[place], {"epochs": epochs, "validation_top1": top1})

    assert report(1, 1, 0.5) == "CONTINUE"  # the first at a rung
    assert report(2, 1, 0.4) == "STOP"
    assert report(3, 1, 0.6) == "CONTINUE"
    assert report(0, 1, 0.1) == "CONTINUE"  # the worst of all, but what others are measured by
    assert report(4, 1, 0.55) == "CONTINUE"  # at the 2/3 quantile of 0.5, 0.4, 0.6, 0.1, which is 0.5
    assert report(5, 1, 0.45) == "STOP"
    assert report(3, 2, 0.0) == "CONTINUE"  # between rungs
    stopped = [stopped_after(folder(ask.job({"point": i}))) for i in range(6)]
    assert stopped == [None, None, 1, None, None, 1]


@pytest.mark.ray
def test_optuna_starts_from_what_is_known_and_repeats(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {**SPACE, "kind": Choice("a", "b")}
    known = tuple(({**point(g), "kind": "a"}, top1) for g, top1 in ((1.0, 0.2), (5.0, 0.9)))
    ask = Ask(template(tmp_path), ({**point(3.0), "kind": "b"},), space=space, propose=3, seed=4, known=known)
    proposals = []
    for _ in range(2):
        searcher = ray_search._optuna(ask)
        assert len(searcher._ot_study.get_trials(states=None)) == 3  # two that are over, one to be tried
        proposals.append([searcher.suggest(str(i)) for i in range(3)])
    assert proposals[0] == proposals[1]
    assert proposals[0][0] == {**point(3.0), "kind": "b"}
    assert all(value in space[name] for each in proposals[0] for name, value in each.items())


@pytest.mark.ray
@pytest.mark.parametrize(
    ("given", "asha", "optuna"),
    [
        ({}, None, 64),  # as many as find room
        ({"cpus": 4}, 4, 4),
        ({"cpus": 1}, 1, 1),
        ({"cpus": 9, "cpus_per_trial": 4}, 2, 2),
        ({"cpus": 100}, 100, 64),
    ],
)
def test_on_a_cluster_a_search_takes_no_more_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], asha: int | None, optuna: int
) -> None:
    import ray
    from ray import tune

    seen: list[int | None] = []

    class Noted:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            seen.append(named["tune_config"].max_concurrent_trials)

        def fit(self) -> None:
            pass

    monkeypatch.setattr(tune, "Tuner", Noted)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0})
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, **named: trainable)
    monkeypatch.setattr(tune, "with_resources", lambda trainable, needs: trainable)
    monkeypatch.setattr(ray_search, "_optuna", lambda ask: None)
    place, resources = Place(results="", folder=str(tmp_path), token="", versions={}), Resources(**given)
    ray_search._fit(Ask(template(tmp_path), (point(3.0),), asha=True), resources, place)
    ray_search._fit(Ask(template(tmp_path), (point(3.0),), space=SPACE, propose=15), resources, place)
    assert seen == [asha, optuna]


@pytest.mark.ray
def test_what_ray_gives_up_is_left_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray
    from ray import tune

    class Failing:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            pass

        def fit(self) -> None:
            raise RuntimeError("2 worker(s) were killed\nand so on")

    monkeypatch.setattr(tune, "Tuner", Failing)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, **named: trainable)
    monkeypatch.setattr(tune, "with_resources", lambda trainable, needs: trainable)
    ray_search._fit(Ask(template(tmp_path), (point(3.0),), asha=True), Resources(), None)
    assert capsys.readouterr().err == "Ray ended early: 2 worker(s) were killed\n"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_search_by_ray_tune_end_to_end(tmp_path: Path, search: str, make_pictures: Callable[..., Path]) -> None:
    """As a user types it: trials are stopped, what is left is chosen from, and the second time nothing is trained."""
    if search == "optuna":
        pytest.importorskip("optuna")
    make_pictures(tmp_path / "shades", 20, 4, classes=3, mean=80, step=40)
    words = [
        sys.executable, "-m", "sdbench", "tune", "--methods", "ce", "--trials", "5", "--epochs", "3", "--seeds", "0",
        "--search", search, "--scheduler", "asha", "--dataset", f"folder:{tmp_path / 'shades'}", "--image-size", "16",
        "--model", "resnet8", "--batch-size", "16", "--cpus", "2", "--device", "cpu", "--results", str(tmp_path / "r"),
    ]  # fmt: skip
    first = subprocess.run(words, capture_output=True, text=True, timeout=1500)
    assert first.returncode == 0, first.stderr
    (path,) = (tmp_path / "r" / "tuning").iterdir()
    study = read_study(path)
    assert study.over
    assert study.tried[0].status == "ok"
    assert {each.status for each in study.tried} <= {"ok", "stopped"}
    for each in study.tried:
        (own,) = path.glob(f"trials/*/*/*/{each.trial_id}")
        marked = stopped_after(own)
        assert (each.status == "stopped") == (marked is not None)  # however far it got before it heard of that
        assert max(each.validation_top1) == (marked or 3)
        assert each.epochs >= len(each.validation_top1)
    assert study.chosen is not None
    assert study.tried[study.chosen].status == "ok"
    before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("trial.json")}
    again = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("trial.json")} == before
    (table,) = json.loads(again.stdout)["tables"]
    assert table["budget"]["scheduler"] == "asha"
    assert [row["method"] for row in table["rows"]] == ["ce"]

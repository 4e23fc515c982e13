"""What the processes of a trial are given under Ray, and what is told of their end; without starting Ray."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread

import pytest

from sdbench import environment
from sdbench.engine import Job, ray_errand, ray_search, ray_train
from sdbench.engine.ray_nodes import Place
from sdbench.engine.ray_search import Ask
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec

pytestmark = pytest.mark.ray


def make_job(store: Path) -> Job:
    spec = TrialSpec(method="ce", dataset="glyphs", network="resnet8", recipe=Recipe(epochs=1), protocol="p", seed=0)
    identity = Identity(method_source="", data_fingerprint="", protocol_version="1")
    return Job(trial=Trial(spec=spec, identity=identity), options=Options(device="cpu"), store=str(store))


def test_the_reason_is_that_of_the_process_that_failed_and_not_rays_headline() -> None:
    from ray.train import TrainingFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    lost = RuntimeError("Traceback (most recent call last):\n  ...\nsdbench.workers.PeerLost: another process is gone")
    missing = RuntimeError("Traceback:\n  ...\nsdbench.errors.UserError: plug-in /tmp/toy.py: no such file")
    assert ray_train._reason(WorkerGroupError("headline", {0: lost, 1: missing})).endswith("toy.py: no such file")
    assert ray_train._reason(WorkerGroupError("headline", {1: lost})).endswith("another process is gone")
    failed: TrainingFailedError = ControllerError(RuntimeError("no room\nfor a group"))
    assert ray_train._reason(failed) == "for a group"


def test_a_group_that_waits_for_room_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "STOP_GRACE_S", 0.5)
    assert ray_train._patient(lambda: ("done", True), Event()) == ("done", True)
    stop, for_ever, told = Event(), Event(), []

    def train() -> tuple[str, bool]:
        for_ever.wait()
        return "", False

    waiting = Thread(target=lambda: told.append(ray_train._patient(train, stop)), daemon=True)
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    stop.set()
    waiting.join(timeout=60)
    for_ever.set()
    assert told == [("its processes could not be started", False)]


def test_a_search_trial_looks_at_a_node_that_joined_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_errand, "ADMISSION_S", 0.0)
    place = Place(results=str(tmp_path), folder=str(tmp_path / "none"), token="t", versions=environment.versions())
    trainable = ray_search._followed()
    worker = trainable.__new__(trainable)
    with pytest.raises(RuntimeError, match="this node does not see the results folder"):
        worker.setup({"point": 0}, ask=Ask(make_job(tmp_path), ({},)), place=place)
    assert not list(tmp_path.iterdir()), "no trial was started"

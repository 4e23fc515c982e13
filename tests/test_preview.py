"""``sdbench plan`` and ``--rerun stale`` against stores made by hand, and ``sdbench prepare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import api, data
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.plan import Plan
from sdbench.preview import preview_of
from sdbench.run import to_do
from sdbench.spec import Provenance, Trial, TrialResult
from sdbench.store import Store, append_line
from sdbench.superseded import lineage, stale_records, what_changed

WHEN = "2026-01-01T00:00:00.000+00:00"
COST = {
    "train_s": 8.0, "process_s": 8.0, "eval_s": 1.5, "setup_s": 0.5, "labelled_images": 10, "images_with_gradient": 10,
    "images_without_gradient": 0, "peak_memory_bytes": 1, "auxiliary_parameters": 0, "state_bytes": 0,
    "timing_valid": True,
}  # fmt: skip
METRICS = {"top1": 0.5, "top5": 1, "nll": 1, "ece": 0.1, "brier": 0.4, "aurc": 0.2, "eaurc": 0.1}


def put(store: Store, trial: Trial, status: str = "ok", **changes: Any) -> Path:
    """A record of a trial, without any training."""
    record = {
        "trial_id": trial.id, "status": status, "baseline": "ce", "spec": trial.spec, "identity": trial.identity,
        "metrics": METRICS if status == "ok" else None, "cost": COST, "epochs_done": trial.spec.recipe.epochs,
        "provenance": Provenance(versions={}, device="cpu", cpu="c", started=WHEN, finished=WHEN),
    }  # fmt: skip
    result = TrialResult.model_validate({**record, **changes})
    store.write(result, "trial.json" if status != "interrupted" else "started.json")
    return store.folder(trial.spec, trial.id)


def aged(trial: Trial, **identity: str) -> Trial:
    """The same settings under another identity."""
    return trial.model_copy(update={"identity": trial.identity.model_copy(update=identity)})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return api.plan(methods="ls", seeds="0-3", results=tmp_path / "r", engine="local", device="cpu", cpus=2, jobs=2)


def test_every_state_is_told(plan: Plan) -> None:
    store = Store(Path(plan.results))
    ce = [t for t in plan.trials if t.spec.method == "ce"]
    ls = [t for t in plan.trials if t.spec.method == "ls"]
    put(store, ls[0])
    put(store, ls[1], "oom")
    append_line(put(store, ls[2], "interrupted") / "curve.jsonl", {"epoch": 0})
    put(store, aged(ls[3], method_source="older"))
    put(store, aged(ce[0], protocol_version="0", data_fingerprint="other"))
    found = preview_of(plan)
    by_id = {trial.trial_id: trial for trial in found.trials}
    assert [by_id[t.id].state for t in ls] == ["done", "failed", "interrupted", "stale"]
    assert [by_id[t.id].state for t in ce] == ["stale", "missing", "missing", "missing"]
    assert by_id[ls[1].id].status == "oom"
    assert by_id[ls[3].id].changed == "method"
    assert by_id[ce[0].id].changed == "data, protocol"
    assert {t.id: by_id[t.id].runs for t in ls} == {ls[0].id: False, ls[1].id: False, ls[2].id: True, ls[3].id: True}
    counts = {cell.method: cell.counts for cell in found.cells}
    assert counts["ls"] == {"done": 1, "failed": 1, "interrupted": 1, "stale": 1}
    assert counts["ce"] == {"stale": 1, "missing": 3}
    assert found.missing == 6
    # finished trials took 10 s for 2 epochs: 1 + 2 epochs of ls, 4 trials of ce by the stale one
    assert by_id[ls[2].id].seconds == pytest.approx(5.0)
    assert found.seconds == pytest.approx(5 + 10 + 4 * 10)
    assert found.untold == 0
    assert found.at_once == 2
    size = (store.folder(ls[0].spec, ls[0].id) / "trial.json").stat().st_size
    assert found.disk_bytes == pytest.approx(6 * size, rel=0.1)
    assert "disk: " not in found.model_copy(update={"forecast": None}).text
    assert "MiB needed, 0.0 MiB free" in found.model_copy(update={"free_bytes": 10}).text
    for part in (
        "stale",
        "interrupted",
        "6 of 8 trials to run",
        "55s of trials",
        "28s with 2 at once",
        "a change of method",
    ):
        assert part in found.text, part


def test_what_rerun_names_is_run(plan: Plan) -> None:
    store = Store(Path(plan.results))
    ls = [t for t in plan.trials if t.spec.method == "ls"]
    put(store, ls[0])
    put(store, ls[1], "nan")
    put(store, aged(ls[3], method_source="older"))
    put(store, aged(ls[2], method_source="older"), "failed")

    def due(rerun: str) -> list[str]:
        return [t.id for t in to_do(plan.model_copy(update={"rerun": rerun}), store)]

    assert set(due("none")) == {t.id for t in plan.trials} - {ls[0].id, ls[1].id}
    assert set(due("failed")) == {t.id for t in plan.trials} - {ls[0].id}
    assert set(due("all")) == {t.id for t in plan.trials}
    assert due("stale") == [ls[3].id]  # what failed under the older source is no finished trial
    put(store, ls[3])
    assert due("stale") == []


def test_a_stale_student_brings_its_new_teacher(tmp_path: Path) -> None:
    plan = api.plan(methods="ban", seeds=0, results=tmp_path, engine="local", baseline=False)
    store, student = Store(tmp_path), plan.trials[-1]
    assert student.spec.teacher is not None
    older = student.model_copy(update={"spec": student.spec.model_copy(update={"teacher": "0123456789abcdef"})})
    put(store, aged(older, method_source="older"))
    assert lineage(older.spec) == lineage(student.spec)
    stale = to_do(plan.model_copy(update={"rerun": "stale"}), store)
    assert [t.id for t in stale] == [t.id for t in plan.trials]
    assert list(stale_records(store, plan.trials)) == [student.id]
    assert what_changed(student, stale_records(store, plan.trials)[student.id]) == "method"


def test_the_newest_of_several_stale_ones_counts(plan: Plan) -> None:
    store, trial = Store(Path(plan.results)), plan.trials[0]
    for source, day in (("a", "01"), ("b", "03"), ("c", "02")):
        made = Provenance(versions={}, device="cpu", cpu="c", started=WHEN, finished=f"2026-02-{day}")
        put(store, aged(trial, method_source=source), provenance=made)
    assert stale_records(store, plan.trials)[trial.id].identity.method_source == "b"


def test_the_command_takes_what_run_takes(tmp_path: Path) -> None:
    words = ["-m", "zipf,zipf[weight=0.3]", "--seeds", "5", "--results", str(tmp_path)]
    planned, dry = (CliRunner().invoke(app, [*verb, *words]) for verb in (["plan"], ["run", "--dry-run"]))
    assert planned.exit_code == 0
    assert planned.stdout == dry.stdout
    assert "zipf[weight=0.3]" in planned.stdout
    told = json.loads(CliRunner().invoke(app, ["plan", "--json", *words]).stdout)
    same = api.preview(methods="zipf,zipf[weight=0.3]", seeds=5, results=tmp_path)
    asked = json.loads(same.model_dump_json())
    for each in (told, asked):  # what others leave free changes from one moment to the next
        each |= {"free_bytes": 0}
        each["forecast"] |= {"free_disk_bytes": 0, "free_memory_bytes": 0}
    assert told == asked
    assert not (tmp_path / "trials").exists()
    assert CliRunner().invoke(app, ["plan", "--rerun", "stail"]).exit_code == 2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SDBENCH_DATA", raising=False)
    return tmp_path / "cache"


def test_prepare_makes_it_once(cache: Path) -> None:
    (first,) = api.prepare("glyphs")
    assert not first.found
    assert Path(first.place).parent == cache
    assert first.bytes == Path(first.place).stat().st_size
    told = json.loads(CliRunner().invoke(app, ["prepare", "glyphs", "--json"]).stdout)
    assert told == [{**first.model_dump(), "found": True}]
    assert first.fingerprint == data.inspect("glyphs").fingerprint
    assert (first.num_classes, first.num_train, first.num_test) == (100, 10_000, 2_000)


def test_prepare_names_all_problems_before_it_downloads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "prepare", lambda *_: pytest.fail("it began"))
    done = CliRunner().invoke(app, ["prepare", "cifar100", "cifr10", "glphs"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "'cifar10'" in done.stderr
    assert "'glyphs'" in done.stderr
    for nothing in ([], ["glyphs", "--image-size", "big"]):
        assert CliRunner().invoke(app, ["prepare", *nothing]).exit_code == 2


def test_prepare_of_a_folder_that_is_not_whole(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "birds" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="birds"):
        api.prepare([f"folder:{tmp_path / 'birds'}", "glyphs"])
    assert api.prepare("glyphs")[0].found  # the other was made ready all the same

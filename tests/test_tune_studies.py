"""What a study makes of its trials' records, whoever wrote them, and however many commands."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench import api
from sdbench.protocol import tuned_rules
from sdbench.spec import Provenance, Trial, TrialResult
from sdbench.store import Store, append_line
from sdbench.study import Study, make_study, read_trials
from sdbench.study_records import mark_stopped, read_study, write_study
from sdbench.study_search import ask_for, asks_for, chains_of, search_plan
from sdbench.study_values import at
from sdbench.tuning import TuningPlan

EPOCHS = 9
MADE = {"versions": {}, "device": "cpu", "cpu": "Example 9000"}


def base_of(results: Path, **options: Any) -> TuningPlan:
    return api.plan_tune(methods="ce", epochs=EPOCHS, results=results, engine="local", device="cpu", **options)


def study_of(results: Path, **budget: Any) -> Study:
    """A study of ce on glyphs, as it is before anything was trained."""
    found = base_of(results).studies[0]
    whole = {"trials": 3, "search": "random", "scheduler": "asha", "seed": 0, **budget}
    return make_study(found.cell, tuned_rules("glyphs"), (), whole)


def write(study: Study, results: Path, trial: Trial, second: int = 0, **said: Any) -> Path:
    """A search trial's record; returns its folder."""
    store = Store(study.root(results))
    given = {"status": "ok", "epochs_done": EPOCHS, **said}
    made = Provenance(**MADE, started=f"2026-01-01T00:00:{second:02}+00:00", finished="2026-01-01T01:00:00+00:00")
    result = TrialResult(trial_id=trial.id, spec=trial.spec, identity=trial.identity, provenance=made, **given)
    store.write(result)
    return store.folder(trial.spec, trial.id)


def test_what_was_stopped_is_not_chosen_however_fast_it_was(tmp_path: Path) -> None:
    """A trial trains on until it hears that it was stopped, and may be done by then."""
    study = study_of(tmp_path)
    for chain, top1 in zip(study.chains, (0.5, 0.9, 0.6), strict=True):
        folder = write(study, tmp_path, chain[-1], validation_top1=top1)
        for epoch in range(EPOCHS - 1):
            append_line(folder / "curve.jsonl", {"epoch": epoch, "validation_top1": epoch / 100})
    quick = study.chains[1][-1]
    mark_stopped(Store(study.root(tmp_path)).folder(quick.spec, quick.id), "asha", 3)
    found = read_trials(study, tmp_path, study.chains)
    assert [each.status for each in found.tried] == ["ok", "stopped", "ok"]
    assert found.tried[1].validation_top1 == {1: 0.0, 2: 0.01, 3: 0.02}
    assert found.tried[1].epochs == EPOCHS  # what it cost is another matter
    assert found.chosen == 2
    assert found.told is not None
    assert (found.told.finished, found.told.stopped, found.told.failed) == (2, 1, 0)


def test_a_killed_trial_counts_the_epochs_of_its_curve(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    trial = study.chains[1][-1]
    folder = Store(study.root(tmp_path)).folder(trial.spec, trial.id)
    folder.mkdir(parents=True)
    for epoch in range(4):
        append_line(folder / "curve.jsonl", {"epoch": epoch, "validation_top1": 0.1})
    assert read_trials(study, tmp_path, study.chains).tried[1].epochs == 4
    write(study, tmp_path, trial, status="interrupted", epochs_done=0)
    assert read_trials(study, tmp_path, study.chains).tried[1].epochs == 4


def test_a_study_is_merged_with_what_its_scheduler_stopped(tmp_path: Path) -> None:
    """Also beside the same record, which the destination got before the mark was made, and where no record is."""
    here, there = tmp_path / "here", tmp_path / "there"
    study = study_of(here, trials=4)
    trials = [chain[-1] for chain in study.chains]
    for trial, top1 in zip(trials[:2], (0.5, 0.6), strict=True):
        write(study, here, trial, validation_top1=top1)
    cut = write(study, here, trials[2], status="interrupted", epochs_done=2)
    assert api.merge(here, into=there).count("copied") == 3
    mark_stopped(cut, "asha", 2)
    killed = write(study, here, trials[3], status="interrupted", epochs_done=0)
    (killed / "trial.json").rename(killed / "started.json")
    mark_stopped(killed, "asha", 1)
    found = read_trials(study, here, study.chains)
    write_study(study.root(here), found)
    merged = api.merge(here, into=there)
    assert merged.count("refused") == 0, merged.text
    assert [each.status for each in found.tried] == ["ok", "ok", "stopped", "stopped"]
    assert read_trials(study, there, study.chains) == found
    assert read_study(study.root(there)) == read_study(study.root(here))
    assert ask_for(study, search_plan(base_of(there).base, study)) is None


def test_what_is_no_study_is_not_merged(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    study = study_of(here)
    folder = write(study, here, study.chains[0][-1], validation_top1=0.5)
    (here / "trials").mkdir(exist_ok=True)
    (study.root(here) / "study.json").write_text("{}")
    outside = tmp_path / "outside"
    study.root(here).parent.joinpath("0" * 16).symlink_to(study.root(here))
    study.root(here).parent.joinpath("notes").mkdir()
    merged = api.merge(here, into=there)
    assert (merged.count("copied"), merged.count("refused")) == (1, 2)
    assert sorted(path.name for path in (there / "tuning").iterdir()) == [study.id]
    assert (study.root(there) / folder.relative_to(study.root(here)) / "trial.json").is_file()
    (tmp_path / "linked" / "tuning").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "linked" / "tuning" / study.id).symlink_to(outside)
    assert api.merge(here, into=tmp_path / "linked").count("copied") == 0
    assert list(outside.iterdir()) == []


def proposal(study: Study, lr: float) -> Trial:
    first = study.chains[0][-1]
    spec = at(first.spec, {"recipe.lr": lr, "recipe.weight_decay": 0.001})
    return Trial(spec=spec, identity=first.identity)


def test_of_more_proposals_than_the_budget_the_first_count(tmp_path: Path) -> None:
    """Two stores that were merged hold the proposals of both."""
    study = study_of(tmp_path, search="optuna", scheduler="none")
    write(study, tmp_path, study.chains[0][-1], 0, validation_top1=0.1)
    for second, lr in ((4, 0.05), (2, 0.03), (3, 0.04), (1, 0.02)):
        write(study, tmp_path, proposal(study, lr), second, validation_top1=lr * 10)
    found = read_trials(study, tmp_path, chains_of(study, tmp_path))
    assert [each.values["recipe.lr"] for each in found.tried] == [0.25, 0.02, 0.03]
    assert found.over
    assert found.chosen == 2
    everything = read_trials(study, tmp_path, [*chains_of(study, tmp_path), [proposal(study, 0.05)]])
    assert everything.chosen == 2
    assert ask_for(study, search_plan(base_of(tmp_path).base, study)) is None


def test_a_second_command_waits_and_then_finds_the_search_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tmp_path, search="optuna", scheduler="none")
    plan = search_plan(base_of(tmp_path).base, study)
    before = ask_for(study, plan)
    assert before is not None
    assert before.propose == 2
    asks = asks_for([(study, plan, before)], threading.Event())
    assert next(asks) == before
    second: list[Any] = []
    other = threading.Thread(
        target=lambda: second.extend(asks_for([(study, plan, before)], threading.Event())), daemon=True
    )
    other.start()
    other.join(timeout=2)
    assert other.is_alive()  # it waits
    assert f"waiting for another command that searches for the values of ce on glyphs/resnet8 (study {study.id})" in (
        capsys.readouterr().err
    )
    for second_of, trial in enumerate([study.chains[0][-1], proposal(study, 0.02), proposal(study, 0.03)]):
        write(study, tmp_path, trial, second_of, validation_top1=0.5)
    assert list(asks) == []
    other.join(timeout=60)
    assert not other.is_alive()
    assert second == []


def test_a_command_that_waits_can_be_stopped(tmp_path: Path) -> None:
    study = study_of(tmp_path, search="optuna", scheduler="none")
    plan, stop = search_plan(base_of(tmp_path).base, study), threading.Event()
    before = ask_for(study, plan)
    assert before is not None
    with Store(study.root(tmp_path)).lock(study.root(tmp_path)):
        waits: list[Any] = []
        other = threading.Thread(target=lambda: waits.extend(asks_for([(study, plan, before)], stop)), daemon=True)
        other.start()
        stop.set()
        other.join(timeout=60)
        assert not other.is_alive()
        assert waits == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("search", "scheduler"), [("optuna", "none"), ("optuna", "asha"), ("random", "asha")])
def test_two_commands_at_once_spend_one_budget(
    tmp_path: Path, search: str, scheduler: str, make_pictures: Callable[..., Path]
) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    make_pictures(tmp_path / "shades", 20, 4, classes=3, mean=80, step=40)
    words = [
        sys.executable, "-m", "sdbench", "tune", "--methods", "ce", "--trials", "4", "--epochs", "3", "--seeds", "0",
        "--search", search, "--scheduler", scheduler, "--dataset", f"folder:{tmp_path / 'shades'}", "--image-size",
        "16", "--model", "resnet8", "--batch-size", "16", "--cpus", "1", "--device", "cpu", "--results",
        str(tmp_path / "r"),
    ]  # fmt: skip
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [command.communicate(timeout=1500)[1] for command in both]
    assert [command.returncode for command in both] == [0, 0], told
    (path,) = (tmp_path / "r" / "tuning").iterdir()
    begun = list(path.glob("trials/*/*/*/*/started.json"))
    assert len(begun) == 4
    assert len(read_study(path).tried) == 4

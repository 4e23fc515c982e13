"""What a study makes of its trials' records, whoever wrote them, and however many commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdbench import api
from sdbench.protocol import tuned_rules
from sdbench.spec import Provenance, Trial, TrialResult
from sdbench.store import Store, append_line
from sdbench.study import Study, make_study, read_trials
from sdbench.study_records import mark_stopped

EPOCHS = 9
MADE = {"versions": {}, "device": "cpu", "cpu": "Example 9000"}


def study_of(results: Path, **budget: Any) -> Study:
    """A study of ce on glyphs, as it is before anything was trained."""
    found = api.plan_tune(methods="ce", epochs=EPOCHS, results=results, engine="local", device="cpu").studies[0]
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

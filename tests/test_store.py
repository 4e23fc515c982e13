"""The store under faults: what is read is what was written, or is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sdbench.errors import EnvironmentProblem
from sdbench.leaderboard import build_board
from sdbench.spec import Cost, Identity, Metrics, Provenance, Recipe, Trial, TrialResult, TrialSpec
from sdbench.store import (
    DamagedRecord,
    Store,
    append_line,
    read_curve,
    read_result,
    replacing,
    seal,
    write_atomic,
)


def make_trial(method: str = "toy", seed: int = 0) -> Trial:
    spec = TrialSpec(method=method, dataset="d", network="n", recipe=Recipe(epochs=2), protocol="p", seed=seed)
    return Trial(spec=spec, identity=Identity(method_source="s", data_fingerprint="f", protocol_version="1"))


def make_result(trial: Trial, **changes: object) -> TrialResult:
    values: dict[str, object] = {
        "trial_id": trial.id,
        "status": "ok",
        "spec": trial.spec,
        "identity": trial.identity,
        "metrics": Metrics(top1=0.5, top5=0.75, nll=1.25, ece=0.125, brier=0.5, aurc=0.25, eaurc=0.125),
        "provenance": Provenance(versions={}, device="cpu", cpu="c", started="t0", finished="t1"),
    }
    return TrialResult.model_validate({**values, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results")
    made.prepare()
    return made


def record_of(store: Store, trial: Trial) -> Path:
    return store.folder(trial.spec, trial.id) / "trial.json"


def test_round_trip(store: Store) -> None:
    trial = make_trial()
    store.write(make_result(trial))
    found = store.result(trial)
    assert found is not None
    assert found.metrics == make_result(trial).metrics
    assert store.scan().results == (found,)
    assert store.find(trial.id) == record_of(store, trial).parent


def test_identity_covers_every_field_of_the_spec() -> None:
    trial = make_trial()
    changed = [
        trial.model_copy(update={"spec": trial.spec.model_copy(update={"seed": 1})}),
        trial.model_copy(update={"spec": trial.spec.model_copy(update={"params": {"a": 1.0}})}),
        trial.model_copy(update={"spec": trial.spec.model_copy(update={"recipe": Recipe(epochs=3)})}),
        trial.model_copy(update={"spec": trial.spec.model_copy(update={"split": "holdout-0.1"})}),
        trial.model_copy(update={"identity": trial.identity.model_copy(update={"method_source": "other"})}),
        trial.model_copy(update={"identity": trial.identity.model_copy(update={"data_fingerprint": "other"})}),
        trial.model_copy(update={"identity": trial.identity.model_copy(update={"protocol_version": "2"})}),
    ]
    assert len({trial.id, *(t.id for t in changed)}) == len(changed) + 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: b"\xff\xfe" + text,
        lambda text: b"not json",
        lambda text: b"[" * 100_000,
        lambda text: text.replace(b'"top1": 0.5', b'"top1": 0.6'),
        lambda text: text.replace(b'"top1": 0.5', b'"top1": NaN'),
        lambda text: text.replace(b'"top1": 0.5', b'"top1": 1.5'),
        lambda text: text.replace(b'"status": "ok"', b'"status": "great"'),
        lambda text: text.replace(b'"status"', b'"unknown_key": 1, "status"'),
        lambda text: text.replace(b'"schema_version": 1', b'"schema_version": 99'),
        lambda text: b'{"schema_version": ' + b"9" * 100_000 + b"}",
    ],
)
def test_a_damaged_record_is_reported_and_hides_no_other(store: Store, damage: object) -> None:
    good, bad = make_trial(seed=0), make_trial(seed=1)
    for trial in (good, bad):
        store.write(make_result(trial))
    path = record_of(store, bad)
    changed = damage(path.read_bytes())  # type: ignore[operator]
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    scan = store.scan()
    assert [r.trial_id for r in scan.results] == [good.id]
    assert [d.path for d in scan.damaged] == [path]
    assert scan.damaged[0].reason
    assert store.result(bad) is None

    store.write(make_result(bad))  # it is set aside when the trial is run again
    assert store.result(bad) is not None
    assert path.with_name("trial.json.damaged-1").read_bytes() == changed


def test_a_started_trial_without_result_is_a_row(store: Store) -> None:
    trial = make_trial()
    store.write(make_result(trial, status="interrupted", metrics=None), "started.json")
    assert [r.status for r in store.scan().results] == ["interrupted"]
    assert store.result(trial) is None


def test_seal_survives_hostile_text(store: Store) -> None:
    """Text in a record that looks like the seal does not confuse it."""
    trial = make_trial()
    hostile = '"trial.json": "' + "0" * 64 + '", \\"trial.json\\": \\"'
    store.write(make_result(trial, status="failed", reason=hostile, log_tail=hostile))
    found = store.result(trial)
    assert found is not None
    assert found.reason == hostile


def test_names_cannot_leave_the_folder(store: Store) -> None:
    spec = make_trial().spec.model_copy(update={"dataset": "../../etc", "network": "/abs", "method": ".."})
    folder = store.folder(spec, "../x")
    assert store.trials.resolve() in folder.resolve().parents


def test_checksums_of_neighbours(store: Store) -> None:
    trial = make_trial()
    folder = store.folder(trial.spec, trial.id)
    append_line(folder / "curve.jsonl", {"epoch": 0}) if folder.exists() else write_atomic(
        folder / "curve.jsonl", '{"epoch": 0}\n'
    )
    store.write(make_result(trial))
    found = store.result(trial)
    assert found is not None
    import hashlib

    assert found.checksums["curve.jsonl"] == hashlib.sha256(b'{"epoch": 0}\n').hexdigest()


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    append_line(path, {"epoch": 0})
    append_line(path, {"epoch": 1})
    with path.open("ab") as file:
        file.write(b'{"epoch": 2, "lo')
    assert read_curve(path) == [{"epoch": 0}, {"epoch": 1}]


def test_bare_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "curve.jsonl", {"loss": float("nan")})


@pytest.mark.parametrize("point", ["write", "fsync", "chmod", "replace", "sync"])
def test_a_kill_at_any_point_of_a_write_leaves_old_or_new(tmp_path: Path, point: str) -> None:
    """The process kills itself inside each step of the atomic write; the file holds old or new whole."""
    path = tmp_path / "file"
    write_atomic(path, "old" * 1000)
    script = f"""
        import os, signal
        from pathlib import Path
        import sdbench.durable as store

        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        point = {point!r}
        if point == "write":
            Path.write_bytes = lambda self, data: (open(self, "wb").write(data[:10]), die())
        elif point == "fsync":
            os.fsync = die
        elif point == "chmod":
            Path.chmod = die
        elif point == "replace":
            Path.replace = die
        else:
            store.sync_folder = die
        store.write_atomic(Path({str(path)!r}), "new" * 1000)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert path.read_text() == ("new" if point == "sync" else "old") * 1000


def test_a_failed_write_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def half_written() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_or_read_only_folder_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(EnvironmentProblem, match="--results"):
        Store(blocker / "results").prepare()


def test_merging_is_copying_folders(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.prepare()
    for where, seed in ((store, 0), (other, 1)):
        where.write(make_result(make_trial(seed=seed)))
    shutil.copytree(other.trials, store.trials, dirs_exist_ok=True)
    assert sorted(r.spec.seed for r in store.scan().results) == [0, 1]


def test_the_lock_of_a_dead_process_is_free(store: Store) -> None:
    trial = make_trial()
    folder = store.folder(trial.spec, trial.id)
    script = f"""
        import os, signal
        from pathlib import Path
        from sdbench.store import Store
        lock = Store(Path({str(store.root)!r})).lock(Path({str(folder)!r}))
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == -9
    assert (folder / ".lock").exists()
    with store.lock(folder, timeout=2):
        pass


def test_a_record_is_plain_json_without_host_facts(store: Store) -> None:
    text = seal(make_result(make_trial()))
    assert os.uname().nodename not in text
    with pytest.raises(DamagedRecord):
        read_result(_write(store.root / "x.json", text[:-5]))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("metrics", "nll", 1e200), ("metrics", "eaurc", 1e308), ("cost", "process_s", 1e300),
        ("cost", "peak_memory_bytes", int("9" * 400)), ("cost", "images_with_gradient", int("9" * 300)),
        ("cost", "auxiliary_parameters", int("9" * 400)), ("", "schema_version", 0), ("", "epochs_done", 2**54),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_figures_beyond_belief_are_refused_and_hide_no_other(store: Store, part: str, name: str, value: object) -> None:
    """Sealed as they should be, they would make sums and ratios overflow."""
    cost = Cost(
        train_s=1, process_s=1, eval_s=1, setup_s=1, labelled_images=1, images_with_gradient=1,
        images_without_gradient=0, peak_memory_bytes=1, auxiliary_parameters=0, state_bytes=0, timing_valid=True,
    )  # fmt: skip
    for seed in (0, 1):
        store.write(make_result(make_trial(seed=seed), cost=cost))
    path = sorted(store.root.glob("trials/*/*/*/*/trial.json"))[0]
    content = json.loads(path.read_text())
    (content[part] if part else content)[name] = value
    content["checksums"]["trial.json"] = "0" * 64
    text = json.dumps(content, indent=1)
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()))
    scan = store.scan()
    assert len(scan.results) == 1
    assert [damaged.path for damaged in scan.damaged] == [path]
    assert name in scan.damaged[0].reason
    assert build_board(scan.results).tables


@pytest.mark.parametrize("form", ['"schema_version" : 99', '"schema_version":99', '"schema_version": 12345678901'])
def test_a_newer_record_is_known_however_it_is_spaced(store: Store, form: str) -> None:
    result = make_result(make_trial())
    store.write(result)
    path = store.folder(result.spec, result.trial_id) / "trial.json"
    content = path.read_text()
    opened = content.replace(read_result(path).checksums["trial.json"], "0" * 64).replace('"schema_version": 1', form)
    path.write_text(opened.replace("0" * 64, hashlib.sha256(opened.encode()).hexdigest()))
    with pytest.raises(DamagedRecord, match="newer"):
        read_result(path)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"epoch": 1, "loss": Infinity}', '{"epoch": 1, "loss": NaN}', "7"])
def test_a_curve_ends_where_a_line_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text('{"epoch": 0}\n' + line + '\n{"epoch": 2}\n')
    assert read_curve(path) == [{"epoch": 0}]
    assert read_curve(tmp_path / ("n" * 300) / "curve.jsonl") == []

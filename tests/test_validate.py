"""Records under faults: each is found, named with its place and what to do, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench.cli import app
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Setting, profile_id
from sdbench.errors import UserError
from sdbench.spec import Provenance, TrialResult
from sdbench.store import read_result, seal, sha256
from sdbench.validation import validate
from sdbench.validation_files import Found, Unsound, tensors
from sdbench.validation_records import Finding

Writer = Callable[..., Path]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"


def reseal(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "trial.json") -> None:
    """Change a record and seal it anew, as a forger or a faulty writer would."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    del content["checksums"][name]
    path.write_text(seal(TrialResult.model_validate(content)))


def found_in(*paths: Path, against: Path | None = None) -> list[Finding]:
    return list(validate([str(p) for p in paths], str(against) if against else None).findings)


def only(*paths: Path, against: Path | None = None) -> Finding:
    findings = found_in(*paths, against=against)
    assert len(findings) == 1, [f.text for f in findings]
    return findings[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def sound(root: Path, write_trial: Writer) -> Path:
    for method, top1 in (("ce", 0.5), ("ls", 0.75)):
        for seed in (0, 1):
            write_trial(root, method, seed, top1)
    return root


def folder_of(root: Path, method: str = "ls", seed: int = 1) -> Path:
    records = [path for path in root.glob(f"trials/*/*/{method}/*/trial.json") if f'"seed": {seed}' in path.read_text()]
    assert len(records) == 1
    return records[0].parent


def test_a_sound_store_has_no_findings(sound: Path) -> None:
    found = validate([str(sound)])
    assert (found.trials, found.profiles, found.findings) == (4, 0, ())
    assert found.text == "4 trial(s), 0 profile(s): nothing wrong"
    folder = folder_of(sound)
    for path in (folder, folder / "trial.json", sound / "trials" / "glyphs", sound.parent):
        assert found_in(path) == [], path


def test_the_published_profiles_are_valid() -> None:
    found = validate([str(PUBLISHED)])
    assert found.profiles >= 4
    assert found.errors == ()


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda text: "", "unreadable", "EOF"),
        (lambda text: text[:200], "unreadable", "JSON"),
        (lambda text: "[" * 100_000, "unreadable", "recursion"),
        (lambda text: text.replace('"top1": 0.75', '"top1": NaN'), "schema", "metrics.top1"),
        (lambda text: text.replace('"top1": 0.75', '"top1": 1.5'), "schema", "metrics.top1"),
        (lambda text: text.replace('"top1": 0.75', '"top1": 0.5'), "checksum", "changed after"),
        (lambda text: text.replace('"status": "ok"', '"extra": 1, "status": "ok"'), "schema", "extra"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "newer", "upgrade"),
        (lambda text: '{"spec": [' + "[]," * 200_000 + "[]]}", "unreadable", "values"),
    ],
)
def test_a_damaged_record(sound: Path, damage: Callable[[str], str], kind: str, words: str) -> None:
    path = folder_of(sound) / "trial.json"
    path.write_text(damage(path.read_text()))
    errors = [f for f in found_in(sound) if f.level == "error"]
    assert len(errors) == 1
    assert (errors[0].kind, errors[0].place) == (kind, str(path))
    assert words in errors[0].problem
    assert errors[0].remedy


def test_bytes_that_are_no_text(sound: Path) -> None:
    path = folder_of(sound) / "trial.json"
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    assert "unreadable" in {f.kind for f in found_in(sound) if f.level == "error"}


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("metrics", value=None), "metrics or cost are missing"),
        (put("epochs_done", value=1), "ok after 1 of 2 epochs"),
        (put("resumes", value=[2]), "resumed at epoch 2"),
        (put("metrics", "top5", value=0.5), "top5 0.5 is below top1"),
        (put("metrics", "eaurc", value=0.3), "eaurc 0.3 is outside"),
        (put("metrics", "eaurc", value=-0.1), "eaurc -0.1 is outside"),
        (put("num_classes", value=1), "num_classes is 1"),
        (put("num_classes", value=4), "logits of 3 classes"),
        (put("metrics", "top1", value=0.7), "top1 0.7 is no share of 4 images"),
        (put("metrics", "top1", value=0.25), "the last epoch is 0.75"),
        (put("cost", "labelled_images", value=0), "nothing was trained"),
    ],
)
def test_values_that_cannot_be(sound: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    reseal(folder_of(sound), change)
    findings = found_in(sound)
    assert {(f.level, f.kind) for f in findings} == {("error", "range")}
    assert any(words in f.problem for f in findings)


def test_a_spec_that_was_changed_does_not_hash_to_its_id(sound: Path) -> None:
    reseal(folder_of(sound), put("spec", "params", value={"smoothing": 0.2}))
    assert {f.kind for f in found_in(sound) if f.level == "error"} == {"identity"}


def test_a_file_beside_a_record(sound: Path) -> None:
    folder = folder_of(sound)
    (folder / "curve.jsonl").write_text('{"epoch": 0}\n')
    assert (only(sound).kind, only(sound).place) == ("checksum", str(folder / "curve.jsonl"))
    (folder / "curve.jsonl").unlink()
    assert (only(sound).kind, only(sound).level) == ("missing", "warning")
    (folder / "curve.jsonl").symlink_to("/etc/passwd")
    assert {(f.kind, f.level) for f in found_in(sound)} == {("link", "error"), ("link", "warning")}


@pytest.mark.parametrize(
    "name", ["curve.jsonl", "logits.safetensors", "network.safetensors", "epoch_logits/epoch-0001.safetensors"]
)
def test_a_file_that_a_finished_trial_does_not_seal(sound: Path, name: str) -> None:
    folder = folder_of(sound)
    (folder / "epoch_logits").mkdir()
    (folder / name).write_bytes(b"added")
    reseal(folder, lambda content: content["checksums"].pop(name, None))
    assert (only(sound).kind, only(sound).level, only(sound).place) == ("checksum", "error", str(folder / name))
    failed: dict[str, Any] = {"status": "failed", "metrics": None, "cost": None}
    reseal(folder, lambda content: content.update(failed))
    assert (only(sound).kind, only(sound).level) == ("checksum", "warning")
    reseal(folder, lambda content: content.update(status="interrupted"))
    assert found_in(sound) == []


@pytest.mark.parametrize("name", ["../ce", "/etc/passwd", "a/b/c", "..", "trial.json/../x"])
def test_a_record_cannot_name_files_elsewhere(sound: Path, name: str) -> None:
    reseal(folder_of(sound), put("checksums", name, value="0" * 64))
    assert (only(sound).kind, only(sound).level) == ("checksum", "error")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"epoch": 0}\n{"epoch": 2}\n', "line 2 is not of epoch 1"),
        ('{"epoch": 0}\n', "1 epochs, where the record has 2"),
        ('{"epoch": 0}\n{"epoch": 1, "lo', "line 2 is not JSON"),
        ('{"epoch": 0, "loss": NaN}\n{"epoch": 1}\n', "NaN is not JSON"),
        ('{"epoch": 0}\n[1]\n', "line 2 is not a JSON object"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"a": "' + "x" * 2**20 + '"}', "line 1 is longer"),
    ],
)
def test_a_sealed_curve_that_is_none(sound: Path, lines: str, words: str) -> None:
    folder = folder_of(sound)
    (folder / "curve.jsonl").write_text(lines)
    reseal(folder, put("checksums", "curve.jsonl", value=sha256(folder / "curve.jsonl")))
    assert words in only(sound).problem


def safetensors_file(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(shape: list[int], low: int, high: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [low, high]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        struct.pack("<Q", 2**60) + b"{}",
        safetensors_file(b"[1, 2]"),
        safetensors_file(b'{"a":' * 5000),
        safetensors_file({"a": tensor([2], 0, 4)}, b"0000"),
        safetensors_file({"a": tensor([-1], 0, 4)}, b"0000"),
        safetensors_file({"a": tensor([1], 4, 8)}, b"00000000"),
        safetensors_file({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"0000"),
        safetensors_file({"a": tensor([1], 0, 4)}, b"00000"),
        safetensors_file({"a": {"dtype": "F7", "shape": [], "data_offsets": [0, 4]}}, b"0000"),
    ],
)
def test_what_is_no_safetensors_file(sound: Path, content: bytes) -> None:
    folder = folder_of(sound)
    (folder / "logits.safetensors").write_bytes(content)
    with pytest.raises(Unsound):
        tensors(folder / "logits.safetensors")
    reseal(folder, put("checksums", "logits.safetensors", value=sha256(folder / "logits.safetensors")))
    assert (only(sound).kind, only(sound).level) == ("range", "error")


def test_headers_are_read_as_the_library_reads_them(sound: Path) -> None:
    from safetensors import safe_open

    path = folder_of(sound) / "logits.safetensors"
    with safe_open(path, "numpy") as file:
        expected = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert {name: shape for name, (_, shape) in tensors(path).items()} == expected


def test_a_record_in_the_wrong_folder(sound: Path) -> None:
    folder = folder_of(sound)
    moved = folder.rename(folder.parent.parent / "ce" / folder.name)
    assert (only(sound).kind, only(sound).level) == ("place", "error")
    assert f"trials/glyphs/resnet8/ls/{folder.name}" in only(sound).problem
    elsewhere = shutil.copytree(moved, sound.parent / "elsewhere" / "x")
    assert (only(elsewhere).kind, only(elsewhere).level) == ("place", "warning")


def test_one_trial_in_two_places(sound: Path, tmp_path: Path) -> None:
    folder = folder_of(sound)
    shutil.copytree(folder, folder.with_name("0" * 16))
    assert sorted(f.kind for f in found_in(sound)) == ["duplicate", "place"]
    shutil.rmtree(folder.with_name("0" * 16))
    other = shutil.copytree(sound, tmp_path / "copy")
    assert [f.kind for f in found_in(sound, other)] == ["duplicate"] * 4
    assert found_in(sound, sound, folder) == []


def test_two_seeds_with_the_same_metrics(root: Path, write_trial: Writer) -> None:
    same = {"top1": 0.5, "top5": 1, "nll": 1.25, "ece": 0.1, "brier": 0.4, "aurc": 0.2, "eaurc": 0.1}
    for seed in (0, 1):
        write_trial(root, "ce", seed, metrics=same)
    assert (only(root).kind, only(root).level) == ("suspicious", "warning")
    assert "seeds 0, 1 of ce" in only(root).problem


def test_seeds_that_differ_between_methods(sound: Path, write_trial: Writer) -> None:
    write_trial(sound, "zipf", 0)
    assert (only(sound).kind, only(sound).level) == ("seeds", "warning")
    assert only(sound).place == "glyphs/resnet8/zipf"
    assert only(sound).problem.endswith("have: 1")


def test_one_seed_twice_is_no_second_seed(sound: Path, write_trial: Writer) -> None:
    write_trial(sound, "ls", 1, 0.25, threads=2)
    assert only(sound).kind == "seeds"
    assert "2 trials of seed 1" in only(sound).problem


def test_what_a_study_chose_on_two_machines_is_two_variants(root: Path, write_trial: Writer) -> None:
    budget = {"trials": 2, "epochs": 2, "split": "holdout-0.1", "lr": 0.1, "weight_decay": 5e-4, "study": "a" * 16}
    for lr in (0.2, 0.3):
        write_trial(root, "ls", 0, lr, protocol="tuned", recipe={"epochs": 2, "lr": lr}, tuning=budget)
    assert not [each for each in found_in(root) if each.kind in ("seeds", "suspicious")]


@pytest.mark.parametrize("part", ["initial_weights", "first_batch"])
def test_methods_that_were_not_paired(sound: Path, part: str) -> None:
    folder = folder_of(sound, "ls", 1)
    reseal(folder, put("pairing", part, value="other"))
    assert (only(sound).kind, only(sound).level) == ("pairing", "error")
    assert "seed 1 of" in only(sound).problem
    reseal(folder, put("provenance", "versions", value={"torch": "2.15.0"}))
    assert (only(sound).kind, only(sound).level) == ("pairing", "warning")


def test_a_method_whose_batch_holds_partners_has_another_first_batch(sound: Path, write_trial: Writer) -> None:
    for seed in (0, 1):
        write_trial(sound, "bake", seed, pairing={"initial_weights": f"w{seed}", "first_batch": "other"})
    assert found_in(sound) == []


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"recipe": {"momentum": 0.5}}, "error", "recipe.momentum is 0.5, where demo says 0.9"),
        ({"recipe": {"augment": "none"}}, "error", "recipe.augment is none"),
        ({"recipe": {"epochs": 4}}, "warning", "epochs 4 for 2"),
        ({"recipe": {"batch_size": 64}}, "warning", "batch_size 64 for 32"),
        ({"protocol": "nobody's"}, "error", "is unknown"),
        ({"split": "holdout-0.5"}, "error", "split holdout-0.5"),
        ({"dataset": "moons"}, "warning", "data set 'moons' is unknown"),
    ],
)
def test_protocols(root: Path, write_trial: Writer, changes: dict[str, Any], level: str, words: str) -> None:
    write_trial(root, **changes)
    assert (only(root).kind, only(root).level) == ("protocol", level)
    assert words in only(root).problem


@pytest.mark.parametrize("version", ["\u00b2", "9" * 5000, "", "1 "])
def test_versions_of_a_protocol_that_are_none(sound: Path, version: str) -> None:
    reseal(folder_of(sound), put("identity", "protocol_version", value=version))
    assert ("error", "protocol") in {(f.level, f.kind) for f in found_in(sound)}


def test_hold_out_for_temperature_scaling_keeps_the_protocol(root: Path, write_trial: Writer) -> None:
    write_trial(root, split="holdout-0.1")
    assert found_in(root) == []


def test_against_a_reference(sound: Path, tmp_path: Path, write_trial: Writer) -> None:
    reference = shutil.copytree(sound, tmp_path / "reference")
    assert found_in(sound, against=reference) == []
    write_trial(sound, "ce", 2)
    write_trial(sound, "ls", 2, 0.75)
    assert found_in(sound, against=reference) == []

    folder = folder_of(sound)
    reseal(folder, put("provenance", "commit", value="abc"))
    assert (only(sound, against=reference).kind, only(sound, against=reference).level) == ("reference", "warning")
    reseal(folder, put("metrics", "nll", value=2.0))
    drifted = only(sound, against=reference)
    assert (drifted.kind, drifted.level) == ("reference", "error")
    assert "nll 2 for 1.125" in drifted.problem
    shutil.rmtree(folder)
    removed = [f for f in found_in(sound, against=reference) if f.level == "error"]
    assert [f.kind for f in removed] == ["reference"]
    assert "ls seed 1" in removed[0].problem
    assert found_in(folder_of(sound, "ce", 0), against=reference) == []  # one trial says nothing about the others


def test_links_lead_nowhere(sound: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "trials" / "glyphs"
    outside.mkdir(parents=True)
    (sound / "trials" / "loop").symlink_to(sound / "trials")
    (sound / "trials" / "out").symlink_to(outside)
    assert {(f.kind, f.level) for f in found_in(sound)} == {("link", "warning")}
    assert validate([str(sound)]).trials == 4


def test_a_pipe_is_not_waited_for(sound: Path) -> None:
    path = folder_of(sound) / "trial.json"
    path.unlink()
    os.mkfifo(path)
    assert "not a plain file" in next(f.problem for f in found_in(sound) if f.level == "error")


def test_hostile_names_do_not_reach_the_terminal(sound: Path) -> None:
    reseal(folder_of(sound), put("spec", "method", value="\x1b[2J\u202eevil\n"))
    assert all(line.isprintable() for line in validate([str(sound)]).text.splitlines())


def test_an_interrupted_trial_is_a_trial(root: Path, write_trial: Writer) -> None:
    folder = write_trial(root, status="interrupted", metrics=None, epochs_done=1)
    (folder / "trial.json").rename(folder / "started.json")
    assert found_in(root) == []
    assert validate([str(root)]).trials == 1


def profile(root: Path, **changes: Any) -> Path:
    setting = Setting(network="resnet8", num_classes=3, num_train=8, image_size=32, augment="crop", batch_size=4)
    provenance = Provenance(versions={}, device="cpu", cpu="c", started="t0", finished="t1")
    ratio = {"median": 1.01, "low": 1.0, "high": 1.02, "rounds": 60, "verdict": "equal"}
    rows = changes.pop(
        "rows", [{"method": "ce"}, {"method": "ls", "time_ratio": {**ratio, **changes.pop("ratio", {})}}]
    )
    found = ProfileResult(
        profile_id=changes.pop("profile_id", profile_id(setting, [row["method"] for row in rows], provenance)),
        setting=setting, baseline="ce", rows=tuple(ProfileRow.model_validate(row) for row in rows),
        load_start=0, load_end=0, seconds=1, provenance=provenance,
    )  # fmt: skip
    return archive.write(root, found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ratio": {"low": 1.015}}, "outside its own interval"),
        ({"ratio": {"verdict": "costlier"}}, "is called costlier"),
        ({"rows": [{"method": "ls"}, {"method": "ce"}]}, "the first row is 'ls'"),
        ({"rows": [{"method": "ls"}]}, "no row of the baseline"),
        ({"rows": [{"method": "ce"}, {"method": "ls"}, {"method": "ls"}]}, "two rows"),
        ({"profile_id": "0"}, "not the hash"),
    ],
)
def test_profiles(root: Path, changes: dict[str, Any], words: str) -> None:
    path = profile(root)
    assert found_in(root) == found_in(path) == []
    shutil.rmtree(root)
    profile(root, **changes)
    assert only(root).level == "error"
    assert words in only(root).problem


def test_the_command(sound: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["validate", *map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    assert run(sound) == (0, "4 trial(s), 0 profile(s): nothing wrong\n", "")
    (folder_of(sound) / "curve.jsonl").unlink()
    code, out, _ = run(sound)
    assert code == 0
    assert out.splitlines()[0].startswith("warning: ")
    path = folder_of(sound) / "trial.json"
    path.write_text("{}")
    code, out, _ = run(sound, "--json")
    assert code == 4
    told = json.loads(out)
    assert told["trials"] == 4
    assert {"level", "kind", "place", "problem", "remedy"} == set(told["findings"][0])
    assert told["findings"][0]["place"] == str(path)
    for arguments in ((), (tmp_path / "nowhere",), (sound, "--against", tmp_path / "nowhere"), (__file__,)):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_come_as_json(sound: Path) -> None:
    other = sound / "trials" / os.fsdecode(b"bad\xff")
    other.mkdir()
    (other / "trial.json").write_text("{}")
    for path in (sound, other, other / "trial.json"):
        done = CliRunner().invoke(app, ["validate", str(path), "--json"])
        assert done.exit_code == 4
        assert "bad\\xff" in json.loads(done.stdout)["findings"][0]["place"]


def test_a_folder_without_records_is_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no record"):
        validate([str(tmp_path)])
    (tmp_path / "trials").mkdir()
    assert validate([str(tmp_path)]).trials == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hostile_records_take_little_memory(sound: Path) -> None:
    """Eight megabytes of brackets, pairs, nestings and digits, each in the place of a record."""
    shapes = ["[" * 2**23, "[[]," * 2**21, '{"a":' * 2**21, '{"seed":' + "9" * 2**23]
    for text, path in zip(shapes, sorted(sound.glob("trials/*/*/*/*/trial.json")), strict=True):
        path.write_text(text)
    code = (
        f"from sdbench.validation import validate\nprint(len(validate([{str(sound)!r}]).errors))\n"
        # getrusage would give the peak of the process that this one was forked from.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    errors, peak_kib = map(int, done.stdout.split())
    assert errors == 4
    assert peak_kib < 2**20  # most of it torch


def test_a_rewritten_record_reads_back(sound: Path) -> None:
    """The helper of these tests seals as the store does: an unchanged record stays sound."""
    reseal(folder_of(sound), lambda content: None)
    assert read_result(folder_of(sound) / "trial.json").status == "ok"
    assert found_in(sound) == []


def bands(*top1: float, **changes: Any) -> list[Finding]:
    """What is said of baseline trials, one per seed, as the papers train them but for changes of spec or record."""
    from sdbench.protocol import PROTOCOLS
    from sdbench.validation_reference import band_findings

    pattern = read_result(next(PUBLISHED.glob("trials/*/*/ce/*/trial.json")))
    assert pattern.metrics is not None
    recipe = PROTOCOLS["fixed"].recipe_for("crop-flip", changes.pop("recipe", {}))
    named = {"dataset": "cifar100", "network": "preact_resnet18", "protocol": "fixed", "split": "full"}
    named |= {"recipe": recipe}
    named |= {key: changes.pop(key) for key in list(changes) if key != "status"}
    read = []
    for seed, value in enumerate(top1):
        spec = pattern.spec.model_copy(update={**named, "seed": seed})
        metrics = pattern.metrics.model_copy(update={"top1": value})
        record = pattern.model_copy(update={"spec": spec, "metrics": metrics, **changes})
        read.append((Found(Path(str(seed)), f"place-{seed}"), record))
    return list(band_findings(read))


def test_a_baseline_outside_what_others_publish() -> None:
    from sdbench.published import published_numbers
    from sdbench.validation_reference import MARGIN, reference_band

    kind = ("ce", "cifar100", "preact_resnet18")
    numbers = [n for n in published_numbers() if (n.method, n.dataset, n.network) == kind]
    values = [n.value for n in numbers if n.metric == "top1" and n.protocol.startswith("200 epochs")]
    assert len(values) > 2
    band = reference_band(published_numbers(), *kind, 200)
    assert band == (min(values) - MARGIN, max(values) + MARGIN)
    assert reference_band(published_numbers(), *kind, 7) is None
    low, high = band[0] / 100 - 0.01, band[1] / 100 + 0.01
    (finding,) = bands(low)
    assert finding.level == "warning"
    assert "not to be published" in finding.remedy
    assert f"{band[0]:.2f} to {band[1]:.2f}" in finding.problem
    assert bands(low, low + 0.03) == []  # the mean of both lies within
    assert len(bands(high, high)) == 1
    assert bands(min(values) / 100) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "resnet8"}, {"dataset": "glyphs"}, {"split": "holdout-0.1"}, {"status": "failed"},
        {"generation": 0}, {"recipe": {"epochs": 199}}, {"recipe": {"lr": 0.2}}, {"protocol": "mine"},
        {"limit_steps": 3}, {"method": "ls"},
    ],
    ids=str,
)  # fmt: skip
def test_no_band_is_asked_of_other_trials(changes: dict[str, Any]) -> None:
    assert bands(0.1, **changes) == []

"""``sdbench analyze`` on trials that were trained: what it says, what it refuses, and its pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from matplotlib.text import Text
from PIL import Image
from typer.testing import CliRunner

from sdbench.analysis import pictures, questions
from sdbench.analysis.logits import bins, calibration_row
from sdbench.analysis.planes import Drawing
from sdbench.analysis.records import Bin, CalibrationRow, ZipfFigures, ZipfRow
from sdbench.analysis.trials import Choice, choose
from sdbench.analysis.zipf import fit, sorted_outputs
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.report.reliability import reliability
from sdbench.spec import Metrics, Scaled
from sdbench.statistics import MeanStd, mean_std
from sdbench.store import Store


def run(world: Any, *arguments: str) -> tuple[int, str, str]:
    own = ["analyze", *arguments, "--results", str(world.results), "--data-dir", str(world.pictures)]
    result = CliRunner().invoke(app, own)
    return result.exit_code, result.stdout, result.stderr


def logits_of(world: Any, method: str, seed: int, name: str = "logits.safetensors") -> dict[str, Any]:
    store = Store(world.results)
    own = next(r for r in store.scan().results if (r.spec.method, r.spec.seed) == (method, seed))
    return safetensors.numpy.load_file(store.folder(own.spec, own.trial_id) / name)


def test_all_questions_in_text(small_world: Any) -> None:
    code, out, err = run(small_world, "ce,ls")
    assert code == 0, err
    assert "ranks 1 to 3" in out  # four classes without the label's
    assert "no images were held out" in out
    assert "within-class over between-class" in out


def test_zipf_per_method_and_per_epoch(small_world: Any) -> None:
    code, out, err = run(small_world, "ls", "ce", "--kind", "zipf", "--over", "all", "--ranks", "1-4", "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    rows = {row["label"]: row for row in found["zipf"]}
    assert set(rows) == {"ce", "ls"}
    fits = [fit(sorted_outputs(logits_of(small_world, "ls", seed)["logits"]), 1, 4) for seed in (0, 1)]
    expected = mean_std(f.line.exponent for f in fits)
    assert rows["ls"]["figures"]["exponent"] == {"mean": expected.mean, "std": expected.std, "n": 2}
    assert [e["epoch"] for e in rows["ls"]["epochs"]] == [2, 4]
    early = [
        fit(sorted_outputs(logits_of(small_world, "ls", s, "epoch_logits/epoch-0002.safetensors")["logits"]), 1, 4)
        for s in (0, 1)
    ]
    assert rows["ls"]["epochs"][0]["figures"]["kl_zipf"]["mean"] == pytest.approx(sum(f.zipf.kl for f in early) / 2)
    assert rows["ls"]["epochs"][1]["figures"] == rows["ls"]["figures"]  # the fourth is the last


def test_trials_are_chosen_by_id_folder_method_and_seed(small_world: Any) -> None:
    store = Store(small_world.results)
    one = next(r for r in store.scan().results if r.spec.method == "ls" and r.spec.seed == 1)

    def chosen(*items: str, **more: Any) -> list[tuple[str, tuple[int, ...]]]:
        (group,) = choose(store, Choice(items, **more))
        return [(v.label, tuple(v.trials)) for v in group.variants]

    assert chosen(one.trial_id[:10]) == chosen(str(store.folder(one.spec, one.trial_id))) == [("ls", (1,))]
    assert chosen() == chosen("all") == [("ce", (0, 1)), ("ls", (0, 1))]
    assert chosen("l*", seeds=("1",)) == [("ls", (1,))]
    assert chosen("ls[smoothing=0.1]", "ce") == [("ce", (0, 1)), ("ls", (0, 1))]
    assert chosen(one.trial_id[:4]) == [("ls", (1,))]
    for wrong in ("zipf", "ls[smoothing=0.7]", "0123456789abcdef", one.trial_id[:3], ".", "/", "/tmp/.."):
        with pytest.raises(UserError, match="no trial here"):
            choose(store, Choice((wrong,)))


def test_calibration_without_held_out_images_fits_nothing(small_world: Any) -> None:
    code, out, _ = run(small_world, "ls", "--kind", "calibration", "--json")
    assert code == 0
    (row,) = json.loads(out)[0]["calibration"]
    records = [r for r in Store(small_world.results).scan().results if r.spec.method == "ls"]
    for name in ("nll", "ece", "brier", "aurc", "eaurc"):
        assert row["before"][name]["mean"] == pytest.approx(sum(getattr(r.metrics, name) for r in records) / 2)
    assert (row["after"], row["temperature"]) == ({}, None)
    assert 0 < max(row["half"].values()) < 1e-2  # these trials are float32, so half precision rounds their logits
    counts = [b["count"] for b in row["reliability"]]
    assert sum(counts) == 2 * 32
    pooled = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in row["reliability"] if b["count"]) / 64
    logits = [logits_of(small_world, "ls", seed) for seed in (0, 1)]
    together = reliability(*(np.concatenate([x[key] for x in logits]) for key in ("logits", "labels")))
    assert pooled == pytest.approx(together.ece)


def test_bins_by_hand() -> None:
    """Confidences 0.6 (right), 0.6 (wrong), 0.9 (right) in five bins."""
    logits = np.log([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9]])
    found = bins(reliability(logits, np.array([0, 1, 1]), 5))
    assert [b.count for b in found] == [0, 0, 2, 0, 1] or [b.count for b in found] == [0, 0, 0, 2, 1]
    full = [b for b in found if b.count]
    assert [b.accuracy for b in full] == [0.5, 1.0]
    assert [b.confidence for b in full] == [pytest.approx(0.6), pytest.approx(0.9)]
    assert (found[4].low, found[4].high) == (pytest.approx(0.8), 1.0)


def test_calibration_uses_the_recorded_temperature(small_world: Any, tmp_path: Path) -> None:
    """A record with a temperature, put beside known logits: the diagram after scaling is that of logits / T."""
    shutil.copytree(small_world.results, tmp_path / "results")
    store = Store(tmp_path / "results")
    record = next(r for r in store.scan().results if (r.spec.method, r.spec.seed) == ("ce", 0))
    assert record.metrics is not None
    values = record.metrics.model_dump(exclude={"top1", "top5"})
    scaled = Scaled(temperature=2.5, held_out=8, **{**values, "ece": 0.0123})
    store.write(record.model_copy(update={"scaled": scaled}))
    (group,) = choose(store, Choice(("ce",)))
    row, notes = calibration_row(store, group.variants[0])
    assert notes == []
    assert row.temperature == mean_std([2.5])
    assert row.after["ece"] == mean_std([0.0123])
    own = logits_of(small_world, "ce", 0)
    expected = bins(reliability(own["logits"].astype(np.float32) / np.float32(2.5), own["labels"]))
    assert [(b.count, b.accuracy) for b in row.reliability_after] == [(b.count, b.accuracy) for b in expected]
    for found, wanted in zip(row.reliability_after, expected, strict=True):
        assert found.confidence == (None if wanted.confidence is None else pytest.approx(wanted.confidence, abs=1e-6))
    text = questions.analyze(str(store.root), Choice(("ce",)), questions.read_asked("calibration"))[0]
    assert "after temperature scaling" in text
    assert "Only some trials held images out" in text


def test_logits_that_are_gone_or_changed_are_said(small_world: Any, tmp_path: Path) -> None:
    shutil.copytree(small_world.results, tmp_path / "results")
    store = Store(tmp_path / "results")
    ls = [r for r in store.scan().results if r.spec.method == "ls"]
    first, second = (store.folder(r.spec, r.trial_id) / "logits.safetensors" for r in ls)
    first.unlink()
    second.write_bytes(second.read_bytes() + b"?")
    choice = Choice(("ls", "ce"))
    text, _, code = questions.analyze(str(store.root), choice, questions.read_asked("zipf"))
    assert code == 1
    assert "its logits were not kept" in text
    assert "checksum does not match" in text
    with pytest.raises(UserError, match="were not kept"):
        questions.analyze(str(store.root), Choice(("ls",)), questions.read_asked("zipf"))
    # Calibration still has the recorded figures.
    text, _, code = questions.analyze(str(store.root), Choice(("ls",)), questions.read_asked("calibration"))
    assert code == 1
    assert "its recorded figures are used" in text


def test_geometry_of_trained_networks(small_world: Any) -> None:
    code, out, err = run(small_world, "all", "--kind", "geometry", "--classes", "class3,class0,class1", "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["classes"] == ["class3", "class0", "class1"]
    for row in found["geometry"]:
        assert row["seeds"] == [0, 1]
        assert {part: own["samples"] for part, own in row["parts"].items()} == {"train": 80, "test": 32}
        assert all(own[key]["mean"] > 0 for own in row["parts"].values() for key in ("all_classes", "in_plane"))


def test_geometry_needs_the_data_that_the_trials_saw(small_world: Any, tmp_path: Path) -> None:
    shutil.copytree(small_world.pictures, tmp_path / "pictures")
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "train" / "class0" / "more.png")
    own = ["analyze", "ce", "--kind", "geometry", "--results", str(small_world.results)]
    result = CliRunner().invoke(app, [*own, "--data-dir", str(tmp_path / "pictures")])
    assert result.exit_code == 2
    assert "is not the one" in result.stderr


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_pictures(small_world: Any, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "some where" / f"picture.{suffix}"
    code, _, err = run(small_world, "all", "--output", str(target))
    assert code == 0, err
    made = sorted(p.name for p in target.parent.iterdir())
    assert made == [f"picture-{kind}.{suffix}" for kind in ("calibration", "geometry", "zipf")]
    for path in target.parent.iterdir():
        if suffix == "png":
            pixels = np.asarray(Image.open(path).convert("L"))
            assert pixels.std() > 5, "blank"
        elif suffix == "svg":
            assert "<svg" in path.read_text()
        else:
            assert path.read_bytes().startswith(b"%PDF")
    one = tmp_path / f"one.{suffix}"
    assert run(small_world, "ce", "--kind", "zipf", "--output", str(one))[0] == 0
    again = one.read_bytes()
    run(small_world, "ce", "--kind", "zipf", "--output", str(one))
    assert one.read_bytes() == again


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_names_are_drawn_as_they_are(suffix: str, tmp_path: Path) -> None:
    """Dollar signs are no TeX, names with an underscore in front are in legends, axes have plain numbers."""
    names = ("_background", "a$\\b$", "costs $5_x and $6\n\u202e")
    figures_ = ZipfFigures(
        **{key: MeanStd(1.0, None, 1) for key in ("exponent", "kl_zipf", "kl_exponential", "kl_log_normal")},
        r_squared=None,
    )
    outputs = tuple(float(r) ** -1 / 2.83 for r in range(1, 10))
    rows = [ZipfRow(label=name, seeds=(0,), figures=figures_, outputs=outputs, epochs=()) for name in names]
    parts = {"test": (np.eye(3, 2), np.arange(3))}
    whole = tuple(Bin(low=b / 15, high=(b + 1) / 15, count=9, confidence=0.5, accuracy=0.4) for b in range(15))
    diagrams = [
        CalibrationRow(label=n, seeds=(0,), before={"ece": MeanStd(0.1, None, 1)}, reliability=whole) for n in names
    ]
    drawn = [
        pictures.zipf(rows, 1, 9, names[1]),
        pictures.reliability(diagrams, names[1]),
        pictures.geometry([Drawing(names[1], 0, parts, np.eye(3, 2))], names, names[1]),
    ]
    for figure in drawn:
        pictures.save(figure, tmp_path / f"F.{suffix}")
        found = [text.get_text() for text in figure.findobj(Text)]
        assert any("a$\\b$" in text for text in found)
        assert not [text for text in found if "mathdefault" in text or "\u202e" in text]
    for figure in (drawn[0], drawn[2]):
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert len(legend) == 3
        assert legend[0].startswith("\u200b_background")


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(questions, "analyses", lambda *_: pytest.fail("worked before it looked"))
        code, _, err = run(small_world, "ce", "--output", str(tmp_path / "file" / "a" / "F.svg"))
        assert "F.svg cannot be written" in err
        assert code == CliRunner().invoke(app, [
            "report", "--results", str(small_world.results), "--output", str(tmp_path / "file" / "F.html")
        ]).exit_code  # fmt: skip
        code, _, err = run(small_world, "ce", "--output", str(tmp_path / "folder.svg"))
        assert (code, "is a folder" in err) == (2, True)
    # What goes wrong later leaves nothing half-written.
    (tmp_path / "later-zipf.svg").mkdir()
    code, _, err = run(small_world, "ce", "--output", str(tmp_path / "later.svg"))
    assert "later-zipf.svg cannot be written" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.svg", "later-zipf.svg"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kind", "zpf"], "did you mean 'zipf'"),
        (["--ranks", "3-4"], "three ranks at least"),
        (["--ranks", "few"], "expected FIRST-LAST"),
        (["--over", "some"], "unknown choice of classes"),
        (["--output", "x.jpg"], "unknown kind of picture"),
        (["--train-images", "-1"], "expected a whole number"),
        (["--kind", "geometry", "--classes", "0,1"], "three different classes"),
        (["--ranks", "3-9", "--kind", "zipf"], "need three ranks at least"),
    ],
)
def test_what_is_refused(small_world: Any, arguments: list[str], told: str) -> None:
    code, _, err = run(small_world, "ce", *arguments)
    assert code == 2
    assert told in err


def test_scores_are_those_of_records() -> None:
    from sdbench.analysis.records import SCORES

    assert set(SCORES) <= set(Metrics.model_fields)
    assert set(SCORES) <= set(Scaled.model_fields)

"""Figures for papers: files that are what they say, in which something is drawn; errors that say what to type."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from typer.testing import CliRunner

from sdbench.boards import Filter
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.report.material import read
from sdbench.report.plot_style import label
from sdbench.report.plots import KINDS, draw
from sdbench.spec import Recipe

SVG = "{http://www.w3.org/2000/svg}"


def sdbench(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def plot(kind: str, root: Path, output: Path) -> str:
    code, out, err = sdbench("plot", kind, "--results", str(root), "--output", str(output))
    assert code == 0, err
    assert out.startswith(f"wrote {output}\n")
    return out


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_png_shows_something_one_column_wide(kind: str, evidence: Path, tmp_path: Path) -> None:
    out = plot(kind, evidence, tmp_path / "F.png")
    image = imread(tmp_path / "F.png")
    assert image.shape[1] == pytest.approx(3.35 * 300, abs=2)
    colours = np.unique((image[..., :3] * 255).round().reshape(-1, 3), axis=0)
    assert len(colours) > 50
    assert 0.02 < (image[..., :3] < 0.99).any(-1).mean() < 0.9
    assert "n = 4 seeds" in out or kind == "cost"


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_svg_is_xml_with_paths_and_nothing_from_elsewhere(kind: str, evidence: Path, tmp_path: Path) -> None:
    plot(kind, evidence, tmp_path / "F.svg")
    root = ET.parse(tmp_path / "F.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}path"))) > 20
    assert not list(root.iter(f"{SVG}script"))
    assert all(v.startswith("#") for e in root.iter() for k, v in e.attrib.items() if k.endswith("href"))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_pdf_has_one_page_with_strokes_and_embedded_fonts(kind: str, evidence: Path, tmp_path: Path) -> None:
    plot(kind, evidence, tmp_path / "F.pdf")
    data = (tmp_path / "F.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    assert b"/Count 1" in data
    assert b"/Type3" not in data, "journals refuse these fonts"
    streams = [
        zlib.decompress(s) for s in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL) if s[:1] == b"x"
    ]
    assert max(s.count(b"\nS\n") + s.count(b"\nf\n") + s.count(b"\nB\n") for s in streams) > 10


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_the_same_records_give_the_same_bytes(suffix: str, evidence: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot("pareto", evidence, tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def texts(kind: str, root: Path, chosen: Filter | None = None) -> tuple[list[str], Any]:
    """All texts of a figure, and what was drawn."""
    import matplotlib.text

    drawn = draw(kind, read(str(root), chosen or Filter()))
    drawn.figure.savefig(io.BytesIO(), format="svg")
    return [" ".join(t.get_text().split()) for t in drawn.figure.findobj(matplotlib.text.Text)], drawn


@pytest.mark.parametrize("kind", ["pareto", "curves", "reliability", "cost", "zipf"])
def test_names_have_their_caveats(
    kind: str, tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_curve: Callable[..., Any],
    make_outputs: Callable[..., Any], make_profile: Callable[..., Any],
) -> None:  # fmt: skip
    for method, caveat in (("ce", ""), ("odd", "not theirs")):
        put(tmp_path, make_trial(method, caveat=caveat), make_curve(0.7, 0), make_outputs(0.7, 0))
    archive.write(tmp_path, make_profile({"odd": (1.2, 1.0)}, {"odd": "not theirs"}))
    found, drawn = texts(kind, tmp_path)
    assert any(text.startswith("odd (not theirs)") for text in found), found
    assert not any("odd" in text and "(not theirs)" not in text for text in found)
    assert "n = 1 seed" in drawn.caption or kind == "cost"


def test_points_lie_where_the_records_say(evidence: Path) -> None:
    _, drawn = texts("pareto", evidence)
    material = read(str(evidence), Filter())
    points = {(round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
              for line in drawn.figure.axes[0].lines if len(line.get_xdata()) == 1}  # fmt: skip
    for entry in material.groups[0].entries:
        top1, step = entry.row.metrics["top1"], entry.row.step
        assert step is not None
        assert step.time is not None
        assert (round(step.time.median, 6), round(100 * top1.mean, 6)) in points
    assert "the Pareto front (pskd)" in drawn.caption


def test_the_exponent_of_outputs_that_follow_the_law_is_found(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    """Outputs of the other classes fall as r^-1.5; which class has which rank does not matter."""
    random = np.random.default_rng(0)
    others = np.stack([random.permutation(-1.5 * np.log(np.arange(1, 21))) for _ in range(50)])
    for method in ("ce", "ls"):
        tensors = {"logits": np.hstack([np.full((50, 1), 3.0), others]), "labels": np.zeros(50, dtype=np.int64)}
        put(tmp_path, make_trial(method), (), tensors)
    found, drawn = texts("zipf", tmp_path)
    assert "ls: s = 1.50" in found
    line = next(line for line in drawn.figure.axes[0].lines if line.get_label().startswith("ls"))
    mean = np.asarray(line.get_ydata())
    assert mean / mean[0] == pytest.approx(np.arange(1, 21) ** -1.5, rel=1e-6)


def test_loss_is_drawn_where_no_accuracy_was_logged_and_seeds_are_counted(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_curve: Callable[..., Any]
) -> None:
    for method, seeds in (("ce", 3), ("ls", 2)):
        for seed in range(seeds):
            put(tmp_path, make_trial(method, seed), make_curve(0.7, seed, every=0))
    found, drawn = texts("curves", tmp_path)
    assert "training loss, nats" in found
    assert {"ce, n = 3", "ls, n = 2"} <= set(found)
    assert drawn.caption.startswith("Training loss (each method's own objective) per epoch")
    assert "n = 2 to 3 seeds" in drawn.caption


def test_boards_have_a_panel_each_up_to_a_number(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_curve: Callable[..., Any]
) -> None:
    for epochs in range(2, 5):
        put(tmp_path, make_trial("ce", recipe=Recipe(epochs=epochs)), make_curve(0.5, 0, epochs))
    _, drawn = texts("curves", tmp_path)
    assert len(drawn.figure.axes) == 3
    for epochs in range(5, 12):
        put(tmp_path, make_trial("ce", recipe=Recipe(epochs=epochs)), make_curve(0.5, 0, epochs))
    code, _, err = sdbench("plot", "curves", "--results", str(tmp_path), "--output", str(tmp_path / "F.svg"))
    assert code == 2
    assert "10 boards do not fit into one figure; choose some with --dataset" in err


@pytest.mark.parametrize("kind", list(KINDS))
def test_hostile_names_are_drawn_as_text(kind: str, hostile: Path, tmp_path: Path) -> None:
    for suffix in ("svg", "pdf", "png"):
        code, _, err = sdbench("plot", kind, "--results", str(hostile), "--output", str(tmp_path / f"F.{suffix}"),
                               "--dataset", "cifar100")  # fmt: skip
        assert code == 0, err
    root = ET.parse(tmp_path / "F.svg").getroot()
    assert not list(root.iter(f"{SVG}script"))
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["paretto", "--output", "F.svg"], "did you mean 'pareto'? Known: cost, curves, pareto, reliability, zipf"),
        (["pareto"], "as in `sdbench plot pareto --output pareto.pdf`"),
        (["pareto", "--output", "F.jpg"], "its name has to end with .svg, .pdf or .png"),
        (["pareto", "--output", "F"], "its name has to end with .svg, .pdf or .png"),
        (["pareto", "--output", "F.svg"], "`sdbench profile --model resnet20` measures what steps cost"),
        (["curves", "--output", "F.svg"], "`sdbench run --eval-every N` logs test accuracy"),
        (["reliability", "--output", "F.svg"], "ce on cifar100: its logits were not kept (1 of 1 trials)"),
        (["zipf", "--output", "F.svg"], "ce seed 0: its logits were not kept"),
        (["cost", "--output", "F.svg"], "`sdbench profile --model resnet20` measures them"),
        (["cost", "--output", "F.svg", "--methods", "nothing", "--dataset", "none"], "it has ce on cifar100, resnet20"),
    ],
)
def test_errors_say_what_is_missing_and_what_to_type(
    arguments: list[str], said: str, tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "results", make_trial("ce", 0))
    code, out, err = sdbench("plot", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not list(tmp_path.glob("F*"))


def test_nothing_finished_is_said(tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]) -> None:
    put(tmp_path, make_trial("ce", status="oom"))
    code, _, err = sdbench("plot", "curves", "--results", str(tmp_path), "--output", str(tmp_path / "F.svg"))
    assert code == 2
    assert "no finished trial under" in err


@pytest.mark.parametrize("classes", [4, 10, 40])
def test_axes_of_about_a_decade_have_plain_numbers(
    classes: int, tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    """The usual labels of logarithmic axes are TeX, which is switched off; some are needed on every axis."""
    logits = np.tile(-0.3 * np.log(np.arange(1, classes + 1)), (20, 1))
    for method in ("ce", "ls"):
        put(tmp_path, make_trial(method), (), {"logits": logits, "labels": np.zeros(20, dtype=np.int64)})
    found, drawn = texts("zipf", tmp_path)
    assert not [text for text in found if "$" in text]
    for axis in (drawn.figure.axes[0].xaxis, drawn.figure.axes[0].yaxis):
        low, high = axis.get_view_interval()
        shown = [t.get_text() for t in axis.get_ticklabels() if low <= t.get_position()[axis.axis_name == "y"] <= high]
        assert len([float(text) for text in shown]) >= 2
        assert not [t for t in axis.get_ticklabels(minor=True) if t.get_text()]


def test_long_and_hidden_names_are_whole_in_the_legend(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_curve: Callable[..., Any]
) -> None:
    """No text is cut off at the figure's edge, and a name that starts with an underscore is there too."""
    for seed in range(2):
        put(tmp_path, make_trial("_hidden", seed), make_curve(0.6, seed))
        for weight in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
            for past in ("predictions", "logits"):
                own = make_trial("pskd", seed, params={"alpha_final": weight, "past": past})
                put(tmp_path, own, make_curve(0.7, seed))
    found, drawn = texts("curves", tmp_path)
    assert "\u200b_hidden" in found
    assert label("_hidden") in found
    FigureCanvasAgg(drawn.figure).draw()
    legend = drawn.figure.axes[0].get_legend()
    assert len(legend.get_texts()) == 13
    own, whole = legend.get_window_extent(), drawn.figure.bbox
    assert whole.x0 <= own.x0 < own.x1 <= whole.x1
    assert whole.y0 <= own.y0 < own.y1 <= whole.y1
    assert drawn.figure.axes[0].bbox.height > 0.25 * 2.9 * drawn.figure.dpi


def test_a_board_with_its_baseline_alone_leaves_the_others_to_be_drawn(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    for method in ("ce", "ls"):
        put(tmp_path, make_trial(method, seconds=9.0))
    put(tmp_path, make_trial("ce", network="resnet32", seconds=9.0))
    found, drawn = texts("pareto", tmp_path)
    assert len(drawn.figure.axes) == 1
    assert {"ce", "ls"} <= set(found)
    assert len(drawn.left_out) == 1
    assert "cifar100, resnet32" in drawn.left_out[0]
    assert "no method but the baseline has both" in drawn.left_out[0]

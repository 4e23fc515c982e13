"""The report: what it is made of against truths worked out apart, and what the page holds."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sdbench.boards import Filter
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.errors import UserError
from sdbench.evaluate import calibration_error
from sdbench.kept_logits import UnusableLogits, read_logits
from sdbench.report import commands
from sdbench.report.costs import bars, tradeoff
from sdbench.report.curves import band, read_thinned, spread
from sdbench.report.listings import failures, sort_value
from sdbench.report.material import diagram, read
from sdbench.report.reliability import bin_edges, pooled, reliability
from sdbench.report.svg import axis, tag, tick_step
from sdbench.spec import Recipe
from sdbench.statistics import MeanStd
from sdbench.store import seal

ALL = Filter()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_bins_are_those_of_the_boards_calibration_error(dtype: Any, bins: int) -> None:
    random = np.random.default_rng(bins)
    logits = random.normal(0, 3, (5000, 7)).astype(dtype)
    logits[:50] = 0  # all alike: the confidence is 1/7 and the prediction the first class
    labels = random.integers(0, 7, 5000)
    found = reliability(logits, labels, bins)
    expected = calibration_error(torch.from_numpy(logits), torch.from_numpy(labels), bins)
    assert found.ece == pytest.approx(expected, abs=1e-6)
    assert found.total == 5000
    assert sum(found.hits) == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize("bins", [2, 3, 15, 16, 100])
def test_bin_edges_are_rounded_as_torch_rounds_them(bins: int) -> None:
    """To the last bit or one beside it: torch itself differs that much between types of processors."""
    for kind, dtype in ((np.float32, torch.float32), (np.float64, torch.float64)):
        expected = torch.linspace(0, 1, bins + 1, dtype=dtype).numpy()
        np.testing.assert_array_max_ulp(bin_edges(bins, np.dtype(kind)), expected, 1)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    found = reliability(np.zeros((4, 3), dtype=np.float32), np.array([0, 1, 2, 0]))
    assert found.counts[4] == 4, "1/3 lies in (4/15, 5/15]"
    assert found.hits[4] == 2
    assert found.accuracy_at(4) == 0.5
    assert found.accuracy_at(5) is None


def test_pooling_adds_samples() -> None:
    one = reliability(np.array([[9.0, 0.0]]), np.array([0]))
    two = reliability(np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([1, 0]))
    both = pooled([one, two])
    assert (both.total, sum(both.hits), both.trials) == (3, 1, 2)
    with pytest.raises(ValueError, match="equally many bins"):
        pooled([])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros(3), np.zeros(3, dtype=int)),
        (np.zeros((3, 2)), np.zeros(2, dtype=int)),
        (np.zeros((2, 2)), np.array([0, 2])),
        (np.array([[np.nan, 0.0]]), np.array([0])),
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
    ],
)
def test_what_is_no_logits_is_refused(logits: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"need|must lie|finite"):
        reliability(logits, labels)


def test_logits_that_were_changed_or_cannot_be_read_are_not_drawn(evidence: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableLogits, match="not kept"):
        read_logits(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"\x80\x04pickle?" * 9)
    with pytest.raises(UnusableLogits, match="cannot be read"):
        read_logits(tmp_path / "bad")
    good = next(evidence.rglob("logits.safetensors"))
    with pytest.raises(UnusableLogits, match="checksum"):
        read_logits(good, "0" * 64)


def test_bands_are_over_the_epochs_that_all_seeds_have() -> None:
    one = [{"epoch": e, "loss": float(e), "top1": 0.1} for e in range(4)]
    two = [{"epoch": e, "loss": float(e) + 2} for e in (1, 2, 3, 4)]
    odd = [{"epoch": 1, "loss": "x"}, {"epoch": 2, "loss": float("nan")}, {"loss": 1.0}]
    found = band([one, two, odd], "loss")
    assert found is not None
    assert found.epochs == (2, 3, 4)
    assert found.values == (MeanStd(2.0, 2**0.5, 2), MeanStd(3.0, 2**0.5, 2), MeanStd(4.0, 2**0.5, 2))
    only = band([one, two], "top1")
    assert only is not None
    assert only.n == 1
    assert band([odd], "top1") is None
    assert band([[{"epoch": 0, "loss": 1.0}], [{"epoch": 1, "loss": 1.0}]], "loss") is None


def test_numbers_that_no_deviation_can_be_taken_of_are_dropped(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    damaged = (
        '{"epoch": 0, "loss": 2.0, "top1": 0.1}\n'
        '{"epoch": 1, "loss": 1e200, "top1": 0.2}\n'
        '{"epoch": 2, "loss": 1e308, "top1": -1e308}\n'
        f'{{"epoch": 1{"0" * 18}, "loss": 1.0}}\n'
        '{"epoch": 3, "loss": 1.0, "top1": 0.3}\n'
    )
    for method in ("ce", "ls"):
        (put(tmp_path, make_trial(method)) / "curve.jsonl").write_text(damaged)
        (put(tmp_path, make_trial(method, 1)) / "curve.jsonl").write_text(damaged)
    lines = read_thinned(next(tmp_path.rglob("curve.jsonl")), 50)
    assert [getattr(band([lines], key), "epochs", None) for key in ("loss", "top1")] == [(1, 4), (1, 2, 4)]
    assert "Training loss" in page_of(tmp_path, tmp_path)
    assert sdbench("plot", "curves", "--results", str(tmp_path), "--output", str(tmp_path / "F.svg"))[0] == 0


def test_a_filter_finds_names_with_spaces(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    """A browser shortens runs of spaces in the text of a choice, which then means no board; not in its value."""
    name = 'folder:/my  pictures/"q"'
    put(tmp_path, make_trial("ce", dataset=name))
    text = page_of(tmp_path, tmp_path)
    (value,) = re.findall(r'<option value="([^"]*pictures[^"]*)">', text)
    assert html.unescape(value) == name
    assert f'data-dataset="{value}"' in text


def test_a_long_curve_is_thinned_and_a_torn_line_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    lines = [{"epoch": e, "loss": 1.0, **({"top1": 0.5} if e % 97 == 0 or e == 999 else {})} for e in range(1000)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 1000, "lo')
    found = read_thinned(path, 50)
    assert found[0]["epoch"] == 0
    assert found[-1]["epoch"] == 999
    assert len(found) < 80
    assert [line["epoch"] for line in found if "top1" in line] == [*range(0, 1000, 97), 999]
    assert spread(range(5), 5) == [0, 1, 2, 3, 4]
    assert read_thinned(tmp_path / "none", 50) == []


def test_accuracy_is_set_against_the_best_cost_known(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_profile: Callable[..., Any]
) -> None:
    for method, top1, seconds in (("ce", 0.5, 100.0), ("ls", 0.6, 150.0), ("zipf", 0.55, 200.0)):
        put(tmp_path, make_trial(method, 0, top1, seconds=seconds if method != "zipf" else None))
    found = tradeoff(read(str(tmp_path), ALL).groups[0])
    assert found is not None
    assert found.axis.startswith("training time")
    assert {s.entry.row.label: (s.cost, s.front) for s in found.spots} == {"ce": (1.0, True), "ls": (1.5, True)}
    assert [e.row.label for e in found.missing] == ["zipf"]
    archive.write(tmp_path, make_profile({"ls": (1.1, 1.0), "zipf": (1.2, 1.0)}))
    found = tradeoff(read(str(tmp_path), ALL).groups[0])
    assert found is not None
    assert found.axis.startswith("time of a training step")
    by_name = {s.entry.row.label: s for s in found.spots}
    assert by_name["zipf"].cost == 1.2
    assert not by_name["zipf"].front, "ls is more accurate and cheaper"
    assert {name for name, s in by_name.items() if s.front} == {
        name for name, s in by_name.items() if s.entry.row.pareto
    }


def test_without_a_timing_accuracy_is_set_against_counted_images(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    for method in ("ce", "ls"):
        put(tmp_path, make_trial(method, 0))
    found = tradeoff(read(str(tmp_path), ALL).groups[0])
    assert found is not None
    assert found.axis == "images forwarded per labelled image"
    put(tmp_path / "alone", make_trial("ce", 0))
    assert tradeoff(read(str(tmp_path / "alone"), ALL).groups[0]) is None


def test_bars_take_the_newest_profile_of_a_task(make_profile: Callable[..., Any]) -> None:
    old = make_profile({"ls": (1.5, 1.0), "zipf": (1.2, 1.0)})
    later = old.provenance.model_copy(update={"started": "2026-03-01"})
    new = make_profile({"ls": (1.1, 1.0)}).model_copy(update={"provenance": later})
    other = make_profile({"ls": (1.7, 1.0)}, num_classes=10)
    found = bars([new, old, other])
    assert [{m.row.method: m.row.time_ratio.median for m in b.rows if m.row.time_ratio} for b in found] == [
        {"ce": 1.0, "ls": 1.1, "zipf": 1.2},
        {"ce": 1.0, "ls": 1.7},
    ]
    assert [m.row.method for m in bars([old], ["zipf"])[0].rows] == ["ce", "zipf"]


def test_failures_with_one_reason_stand_together(make_trial: Callable[..., Any]) -> None:
    trials = [make_trial("ls", s, status="nan", reason="not  finite\nin epoch 3", log_tail="a\nb") for s in (0, 1, 2)]
    trials += [make_trial("ls", 3, status="oom"), make_trial("ls", 4)]
    nan, oom = failures(trials)
    assert (nan.seeds, nan.count, nan.reason, nan.tail) == ("seeds 0-2", 3, "not finite in epoch 3", "a\nb")
    assert (oom.status, oom.reason) == ("oom", "no reason recorded")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("76.10 ± 0.20 (3)", 76.1), ("+2.00 [+1.00, +3.00] (3)", 2.0), ("-0.05 (n too small: 1)", -0.05), ("–", None),
        ("2.02 M", 2.02e6), ("19.0 MiB", 19 * 2**20), ("512 B", 512.0), ("<0.001", 0.0005),
        ("1.33 [1.32, 1.34] ?", 1.33), ("yes", None), ("3 Mars", 3.0),
    ],
)  # fmt: skip
def test_cells_sort_by_the_number_they_begin_with(text: str, value: float | None) -> None:
    assert sort_value(text) == value


def test_axes_hold_their_values_and_have_round_ticks() -> None:
    found = axis([0.998, 1.33], 0, 100)
    assert found.at(0.998) > 0
    assert found.at(1.33) < 100
    assert found.ticks == pytest.approx([1.0, 1.1, 1.2, 1.3])
    for values in ([], [3.0], [1e-9, 2e-9], [1e12, 1e12 + 1], [-5, 5], [float("inf"), 1.0]):
        same = axis(values, 0, 100)
        assert same.ticks
        assert len(same.ticks) < 20
    assert axis([1, 2], 0, 9, whole=True).ticks == (1.0, 2.0)
    assert tick_step(0.07) == 0.1


def test_markup_is_escaped() -> None:
    found = str(tag("text", "</text><script>", aria_label='"><script>', x=1.0))
    assert found == '<text aria-label="&#34;&gt;&lt;script&gt;" x="1">&lt;/text&gt;&lt;script&gt;</text>'
    assert "\u202e" not in str(tag("text", "a\u202eb", title="c\u202ed"))


class Page(HTMLParser):
    """Collects elements, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(root: Path, tmp_path: Path, chosen: Filter = ALL) -> str:
    commands.report(str(root), str(tmp_path / "F.html"), chosen)
    return (tmp_path / "F.html").read_text()


def test_the_page_asks_for_nothing_and_obeys_nothing(evidence: Path, hostile: Path, tmp_path: Path) -> None:
    for root in (evidence, hostile):
        text = page_of(root, tmp_path)
        page = Page(text)
        assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)], "no inline handlers"
        assert not [a for _, a in page.tags if "style" in a], "the policy allows none"
        links = [a.get(key) or "" for _, a in page.tags for key in ("src", "href", "action", "xlink:href") if key in a]
        assert all(link.startswith("#") or link == "data:," for link in links)
        assert [name for name, _ in page.tags].count("script") == 2
        assert "img" not in [name for name, _ in page.tags]
        policy = next(a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", text)


def test_the_page_shows_what_the_records_say(evidence: Path, tmp_path: Path) -> None:
    text = page_of(evidence, tmp_path)
    words = " ".join(Page(text).texts)
    assert words.count("odd (not as its authors have it)") >= 6, "the caveat stands beside the name everywhere"
    without_notes = re.sub(r"step costs of [^:]*:|odd seeds 0-3: timing left out|--methods odd\b", "", words)
    assert not re.search(r"\bodd(?! \(not as)", without_notes)
    assert "loss term ce is not finite in epoch 3; lower lr" in words
    assert "CUDA out of memory" in words
    assert "last line" in words
    assert "1.33 [1.33, 1.33]" in words
    assert "abababababab" in words
    assert "25" not in words.split("Failures")[0] or "26 trials" not in words
    assert text.count('class="panel"') == 5, "five of six methods kept their logits"
    assert "its logits were not kept (4 of 4 trials)" in words
    assert text.count('class="series"') == 6 + 5, "loss of six methods, test accuracy of the five that logged it"
    assert text.count('class="spot"') == 6
    assert '<svg viewBox="0 0 560 340" class="chart" role="group" aria-labelledby=' in text
    ids = [a["id"] for _, a in Page(text).tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_same_records_give_the_same_bytes(evidence: Path, tmp_path: Path) -> None:
    assert page_of(evidence, tmp_path) == page_of(evidence, tmp_path)


def test_filters_choose_what_is_shown(evidence: Path, tmp_path: Path) -> None:
    text = page_of(evidence, tmp_path, Filter(methods=("zipf",)))
    trials = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["rows"]
    assert {row[1] for row in trials} == {"ce", "zipf"}
    assert "cskd" not in " ".join(Page(text).texts).split("Commands")[0]
    with pytest.raises(UserError, match=r"no trial under .* matches; it has ce on cifar100, resnet20"):
        read(str(evidence), Filter(datasets=("imagenet",)))


def test_two_boards_have_their_own_figures(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any], make_curve: Callable[..., Any]
) -> None:
    for epochs in (2, 4):
        for method in ("ce", "ls"):
            put(tmp_path, make_trial(method, recipe=Recipe(epochs=epochs)), make_curve(0.5, 0, epochs))
    material = read(str(tmp_path), ALL)
    assert [len(group.entries) for group in material.groups] == [2, 2]
    assert [group.table.recipe.epochs for group in material.groups] == [2, 4]
    assert [{r.spec.recipe.epochs for r in group.trials} for group in material.groups] == [{2}, {4}]
    text = page_of(tmp_path, tmp_path)
    assert text.count('class="part board"') == 2


def test_of_many_seeds_the_lowest_are_read(evidence: Path) -> None:
    material = read(str(evidence), ALL)
    entry = next(e for e in material.groups[0].entries if e.row.label == "ce")
    found, said = diagram(material.store, entry, 3)
    assert found is not None
    assert found.trials == 3
    assert said == "only the first 3 of 4 seeds were read"


def test_a_folder_with_profiles_only_shows_those(tmp_path: Path, make_profile: Callable[..., Any]) -> None:
    archive.write(tmp_path, make_profile({"ls": (1.1, 1.0)}))
    text = page_of(tmp_path, tmp_path)
    assert "No trials here." in text
    assert "1.100 [1.096, 1.104]" in text


def sdbench(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_where_the_report_is(evidence: Path, tmp_path: Path) -> None:
    code, out, err = sdbench("report", "--results", str(evidence), "--output", str(tmp_path / "a" / "F.html"))
    assert (code, err) == (0, "")
    assert out == f"wrote {tmp_path / 'a' / 'F.html'}: 27 trials, 1 boards; open it in a browser\n"
    code, out, _ = sdbench("report", "--results", str(evidence), "--output", str(tmp_path / "F.html"), "--json")
    facts = json.loads(out)
    assert (facts["trials"], facts["boards"], facts["damaged"]) == (27, 1, 0)
    assert facts["bytes"] == (tmp_path / "F.html").stat().st_size


def test_damaged_records_are_named_and_told_by_the_exit_code(
    tmp_path: Path, put: Callable[..., Path], make_trial: Callable[..., Any]
) -> None:
    put(tmp_path, make_trial("ce", 0))
    folder = put(tmp_path, make_trial("ls", 0))
    (folder / "trial.json").write_text(seal(make_trial("ls", 0)).replace("0.7", "0.9"))
    code, out, err = sdbench("report", "--results", str(tmp_path))
    assert code == 1
    assert "damaged record left out" in err
    assert "its checksum does not match" in (tmp_path / "report.html").read_text()
    assert "wrote" in out


def test_neither_report_nor_plots_need_torch(evidence: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sdbench.cli import app\n"
        "for verb in (['report', '--output', 'F.html'], *(['plot', kind, '--output', 'F.svg'] for kind in "
        "('pareto', 'curves', 'reliability', 'cost', 'zipf'))):\n"
        f"    found = CliRunner().invoke(app, [*verb, '--results', {str(evidence)!r}])\n"
        "    assert found.exit_code == 0, found.output\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "F.pdf"], "its name has to end with .html or .htm"),
        (["--results", "nowhere"], "no results folder nowhere; `sdbench run` makes one"),
        (["--results", "."], "nothing under .; `sdbench run` trains"),
    ],
)
def test_errors_say_what_to_type(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = sdbench("report", *arguments)
    assert (code, out) == (2, "")
    assert said in err

"""Every format: numbers read back exactly, hostile names stay text, files are whole."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sdbench.errors import UserError
from sdbench.leaderboard_formats import PUBLISHED, SUFFIXES, render, write_boards
from sdbench.leaderboard_records import Board, CostRatio, Row, Table
from sdbench.spec import Recipe
from sdbench.statistics import MeanStd, PairedDifference

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><b>&amp;',
    "a|b",
    "two\nlines\r\nmore\u2028",
    "\x1b[31mred\x07\u202e",
    "50%_of $x^2 & {#~} \\\\",
    "[opt] *star",
    "[click](javascript:alert(1))",
    "=cmd|'/c calc'!A0",
    "{{ 7 * 7 }}{% raw %}",
    "tail\\",
]
AWKWARD = [0.1 + 0.2, 1 / 3, 0.7654321098765432, 5e-324, 1e-17, 0.9999999999999999]
METRICS = ("top1", "top5", "nll", "ece", "brier", "aurc", "eaurc")


def make_row(label: str, mean: float | None = 0.7, **given: object) -> Row:
    values = {
        "label": label, "method": label, "params": {"weight": 0.1}, "baseline": False, "seeds": (0, 1, 2),
        "metrics": {} if mean is None else {name: MeanStd(mean, mean / 3, 3) for name in METRICS},
        "gain": None, "costs": (CostRatio(hardware="cpu (X)", time=MeanStd(1.05, None, 1), memory=None),),
        "forward_per_image": 2.0, "auxiliary_parameters": 12, "state_bytes": 2048, "statuses": {"ok": 3},
    }  # fmt: skip
    return Row(**{**values, **given})


def make_board(*rows: Row, notes: tuple[str, ...] = (), name: str = "cifar100", tables: int = 1) -> Board:
    table = Table(
        dataset=name,
        data_fingerprint="f" * 64,
        image_size=None,
        network="resnet20",
        protocol="fixed",
        protocol_version="1",
        split="full",
        precision="bf16",
        recipe=Recipe(epochs=200, lr=0.1, batch_size=128),
        baseline="ce",
        hardware=("cpu (X)",),
        rows=rows,
        notes=notes,
    )
    return Board(tables=(table,) * tables, notes=notes)


GAIN = PairedDifference(0.0123, 0.0001, 0.0245, 3, (0, 1, 2))


def test_numbers_for_people() -> None:
    rows = [
        make_row("zipf", 0.78126, gain=GAIN),
        make_row("one", 0.5, metrics={n: MeanStd(0.5, None, 1) for n in METRICS}, seeds=(0,)),
        make_row("loss", 0.5, gain=PairedDifference(-0.00001, -0.01, 0.00999, 2, (0, 1))),
        make_row("early", 0.4, gain=PairedDifference(-0.02, None, None, 1, (0,))),
        make_row("none", None, gain=None, costs=(CostRatio(hardware="cpu (X)", time=None, memory=None),)),
    ]
    for name in ("text", "md", "html"):
        text = render(make_board(*rows), name).replace("\\", "")
        assert "78.13 ± 26.04 (3)" in text
        assert "50.00 (1)" in text
        assert "+1.23 [+0.01, +2.45] (3)" in text
        assert "+0.00 [-1.00, +1.00] (n too small: 2)" in text, "what rounds to zero has no minus sign"
        assert "-2.00 (n too small: 1)" in text
        assert "1.05 (1)" in text
        assert "–" in text
    tex = render(make_board(*rows), "latex")
    assert r"78.13 $\pm$ 26.04 (3)" in tex
    assert "–" not in tex
    assert "±" not in tex


@pytest.mark.parametrize("name", ["text", "md", "latex", "html"])
def test_header_states_the_rule_and_the_recipe(name: str) -> None:
    text = " ".join(render(make_board(make_row("ce")), name).replace("\\", "").replace("$pm$", "±").split())
    assert "top-1 of the last epoch, mean ± std over n seeds; gain paired by seed, 95 % t interval" in text
    for part in ("epochs 200", "batch size 128", "lr 0.1", "weight decay 0.0005", "precision bf16", "cpu (X)"):
        assert part in text


def test_nothing_is_crowned() -> None:
    board = make_board(make_row("best", 0.9, gain=GAIN), make_row("ce", 0.1))
    for name in ("md", "latex", "html"):
        text = render(board, name)
        assert not re.search(r"\*\*|\\textbf|<b>|<strong>|🏆", text)


def test_text_fits_a_terminal() -> None:
    board = make_board(make_row("label_smoothing", gain=GAIN), make_row("ce"), notes=("a long note " * 30,))
    assert max(map(len, render(board, "text").splitlines())) <= 140


class Page(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def test_html_shows_hostile_names_as_text() -> None:
    page = Page()
    rows = [make_row(label, baseline=label == "ce") for label in HOSTILE]
    text = render(make_board(*rows, notes=tuple(HOSTILE), name=HOSTILE[0]), "html")
    page.feed(text)
    page.close()
    assert page.open == []
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "p", "div", "ul", "li"}
    assert page.seen <= known | {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "scope"}
    assert [c for c in page.cells if c in map(plain, HOSTILE)] == [plain(label) for label in HOSTILE]
    assert "http://" not in text
    assert "https://" not in text


def cells_of(line: str) -> list[str]:
    """Cells of a Markdown row, split at bars that are not escaped."""
    return [c.strip() for c in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_markdown_keeps_its_columns() -> None:
    text = render(make_board(*map(make_row, HOSTILE), notes=tuple(HOSTILE)), "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE)
    assert {len(cells_of(line)) for line in lines} == {13}
    assert not re.search(r"<[a-zA-Z/]", text)
    assert "](javascript" not in text
    assert "\x1b" not in text


def test_latex_is_escaped() -> None:
    text = render(make_board(*map(make_row, HOSTILE), notes=tuple(HOSTILE), name="a_b&c%"), "latex")
    rows = text.split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert len(rows) == len(HOSTILE)
    for line in rows:
        assert line.endswith(r" \\")
        assert not line.startswith(("[", "*")), "would be read as an option of the row before"
        body = line.removesuffix(r" \\")
        assert len(re.findall(r"(?<!\\)&", body)) == 12, "thirteen columns"
        assert not re.search(r"(?<!\\)[%#_]", body)
        assert re.fullmatch(r"(?:[^\\$^~]|\\[&%$#_{}]|\\text[a-z]+\{\}|\$\\(?:pm|times)\$)*", body), body
    balance = re.sub(r"\\[{}]", "", text)
    assert balance.count("{") == balance.count("}")
    assert r"a\_b\&c\%" in text


def test_text_has_no_control_characters() -> None:
    text = render(make_board(*map(make_row, HOSTILE), notes=tuple(HOSTILE)), "text")
    assert all(c == "\n" or c.isprintable() for c in text)
    assert sum(line.startswith(("two lines", "<img")) for line in text.splitlines()) == 2


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_reads_back_to_the_same_floats() -> None:
    rows = [make_row(f"m{i}", value, gain=PairedDifference(value, -value, 2 * value, 3, (0, 1, 2)))
            for i, value in enumerate(AWKWARD)]  # fmt: skip
    read = read_csv(render(make_board(*rows), "csv"))
    assert len(read) == len(AWKWARD)
    for record, value in zip(read, AWKWARD, strict=True):
        assert float(record["top1_mean"]) == value
        assert float(record["top1_std"]) == value / 3
        assert (float(record["gain"]), float(record["gain_low"]), float(record["gain_high"])) == (
            value,
            -value,
            2 * value,
        )
        assert (record["n"], record["gain_n"], record["seeds"]) == ("3", "3", "0 1 2")
        assert (record["time_ratio"], record["memory_ratio"]) == ("1.05", "")
        assert (record["num_ok"], record["num_nan"], record["recipe_epochs"]) == ("3", "0", "200")
        assert json.loads(record["params"]) == {"weight": 0.1}


SCALED = {
    "temperature": MeanStd(1.23456, 0.25, 3),
    "scaled_nll": MeanStd(0.87654, 0.125, 3),
    "scaled_ece": MeanStd(0.01234, 1 / 3, 3),
}


@pytest.mark.parametrize("name", ["text", "md", "latex", "html"])
def test_scaled_metrics_are_shown_where_there_are_any(name: str) -> None:
    without = render(make_board(make_row("ce")), name)
    assert "scaled" not in without
    some = {k: MeanStd(m.mean, None, 1) for k, m in SCALED.items()}
    rows = [make_row("ce", scaled=SCALED), make_row("ls", scaled=some), make_row("old")]
    text = render(make_board(*rows), name)
    assert "divided by T" in text, "the legend explains it"
    for shown in ("NLL scaled", "1.23", "0.877", "1.235", "1.23 (1)", "0.877 (1)", "1.235 (1)"):
        assert shown in text, shown
    if name == "md":
        lines = [cells_of(line) for line in text.splitlines() if line.startswith("|")]
        at = {header: i for i, header in enumerate(lines[0])}
        for i, (ece, nll, temperature) in enumerate(
            [("1.23", "0.877", "1.235"), ("1.23 (1)", "0.877 (1)", "1.235 (1)")]
        ):
            line = lines[2 + i]
            assert (line[at["ECE % scaled"]], line[at["NLL scaled"]], line[at["T"]]) == (ece, nll, temperature)
        assert {lines[4][at[h]] for h in ("ECE % scaled", "NLL scaled", "T")} == {"–"}


def test_csv_has_scaled_metrics_where_there_are_any() -> None:
    assert not any("scaled" in key for key in read_csv(render(make_board(make_row("ce")), "csv"))[0])
    ce, old = read_csv(render(make_board(make_row("ce", scaled=SCALED), make_row("old")), "csv"))
    assert (float(ce["temperature_mean"]), float(ce["scaled_nll_std"])) == (1.23456, 0.125)
    assert float(ce["scaled_ece_std"]) == 1 / 3
    assert (ce["scaled_n"], old["scaled_n"], old["temperature_mean"], old["scaled_nll_mean"]) == ("3", "0", "", "")


def test_csv_of_hostile_names_keeps_one_line_per_row_and_starts_no_formula() -> None:
    text = render(make_board(*map(make_row, HOSTILE)), "csv")
    assert len(text.splitlines()) == 1 + len(HOSTILE)
    read = read_csv(text)
    assert [r["label"].removeprefix("'") for r in read] == [plain(label) for label in HOSTILE]
    assert not any(r["label"].startswith(("=", "+", "-", "@")) for r in read)


def test_csv_has_columns_for_each_kind_of_hardware() -> None:
    costs = (
        CostRatio(hardware="cpu (X)", time=MeanStd(1.5, None, 1), memory=None),
        CostRatio(hardware="gpu (Y)", time=MeanStd(2.5, 0.5, 2), memory=MeanStd(1.25, None, 1)),
    )
    table = make_board(make_row("a", costs=costs)).tables[0].model_copy(update={"hardware": ("cpu (X)", "gpu (Y)")})
    one = make_board(make_row("b")).tables[0]
    a, b = read_csv(render(Board(tables=(table, one), notes=()), "csv"))
    assert (a["hardware"], a["time_ratio"], a["hardware_2"], a["time_ratio_2"]) == ("cpu (X)", "1.5", "gpu (Y)", "2.5")
    assert (a["memory_ratio"], a["memory_ratio_2"], a["time_ratio_n_2"]) == ("", "1.25", "2")
    assert (b["hardware"], b["hardware_2"], b["time_ratio_2"]) == ("cpu (X)", "", "")


def test_json_reads_back_to_the_same_board() -> None:
    rows = [make_row(label, value, gain=GAIN) for label, value in zip(HOSTILE, AWKWARD, strict=False)]
    board = make_board(*rows, make_row("none", None), notes=tuple(HOSTILE), tables=2)
    text = render(board, "json")
    assert text.isascii()
    data = json.loads(text)
    assert set(data) == {"rule", "tables", "notes"}
    assert [r["metrics"]["top1"]["mean"] for r in data["tables"][1]["rows"][:-1]] == AWKWARD
    assert Board.model_validate_json(text) == board


def test_several_tables_and_none() -> None:
    two = make_board(make_row("ce"), tables=2)
    assert render(two, "text").count("resnet20, protocol fixed 1") == 2
    assert len(read_csv(render(two, "csv"))) == 2
    assert render(two, "html").count("<table>") == 2
    empty = Board(tables=(), notes=("record left out: x",))
    for name in ("text", "md", "latex", "html"):
        assert "No trials yet." in render(empty, name)
        assert "record left out: x" in render(empty, name)
    assert json.loads(render(empty, "json"))["tables"] == []
    assert render(empty, "csv") == ""


def test_unknown_format() -> None:
    with pytest.raises(UserError, match="did you mean 'html'"):
        render(make_board(), "htm")


def test_files_are_written_whole_and_byte_for_byte_the_same(tmp_path: Path) -> None:
    board = make_board(make_row("ce"), make_row("zipf", gain=GAIN))
    first = write_boards(board, tmp_path / "deep" / "results")
    assert [p.name for p in first] == [f"leaderboard.{s}" for s in ("md", "csv", "tex", "html", "json")]
    before = [p.read_bytes() for p in first]
    assert [b.decode() for b in before] == [render(board, name) for name in PUBLISHED]
    assert [p.read_bytes() for p in write_boards(board, tmp_path / "deep" / "results")] == before
    assert sorted(p.name for p in (tmp_path / "deep" / "results").iterdir()) == sorted(p.name for p in first)
    assert [p.name for p in write_boards(board, tmp_path, ["text"])] == ["leaderboard.txt"]
    with pytest.raises(UserError, match="unknown format"):
        write_boards(board, tmp_path / "other", ["md", "pdf"])
    assert not (tmp_path / "other").exists()


def test_every_format_has_a_suffix_and_importing_is_light() -> None:
    assert set(PUBLISHED) | {"text"} == set(SUFFIXES)
    code = (
        "import sys, sdbench.leaderboard, sdbench.leaderboard_formats\n"
        "assert not {'torch', 'ray', 'scipy', 'numpy', 'pandas', 'jinja2', 'tabulate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

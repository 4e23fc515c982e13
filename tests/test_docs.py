"""What the documents say holds: doctests, links, the map of files, and the facts that pages state about the code."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from sdbench import api, leaderboard_columns
from sdbench.checks import CHECKS
from sdbench.cost import contestant, counts, groups, timing, verdict
from sdbench.cost.request import ProfileRequest, make_plans
from sdbench.protocol import DISTILLED, HOLDOUT, PROTOCOLS, Protocol
from sdbench.registry import register
from sdbench.spec import TEMPERATURES, Recipe
from sdbench.statistics import LEAST_SEEDS, LEVEL

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
LONGEST = 200
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "sdbench").rglob("*.py"))
    if path.stem != "__main__"
] + [f"sdbench.methods.{path.stem}" for path in sorted((ROOT / "methods").glob("*.py")) if path.stem != "__init__"]


def read(name: str) -> str:
    """A page of docs/ with its line breaks as spaces."""
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme_opens_with_the_two_commands() -> None:
    first = (ROOT / "README.md").read_text().split("\n    ")[1:3]
    assert [line.splitlines()[0] for line in first] == [
        'pip install -e ".[dev]" && sdbench run',
        'pip install -e ".[dev]" && pytest',
    ]


def test_every_file_of_the_harness_is_on_readmes_map() -> None:
    text = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "sdbench").glob("*.py")):
        if not path.stem.startswith("__"):
            pattern = path.stem.split("_")[0] + "_*.py"
            assert path.name in text or pattern in text, f"README's file map lacks {path.name}"


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may name, as GitHub makes it of the heading."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_is_linked_short_and_without_paths_of_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text(), "README links every page"
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    assert not re.search(r"/(work|home|root|tmp|Users)/", text)


def test_docs_are_not_packaged() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert not any("docs" in text for text in (*told["packages"], *told["package-dir"].values()))
    assert not any("docs" in text or ".md" in text for files in told["package-data"].values() for text in files)


def protocol_row(protocol: Protocol) -> str:
    """A protocol's line of the table in docs/protocols.md."""
    recipe = protocol.recipe
    schedule = f"× {recipe.gamma:g} at {' and '.join(f'{share:.0%}'.replace('%', ' %') for share in recipe.milestones)}"
    if recipe.schedule == "cosine":
        schedule = f"warm-up over {100 * protocol.warmup_share:g} %, then cosine"
    every = "every epoch" if protocol.eval_every == 1 else f"every {protocol.eval_every} epochs"
    facts = [protocol.name, protocol.version, protocol.epochs, recipe.batch_size, f"{recipe.lr:g}", schedule]
    facts += [protocol.split, ", ".join(map(str, protocol.seeds)), protocol.network, every]
    return f"| {' | '.join(map(str, facts))} |"


def test_the_protocols_are_as_their_page_says() -> None:
    lines = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| :--"))
    table = lines[start + 1 : lines.index("", start)]
    assert table == [protocol_row(protocol) for protocol in PROTOCOLS.values()]
    plain = Recipe(epochs=1)
    same = {"optimizer", "momentum", "nesterov", "weight_decay"}
    assert all(getattr(p.recipe, name) == getattr(plain, name) for p in PROTOCOLS.values() for name in same)
    text = read("protocols.md")
    assert f"SGD with momentum {plain.momentum:g}, no Nesterov, weight decay {plain.weight_decay:g} on every" in text
    assert plain.optimizer == "sgd"
    assert not plain.nesterov
    assert {f"*{p.selection}*" for p in PROTOCOLS.values()} == {"*test accuracy of the last epoch*"}
    assert "*test accuracy of the last epoch*" in text
    assert f"*{HOLDOUT}*" in text
    assert f"`{DISTILLED}`" in text


def headers() -> list[str]:
    """The headers that a board can have, without the letters of several kinds of hardware."""
    tree = ast.parse(Path(leaderboard_columns.__file__).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Column"]
    firsts = [call.args[0] for call in calls]
    texts = [first.values[0] if isinstance(first, ast.JoinedStr) else first for first in firsts]
    return [str(text.value) for text in texts if isinstance(text, ast.Constant)]


def test_every_column_of_the_board_is_explained() -> None:
    page = (ROOT / "docs" / "reading-the-board.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    explained = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(headers()) > 15
    assert sorted(explained) == sorted(headers())
    results = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    briefly = [name.strip() for cell in re.findall(r"^\| (.+?) \|", results, re.MULTILINE) for name in cell.split(", ")]
    main = {"rank", "p (Holm)", "images", "aux", "state", "FLOPs ×", "peak ×", "Pareto", "trials"}
    assert main <= {*briefly}


def test_figures_of_the_board_page_are_the_codes() -> None:
    text = read("reading-the-board.md")
    assert LEAST_SEEDS == 3
    assert "Below three common seeds" in text
    assert f"at most {LEVEL:g}" in text
    assert f"[{TEMPERATURES[0]:g}, {TEMPERATURES[1]:g}]" in text
    assert "a tenth of the training images" in text
    assert HOLDOUT == "holdout-0.1"
    from scipy.stats import t

    told = [float(t.ppf(0.975, n - 1)) for n in (2, 3, 5)]
    assert "t is {:.1f} then, {:.1f} with three, {:.1f} with five".format(*told) in text


def test_figures_of_the_cost_page_are_the_codes() -> None:
    text, setting = read("cost.md"), make_plans(ProfileRequest())[1][0].setting
    said = (
        f"{timing.WARMUP_ROUNDS} rounds are not counted; then there are at least {setting.rounds}, and more until",
        f"half-width is below {setting.half_width:g} or the time is over (`--max-seconds`, {setting.max_seconds:g} by",
        f"More than {groups.GROUP} methods are therefore measured in groups",
        f"for at most {groups.GROUP_SECONDS:g} seconds each",
        f"1 ± margin (`--margin`, {setting.margin:g})",
        f"fewer than {verdict.LEAST_ROUNDS} rounds",
        f"more than {100 * (counts.FLAG_ABOVE - 1):.0f} % above",
        f"blocks of {contestant.BLOCK} rounds",
    )
    assert [each for each in said if each not in text] == []


def test_the_page_on_methods_names_every_check_and_argument() -> None:
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\* `(\w+)`: (.*)$", page, re.MULTILINE)
    assert listed == [(check.name, check.summary) for check in CHECKS]
    defaults = ", ".join(f"{name}={default!r}".replace("'", '"') for name, default in register.__kwdefaults__.items())
    assert f"`@register(name, {defaults})`" in page


def test_the_page_on_python_names_every_function() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == set(api.__all__)

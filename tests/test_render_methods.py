"""docs/methods.md: equal to what the cards say, a page worked out by hand, and no name or docstring breaks it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench import registry
from sdbench.cards import MethodCard, ParameterFacts
from sdbench.cost.nature import Nature

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "render_methods.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


@pytest.fixture
def render(tool: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``render(*arguments)``: the tool's exit code."""

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr("sys.argv", [str(TOOL), *map(str, arguments)])
        code: int = tool["main"]()
        return code

    return run


def card(**given: Any) -> MethodCard:
    known = {
        "name": "mine", "summary": "Soften ``targets`` | or not.", "paper": "https://example.org/1",
        "official": "a/b@c", "year": 2020, "caveat": "", "canonical": True, "origin": "built in",
        "state_bytes_at": {"cifar100": 2048},
        "description": "Soften.\n\nWith z the\nlogits:\n\n    L_t = a * ||z||^2 < 1\n\nMore.", "refuses_mixing": "",
        "nature": Nature(
            needs=("held-out images",), images_loaded=2, forward_images=1.5, backward_images=1, generations=2,
            auxiliary_parameters=1500, state=("memory",),
        ),
        "parameters": (
            ParameterFacts(name="weight", type="float", default=0.10, range="[0.01, 10] log"),
            ParameterFacts(name="kind", type="str", default="one", range=""),
            ParameterFacts(name="dense", type="bool", default=True, range=""),
        ),
        "recommended": {"cifar100": {"weight": 2.0, "dense": False}}, "published": (),
    }  # fmt: skip
    return MethodCard.model_validate({**known, **given})


BY_HAND = """\
| method | year | what it does | images | trainings | weights | state |
| :-- | --: | :-- | --: | --: | --: | --: |
| [mine](#mine) | 2020 | Soften `targets` \\| or not. | 2 / 1.5 / 1 | 2 | 1.50 k | 2.0 KiB |

## mine
With z the logits: L_t = a \\* \\|\\|z\\|\\|^2 &lt; 1
* Needs held-out images. Hyper-parameters: `weight` 0.1 ([0.01, 10] log); `kind` "one"; `dense` true. \
Recommended: cifar100 weight=2, dense=false. Paper: <https://example.org/1>. Authors' code: `a/b@c`. \
Card: `sdbench describe mine`.
"""


def test_a_page_by_hand(tool: dict[str, Any]) -> None:
    text = tool["page"]([card()], "resnet8")
    assert text.endswith(BY_HAND)
    assert text.startswith("# All methods\n")
    assert "beside a\nresnet8, trained and thrown away" in text


def test_what_is_missing_is_a_dash_or_left_out(tool: dict[str, Any]) -> None:
    plain = {"paper": "", "official": "", "year": None, "parameters": (), "recommended": {}, "description": "Soften."}
    nothing = card(**plain, nature=Nature(problem="it raised"), state_bytes_at={}, caveat="no paper")
    text = tool["page"]([nothing], "resnet8")
    assert "| [mine](#mine) | – | Soften `targets` \\| or not. | – / – / – | 1 | – | 0 B |" in text
    said = (
        "## mine\n**mine (no paper).**\n* Needs one forward pass over labelled images. Card: `sdbench describe mine`.\n"
    )
    assert text.endswith(said)


def test_the_licence_of_the_authors_code_is_named(tool: dict[str, Any]) -> None:
    assert "Authors' code: `a/b@c` (licence none stated). Card:" in tool["page"]([card(licence="none stated")], "x")


def test_hostile_text_stays_text(tool: dict[str, Any]) -> None:
    text = tool["page"]([card(summary="<script>alert(1)</script> [x](javascript:1) *", caveat="<b>")], "resnet8")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "](javascript" not in text


def test_the_page_says_what_the_cards_say(render: Callable[..., int]) -> None:
    assert render("--check") == 0, "run tools/render_methods.py"


def test_every_method_is_on_the_page() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    built_in = [name for name in registry.names() if registry.origin(name) == "built in"]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == built_in
    assert all(f"| [{name}](#{name}) |" in text for name in built_in)
    for name in built_in:
        assert all(f"`{parameter}` " in text for parameter in registry.parameters(registry.get(name))), name


def test_a_page_that_differs_is_found_and_put_right(
    tool: dict[str, Any], render: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(tool["main"].__globals__, "built_in", lambda: [card()])
    page = tmp_path / "methods.md"
    assert render("--page", page, "--check") == 1
    assert "run tools/render_methods.py" in capsys.readouterr().err
    assert not page.exists(), "a check writes nothing"
    assert render("--page", page) == 0
    assert render("--page", page, "--check") == 0
    page.write_text(page.read_text().replace("2 / 1.5", "1 / 1.5"))
    assert render("--page", page, "--check") == 1
    assert render("--page", page) == 0
    assert page.read_text().endswith(BY_HAND)


def test_what_a_plug_in_registers_is_not_on_the_page(tool: dict[str, Any], toys: None) -> None:
    tried: list[str] = []
    tool["main"].__globals__["method_card"], own = tried.append, tool["main"].__globals__["method_card"]
    tool["built_in"]()
    tool["main"].__globals__["method_card"] = own
    assert "ce" in tried
    assert not any(name.startswith("toy_") for name in tried)

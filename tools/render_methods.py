"""Write docs/methods.md from the cards of the built-in methods, as ``sdbench describe`` shows them.

python tools/render_methods.py            # writes docs/methods.md
python tools/render_methods.py --check    # exits with 1 where docs/methods.md says anything else
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sdbench import registry
from sdbench.cards import MethodCard, ParameterFacts, method_card
from sdbench.cost.nature import NETWORK
from sdbench.leaderboard_cells import MISSING, bytes_text, count_text, markdown_text, marked
from sdbench.spec import Value
from sdbench.store import write_atomic

ROOT = Path(__file__).resolve().parent.parent
STATE_AT = "cifar100"
FORMULA = re.compile(r"\bL\w* = ")

HEAD = """\
# All methods

Generated from the methods' cards by `tools/render_methods.py`; a test fails where the two differ. `sdbench describe`
with a method's name prints its whole card: every coefficient, deviations from the authors' code, and what papers
report, none of it measured here.

*Images* are loaded / forwarded / sent backward per labelled image in one step. *Weights* are auxiliary ones beside a
{network}, trained and thrown away. *State* is what the method keeps on CIFAR-100 between steps. All three are counted
with the defaults, on a small task; of a method with several *trainings* in a row they are the last one's. What that
costs in time and memory is measured: [cost](cost.md). Mixers (*mixed images*) combine with others: `zipf+cutmix`.
"""

HEADERS = ("method", "year", "what it does", "images", "trainings", "weights", "state")


def page(cards: Sequence[MethodCard], network: str) -> str:
    """The whole page. network: beside which auxiliary weights were counted."""
    table = [_line(HEADERS), _line([":--", "--:", ":--", "--:", "--:", "--:", "--:"])]
    table += [_line(_row(card)) for card in cards]
    sections = "\n".join(map(_section, cards))
    return "\n".join([HEAD.format(network=network), *table, "", sections])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(card: MethodCard) -> list[str]:
    known = card.nature
    passes = (known.images_loaded, known.forward_images, known.backward_images)
    return [
        f"[{card.name}](#{card.name})",
        str(card.year or MISSING),
        prose(card.summary),
        " / ".join(MISSING if count is None else f"{count:g}" for count in passes),
        str(known.generations),
        count_text(known.auxiliary_parameters),
        bytes_text(card.state_bytes_at.get(STATE_AT)) if known.state else "0 B",
    ]


def _section(card: MethodCard) -> str:
    """Heading, formula, and facts, each on a line of its own."""
    known = card.nature
    facts = [f"Needs {', '.join(known.needs)}." if known.needs else "Needs one forward pass over labelled images."]
    if card.parameters:
        facts.append(f"Hyper-parameters: {'; '.join(map(_parameter, card.parameters))}.")
    if card.recommended:
        facts.append(f"Recommended: {'; '.join(_recommended(*item) for item in card.recommended.items())}.")
    if card.refuses_mixing:
        facts.append(f"Not for mixed images: {prose(card.refuses_mixing)}.")
    facts.append(f"{' '.join(_sources(card))}.")
    return f"## {card.name}\n{_formula(card)}\n* {' '.join(facts)}\n"


def _formula(card: MethodCard) -> str:
    """The caveat, and the description as far as its formula: on one line."""
    paragraphs = [" ".join(each.split()) for each in card.description.split("\n\n")[1:]]
    with_formula = [i for i, each in enumerate(paragraphs) if FORMULA.search(each)]
    last = with_formula[0] if with_formula else 0
    while last + 1 < len(paragraphs) and paragraphs[last].endswith(":"):
        last += 1
    said = [f"**{prose(marked(card.name, card.caveat))}.**"] if card.caveat else []
    return " ".join([*said, *map(prose, paragraphs[: last + 1])])


def _parameter(facts: ParameterFacts) -> str:
    default = f'"{facts.default}"' if isinstance(facts.default, str) else _value(facts.default)
    return f"`{facts.name}` {markdown_text(default)}" + (f" ({markdown_text(facts.range)})" if facts.range else "")


def _recommended(dataset: str, values: dict[str, Value]) -> str:
    return f"{dataset} {', '.join(f'{key}={_value(value)}' for key, value in values.items())}"


def _value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _sources(card: MethodCard) -> list[str]:
    found = [f"Paper: <{card.paper}>."] if card.paper else []
    if card.official:
        licence = f" (licence {markdown_text(card.licence)})" if card.licence else ""
        found.append(f"Authors' code: `{card.official}`{licence}.")
    papers = len({number.source for number in card.published})
    if papers:
        found.append(f"Reported by {papers} source{'s' * (papers > 1)}.")
    return [*found, f"Card: `sdbench describe {card.name}`"]


def prose(text: str) -> str:
    """A docstring's text as Markdown shows it unchanged, but for ``code`` and **what is bold**."""
    parts = re.split(r"``?(.+?)``?", text)
    shown = (f"`{part}`" if i % 2 else markdown_text(part) for i, part in enumerate(parts))
    return "".join(shown).replace("\\*\\*", "**")


def built_in() -> list[MethodCard]:
    """The cards of the methods that come with sdbench, by name, whatever else is installed."""
    return [method_card(name) for name in registry.names() if registry.origin(name) == "built in"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page differs")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "methods.md")
    given = parser.parse_args()
    new = page(built_in(), NETWORK)
    if not given.check:
        write_atomic(given.page, new)
    elif not given.page.is_file() or given.page.read_text(encoding="utf-8") != new:
        print(f"{given.page.name} differs from the methods' cards; run tools/render_methods.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write README's headline table, and the boards of results/published/README.md, from the records under it.

python tools/render_readme.py            # writes both
python tools/render_readme.py --check    # exits with 1 where one says anything else
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdbench.cost import archive
from sdbench.cost.headline import headline
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import render
from sdbench.store import Store, write_atomic

ROOT = Path(__file__).resolve().parent.parent


def sections(published: Path) -> dict[str, str]:
    """What stands between the markers, by their name. Raises ValueError where a published record is damaged."""
    profiles, trials = archive.scan(published), Store(published).scan()
    damaged = [*profiles.damaged, *trials.damaged]
    if damaged:
        raise ValueError("; ".join(f"{d.path}: {d.reason}" for d in damaged))
    board = render(build_board(trials.results, profiles=profiles.results), "md")
    return {
        "headline": headline(profiles.results, trials.results),
        "boards": board.partition("\n\n")[2].rstrip("\n") + "\n",
    }


def replaced(text: str, name: str, new: str) -> str:
    """``text`` with ``new`` between the two markers ``name``. Raises ValueError unless each stands there once, in
    order."""
    opening, closing = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
    before, begin, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end or opening in rest or closing in after:
        raise ValueError(f"needs the lines {opening.strip()} and {closing.strip()} once each, in this order")
    return f"{before}{opening}\n{new}\n{closing}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the text differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--published", type=Path, default=ROOT / "results" / "published")
    given = parser.parse_args()
    board = given.published / "README.md"
    files = {"headline": given.readme, **({"boards": board} if board.exists() else {})}
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    try:
        known = sections(given.published)
        new = {name: replaced(text, name, known[name]) for name, text in texts.items()}
    except ValueError as error:
        print(f"render_readme: {error}", file=sys.stderr)
        return 2
    different = [name for name in files if new[name] != texts[name]]
    for name in different:
        if given.check:
            print(f"{files[name]} differs from the published records; run tools/render_readme.py", file=sys.stderr)
        else:
            write_atomic(files[name], new[name])
    return int(given.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())

"""Write README's headline table from the records under results/published/.

python tools/render_readme.py            # writes README.md
python tools/render_readme.py --check    # exits with 1 where README.md says anything else
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sdbench.cost import archive
from sdbench.cost.headline import headline
from sdbench.store import Store, write_atomic

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- headline:begin -->\n", "<!-- headline:end -->\n"


def section(published: Path) -> str:
    """What stands between the markers. Raises ValueError where a published record is damaged."""
    profiles, trials = archive.scan(published), Store(published).scan()
    damaged = [*profiles.damaged, *trials.damaged]
    if damaged:
        raise ValueError("; ".join(f"{d.path}: {d.reason}" for d in damaged))
    return headline(profiles.results, trials.results)


def replaced(text: str, new: str) -> str:
    """``text`` with ``new`` between its two markers. Raises ValueError unless each stands there once, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"needs the lines {BEGIN.strip()} and {END.strip()} once each, in this order")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the text differs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--published", type=Path, default=ROOT / "results" / "published")
    given = parser.parse_args()
    text = given.readme.read_text(encoding="utf-8")
    try:
        new = replaced(text, section(given.published))
    except ValueError as error:
        print(f"render_readme: {error}", file=sys.stderr)
        return 2
    if not given.check:
        write_atomic(given.readme, new)
    elif new != text:
        print(f"{given.readme.name} differs from the published records; run tools/render_readme.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

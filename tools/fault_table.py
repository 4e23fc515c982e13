"""Print the table of faults: what was done how often, and what came of it.

    SDBENCH_FAULTS=faults.jsonl pytest tests/faults -m "slow or not slow" && python tools/fault_table.py faults.jsonl

Each test in tests/faults leaves a line per fault. Lost is whatever was tried and not survived: a test that failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tabulate import tabulate


def table(lines: list[str]) -> str:
    """The table in Markdown, one row per fault in order of appearance, and the sums."""
    sums: dict[str, tuple[int, int]] = {}
    for line in lines:
        entry = json.loads(line)
        tried, survived = sums.get(entry["fault"], (0, 0))
        sums[entry["fault"]] = (tried + entry["tried"], survived + entry["survived"])
    sums["all"] = (sum(tried for tried, _ in sums.values()), sum(survived for _, survived in sums.values()))
    rows = [(fault, tried, survived, tried - survived) for fault, (tried, survived) in sums.items()]
    return tabulate(rows, headers=["fault", "tried", "survived", "lost"], tablefmt="github")


def main(arguments: list[str]) -> None:
    print(table([line for name in arguments for line in Path(name).read_text().splitlines()]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time and memory of what reads a whole results folder, on stores of up to 100,000 trials.

python benchmarks/large_board.py                                   # 1,000, 10,000 and 100,000 trials, three repeats
python benchmarks/large_board.py --trials 10000 --repeats 5 --commands leaderboard

The trials (ten data sets, a fiftieth of a thousandth as many methods, fifty seeds) are made up, their seals real. Each
command is a process of its own: its processor time, and its largest resident set. Linear means that the time per trial
stays: the last column is that of a store over that of the one before it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report_page import trial

from sdbench.store import Store, seal

SEEDS, DATASETS = 50, 10
COMMANDS = ("leaderboard", "list", "validate", "compare", "report")


def write_trials(root: Path, count: int) -> int:
    """Records alone, written without waiting for the disk."""
    store, written = Store(root), 0
    for d in range(DATASETS):
        for m in range(count // (DATASETS * SEEDS)):
            for seed in range(SEEDS):
                one = trial(f"m{m}" if m else "ce", f"d{d}", seed, 0.4 + (m * 37 % 97) / 400 + seed / 1000)
                one = one.model_copy(
                    update={"metrics": one.metrics and one.metrics.model_copy(update={"nll": 1 + m + seed / 97})}
                )
                folder = store.folder(one.spec, one.trial_id)
                folder.mkdir(parents=True)
                (folder / "trial.json").write_text(seal(one))
                written += 1
    return written


CHILD = """
import atexit, sys, time
from pathlib import Path

place = Path(sys.argv.pop())

def tell():
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    place.write_text(f"{time.process_time()} {peak}")

atexit.register(tell)
from sdbench.cli import main
main()
"""


def measured(words: list[str], place: Path) -> tuple[float, float, int]:
    """Processor seconds, largest resident set in MiB, exit code. A child says it of itself: what the system counts for
    it begins with the process that it was made from."""
    command = [sys.executable, "-c", CHILD, *words, str(place)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    seconds, peak_kib = place.read_text().split()
    return float(seconds), int(peak_kib) / 1024, code


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="where stores are made (default: the system's temporary folder)")
    given = parser.parse_args()
    before: dict[str, float] = {}
    print("trials | command | processor s, median (lowest to highest) | peak MiB | exit | per trial, over that before")
    for count in given.trials:
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            root = Path(place) / "results"
            count = write_trials(root, count)
            words = {
                "leaderboard": ["leaderboard", "--results", str(root)],
                "list": ["list", "runs", "--results", str(root)],
                "validate": ["validate", str(root)],
                "compare": ["compare", "ce", "m1", "--results", str(root)],
                "report": ["report", "--results", str(root), "--output", str(Path(place) / "report.html")],
            }
            for name in given.commands:
                found = [measured(words[name], Path(place) / "measured") for _ in range(given.repeats)]
                times = [seconds for seconds, _, _ in found]
                each = statistics.median(times) / count
                growth = f"{each / before[name]:.2f}" if name in before else ""
                before[name] = each
                spread = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
                codes = ", ".join(sorted({str(code) for _, _, code in found}))
                print(
                    f"{count} | {name} | {spread} | {max(m for _, m, _ in found):.0f} | {codes} | {growth}", flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())

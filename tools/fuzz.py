"""Fuzz one reader with atheris: ``python tools/fuzz.py TARGET [--inputs N] [--corpus FOLDER]``.

Needs ``pip install -e ".[dev,fuzz]"``. Targets: tests/hostile/targets.py. What counts as a find: an error that the
reader does not document, more than two seconds of processor time, an allocation or a growth beyond a gigabyte; the
input is then written to the working directory and the exit code is not 0. The tests run the same targets for a moment.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

LIMIT_S = 2.0
LIMIT_MB = 1024
MAX_BYTES = 65536

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hostile"))
with atheris.instrument_imports(include=["sdbench", "tomllib", "json"]):
    import targets  # type: ignore[import-not-found]


class TooSlowError(Exception):
    """An input that took too long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a folder to begin from and to add to (default: a new one)")
    given = parser.parse_args()
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="sdbench-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["sdbench"]):  # some targets load their modules when they are made
        for number, content in enumerate(targets.SEEDS[given.target]):
            (corpus / f"seed-{number}").write_bytes(content)
    read, change = targets.TARGETS[given.target], targets.MUTATORS.get(given.target)

    def once(content: bytes) -> None:
        began = time.process_time()
        read(content)
        if time.process_time() - began > LIMIT_S:
            raise TooSlowError(f"{time.process_time() - began:.1f} s")

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        """Three times in four by structure, else by bytes."""
        if change is None or random.Random(seed).random() < 0.25:
            return bytes(atheris.Mutate(content, most))
        return bytes(change(content, seed)[:most])

    before_mb = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20
    bounds = [f"-rss_limit_mb={before_mb + LIMIT_MB}", f"-malloc_limit_mb={LIMIT_MB}", f"-max_len={MAX_BYTES}"]
    arguments = [sys.argv[0], f"-runs={given.inputs}", f"-seed={given.seed}", "-timeout=60", "-print_final_stats=1"]
    atheris.Setup([*arguments, *bounds, str(corpus)], once, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

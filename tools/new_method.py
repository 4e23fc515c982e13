"""Write the two files of a new method into this repository: ``sdbench new-method`` with its folders.

python tools/new_method.py my_penalty    # methods/my_penalty.py and tests/methods/test_my_penalty.py
python tools/new_method.py my_memory --kind state --directory ~/lab --tests ~/lab    # a plug-in elsewhere
criterion: a loss on one forward pass. state: a memory in a buffer. views: two passes. mix: blended images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdbench.errors import UserError
from sdbench.scaffold import KINDS, write

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the method is called on the command line")
    parser.add_argument("--kind", choices=KINDS, default="criterion")
    parser.add_argument("--directory", type=Path, default=ROOT / "methods", help="folder of the method's file")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests" / "methods", help="folder of its test")
    given = parser.parse_args(arguments)
    try:
        print(write(given.name, given.kind, given.directory, given.tests).text)
    except UserError as error:
        parser.exit(2, "".join(f"new_method: {problem}\n" for problem in error.problems))


if __name__ == "__main__":
    main()

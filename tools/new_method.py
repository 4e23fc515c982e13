"""Write the two files of a new method, which work as they are: the method, and the test of its formula.

python tools/new_method.py my_penalty    # methods/my_penalty.py and tests/methods/test_my_penalty.py
python tools/new_method.py my_memory --kind state --directory ~/lab --tests ~/lab    # a plug-in elsewhere
criterion: a loss on one forward pass. state: a memory in a buffer. views: two passes. mix: blended images.
"""

import argparse
import keyword
import os
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from string import Template

import sdbench.methods

from sdbench import registry

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "tools" / "templates"
PACKAGE = [Path(folder).resolve() for folder in sdbench.methods.__path__]


def problems(name: str, files: tuple[Path, Path]) -> list[str]:
    """All that forbids to write ``files`` for a method called ``name``: what, why and what to type next."""
    found, sound = [], bool(registry.NAME.fullmatch(name))
    if not sound:
        found.append(f"method name {name!r}: 1 to 64 of a-z, 0-9 and _, a letter first; try another, such as my_method")
    elif name == "all" or keyword.iskeyword(name):
        found.append(f"method name {name!r} means something else; give another one, such as {name}_method")
    elif name in registry.names():
        found.append(f"method name {name!r} is taken ({registry.origin(name)}); give another one, such as my_{name}")
    found += [f"{f} exists, so it is kept; give another name or move it" for f in files if sound and os.path.lexists(f)]
    closed = dict.fromkeys(f.parent for f in files if not (f.parent.is_dir() and os.access(f.parent, os.W_OK)))
    return found + [f"{at} is no folder to write to; type `mkdir -p {quote(str(at))}` or name another" for at in closed]


def contents(name: str, kind: str, method: Path, test: Path) -> tuple[str, str]:
    """The text of the method's file and that of its test."""
    one, other = ((TEMPLATES / kind / f"{part}.txt").read_text(encoding="utf-8") for part in ("method", "test"))
    function = re.findall(r"^def (\w+)", one, re.MULTILINE)[0]
    cls = "".join(word.capitalize() for word in name.split("_"))[:40]  # so that no line grows beyond 120
    cls += "Method" * bool(keyword.iskeyword(cls) or re.search(rf"\b{cls}\b", one + other))  # taken otherwise
    package = path = plugin = ""
    if method.parent.resolve() in PACKAGE:
        package = f"from sdbench.methods.{name} import (\n    {cls},\n    {function},\n)\n"
    else:
        path, file = "from pathlib import Path\n", Path(os.path.relpath(method.resolve(), test.parent.resolve()))
        plugin = f'from sdbench.registry import load_plugin\n\nFILE = Path(__file__).parent / "{file.as_posix()}"\n'
        plugin += f"plugin = load_plugin(FILE)\n{cls} = plugin.{cls}\n{function} = plugin.{function}\n"
    values = {"name": name, "cls": cls, "package_import": package, "path_import": path, "plugin_import": plugin}
    return Template(one).substitute(values), Template(other).substitute(values)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the method is called on the command line")
    parser.add_argument("--kind", choices=sorted(p.name for p in TEMPLATES.iterdir()), default="criterion")
    parser.add_argument("--directory", type=Path, default=ROOT / "methods", help="folder of the method's file")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests" / "methods", help="folder of its test")
    given = parser.parse_args(arguments)
    name = Path(given.name).name  # of a name with a slash, which is refused, the folders are still looked at
    method, test = given.directory.expanduser() / f"{name}.py", given.tests.expanduser() / f"test_{name}.py"
    if found := problems(given.name, (method, test)):
        parser.exit(2, "".join(f"new_method: {problem}\n" for problem in found))
    for file, text in zip((method, test), contents(given.name, given.kind, method, test), strict=True):
        file.write_text(text, encoding="utf-8")
    first, second = (quote(os.path.relpath(file)) for file in (method, test))
    plugin = "" if method.parent.resolve() in PACKAGE else f" --plugin {first}"
    print(f"wrote {first} and {second}, which work as they are; make them yours, and between changes type")
    print(f"    sdbench check {given.name}{plugin}\n    pytest {second}")


if __name__ == "__main__":
    main()

"""``sdbench new-method``: the two files of a new method, which work as they are: the method, and a test of its formula.

Kinds: *criterion*, a loss on one forward pass; *state*, a memory in a buffer; *views*, two passes; *mix*, blends.
"""

from __future__ import annotations

import keyword
import os
import re
from importlib import import_module
from pathlib import Path
from shlex import quote
from string import Template

from sdbench import registry
from sdbench.errors import UserError, unknown
from sdbench.paths import path_of, readable
from sdbench.spec import Record

TEMPLATES = Path(__file__).resolve().parent / "templates"
KINDS = ("criterion", "mix", "state", "views")
PACKAGE = [Path(folder).resolve() for folder in import_module("sdbench.methods").__path__]


class Scaffold(Record):
    """What was written. method, test: paths from the current folder. plugin: whether its file has to be named."""

    name: str
    method: str
    test: str
    plugin: bool

    @property
    def text(self) -> str:
        """What was written, and what to type next."""
        plugin = f" --plugin {quote(self.method)}" if self.plugin else ""
        return (
            f"wrote {quote(self.method)} and {quote(self.test)}, which work as they are; make them yours, and between "
            f"changes type\n    sdbench check {self.name}{plugin}\n    pytest {quote(self.test)}"
        )


def write(name: str, kind: str, directory: Path, tests: Path) -> Scaffold:
    """Write both files. Raises UserError with all that forbids it; nothing is written then."""
    if kind not in KINDS:
        raise UserError(f"--kind: {unknown('kind', kind, KINDS)}")
    plain = Path(name).name  # of a name with a slash, which is refused, the folders are still looked at
    method, test = path_of(directory) / f"{plain}.py", path_of(tests) / f"test_{plain}.py"
    if found := problems(name, (method, test)):
        raise UserError(found)
    for file, text in zip((method, test), contents(name, kind, method, test), strict=True):
        file.write_text(text, encoding="utf-8")
    first, second = (os.path.relpath(file) for file in (method, test))
    return Scaffold(
        name=name, method=readable(first), test=readable(second), plugin=method.parent.resolve() not in PACKAGE
    )


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

"""The part of a trial's identity that comes from source code.

A method's identity is the bytes of its own file, of neighbouring files that it imports, and of those
shared formulas and parts (functions, classes, constants) that it draws on, directly or through others:
editing one character of a method re-runs that method and no other, and a new shared formula re-runs
nothing. The trainer, the networks and the data are not hashed; the protocol's version stands for them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sdbench import registry

SHARED = ("sdbench.losses", "sdbench.parts")

EVERYTHING = "*"
"""Stands for all definitions of a module, where it is imported as a whole."""

Definition = tuple[str, str]
"""A module of ``SHARED`` and a name defined in it."""


def method_source(name: str) -> str:
    """SHA-256 of the source of a method, or of both members of ``base+mixer``."""
    total = hashlib.sha256()
    for part in name.split("+"):
        for text in sources(Path(inspect.getsourcefile(registry.get(part)) or "")):
            total.update(hashlib.sha256(text).digest())
    return total.hexdigest()


def plugin_sha256(name: str) -> str:
    """SHA-256 of the file of a method from outside, of the first such member of ``base+mixer``; empty for others."""
    for part in name.split("+"):
        if registry.origin(part) != "built in":
            return hashlib.sha256(sources(Path(inspect.getsourcefile(registry.get(part)) or ""))[0]).hexdigest()
    return ""


@cache
def sources(path: Path) -> tuple[bytes, ...]:
    """The bytes of a method's file, then of all that it draws on, in order of their names."""
    found = files(path)
    imported = [d for text in found.values() for d in _imported(ast.parse(text)).values()]
    others = sorted((name_of(file, path), text) for file, text in found.items() if file != path)
    return found[path], *(text for _, text in others), *_definitions({d for d in imported if d[0] in SHARED})


def files(path: Path) -> dict[Path, bytes]:
    """The bytes of a method's file and of the neighbouring files that it imports, directly or through others; of a
    plug-in also those of packages beside it. Asked for after it was imported."""
    found: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = file.read_bytes()
        tree = ast.parse(found[file])
        beside = {module.split(".")[0] for module, _ in _imported(tree).values() if module not in SHARED}
        neighbours = {path.parent / f"{module}.py" for module in beside}
        waiting += sorted(f for f in neighbours if f.is_file())
        if _is_plugin(path):
            waiting += _in_packages(path.parent, file, tree)
    return found


def _is_plugin(path: Path) -> bool:
    """Whether the file was loaded as a plug-in."""
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(registry.PLUGIN)]
    return any(Path(module.__file__ or "") == path for module in loaded)


def name_of(file: Path, path: Path) -> str:
    """How a file is called that the method in ``path`` imports: its path from there, with slashes."""
    return file.relative_to(path.parent).as_posix()


def _in_packages(root: Path, file: Path, tree: ast.AST) -> list[Path]:
    """The files in packages below ``root`` that a file there imports, in order of their paths."""
    found = set()
    for module in _modules(tree, file.parent.relative_to(root).parts):
        top, *inner = module.split(".")
        if not _taken_from(root, top):
            continue
        place = root / top
        for part in inner:
            found.add(place / "__init__.py")
            found.add(place / f"{part}.py")
            place /= part
        found.add(place / "__init__.py")
    return sorted(each for each in found if each.is_file())


def _modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The full names of all that a file of ``package`` imports and that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package):
            home = package[: len(package) + 1 - node.level] if node.level else ()
            start = ".".join([*home, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _taken_from(root: Path, package: str) -> bool:
    """Whether Python has the package from that folder, and it is not installed there."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    paths = getattr(sys.modules.get(package), "__path__", ())
    here = any(Path(path).resolve() == (root / package).resolve() for path in paths)
    return here and package != __package__ and root.resolve() not in installed


def _definitions(wanted: set[Definition]) -> tuple[bytes, ...]:
    """The source of shared definitions and of those that they refer to, in order of their names."""
    found: dict[Definition, bytes] = {}
    waiting = set(wanted)
    while waiting:
        module, name = waiting.pop()
        if (module, name) in found:
            continue
        contents = _contents(module)
        if name == EVERYTHING:
            waiting |= {(module, each) for each in contents.texts}
        elif name in contents.texts:
            found[module, name] = contents.texts[name]
            waiting |= contents.uses[name]
        elif contents.imported.get(name, ("",))[0] in SHARED:
            waiting.add(contents.imported[name])
    return tuple(found[key] for key in sorted(found))


@dataclass(frozen=True)
class _Contents:
    """What a module defines at its top level. texts: source by name. uses: the shared definitions that each name
    refers to. imported: where every other name comes from."""

    texts: dict[str, bytes]
    uses: dict[str, set[Definition]]
    imported: dict[str, Definition]


@cache
def _contents(module: str) -> _Contents:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_bytes()
    tree, lines = ast.parse(text), text.splitlines(keepends=True)
    imported = _imported(tree)
    nodes = {name: node for node in tree.body for name in _names(node)}
    texts, uses = {}, {}
    for name, node in nodes.items():
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        texts[name] = b"".join(lines[first - 1 : node.end_lineno])
        referred = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        uses[name] = {(module, each) for each in referred & nodes.keys()}
        uses[name] |= {imported[each] for each in referred & imported.keys() if imported[each][0] in SHARED}
    return _Contents(texts, uses, imported)


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement at the top level of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def _imported(tree: ast.AST) -> dict[str, Definition]:
    """(module, name in it) by the name under which a file knows it; whole modules have the name ``EVERYTHING``."""
    found: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname or alias.name: (alias.name, EVERYTHING) for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                source = (whole, EVERYTHING) if whole in SHARED else (node.module, alias.name)
                found[alias.asname or alias.name] = source
    return found

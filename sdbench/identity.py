"""The part of a trial's identity that comes from source code.

A method's identity is the bytes of its own file and of the shared formulas and neighbours that the
file imports: editing one character re-runs that method and no other. The trainer, the networks and
the data are not hashed; the protocol's version stands for them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sdbench import registry

SHARED = ("sdbench.losses", "sdbench.parts")


def method_source(name: str) -> str:
    """SHA-256 of the source of a method, or of both members of ``base+mixer``."""
    total = hashlib.sha256()
    for part in name.split("+"):
        for text in sources(Path(inspect.getsourcefile(registry.get(part)) or "")):
            total.update(hashlib.sha256(text).digest())
    return total.hexdigest()


@cache
def sources(path: Path) -> tuple[bytes, ...]:
    """The bytes of a method's file, then of every file that it draws on, in order of their names."""
    found: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = file.read_bytes()
        waiting += _drawn_on(file, found[file])
    others = sorted((file.name, text) for file, text in found.items() if file != path)
    return found[path], *(text for _, text in others)


def _drawn_on(file: Path, text: bytes) -> list[Path]:
    """Files of shared formulas, and of modules beside the file, that its imports name."""
    files = []
    for module in _imported(ast.parse(text)):
        if module in SHARED:
            spec = find_spec(module)
            if spec is not None and spec.origin:
                files.append(Path(spec.origin))
        else:
            neighbour = file.parent / f"{module.split('.')[0]}.py"
            if neighbour.is_file():
                files.append(neighbour)
    return files


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names

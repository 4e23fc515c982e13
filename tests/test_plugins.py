"""Methods from outside: plug-in files and installed packages, sound and broken."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdbench import Batch, Method, Output, Terms, get, names, register, registry
from sdbench.errors import UserError
from sdbench.identity import plugin_sha256
from sdbench.outcomes import provenance
from sdbench.spec import Options

HEADER = "from sdbench import *\nfrom typing import *\nimport torch\n"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    registry.load_builtin()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(registry, "_ORIGIN", dict(registry._ORIGIN))
    yield
    for name in [n for n in sys.modules if n.startswith(("sdbench_plugin_", "toy_neighbour"))]:
        del sys.modules[name]


class Plain(Method):
    """Does what a method must and no more."""

    def criterion(self, output: Output, batch: Batch, progress: Any) -> Terms:
        return {"sum": output.logits.sum()}


def plugin(folder: Path, code: str, name: str = "toy_plugin.py") -> Path:
    path = folder / name
    path.write_text(HEADER + code)
    return path


def method_code(name: str, body: str = "") -> str:
    lines = body or "    def criterion(self, output, batch, progress): return {'x': output.logits.sum()}"
    return f"@register({name!r})\nclass M(Method):\n{lines}\n"


def problems(error: pytest.ExceptionInfo[UserError]) -> str:
    return "\n".join(error.value.problems)


def test_a_plug_in_is_loaded_once_and_its_origin_is_known(tmp_path: Path) -> None:
    path = plugin(tmp_path, method_code("toy_a"))
    module = registry.load_plugin(path)
    assert registry.load_plugin(str(path)) is module
    assert get("toy_a") is module.M
    assert registry.origin("toy_a") == "plug-in toy_plugin.py"
    assert registry.origin("ce") == "built in"


def test_two_plug_ins_of_one_file_name_are_two(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        registry.load_plugin(plugin(tmp_path / folder, method_code(f"toy_{folder}")))
    assert {"toy_one", "toy_two"} <= set(names())


def test_a_plug_in_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "toy_neighbour.py").write_text("NAME = 'toy_from_neighbour'\n")
    code = "from toy_neighbour import NAME\n" + method_code("NAME").replace("'NAME'", "NAME")
    before = list(sys.path)
    registry.load_plugin(plugin(tmp_path, code))
    assert "toy_from_neighbour" in names()
    assert sys.path == before


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import toy_module_that_is_nowhere\n", "does not import: ModuleNotFoundError"),
        ("1 / 0\n", "does not import: ZeroDivisionError"),
        ("def broken(:\n", "does not import: SyntaxError"),
        ("raise SystemExit(1)\n", "does not import: SystemExit"),
        (method_code("ce"), "'ce' is taken"),
        (method_code("Toy"), "use lower-case letters"),
    ],
)
def test_a_plug_in_that_does_not_import_leaves_nothing_behind(tmp_path: Path, code: str, words: str) -> None:
    before = names()
    path = plugin(tmp_path, method_code("toy_half") + code)
    for _ in range(2):  # a second try must fail like the first, not find a half-loaded module
        with pytest.raises(UserError, match=words) as error:
            registry.load_plugin(path)
        assert "toy_plugin.py" in problems(error)
        assert names() == before


def test_a_plug_in_that_registers_nothing_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="registers no method; decorate its class with @register"):
        registry.load_plugin(plugin(tmp_path, "x = 1\n"))


def test_a_missing_or_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.py: no such file"):
        registry.load_plugin(tmp_path / "nowhere.py")
    (tmp_path / "method.txt").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"not a Python file; it must end in \.py"):
        registry.load_plugin(tmp_path / "method.txt")


class Point:
    """Stands for an entry point of an installed package."""

    def __init__(self, loader: Any) -> None:
        self.name, self.value, self.load = "methods", "package.module", loader
        self.dist = types.SimpleNamespace(name="toy-package")


def with_entry_point(monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    monkeypatch.setattr(registry, "_builtin_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(loader)] if group == "sdbench.methods" else [])


def test_an_installed_package_offers_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_point(monkeypatch, lambda: register("toy_installed")(Plain))
    assert "toy_installed" in names()
    assert registry.origin("toy_installed") == "entry point of toy-package"


def test_an_installed_package_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_point(monkeypatch, lambda: 1 / 0)
    with pytest.raises(UserError, match=r"toy-package offers .*'package\.module', which does not import: ZeroDivision"):
        names()


def test_a_built_in_method_that_is_imported_by_itself_is_still_built_in() -> None:
    code = "import sdbench.methods.zipf; from sdbench import registry; print(registry.origin('zipf'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "built in"


def test_the_hash_of_a_plug_ins_file_is_kept(tmp_path: Path) -> None:
    path = plugin(tmp_path, method_code("toy_hashed"))
    registry.load_plugin(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert plugin_sha256("toy_hashed") == expected
    assert plugin_sha256("ce") == ""
    assert provenance(Options(), None, "", "toy_hashed").plugin_sha256 == expected
    assert provenance(Options(), None, "").plugin_sha256 == ""

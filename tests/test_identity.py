"""What a method's identity is made of: its own file, its neighbours, and the shared definitions that it draws on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdbench import identity

SHARED = """
import math

LIMIT = 3.0


def base(x):
    return min(x, LIMIT)


def middle(x):
    return base(x) + 1


def apart(x):
    return math.exp(x)


@staticmethod
def decorated(x):
    return x
"""
PARTS = """
from formulas_under_test import middle


class Part:
    def go(self, x):
        return middle(x)


class Child(Part):
    pass
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bytes, ...]]:
    """The sources of a method with the given text, where the shared modules have the given texts."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(identity, "SHARED", ("formulas_under_test", "parts_under_test"))

    def read(method: str, shared: str = SHARED, parts: str = PARTS, **neighbours: str) -> tuple[bytes, ...]:
        texts = {"formulas_under_test": shared, "parts_under_test": parts, **neighbours}
        for name, text in {**texts, "a_method": method}.items():
            (tmp_path / f"{name}.py").write_text(text)
        identity.sources.cache_clear()
        identity._contents.cache_clear()
        return identity.sources(tmp_path / "a_method.py")

    yield read
    identity.sources.cache_clear()
    identity._contents.cache_clear()


def test_only_what_is_drawn_on_counts(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "from formulas_under_test import middle\n"
    before = sources(method)
    assert sources(method, SHARED.replace("math.exp", "math.sqrt")) == before
    assert sources(method, SHARED + "\n\ndef added(x):\n    return middle(x)\n") == before
    assert sources(method, SHARED.replace("+ 1", "+ 2")) != before


def test_what_a_shared_formula_draws_on_counts(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "from formulas_under_test import middle\n"
    before = sources(method)
    assert sources(method, SHARED.replace("min(x", "max(x")) != before
    assert sources(method, SHARED.replace("LIMIT = 3.0", "LIMIT = 4.0")) != before


def test_through_a_base_class_and_another_module(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "from parts_under_test import Child\n"
    before = sources(method)
    assert sources(method, parts=PARTS.replace("middle(x)\n\n", "-middle(x)\n\n")) != before
    assert sources(method, SHARED.replace("min(x", "max(x")) != before
    assert sources(method, SHARED.replace("math.exp", "math.sqrt")) == before


def test_a_name_passed_on_by_another_shared_module(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "from parts_under_test import middle\n"
    assert sources(method) != sources(method, SHARED.replace("min(x", "max(x"))


@pytest.mark.parametrize("line", ["import formulas_under_test", "import formulas_under_test as formulas"])
def test_a_module_imported_whole_counts_whole(sources: Callable[..., tuple[bytes, ...]], line: str) -> None:
    assert sources(line) != sources(line, SHARED.replace("math.exp", "math.sqrt"))


def test_decorators_count(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "from formulas_under_test import decorated\n"
    assert sources(method) != sources(method, SHARED.replace("@staticmethod", "@classmethod"))


def test_the_file_and_its_neighbours_count(sources: Callable[..., tuple[bytes, ...]]) -> None:
    method = "import beside\n"
    before = sources(method, beside="x = 1\n")
    assert sources(method + "#\n", beside="x = 1\n") != before
    assert sources(method, beside="x = 2\n") != before
    assert sources(method, beside="x = 1\n", unrelated="y = 1\n") == before


def test_the_methods_here_draw_on_the_shared_formulas() -> None:
    root = Path(identity.__file__).parent.parent
    temporal = b"\n".join(identity.sources(root / "methods" / "temporal_ensembling.py"))
    assert b"def ramp_up" in temporal
    assert b"def full_precision" in temporal
    assert b"def focal_mean" not in temporal
    assert b"class Branch" in b"\n".join(identity.sources(root / "methods" / "dks.py"))

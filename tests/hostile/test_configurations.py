"""What is typed or configured: read as text, within bounds, and answered with every mistake."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdbench import data, timm_models
from sdbench.bounded import parse_toml
from sdbench.errors import UserError
from sdbench.plan import make_plan
from sdbench.published import published_numbers
from sdbench.registry import register
from sdbench.request import Request, read_config
from sdbench.selectors import parse_duration, parse_seeds, parse_variant, select, split_list
from sdbench.spec import Growing
from sdbench.zoo import choose

from .conftest import HOSTILE_TEXTS, ODD_FILES, tree

Sdbench = Callable[..., tuple[int, str, str]]

TOML = {
    "deep arrays": "a = " + "[" * 20_000,
    "deep tables": "a = " + "{a=" * 10_000,
    "digits": "epochs = " + "9" * 5000,
    "hexadecimal": "epochs = 0x" + "f" * 1500,
    "binary": "epochs = 0b" + "1" * 1900,
    "long line": "methods = '" + "x" * 5000 + "'",
    "dotted key": "a." * 20_000 + "a = 1",
    "large": "# x\n" * 50_000,
    "not UTF-8": b"methods = '\xff'",
    "null": 'data-dir = "a\\u0000b"',
    "null in a list": 'methods = ["a\\u0000b"]',
    "escape": "results = '''a\\u001bb'''\nseeds = \"a\\u001bb\"",
    "class": "__class__ = 'os.system'",
    "private": "model_config = 'x'\nmodel_fields = 'x'\n__init__ = 'x'",
    "import": "methods = '!!python/object/apply:os.system [touch owned]'",
    "target": "_target_ = 'os.system'\n_args_ = ['touch owned']",
    "table": "[methods]\n_import_ = 'os.system'",
    "half a date": "seeds = 2020-99-99",
    "infinite": "lr = inf",
    "no number": "lr = nan",
    "10,001 values": "methods = [" + "'ce',\n" * 10_001 + "]",
}


@pytest.mark.parametrize("name", TOML)
def test_a_hostile_configuration_is_an_error_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sdbench: Sdbench
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TOML[name]
    (tmp_path / "sdbench.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = tree(tmp_path)
    code, out, err = sdbench("run", "--config", "sdbench.toml", "--dry-run", "--results", tmp_path / "results")
    assert code == 2
    assert err.startswith("error: ")
    assert out == ""
    assert len(err) < 5000
    assert all(c.isprintable() or c == "\n" for c in err)
    assert {k: v for k, v in tree(tmp_path).items() if "results" not in k} == before


@pytest.mark.parametrize("kind", ODD_FILES)
def test_a_configuration_is_a_plain_file(tmp_path: Path, kind: str, odd_file: Any) -> None:
    odd_file(tmp_path / "c.toml", kind)
    with pytest.raises(UserError, match="--config"):
        read_config(tmp_path / "c.toml")
    with pytest.raises(UserError, match=r"c\.toml"):
        published_numbers(tmp_path / "c.toml")


@pytest.mark.parametrize("text", ["a." * 900 + "a = 1\n" + "".join(f"b{i}.c = 1\n" for i in range(3000))])
def test_dotted_keys_take_no_time(text: str) -> None:
    began = time.process_time()
    parse_toml(text.encode())
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    "text", ["0-99999999999", "0-4294967295", "5000-15000", "9" * 10_000, "1-", "-1", "3-1", "0x10", "1e9"]
)
def test_ranges_of_seeds_are_bounded(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        parse_seeds([text])


def test_many_ranges_are_bounded_together() -> None:
    with pytest.raises(UserError, match="more than 10000"):
        parse_seeds([f"{i * 9000}-{i * 9000 + 8999}" for i in range(10_000)])


@pytest.mark.parametrize(
    "text", ["9" * 400, "9" * 400 + "h", "0", "1e9", "-1", "nan", "inf", "1" + "0" * 9, "", "1 year"]
)
def test_durations_are_bounded(text: str) -> None:
    with pytest.raises(UserError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", [*HOSTILE_TEXTS, "[" * 10**6, "a[" + "b=1," * 10**5 + "]", "+" * 10**6, "a[b=[c=1]]", "^" * 5000]
)
def test_selectors_refuse_anything_in_words(text: str) -> None:
    for item in split_list([text]):
        for read in (parse_variant, lambda i: select("method", [i], ["ce", "zipf"])):
            with contextlib.suppress(UserError):
                read(item)


@pytest.mark.parametrize("pattern", ["*" * 200, "*a" * 100, "?*" * 100, "[!a" * 60])
def test_globs_do_not_run_away(pattern: str) -> None:
    began = time.process_time()
    with contextlib.suppress(UserError):
        select("method", [pattern], ["a" * 60 + "b"] * 40)
    assert time.process_time() - began < 30


def test_a_run_of_millions_of_trials_is_refused_before_they_are_made(tmp_path: Path) -> None:
    request = Request(methods=("all",), model=("resnet*",), seeds=("0-9999",), results=str(tmp_path / "results"))
    with pytest.raises(UserError, match="more than 100000 trials"):
        make_plan(request)


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_values_are_not_what_they_should_not_be(name: str, tmp_path: Path) -> None:
    for field in ("results", "data_dir", "methods"):
        text = name.strip() if field == "methods" else name
        if len(text) > 4096 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
            with pytest.raises(UserError):
                Request.gather({field: name}, None, {})
        else:
            Request.gather({field: name}, None, {})


@pytest.mark.parametrize(
    "name", [*HOSTILE_TEXTS, "folder:", "folder:\0", "folder:" + "x" * 5000, "folder:/dev/zero", "os.system:x"]
)
def test_names_of_data_sets_are_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        data.inspect(name, tmp_path)


@pytest.mark.parametrize("name", [*HOSTILE_TEXTS, "Ce", "ce.x", "_x", "9a", ""])
def test_names_of_methods_are_names(name: str) -> None:
    from sdbench import Method

    with pytest.raises(UserError):
        register(name)(type("Bad", (Method,), {"criterion": lambda self, output, batch, progress: {}}))


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:owner/owned",
        "hf_hub:owner/owned",
        "local-dir:/tmp/owned",
        "../owned",
        "resnet18.tv_in1k",
        "os.system",
        "x" * 5000,
    ],
)
def test_names_of_timms_networks_reach_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a name that timm lists is handed to it."""
    pytest.importorskip("timm")
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(UserError):
        choose([f"timm:{name}"])
    with pytest.raises(UserError):
        timm_models.create(f"timm:{name}", 10, 32)


def test_records_take_no_fields_that_are_not_theirs() -> None:
    with pytest.raises(ValueError, match="__class__"):
        Growing.model_validate({"__class__": {"__init__": "os.system"}})

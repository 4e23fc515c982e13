"""Licences of the authors' code: every registered repository has one, in SPDX's words, and the card shows it."""

import json
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression
from typer.testing import CliRunner

from sdbench import registry
from sdbench.cards import method_card, text
from sdbench.cli import app
from sdbench.errors import UserError
from sdbench.licences import MAX_BYTES, known_licences, licence_of

SPDX = {"Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0", "LicenseRef-Xnor-NonCommercial", "MIT"}
NO_LICENCE = {"none stated", "unknown"}

# Typed from the first lines of the licence files.
READ = {
    "zipf": "Apache-2.0",
    "pskd": "MIT",
    "cskd": "none stated",
    "byot": "none stated",
    "mean_teacher": "CC-BY-NC-4.0",
    "temporal_ensembling": "BSD-3-Clause",
    "ce": "",
}

PLUGIN = '''
"""A plug-in."""
from sdbench import Method, register


@register("of_elsewhere", official="somebody/something@1234567")
class OfElsewhere(Method):
    """Cross-entropy by another name."""

    def criterion(self, output, batch, progress):
        return {"ce": output.logits.logsumexp(1).mean()}
'''


def test_every_official_repository_has_a_licence_and_no_other_repository() -> None:
    built_in = [registry.get(name) for name in registry.names() if registry.origin(name) == "built in"]
    assert set(known_licences()) == {cls.official for cls in built_in if cls.official}


def test_licences_are_spdx_identifiers_or_say_that_there_is_none() -> None:
    assert set(known_licences().values()) <= SPDX | NO_LICENCE
    assert all(canonicalize_license_expression(name) == name for name in SPDX)


@pytest.mark.parametrize("name", READ)
def test_the_licence_that_was_read(name: str) -> None:
    assert licence_of(registry.get(name).official) == READ[name]


def test_the_card_names_it() -> None:
    shown = CliRunner().invoke(app, ["describe", "zipf"]).stdout
    assert "\nofficial: megvii-research/zipfls@108e27a (licence Apache-2.0)\n" in shown
    assert "\nofficial: alinlab/cs-kd@b447f25 (licence none stated)\n" in text(method_card("cskd"))
    assert json.loads(CliRunner().invoke(app, ["describe", "zipf", "--json"]).stdout)["licence"] == "Apache-2.0"
    rows = json.loads(CliRunner().invoke(app, ["list", "methods", "--json"]).stdout)
    assert {row["name"]: row["licence"] for row in rows if row["name"] in READ} == READ


def test_a_plug_in_needs_none(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    try:
        shown = CliRunner().invoke(app, ["describe", "of_elsewhere", "--plugin", str(plugin)]).stdout
        assert "\nofficial: somebody/something@1234567\n" in shown
        assert method_card("of_elsewhere").licence == ""
    finally:
        registry._METHODS.pop("of_elsewhere", None)


@pytest.mark.parametrize(
    "content",
    [
        b'[licences]\n"a/b@c" = "MIT',
        b'[licences]\n"a/b@c" = "\xff"',
        b'[licences]\n"a/b@c" = 3',
        b'[licences]\n"a/b@c" = "MIT or so"',
        b'[licences]\n"a/b" = "MIT"',
        b'[licenses]\n"a/b@c" = "MIT"',
        b"[licences]\n" + b"#\n" * MAX_BYTES,
    ],
    ids=["TOML", "UTF-8", "number", "words", "no commit", "other table", "size"],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "licences.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"licences\.toml: not the licences"):
        known_licences(file)


def test_a_file_within_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "licences.toml"
    file.write_text('[licences]\n"a/b@c0ffee" = "GPL-3.0-or-later"\n"a/d.e@1" = "unknown"\n')
    assert known_licences(file) == {"a/b@c0ffee": "GPL-3.0-or-later", "a/d.e@1": "unknown"}

"""What a user may type to name methods, networks and seeds."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbench.errors import UserError
from sdbench.selectors import parse_duration, parse_seeds, parse_variant, select, split_list

KNOWN = ["byot", "ce", "cskd", "ls", "pskd", "zipf"]


def test_lists_globs_and_exclusions() -> None:
    assert select("method", ["zipf", "ce", "zipf"], KNOWN) == ["zipf", "ce"]
    assert select("method", ["*skd"], KNOWN) == ["cskd", "pskd"]
    assert select("method", ["all", "^*s*"], KNOWN) == ["byot", "ce", "zipf"]


def test_all_unknown_names_are_reported_together() -> None:
    with pytest.raises(UserError) as caught:
        select("method", ["zpf", "ce", "pskdd", "x*"], KNOWN)
    first, second, third = caught.value.problems
    assert "did you mean 'zipf'" in first
    assert "Known: byot, ce" in first
    assert "did you mean 'pskd'" in second
    assert "no method matches 'x*'" in third


def test_commas_inside_brackets_do_not_separate() -> None:
    assert split_list(["a[x=1,y=2], b", " c "]) == ["a[x=1,y=2]", "b", "c"]


@pytest.mark.parametrize(
    "text", ["zipf[weight]", "zipf[weight=]", "zipf[=1]", "zipf[a=1", "zipf]a[", "", "zipf[a=1,a=2]"]
)
def test_malformed_variants(text: str) -> None:
    with pytest.raises(UserError):
        parse_variant(text)


def test_seeds() -> None:
    assert parse_seeds(["0-4"]) == (0, 1, 2, 3, 4)
    assert parse_seeds(["11", "0", "7", "0"]) == (0, 7, 11)
    for bad in ("4-0", "-1", "1.5", "a", "0-99999", "4294967296"):
        with pytest.raises(UserError):
            parse_seeds([bad])


@given(st.text(max_size=40))
def test_no_text_breaks_the_readers(text: str) -> None:
    """Whatever is typed is read or refused with words."""
    for read in (
        lambda: split_list([text]),
        lambda: parse_variant(text),
        lambda: parse_seeds([text]),
        lambda: parse_duration(text),
        lambda: select("method", [text], KNOWN),
    ):
        with contextlib.suppress(UserError):
            read()

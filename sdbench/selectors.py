"""Selectors of the command line: lists, globs, exclusions, ``name[param=value]``, seed ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from sdbench.errors import LONGEST_NAME, UserError, unknown

MAX_SEEDS = 10_000
LONGEST_S = 366 * 24 * 3600.0


def split_list(values: Iterable[str]) -> list[str]:
    """Items of repeated, comma-separated options; a comma within [...] does not separate.

    >>> split_list(["zipf[weight=0.2,power=1],ls", "ce"])
    ['zipf[weight=0.2,power=1]', 'ls', 'ce']
    """
    items: list[str] = []
    for value in values:
        depth, start = 0, 0
        for mark in re.finditer(r"[\[\],]", value):
            depth += (mark[0] == "[") - (mark[0] == "]")
            if mark[0] == "," and depth <= 0:
                items.append(value[start : mark.start()])
                start = mark.end()
        items.append(value[start:])
    return [item.strip() for item in items if item.strip()]


def parse_variant(text: str) -> list[tuple[str, dict[str, str]]]:
    """``base[param=value]+mixer[...]`` as (name, texts of its parameters) per member.

    >>> parse_variant("zipf[weight=0.2]+cutmix")
    [('zipf', {'weight': '0.2'}), ('cutmix', {})]
    """
    members = []
    for part in text.split("+"):
        match = re.fullmatch(r"([^\[\]=,]+)(?:\[([^\[\]]*)\])?", part.strip())
        if match is None:
            raise UserError(f"cannot read {text!r}; write name or name[param=value,...]")
        given: dict[str, str] = {}
        for assignment in filter(None, (match[2] or "").split(",")):
            key, equals, value = (piece.strip() for piece in assignment.partition("="))
            if not (key and equals and value):
                raise UserError(f"cannot read {assignment!r} in {text!r}; write param=value")
            if key in given:
                raise UserError(f"parameter {key!r} is given twice in {text!r}; keep one")
            given[key] = value
        members.append((match[1], given))
    return members


def select(kind: str, items: Sequence[str], known: Sequence[str]) -> list[str]:
    """Plain names, globs, ``all`` and ``^name`` against the known names, in the order given.

    >>> select("method", ["all", "^b*"], ["byot", "ce", "zipf"])
    ['ce', 'zipf']
    """
    chosen: list[str] = []
    problems: list[str] = []
    for item in items:
        pattern = item.removeprefix("^")
        if len(item) > LONGEST_NAME:
            raise UserError(f"{kind} {item[:40]!r}...: longer than {LONGEST_NAME} characters")
        if item == "all":
            matches = list(known)
        elif any(c in pattern for c in "*?"):
            matches = [name for name in known if fnmatchcase(name, pattern)]
            if not matches:
                problems.append(f"no {kind} matches {pattern!r}. Known: {', '.join(known)}")
        elif pattern in known:
            matches = [pattern]
        else:
            matches = []
            problems.append(unknown(kind, pattern, known))
        if item.startswith("^"):
            chosen = [name for name in chosen if name not in matches]
        else:
            chosen += [name for name in matches if name not in chosen]
    if problems:
        raise UserError(problems)
    return chosen


def parse_seeds(items: Sequence[str]) -> tuple[int, ...]:
    """Seeds from ``3``, ``0,7,11`` and ``0-4``, sorted, each once.

    >>> parse_seeds(["0-2", "7"])
    (0, 1, 2, 7)
    """
    seeds: set[int] = set()
    for item in items:
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", item)
        if match is None:
            raise UserError(f"seeds {item!r}: expected a number, a list such as 0,7 or a range such as 0-4")
        low = int(match[1])
        high = int(match[2] or low)
        if high < low or high >= 2**32:
            raise UserError(f"seeds {item!r}: a range goes from low to high, below {2**32}")
        if high - low + len(seeds) >= MAX_SEEDS:
            raise UserError(f"seeds {item!r}: more than {MAX_SEEDS} seeds")
        seeds.update(range(low, high + 1))
    return tuple(sorted(seeds))


def parse_duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``15m`` or ``6h``.

    >>> parse_duration("1.5h")
    5400.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise UserError(
            f"duration {text[:60]!r}: expected seconds, or a number with s, m or h, above 0 and at most a year"
        )
    return seconds

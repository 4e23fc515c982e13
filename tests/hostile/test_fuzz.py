"""A moment of what ``tools/fuzz.py`` does at length, the same inputs each time."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import targets

BRIEF = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SLOW = ("checkpoint", "validation", "board")


@pytest.mark.parametrize("name", targets.TARGETS)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
@BRIEF
def test_any_bytes(name: str, content: bytes) -> None:
    targets.TARGETS[name](content)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_sound_inputs_changed_a_little(name: str) -> None:
    """Bytes flipped, dropped, doubled; or changed by structure, where the target has a way to."""
    chance = random.Random(name)
    for content in targets.SEEDS[name]:
        targets.TARGETS[name](content)
    for number in range(20 if name in SLOW else 100):
        content = chance.choice(targets.SEEDS[name])
        if name in targets.MUTATORS and number % 4:
            content = targets.MUTATORS[name](content, number)
        else:
            at, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
            middle = chance.choice([b"", content[at:end] * 2, chance.randbytes(end - at), b"9" * 50, b"\xff"])
            content = content[:at] + middle + content[end:]
        targets.TARGETS[name](content)


@pytest.mark.parametrize("name", ["trial", "profile"])
def test_most_changed_records_get_past_their_seal(name: str) -> None:
    """The mutator is worth something: its records are often read, not only refused."""
    from sdbench.cost.records import ProfileResult
    from sdbench.spec import TrialResult
    from sdbench.store import DamagedRecord, read_sealed

    kind = TrialResult if name == "trial" else ProfileResult
    sound = 0
    for number in range(200):
        path = targets._file(targets.MUTATORS[name](targets.SEEDS[name][0], number), f"{name}.json")
        try:
            read_sealed(path, kind, 1)
            sound += 1
        except DamagedRecord:
            continue
    assert sound > 10

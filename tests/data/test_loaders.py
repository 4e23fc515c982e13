"""How many processes decode where nobody said."""

from __future__ import annotations

import pytest

from sdbench import environment
from sdbench.data import loaders
from sdbench.data.loaders import spare_workers


@pytest.mark.parametrize(
    ("on_gpu", "cpus_per_trial", "threads", "packed", "cpus", "gpus", "expected"),
    [
        (False, 1, 1, False, 64, 0, 0),  # a trial on one processor, which trains
        (False, 4, 1, False, 64, 0, 3),
        (False, 4, 4, False, 64, 0, 0),
        (True, 1, 1, False, 64, 8, 7),  # an eighth of the machine, less the one that trains
        (True, 1, 1, True, 64, 8, 3),
        (True, 1, 1, False, 16, 1, 15),
        (True, 1, 1, False, 128, 1, 16),  # the most
        (True, 1, 1, False, 2, 2, 1),  # the least
        (True, 1, 1, False, 16, 0, 15),  # a driver that does not tell
        (True, 12, 1, False, 64, 8, 11),
        (True, 64, 1, False, 64, 8, 16),
    ],
)
def test_spare_workers(
    on_gpu: bool,
    cpus_per_trial: int,
    threads: int,
    packed: bool,
    cpus: int,
    gpus: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "cpu_count", lambda: cpus)
    monkeypatch.setattr(loaders, "_gpus", lambda: gpus)
    found = spare_workers(on_gpu=on_gpu, cpus_per_trial=cpus_per_trial, threads=threads, packed=packed)
    assert found == expected

"""What records keep of a command line, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbench import api
from sdbench.public_command import public_command, public_path

SECRETS = ("alice", "login01", "example", "6379", "secret")


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("run --address login01.example.org:6379 --epochs 3", "run --address given --epochs 3"),
        ("run --address=ray://login01.example.org:10001", "run --address=given"),
        ("run --address auto", "run --address given"),
        ("run --results=/home/alice/x", "run --results=x"),
        ("run --results /home/alice/x -q", "run --results x -q"),
        ("run -o /home/alice/x", "run -o x"),
        ("run -o/home/alice/x", "run -ox"),
        ("run -C/home/alice/mine.toml -n", "run -Cmine.toml -n"),
        ("run --dataset cifar100,folder:/secret/birds", "run --dataset cifar100,folder:birds"),
        ("run --dataset=folder:/secret/birds,glyphs", "run --dataset=folder:birds,glyphs"),
        ("run -d folder:/secret/birds/", "run -d folder:birds"),
        ("run --plugin /home/alice/a.py,/secret/b.py", "run --plugin a.py,b.py"),
        ("run --data-dir /home/alice", "run --data-dir given"),
        ("run --data-dir=/Users/alice/", "run --data-dir=given"),
        ("run --data-dir ~alice", "run --data-dir given"),
        ("run --data-dir ~alice/data", "run --data-dir data"),
        ("run --data-dir /", "run --data-dir given"),
        ("run --data-dir ..", "run --data-dir .."),
        ("run -o .", "run -o ."),
        ("run --methods ls[smoothing=0.2,spread=all],mine[file=/home/alice/t.npz]+cutmix -s 0-4",
         "run --methods ls[smoothing=0.2,spread=all],mine[file=t.npz]+cutmix -s 0-4"),
        ("profile --sweep classes=10,100 --methods ce", "profile --sweep classes=10,100 --methods ce"),
        ("run -qn --lr 0.1 -2", "run -qn --lr 0.1 -2"),
    ],
)  # fmt: skip
def test_neither_machine_nor_user_and_still_a_command(typed: str, kept: str) -> None:
    found = public_command(typed.split())
    assert " ".join(found) == kept
    assert not any(secret in word for secret in SECRETS for word in found)


def test_a_folder_called_as_the_user_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdbench.public_command._user", lambda: "alice")
    monkeypatch.setenv("HOME", "/net/people/bob")
    assert public_path("/scratch/alice") == "given"
    assert public_path("/net/people/alice-2") == "given"
    assert public_path("/net/people/bob") == "given"
    assert public_path("/scratch/alice/data") == "data"
    assert public_command(["run", "--results", "alice"]) == ("run", "--results", "given")


def test_plans_carry_it(tmp_path: Path) -> None:
    home = tmp_path / "alice" / "results"
    plan = api.plan(methods="ls", results=home, address="login01.example.org:6379", data_dir="/home/alice", seeds="0")
    words = plan.options.command
    kept = dict(zip(words[1::2], words[2::2], strict=True))
    assert kept["--results"] == "results"
    assert kept["--address"] == kept["--data-dir"] == "given"
    assert not any(secret in word for secret in SECRETS for word in words)

"""What is fuzzed: readers of files and of typed text, each with the errors that it documents and no others.

``TARGETS[name](content)`` hands the bytes to one reader. ``SEEDS[name]`` are sound inputs, ``MUTATORS[name]``
changes one where random bytes would not get past the first check.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import random
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdbench.bounded import read_plain
from sdbench.cost.records import PROFILE_SCHEMA_VERSION, ProfileResult
from sdbench.errors import UserError
from sdbench.kept_logits import UnusableLogits, read_logits
from sdbench.leaderboard import build_board
from sdbench.leaderboard_formats import SUFFIXES, render
from sdbench.published import published_numbers
from sdbench.report.curves import read_thinned
from sdbench.report.reliability import reliability
from sdbench.request import Request, read_config
from sdbench.selectors import parse_duration, parse_seeds, parse_variant, select, split_list
from sdbench.spec import SCHEMA_VERSION, TrialResult
from sdbench.store import DamagedRecord, read_curve, read_sealed, seal
from sdbench.terminal import visible
from sdbench.validation import validate
from sdbench.validation_files import Unsound, curve_lines, tensors

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(tempfile.mkdtemp(prefix="sdbench-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)


def _file(content: bytes, name: str) -> Path:
    path = PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _quiet(*documented: type[Exception]) -> Callable[[Callable[[bytes], object]], Callable[[bytes], None]]:
    def decorate(reader: Callable[[bytes], object]) -> Callable[[bytes], None]:
        @functools.wraps(reader)
        def target(content: bytes) -> None:
            try:
                reader(content)
            except documented:
                return

        return target

    return decorate


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


@_quiet(DamagedRecord)
def trial(content: bytes) -> object:
    return read_sealed(_file(content, "trial.json"), TrialResult, SCHEMA_VERSION)


@_quiet(DamagedRecord)
def profile(content: bytes) -> object:
    return read_sealed(_file(content, "profile.json"), ProfileResult, PROFILE_SCHEMA_VERSION)


@_quiet(DamagedRecord)
def board(content: bytes) -> None:
    """A record that can be read is shown in every format, as printable characters."""
    record = read_sealed(_file(content, "trial.json"), TrialResult, SCHEMA_VERSION)
    for name in SUFFIXES:
        text = visible(render(build_board([record, *_sound()]), name))
        assert all(c.isprintable() or c in "\n\t" for c in text), name


@functools.cache
def _sound() -> tuple[TrialResult, ...]:
    paths = sorted((ROOT / "tests" / "records").glob("**/trial.json"))
    return tuple(read_sealed(path, TrialResult, SCHEMA_VERSION) for path in paths)


def validation(content: bytes) -> None:
    """No input is an error of the check itself."""
    path = _file(content, "store/trials/glyphs/resnet8/ce/a3cdf38503d99309/trial.json")
    path.with_name("curve.jsonl").write_bytes(content[:1000])
    validate([str(PLACE / "store")]).text.encode()


@_quiet(Unsound)
def curve(content: bytes) -> None:
    path = _file(content, "curve.jsonl")
    for line in read_curve(path):
        json.dumps(line, allow_nan=False)
    read_thinned(path, 50)
    for line in curve_lines(path):
        assert isinstance(line, dict)


@_quiet(Unsound, UnusableLogits, ValueError)
def logits(content: bytes) -> None:
    path = _file(content, "logits.safetensors")
    try:
        reliability(*read_logits(path))
    except (UnusableLogits, ValueError):
        tensors(path)


def checkpoint(content: bytes) -> None:
    """Every file is read or refused with a warning; what is read is plain."""
    import warnings

    from sdbench import checkpoint as module

    path = _file(content, "checkpoint/epoch-000001.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.load(path.parent)


@_quiet(UserError)
def config(content: bytes) -> None:
    path = _file(content, "sdbench.toml")
    assert len(read_plain(path, 2**30)) == len(content)
    flags = read_config(path)
    Request.gather(flags, path, {"SDBENCH_METHODS": _text(content[:200])})


@_quiet(UserError)
def published(content: bytes) -> object:
    return published_numbers(_file(content, "published.toml"))


@_quiet(UserError)
def selector(content: bytes) -> None:
    items = split_list([_text(content)])
    for item in items:
        parse_variant(item)
    select("method", items, ["ce", "zipf", "byot"])


@_quiet(UserError)
def seeds(content: bytes) -> None:
    found = parse_seeds(split_list([_text(content)]))
    assert len(found) <= 10_000


@_quiet(UserError)
def duration(content: bytes) -> None:
    assert 0 < parse_duration(_text(content)) <= 366 * 24 * 3600


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        trial, profile, board, validation, curve, logits, checkpoint, config, published, selector, seeds, duration,
    )
}  # fmt: skip

NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**53 + 1, 2**64, 10**300, 10**400, -0.0, 1e308, 1e-320,
    "", "\x00", "\x1b[2J", "\u202e", "\ud800",
    "<script>", "../../x", "/etc/passwd", "=cmd|' /C calc'!A0", "a" * 5000, "|`*_~[x](y)", "\\input{x}$%", [], {}, [[]],
    {"__class__": {"__init__": 1}}, {"__proto__": 1}, [None] * 50, "ok", "nan", "ce", "resnet8",
)  # fmt: skip


def _changed(value: Any, chance: random.Random) -> Any:
    """The value with one of its parts replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        return chance.choice(
            [
                lambda: value | {key: _changed(value[key], chance)},
                lambda: value | {key: _changed(value[key], chance)},
                lambda: rest,
                lambda: rest | {str(chance.choice(NASTY))[:200]: value[key]},
            ]
        )()
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], _changed(value[at], chance), *value[at + chance.randrange(2) :]]
    return chance.choice(NASTY)


def _json_mutator(name: str, kind: type[TrialResult] | type[ProfileResult]) -> Callable[[bytes, int], bytes]:
    """Changes a record and, mostly, seals it again, so that its content is looked at."""

    def mutate(content: bytes, seed: int) -> bytes:
        chance = random.Random(seed)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = json.loads(chance.choice(SEEDS[name.removesuffix(".json")]))
        for _ in range(chance.randint(1, 4)):
            value = _changed(value, chance)
        try:
            if chance.random() < 0.8:
                return seal(kind.model_validate(value), name).encode()
        except (ValueError, TypeError, RecursionError, AttributeError):
            pass
        return json.dumps(value).encode()

    return mutate


def _header_mutator(content: bytes, seed: int) -> bytes:
    """Changes the description of the tensors, its length kept true."""
    chance = random.Random(seed)
    for each in (content, chance.choice(SEEDS["logits"])):
        length = int.from_bytes(each[:8], "little")
        try:
            raw = json.dumps(_changed(json.loads(each[8 : 8 + length]), chance)).encode()
        except (ValueError, RecursionError):
            continue
        return len(raw).to_bytes(8, "little") + raw + each[8 + length :]
    return content


def _archive_mutator(content: bytes, seed: int) -> bytes:
    """Changes bytes of one member of a checkpoint's archive, or its name, or packs it."""
    chance = random.Random(seed)
    try:
        return _archive(content, chance)
    except Exception:  # whatever the last mutation left
        return _archive(chance.choice(SEEDS["checkpoint"]), chance)


def _archive(content: bytes, chance: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.infolist()[:50]
        wanted = "data.pkl" if chance.random() < 0.7 else chance.choice(members).filename
        for member in members:
            raw, name = bytearray(old.read(member)), member.filename
            if wanted in name and raw:
                for _ in range(chance.randint(1, 4)):
                    raw[chance.randrange(len(raw))] = chance.randrange(256)
                name = chance.choice([name] * 9 + ["../" + name])
            new.writestr(name, bytes(raw), zipfile.ZIP_DEFLATED if chance.random() < 0.02 else zipfile.ZIP_STORED)
    return out.getvalue()


def _checkpoints() -> list[bytes]:
    import torch

    from sdbench import checkpoint as module

    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    progress = {"epoch": 1, "curve": [{"epoch": 0, "lr": 0.1, "terms": {"ce": 1.0}}], "clocks": {"train_s": 1.0}}
    session = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    module.save(PLACE / "seed", 1, {"trial_id": "a", "progress": progress, "session": session})
    return [(PLACE / "seed" / "epoch-000001.pt").read_bytes()]


def _tensors() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"logits": np.ones((6, 3), np.float16), "labels": np.arange(6) % 3})]


def _records(folder: str, name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / folder).glob(f"**/{name}"))[:6]]


class _Seeds(dict[str, list[bytes]]):
    """Made when they are asked for: some need torch."""

    makers: dict[str, Callable[[], list[bytes]]] = {
        "trial": lambda: _records("tests/records", "trial.json"),
        "board": lambda: _records("tests/records", "trial.json"),
        "validation": lambda: _records("tests/records", "trial.json"),
        "profile": lambda: _records("results/published", "profile.json"),
        "curve": lambda: _records("results/published", "curve.jsonl"),
        "logits": _tensors,
        "checkpoint": _checkpoints,
        "config": lambda: [b'methods = ["zipf[weight=0.2]", "ls"]\nseeds = "0-4"\nepochs = 3\nbaseline = true\n'],
        "published": lambda: [re.split(rb"\n(?=\[\[number)", (ROOT / "results/published.toml").read_bytes())[1]],
        "selector": lambda: [b"zipf[weight=0.2,power=1]+cutmix,ls,^b*", b"all"],
        "seeds": lambda: [b"0-4,7,11", b"0-99999999999"],
        "duration": lambda: [b"1.5h", b"90s", b"15m"],
    }

    def __missing__(self, name: str) -> list[bytes]:
        self[name] = self.makers[name]()
        return self[name]


SEEDS = _Seeds()

MUTATORS: dict[str, Callable[[bytes, int], bytes]] = {
    "trial": _json_mutator("trial.json", TrialResult),
    "board": _json_mutator("trial.json", TrialResult),
    "validation": _json_mutator("trial.json", TrialResult),
    "profile": _json_mutator("profile.json", ProfileResult),
    "logits": _header_mutator,
    "checkpoint": _archive_mutator,
}

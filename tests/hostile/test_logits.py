"""Logits that are sealed and odd: what reads them names the trial, and every other trial is shown as before."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdbench.kept_logits import LABEL_TYPES, LOGIT_TYPES, MAX_BYTES, UnusableLogits, read_held_out, read_logits
from sdbench.report.reliability import reliability
from sdbench.store import read_result, seal

Sdbench = Callable[..., tuple[int, str, str]]
Tensors = dict[str, tuple[str, list[int], bytes]]

V, K = 20, 6
LABELS = np.arange(V) % K
LOGITS = np.random.default_rng(0).normal(size=(V, K)).astype(np.float32)
SOUND: Tensors = {
    "logits": ("F16", [V, K], LOGITS.astype(np.float16).tobytes()),
    "labels": ("I64", [V], LABELS.astype(np.int64).tobytes()),
}


def packed(tensors: Tensors) -> bytes:
    """A safetensors file, put together by hand: no writer has all of these types."""
    header, body = {}, b""
    for name, (kind, shape, raw) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def odd(kind: str) -> bytes:
    size = {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I8": 1, "BOOL": 1, "F64": 8, "I16": 2, "U8": 1}
    changes: dict[str, Tensors] = {
        **{f"logits {t}": {"logits": (t, [V, K], bytes(V * K * size[t]))} for t in ("F8_E4M3", "F8_E5M2", "U16", "I8")},
        **{f"labels {t}": {"labels": (t, [V], bytes(V * size[t]))} for t in ("U16", "F64", "BOOL", "U8", "I16")},
        "one dimension": {"logits": ("F16", [V * K], bytes(V * K * 2))},
        "no image": {"logits": ("F16", [0, K], b""), "labels": ("I64", [0], b"")},
        "one class": {"logits": ("F16", [V, 1], bytes(V * 2))},
        "fewer labels": {"labels": ("I64", [V - 1], bytes(8 * (V - 1)))},
        "labels out of range": {"labels": ("I64", [V], np.full(V, K).tobytes())},
        "labels below": {"labels": ("I64", [V], np.full(V, -1).tobytes())},
        "not a number": {"logits": ("F16", [V, K], np.full((V, K), np.nan, np.float16).tobytes())},
        "far apart": {"logits": ("F64", [V, K], np.tile([1e308, -1e308, 0.0], (V, 1)).tobytes())},
        "more classes": {"logits": ("F16", [V, K + 1], bytes(V * (K + 1) * 2))},
        "another, unknown": {"x": ("F4", [2], b"\0")},
        "another, wrong": {"x": ("F4", [2], b"\0\0\0\0")},
    }
    if kind == "lacking":
        return packed({"logits": SOUND["logits"]})
    if kind == "renamed":
        return packed({"x": SOUND["logits"]})
    return packed(SOUND | changes[kind])


ODD = (
    "logits F8_E4M3", "logits F8_E5M2", "logits U16", "logits I8", "labels U16", "labels F64", "labels BOOL",
    "labels U8", "labels I16", "one dimension", "no image", "one class", "fewer labels", "labels out of range",
    "labels below", "not a number", "far apart", "more classes", "another, unknown", "another, wrong", "lacking",
    "renamed",
)  # fmt: skip


def sealed(folder: Path, content: bytes | None = None, checksum: str = "") -> None:
    """Put logits beside a record, which seals them."""
    if content is not None:
        (folder / "logits.safetensors").write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
    record = read_result(folder / "trial.json")
    sums = {"logits.safetensors": checksum}
    (folder / "trial.json").write_text(seal(record.model_copy(update={"checksums": sums})))


READ = ("labels out of range", "labels below", "not a number", "far apart", "more classes", "another, unknown")
"""Those whose types and shapes are sound; of other tensors nothing is read."""

WHOLE = ("logits F8_E4M3", "labels U16", "one dimension", "far apart", "more classes", "another, unknown")
"""Those with which every command is tried; the others, with the marker slow."""


@pytest.mark.parametrize("kind", [k if k in WHOLE else pytest.param(k, marks=pytest.mark.slow) for k in ODD])
def test_one_odd_file_hides_no_other(kind: str, results: Path, forge: Any, sdbench: Sdbench) -> None:
    for path in list(results.glob("trials/*/*/*/*/trial.json")):
        sealed(path.parent, packed(SOUND))
    folder = forge(lambda content: content["spec"].update(seed=77) or content.update(trial_id="7" * 16))
    sealed(folder, odd(kind))
    out = results.parent / "out"
    out.mkdir()
    assert sdbench("report", "--results", results, "--output", out / "r.html")[0] == 0
    assert "seed 77" in (out / "r.html").read_text() or (out / "r.html").stat().st_size > 10_000
    for name in ("zipf", "reliability"):
        code, said, err = sdbench("plot", name, "--results", results, "--output", out / f"{name}.svg")
        assert code == 0, said + err
    for name in ("zipf", "calibration"):
        code, said, err = sdbench("analyze", "--kind", name, "--results", results)
        assert code in (0, 1), said + err
        assert "ls" in said
    code, said, _ = sdbench("rescore", "--results", results, "--json")
    states = {trial["trial_id"]: trial["state"] for trial in json.loads(said)["trials"]}
    assert len(states) == 3
    assert set(states.values()) <= {"agrees", "differs", "damaged"}
    assert all(states[p.name] != "damaged" for p in results.glob("trials/*/*/*/*") if p != folder), states


@pytest.mark.parametrize("kind", LOGIT_TYPES)
@pytest.mark.parametrize("labels", LABEL_TYPES)
def test_every_type_that_is_agreed_reads_as_the_same_numbers(kind: str, labels: str, tmp_path: Path) -> None:
    z = np.round(LOGITS * 8) / 8  # a few binary digits, so that every type holds them
    upper = (z.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    raw = {"F16": z.astype(np.float16), "F32": z.astype(np.float32), "F64": z.astype(np.float64), "BF16": upper}[kind]
    y = LABELS.astype({"I32": np.int32, "I64": np.int64}[labels])
    tensors: Tensors = {"first": ("U8", [3], b"abc"), "logits": (kind, [V, K], raw.tobytes())}
    path = tmp_path / "logits.safetensors"
    path.write_bytes(packed(tensors | {"labels": (labels, [V], y.tobytes())}))
    found = read_logits(path)
    np.testing.assert_array_equal(found[0], z)
    np.testing.assert_array_equal(found[1], LABELS)
    assert read_held_out(path) is None


@pytest.mark.parametrize("kind", [k for k in ODD if k not in READ])
def test_what_is_not_agreed_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(odd(kind))
    with pytest.raises(UnusableLogits, match="its logits cannot be read: "):
        read_logits(tmp_path / "x")


@pytest.mark.parametrize("kind", [k for k in READ if k.startswith(("labels", "not"))])
def test_what_is_read_and_is_none_is_refused_by_what_uses_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(odd(kind))
    with pytest.raises(ValueError, match=r"labels must lie|finite"):
        reliability(*read_logits(tmp_path / "x"))


def test_a_file_of_gigabytes_is_not_read(results: Path, folders: list[Path], bounded: Any) -> None:
    """Two gigabytes that take no room on disk, as large as their header says, sealed."""
    classes = 2**19
    body = 2048 * classes * 2
    spans = {"labels": ("I64", [2048], [0, 8 * 2048]), "logits": ("F16", [2048, classes], [8 * 2048, 8 * 2048 + body])}
    text = json.dumps({n: {"dtype": t, "shape": s, "data_offsets": o} for n, (t, s, o) in spans.items()}).encode()
    text += b" " * (-len(text) % 8)
    size = 8 + len(text) + 8 * 2048 + body
    assert size > MAX_BYTES
    path, digest = folders[1] / "logits.safetensors", hashlib.sha256()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(size)
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    sealed(folders[1], checksum=digest.hexdigest())
    code = "print(*(t.state + t.reason for t in api.rescore(results=sys.argv[1]).trials))"
    ready = "from sdbench import api, evaluate, temperature"
    assert f"larger than {MAX_BYTES} bytes" in bounded(code, results, ready=ready, room=2**29)

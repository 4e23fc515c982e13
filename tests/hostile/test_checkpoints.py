"""Checkpoints that came with a copied folder: what torch would run, unpack or allocate is refused beforehand."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdbench import checkpoint
from sdbench.train import Progress

from .conftest import ODD_FILES, tree

Payload = Callable[[bytes], bytes]
WEIGHT = b"K\x06tq"
"""In the description below: the number of elements of the weight's storage, six."""


def state() -> dict[str, Any]:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    session = {
        "network": network.state_dict(),
        "method": {"memory": torch.ones(4, 2, dtype=torch.bfloat16), "counts": torch.eye(3).to_sparse()},
        "optimizer": optimizer.state_dict(),
        "random": {"cpu": torch.get_rng_state()},
        "unused": [],
    }
    progress = Progress(epoch=1, curve=[{"epoch": 0, "lr": 0.1, "terms": {"ce": 2.0}}], labelled_images=2**40)
    return {"trial_id": "a", "progress": vars(progress), "session": session}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "checkpoint", 1, state())
    return tmp_path / "checkpoint" / "epoch-000001.pt"


def members(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def rewrite(path: Path, description: Payload = lambda raw: raw, packing: int = zipfile.ZIP_STORED) -> None:
    """The same archive with another description of its object, or compressed."""
    found = members(path)
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, raw in found:
            archive.writestr(name, description(raw) if name.endswith("data.pkl") else raw)


def load(path: Path) -> dict[str, Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoint.load(path.parent, progress=Progress())


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


def called(function: Any, *arguments: Any) -> Payload:
    return lambda raw: pickle.dumps({"trial_id": Call(function, *arguments)}, 2)


def test_what_is_saved_is_read_back_whole(saved: Path) -> None:
    found = checkpoint.load(saved.parent, progress=Progress())
    assert found is not None
    assert torch.equal(found["session"]["method"]["counts"].to_dense(), torch.eye(3))
    rewrite(saved)
    assert load(saved) is not None, "the tests' own way of writing archives is not what is refused"


@pytest.mark.parametrize(
    "description",
    [
        called(os.system, "touch owned"),
        called(eval, "open('owned', 'w')"),
        called(exec, "open('owned', 'w')"),
        called(os.mkdir, "owned"),
        called(torch.load, "owned"),
        called(torch.hub.load, "owned", "owned"),
        called(bytearray, 2**40),
        called(set, "abc"),
        called(torch.empty, 2**40),
        called(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2,), (1,), False),
        lambda raw: raw.replace(WEIGHT, b"J\xff\xff\xff\x7ftq", 1),
        lambda raw: raw.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", 1),
        lambda raw: raw.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", 1).replace(
            b"K\x03K\x01\x86", b"K\x00K\x00\x86", 1
        ),
        lambda raw: b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(60)) + b".",
        lambda raw: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        lambda raw: b"\x80\x02}r\xff\xff\xff\x7f.",
        lambda raw: b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        lambda raw: b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        lambda raw: b"",
        lambda raw: raw[:-20],
        lambda raw: pickle.dumps([1, 2], 2),
        lambda raw: pickle.dumps({"trial_id": "a", "progress": {"__class__": 1}, "session": {}}, 2),
        lambda raw: pickle.dumps({"trial_id": "a", "progress": {"epoch": "1"}, "session": {}}, 2),
        lambda raw: pickle.dumps({"trial_id": "a", "progress": {"curve": [[]]}, "session": {}}, 2),
    ],
)
def test_a_hostile_description_is_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: Payload
) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(saved, description)
    before = tree(tmp_path)
    assert load(saved) is None
    assert tree(tmp_path) == before


@pytest.mark.parametrize("how", ["packed", "bare", "legacy", "appended", "commented", "garbage", "empty", "twice"])
def test_a_file_that_is_no_archive_of_ours_is_refused(saved: Path, how: str) -> None:
    if how == "packed":
        rewrite(saved, packing=zipfile.ZIP_DEFLATED)
    elif how == "bare":
        saved.write_bytes(pickle.dumps(Call(os.mkdir, "owned"), 2))
    elif how == "legacy":
        torch.save(state(), saved, _use_new_zipfile_serialization=False)
    elif how == "appended":
        saved.write_bytes(saved.read_bytes() + b"\0" * 100)
    elif how == "commented":
        with zipfile.ZipFile(saved, "a") as archive:
            archive.comment = b"PK\5\6"
    elif how == "twice":
        name, raw = next(each for each in members(saved) if each[0].endswith("data.pkl"))
        with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, raw)
    else:
        saved.write_bytes(b"PK" * 10_000 if how == "garbage" else b"")
    assert load(saved) is None


def test_a_small_file_that_unpacks_to_gigabytes_takes_nothing(saved: Path, bounded: Any) -> None:
    with (
        zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a/data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(40):
            file.write(b"\0" * 2**25)
    assert saved.stat().st_size < 2**24
    code = (
        "import warnings\nfrom pathlib import Path\nwarnings.simplefilter('ignore')\n"
        "print(checkpoint.load(Path(sys.argv[1])))"
    )
    assert bounded(code, saved.parent, ready="from sdbench import checkpoint", room=2**28).strip() == "None"


@pytest.mark.parametrize("kind", ODD_FILES)
def test_an_odd_file_is_passed_over_for_an_older_one(saved: Path, odd_file: Any, kind: str) -> None:
    odd_file(saved.with_name("epoch-000002.pt"), kind)
    with pytest.warns(UserWarning, match="an older one is tried"):
        found = checkpoint.load(saved.parent, limit=2**30)
    assert found is not None
    assert found["progress"]["epoch"] == 1


def test_a_folder_that_is_a_link_is_left_alone(saved: Path, outside: Path) -> None:
    before = tree(outside)
    link = outside.parent / "link"
    link.symlink_to(outside)
    assert checkpoint.load(link) is None
    checkpoint.remove(link)
    assert tree(outside) == before


def test_a_larger_file_than_its_trial_needs_is_refused(saved: Path) -> None:
    assert load(saved) is not None
    with pytest.warns(UserWarning, match="would do"):
        assert checkpoint.load(saved.parent, limit=1000) is None

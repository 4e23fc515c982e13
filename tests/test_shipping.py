"""What nodes are given and asked, without Ray: the same code, the same files, locks that hold; and one holder each."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from filelock import FileLock

from sdbench import environment, registry
from sdbench.engine import Job, Resources, fence, ray_cluster, ray_nodes, shipping
from sdbench.engine.local import run
from sdbench.engine.ray_nodes import LOCK, TOKEN, DataNeed, Place
from sdbench.engine.ray_tune import limit_of
from sdbench.errors import EnvironmentProblem
from sdbench.identity import method_source, sources
from sdbench.spec import Identity, Options, Recipe, Trial, TrialSpec
from sdbench.store import Store

ROOT = Path(__file__).resolve().parent.parent
TOY = '''
from sdbench import Method, register
import helper


@register("toy_shipped")
class Shipped(Method):
    """Only its source matters."""

    def criterion(self, output, batch, progress):
        return {"ce": helper.loss(output.logits, batch.labels)}
'''
SAY = "import sdbench; from sdbench import identity, registry, environment; print(sdbench.__file__, {})"


def ask(code: str, **more: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SDBENCH_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, env={**clean, **more}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_copy_of_the_package_is_whole_and_tells_its_commit(tmp_path: Path) -> None:
    copy = shipping.stage_package(tmp_path)
    facts = "len(registry.names()), identity.method_source('zipf'), environment.source_commit()"
    more = "; import sdbench.evidence, importlib.resources as r; print(r.files('sdbench.evidence') / 'published.toml')"
    there = ask(SAY.format(facts) + more, PYTHONPATH=str(tmp_path)).split("\n")
    here = ask(SAY.format(facts)).split("\n")
    assert there[0].startswith(str(copy))
    assert there[0].partition(" ")[2] == here[0].partition(" ")[2]
    assert Path(there[1]).is_file()
    assert not list(copy.rglob("__pycache__"))
    assert sum(f.stat().st_size for f in copy.rglob("*") if f.is_file()) < 20 * 2**20


@pytest.fixture
def toy(tmp_path: Path, own_registry: None) -> Path:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "helper.py").write_text("from torch.nn.functional import cross_entropy as loss\n")
    file = tmp_path / "lab" / "toy.py"
    file.write_text(TOY)
    registry.load_plugin(file)
    return file


def test_a_plugin_travels_with_what_it_imports_from_beside_it(toy: Path) -> None:
    packed = shipping.pack([str(toy)])
    assert [name for name, _ in packed[0].files] == ["toy.py", "helper.py"]
    again = pickle.loads(pickle.dumps(packed))
    with shipping.unpacked(again) as (path,):
        code = f"registry.load_plugin({path!r}), identity.method_source('toy_shipped')"
        assert method_source("toy_shipped") in ask(SAY.format(code))
        left = Path(path)
        assert left.stat().st_mode & 0o077 == 0 or left.parent.parent.stat().st_mode & 0o077 == 0
    assert not left.exists()
    with shipping.unpacked(()) as none:
        assert none == ()


def test_packages_beside_a_plugin_travel_and_belong_to_the_method(tmp_path: Path, own_registry: None) -> None:
    """With and without __init__.py, by dots and relative; what is not imported stays; bytes stay bytes."""
    imports = "import helper, losses_beside.smooth.hard\nfrom plain_beside import scale"
    files = {
        "lab/toy_packages.py": TOY.replace("import helper", imports),
        "lab/helper.py": "from torch.nn.functional import cross_entropy as loss\n",
        "lab/losses_beside/__init__.py": "",
        "lab/losses_beside/smooth/__init__.py": "from . import soft\n",
        "lab/losses_beside/smooth/soft.py": "from ..base import ONE\n",
        "lab/losses_beside/smooth/hard.py": "# caf\xe9\n",
        "lab/losses_beside/base.py": "ONE = 1\n",
        "lab/losses_beside/unused.py": "",
        "lab/plain_beside/scale.py": "SCALE = 1.0\n",
        "lab/sdbench/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        coding = "# -*- coding: latin-1 -*-\n" if "\xe9" in text else ""
        (tmp_path / name).write_bytes((coding + text).encode("latin-1"))
    toy = tmp_path / "lab" / "toy_packages.py"
    registry.load_plugin(toy)
    with_packages = method_source("toy_shipped")
    packed = shipping.pack([str(toy)])
    expected = sorted(set(files) - {"lab/losses_beside/unused.py", "lab/sdbench/__init__.py"})
    assert sorted(f"lab/{name}" for name, _ in packed[0].files) == expected
    with shipping.unpacked(pickle.loads(pickle.dumps(packed))) as (path,):
        code = f"registry.load_plugin({path!r}), identity.method_source('toy_shipped')"
        assert with_packages in ask(SAY.format(code))
    for name in ("losses_beside/base.py", "plain_beside/scale.py"):
        before = method_source("toy_shipped")
        with (tmp_path / "lab" / name).open("a") as file:
            file.write("# more\n")
        sources.cache_clear()
        assert method_source("toy_shipped") != before, "another package is another method"


def test_a_plugin_that_is_not_utf8_travels(tmp_path: Path, own_registry: None) -> None:
    toy = tmp_path / "toy.py"
    text = TOY.replace("import helper", "import torch.nn.functional as helper")
    toy.write_bytes(f"# -*- coding: latin-1 -*-\n# caf\xe9\n{text}".encode("latin-1"))
    registry.load_plugin(toy)
    with shipping.unpacked(shipping.pack([str(toy)])) as (path,):
        assert Path(path).read_bytes() == toy.read_bytes()


def test_variables_that_matter_travel_and_folders_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "SDBENCH_DATA": "pictures",
        "OMP_NUM_THREADS": "3",
        "PATH": "/bin",
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert shipping.variables(given) == {"SDBENCH_DATA": str(tmp_path / "pictures"), "OMP_NUM_THREADS": "3"}


def make_place(folder: Path, **more: object) -> Place:
    versions = environment.versions()
    values = {"results": str(folder.parent), "folder": str(folder), "token": "t0", "versions": versions, **more}
    return Place.model_validate(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "results" / ".cluster-x"
    found.mkdir(parents=True)
    (found / TOKEN).write_text("t0")
    return found


def test_a_node_that_shares_folder_and_locks_has_no_problem(folder: Path) -> None:
    place = make_place(folder)
    with FileLock(folder / LOCK):
        assert ray_nodes.storage_problems(place, "n1") == []
    assert (folder / "seen-n1").read_text() == "t0"


def test_storage_that_does_not_hold_locks_is_told(folder: Path) -> None:
    """The driver's lock is not there for this node."""
    (problem,) = ray_nodes.storage_problems(make_place(folder))
    assert "locks" in problem
    assert "NFS" in problem


@pytest.mark.parametrize("content", [None, "another run's", b"\xff"])
def test_a_node_that_sees_no_or_other_files_is_told(folder: Path, content: str | bytes | None) -> None:
    (folder / TOKEN).unlink()
    if content is not None:
        (folder / TOKEN).write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = ray_nodes.storage_problems(make_place(folder))
    assert f"does not see the results folder {folder.parent}" in problem
    assert "--results FOLDER" in problem


def test_other_versions_are_told(folder: Path) -> None:
    versions = environment.versions()
    same = make_place(folder, versions={**versions, "torch": versions["torch"].partition("+")[0] + "+cu999"})
    assert ray_nodes.software_problems(same) == [], "a build for another device is no other version"
    other = make_place(folder, versions={**versions, "torch": "1.0.0", "python": "3.8.1"})
    torch, python = ray_nodes.software_problems(other)
    assert "torch" in torch
    assert "1.0.0" in torch
    assert "3.8.1" in python


def test_another_source_of_a_method_is_told(folder: Path, toy: Path) -> None:
    right = {"ce": method_source("ce"), "toy_shipped": method_source("toy_shipped")}
    assert ray_nodes.source_problems(make_place(folder, sources=right)) == []
    (problem,) = ray_nodes.source_problems(make_place(folder, sources={**right, "ls": "0" * 64}))
    assert "another source of ls" in problem
    (problem,) = ray_nodes.source_problems(make_place(folder, sources={"missing": ""}))
    assert "missing" in problem


def test_data_that_a_node_lacks_are_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SDBENCH_DATA", raising=False)
    (tmp_path / "birds" / "train").mkdir(parents=True)
    birds = {"name": "folder:birds", "image_size": 16, "fingerprint": "content:0"}
    here = DataNeed(folder=str(tmp_path / "birds"), **birds)
    away = DataNeed(folder=str(tmp_path / "away" / "birds"), **birds)
    cifar = DataNeed(name="cifar100", folder=None, image_size=None, fingerprint="published:0")
    found = ray_nodes.data_problems(make_place(folder, data=(here, away, cifar)))
    assert len(found) == 2
    assert all("lacks data" in problem and "--data-dir" in problem for problem in found)
    assert "birds" in found[0]
    assert "cifar100" in found[1]


def test_only_nodes_with_room_for_a_trial_are_asked() -> None:
    nodes = [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0, "GPU": 1.0}}, {"Resources": {}}]
    assert ray_nodes.fitting(nodes, 2, 0) == nodes[:2]
    assert ray_nodes.fitting(nodes, 1, 0.5) == nodes[1:2]


@pytest.mark.parametrize(
    ("resources", "share", "expected"),
    [
        (Resources(), 1.0, None),
        (Resources(cpus=8, cpus_per_trial=3), 0.0, 2),
        (Resources(cpus=1, cpus_per_trial=3), 0.0, 1),
        (Resources(gpus=3, per_gpu=2), 0.5, 6),
        (Resources(gpus=3, cpus=2), 1.0, 2),
    ],
)
def test_limits_hold_on_a_cluster_that_others_use(resources: Resources, share: float, expected: int | None) -> None:
    assert limit_of(resources, share) == expected


def test_which_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_cluster.chosen(None) is None
    assert ray_cluster.chosen("auto") == "auto"
    with pytest.raises(EnvironmentProblem, match="--address ray://h:10001: Tune does not work through Ray clients"):
        ray_cluster.chosen("ray://h:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    with pytest.raises(EnvironmentProblem, match=r"RAY_ADDRESS ray://.*--address auto"):
        ray_cluster.chosen(None)
    assert ray_cluster.chosen("local") is None
    assert ray_cluster.chosen("10.0.0.1:6379") == "10.0.0.1:6379"


def test_folders_of_killed_runs_are_swept_and_those_of_others_stay(tmp_path: Path) -> None:
    alive, dead = tmp_path / ".cluster-alive", tmp_path / ".cluster-dead"
    alive.mkdir()
    dead.mkdir()
    (dead / LOCK).touch()
    with FileLock(alive / LOCK):
        ray_cluster._sweep(tmp_path)
        assert alive.is_dir()
    assert not dead.exists()


WATCHED = """
import sys, time
from pathlib import Path
from sdbench.engine import fence
folder = Path(sys.argv[1])
fence.watch(folder, fence.take(folder))
print("working", flush=True)
time.sleep(100)
(folder / "written").touch()
"""


def test_whoever_loses_a_trial_ends_and_writes_nothing(tmp_path: Path) -> None:
    """As when a lock's lease ran out: the first process still lives when the second one takes over."""
    with subprocess.Popen([sys.executable, "-c", WATCHED, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"working\n"
        time.sleep(1.5)
        assert first.poll() is None, "as long as nobody else comes, it works on"
        name = fence.take(tmp_path)
        assert first.wait(timeout=60) == fence.LOST
    assert [path.name for path in tmp_path.iterdir()] == [fence.HOLDER]
    assert not fence.lost(tmp_path, name)
    (tmp_path / fence.HOLDER).unlink()
    assert not fence.lost(tmp_path, name), "a file that is away says nothing"


def make_job(store: Path, source: str) -> Job:
    spec = TrialSpec(method="ce", dataset="glyphs", network="resnet8", recipe=Recipe(epochs=1), protocol="p", seed=0)
    identity = Identity(method_source=source, data_fingerprint="", protocol_version="1")
    return Job(trial=Trial(spec=spec, identity=identity), options=Options(device="cpu"), store=str(store))


def test_a_method_whose_source_changed_meanwhile_is_not_trained_under_its_old_id(tmp_path: Path) -> None:
    job = make_job(tmp_path, "0" * 64)
    run([job], Resources(cpus=1, gpus=0), Event())
    (record,) = Store(tmp_path).scan().results
    assert record.status == "interrupted"
    assert "the source of ce has changed" in record.reason


def test_the_engine_hands_each_job_to_the_work_that_it_was_given(tmp_path: Path) -> None:
    seen: list[str] = []

    def work(job: Job, stop: Event, environ: dict[str, str] | None = None) -> None:
        seen.append(job.trial.id)

    jobs = [make_job(tmp_path, str(n)) for n in range(5)]
    run(jobs, Resources(cpus=2, gpus=0), Event(), work=work)
    assert sorted(seen) == sorted(job.trial.id for job in jobs)
    assert not list(tmp_path.iterdir())

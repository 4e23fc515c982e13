"""A Ray of the command's own: it needs nothing of the home folder, leaves no setting behind, and nobody else's Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdbench.engine import ray_own
from sdbench.errors import EnvironmentProblem

pytestmark = pytest.mark.ray


def clean(**more: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "TUNE_", "SDBENCH_"))}
    return {**kept, **more}


def run(folder: Path, dataset: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "sdbench", "run", "--methods", "ls", "--no-baseline", "--dataset", dataset, "--model",
        "resnet8", "--protocol", "fixed", "--epochs", "1", "--image-size", "16", "--batch-size", "8", "--seeds", "0",
        "--precision", "fp32", "--device", "cpu", "--cpus", "1", "--engine", "ray", "--results", "results",
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=folder, env=clean(**more), capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_folders_of_the_environment_may_be_relative_and_the_home_folder_closed(
    tmp_path: Path, make_pictures: Callable[..., Path]
) -> None:
    species = make_pictures(tmp_path / "data" / "inat21", 16, 4)
    for part in ("train", "val"):
        for folder in sorted((species / part).iterdir()):
            folder.rename(folder.with_name(f"0000{folder.name[-1]}_Animalia"))
    done = run(tmp_path, "inat21", SDBENCH_DATA="data", SDBENCH_CACHE="kept", HOME="/proc")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 trials ok" in done.stderr
    assert (tmp_path / "kept").is_dir() or not list(tmp_path.glob("results/**/kept"))


USES = """
import json, os, sys
from sdbench import api
from sdbench.engine import ray_own, ray_tune
from sdbench.engine.group import SOCKETS
from sdbench.engine.shipping import FOLDERS
from sdbench.errors import EnvironmentProblem

NAMES = (*ray_tune.QUIET, *ray_own.OWN, *SOCKETS, *FOLDERS)
settings = dict(methods="ls", baseline=False, dataset=f"folder:{sys.argv[1]}", image_size=16, model="resnet8",
    protocol="fixed", epochs=1, batch_size=8, seeds=0, precision="fp32", device="cpu", cpus=1, engine="ray")


def variables():
    return {n: v for n, v in os.environ.items() if n in NAMES or n.startswith("TUNE_")}


before = variables()
codes = [api.run(**settings, gpus_per_trial=2, results="two").exit_code, api.run(**settings, results="one").exit_code]
after = variables()
told = []
try:
    api.run(**settings, address="127.0.0.1:1", results="joined")
except EnvironmentProblem as error:
    told += error.problems
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
try:
    api.run(**settings, results="third")
except EnvironmentProblem as error:
    told += error.problems
print(json.dumps([codes, before, after, told]))
"""


@pytest.mark.slow
def test_one_process_and_several_rays(tmp_path: Path, make_pictures: Callable[..., Path]) -> None:
    """Two runs with a Ray of their own, after which the process's variables are as before; then what cannot be."""
    pictures = make_pictures(tmp_path / "pictures", 16, 4)
    command = [sys.executable, "-c", USES, str(pictures)]
    environ = clean(SDBENCH_DATA="relative")
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    codes, before, after, (joining, third) = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0], done.stderr
    assert after == before, "what the caller does with Ray or Tune goes on as before"
    assert "--address 127.0.0.1:1: this process has run trials with a Ray of its own" in joining
    assert "from a new process" in joining
    assert "call ray.shutdown() before" in third


def test_the_users_settings_of_ray_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_DEDUP_LOGS", "1")
    monkeypatch.setenv("SDBENCH_DATA", "here")
    monkeypatch.delenv("TUNE_TEST", raising=False)
    with ray_own.variables({"RAY_DEDUP_LOGS": "0", "TUNE_TEST": "1"}):
        assert [os.environ[n] for n in ("RAY_DEDUP_LOGS", "TUNE_TEST")] == ["1", "1"]
        assert os.environ["SDBENCH_DATA"] == str(tmp_path / "here")
    assert (os.environ["RAY_DEDUP_LOGS"], os.environ["SDBENCH_DATA"]) == ("1", "here")
    assert "TUNE_TEST" not in os.environ


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_whoever_has_a_token_keeps_it_and_may_join(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(ray_own, "_asks_for_own_token", False)
    monkeypatch.setenv(name, "mine")
    ray_own._choose_token()
    assert os.environ[name] == "mine"
    assert len([each for each in os.environ if each.startswith("RAY_AUTH_TOKEN")]) == (name != "RAY_AUTH_MODE")
    ray_own.refuse_to_join("auto")
    monkeypatch.delenv(name)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    ray_own._choose_token()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(set(token)) > 8
    ray_own._choose_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token, "Ray keeps to one"
    with pytest.raises(EnvironmentProblem, match="RAY_AUTH_MODE"):
        ray_own.refuse_to_join("auto")
    monkeypatch.delenv("RAY_AUTH_TOKEN")

"""``tools/gpu_evidence.sh``: refuses without a GPU, and its commands work, tried on the CPU with seconds each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdbench.cost import archive

ROOT = Path(__file__).resolve().parent.parent


def evidence(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHON": sys.executable, **settings}
    script = [str(ROOT / "tools" / "gpu_evidence.sh"), str(folder)]
    return subprocess.run(script, capture_output=True, text=True, env=environ, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    done = evidence(tmp_path / "out")
    assert done.returncode == 3
    assert "sdbench doctor" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_all_its_commands_work(tmp_path: Path) -> None:
    done = evidence(tmp_path, DEVICE="cpu", NETWORK="resnet8", METHODS="ls", SECONDS_EACH="1")
    assert done.returncode == 0, done.stderr
    settings = [(p.setting.num_classes, p.setting.step) for p in archive.scan(tmp_path).results]
    assert sorted(settings) == sorted((k, s) for k in (100, 1_000, 10_000) for s in ("auto", "off"))
    assert "Zipf's LS is one-pass" in (tmp_path / "tables" / "claims.md").read_text().splitlines()[0]
    assert "sdbench / tight" in (tmp_path / "tables" / "throughput.txt").read_text()

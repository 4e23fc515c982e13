"""docs/cluster.md: its script for SLURM does what the page says, and its facts are those of the code and of Ray."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdbench.engine import process, ray_errand, ray_nodes, ray_tune, shipping

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
FAKES = {
    "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\nn3\\n"; else echo "scontrol $*" >> "$CALLS"; fi',
    "hostname": 'echo "10.0.0.7 fe80::1"',
    "srun": 'echo "srun $*" >> "$CALLS"; while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "ray": '[ "$1" != status ] || exec test -e "$CALLS.token"; echo "$RAY_AUTH_TOKEN" >> "$CALLS.token"',
}
COMMAND = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(0.5), os._exit(138)))
with open(os.environ["CALLS"], "a") as file:
    print("sdbench", *sys.argv[1:], file=file)
code = os.environ["CODE"]
time.sleep(60) if code == "wait" else sys.exit(int(code))
"""


def start(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """The script on a node whose programs only write down what they were asked."""
    for name, text in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / "sdbench").write_text(f"#!{sys.executable}\n{COMMAND}")
    (folder / "python").symlink_to(sys.executable)
    for file in folder.iterdir():
        if not file.is_symlink():
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
    environ = {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(folder / "calls"), "CODE": code, "SLURM_JOB_ID": "31234"}
    environ |= {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "4"}
    (folder / "calls").touch()
    return subprocess.Popen(["bash", "-c", SCRIPT], env=environ, cwd=folder)


def calls(folder: Path) -> str:
    return (folder / "calls").read_text()


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_script_starts_ray_on_every_node_and_ends_as_the_command_does(tmp_path: Path, code: int) -> None:
    assert start(tmp_path, str(code)).wait(timeout=100) == code
    told = calls(tmp_path)
    assert "-w n1 ray start --head --node-ip-address=10.0.0.7 --port=21234 --num-cpus=16 --num-gpus=4 --block" in told
    for node in ("n2", "n3"):
        assert f"-w {node} ray start --address=10.0.0.7:21234 --num-cpus=16 --num-gpus=4 --block" in told
    assert "sdbench run --config run.toml --results results --address 10.0.0.7:21234" in told
    assert "requeue" not in told
    tokens = set((tmp_path / "calls.token").read_text().split())
    assert len(tokens) == 1
    assert re.fullmatch("[0-9a-f]{64}", tokens.pop())


def test_the_signal_before_the_end_stops_the_command_and_the_job_is_queued_again(tmp_path: Path) -> None:
    with start(tmp_path, "wait") as script:
        deadline = time.monotonic() + 100
        while "sdbench run" not in calls(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(timeout=100) == 138
    assert "scontrol requeue 31234" in calls(tmp_path)
    assert "--signal=B:USR1@300" in SCRIPT


def test_its_facts_are_those_of_the_code() -> None:
    for prefix in shipping.PREFIXES:
        assert f"`{prefix}`" in PAGE
    assert set(ray_nodes.SAME) == {"torch", "torchvision", "numpy", "timm"}
    assert (ray_errand.ADMISSION_S, ray_tune.NODE_FAILURES) == (30, 10)
    assert process.STOP_GRACE_S + 5 == 25
    assert "within 25 s" in PAGE
    assert "RAY_AUTH_MODE" not in ray_tune.QUIET, "a cluster that was started otherwise would not let the command in"


def test_its_ports_are_rays() -> None:
    from ray.scripts.scripts import start as command

    options = {name: option for option in command.params for name in option.opts}
    table = PAGE[PAGE.index("| port |") : PAGE.index("With `RAY_AUTH_MODE")]
    named = re.findall(r"`(--[a-z-]+)(?:=false)?`", table)
    assert len(named) == 8
    assert set(named) <= set(options)
    assert (options["--min-worker-port"].default, options["--max-worker-port"].default) == (10002, 19999)
    assert options["--dashboard-port"].default == 8265
    assert "6379" in str(options["--port"].help)

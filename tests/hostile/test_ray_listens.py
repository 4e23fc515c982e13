"""Who can reach the Ray that a run starts: looked at in the sockets of its processes while trials train."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 600


def listeners(process: psutil.Process) -> set[tuple[str, str]]:
    """(name, address) of every listening socket of a process and those below it."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            sockets = each.net_connections("inet")
            found |= {(each.name(), c.laddr.ip) for c in sockets if c.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def test_what_loopback_is() -> None:
    assert [is_loopback(a) for a in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True] * 3
    assert [is_loopback(a) for a in ("0.0.0.0", "::", "192.0.2.2", "::ffff:10.0.0.1")] == [False] * 4


@pytest.mark.ray
def test_a_run_listens_on_loopback_only(tmp_path: Path) -> None:
    words = [
        "run",
        "--methods",
        "ce",
        "--seeds",
        "0",
        "--epochs",
        "2",
        "--no-baseline",
        "--engine",
        "ray",
        "--cpus",
        "1",
    ]
    environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sdbench", *words, "--results", str(tmp_path / "results")]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: set[tuple[str, str]] = set()
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        seen |= listeners(psutil.Process(process.pid))
        time.sleep(0.2)
    assert process.wait(timeout=60) == 0
    names = {name for name, _ in seen}
    assert {"gcs_server", "raylet"} <= names, "the Ray of this run was seen"
    assert {(name, address) for name, address in seen if not is_loopback(address)} == set()

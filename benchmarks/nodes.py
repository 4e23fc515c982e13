"""A Ray cluster of several nodes on this machine, in a process of its own: commands on stdin, answers on stdout.

add NAME CPUS       starts a node; the first is the head. Answers with the cluster's address.
hide NAME CPUS DIR  the same for a node that sees an empty folder in place of DIR (needs root, and Linux)
kill NAME           SIGKILL to the node's processes, its trials included, all at once
behead NAME         SIGKILL to the node's raylet alone; what it started finds out by itself
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

# All nodes share this machine's memory, with whatever else is there.
os.environ.update({"RAY_memory_monitor_refresh_ms": "0"})

from ray.cluster_utils import Cluster

SYSTEM = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 2000, "health_check_failure_threshold": 5}

PATIENCE_S = 600


def below(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started, itself last."""
    try:
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


class Nodes:
    """The cluster and the processes of its nodes, by name."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.nodes: dict[str, list[int]] = {}

    def add(self, name: str, cpus: str) -> str:
        settings = {"num_cpus": int(cpus), "env_vars": {"NODE_OF_TEST": name}, "object_store_memory": 80 * 2**20}
        if self.cluster is None:
            self.cluster = Cluster()
            settings |= {"include_dashboard": False, "_system_config": SYSTEM}
        before = self.alive() if self.nodes else 0
        node = self.cluster.add_node(wait=False, **settings)
        self.wait_for_more_than(before)
        self.nodes[name] = [each.process.pid for kind in node.all_processes.values() for each in kind]
        return str(self.cluster.address)

    def hide(self, name: str, cpus: str, folder: str) -> str:
        """A node in a mount namespace of its own, where ``folder`` is empty."""
        assert self.cluster is not None
        before = self.alive()
        script = (
            f"mount --make-rprivate / && mount -t tmpfs none {folder} && exec {sys.executable} -m ray.scripts.scripts "
            f"start --address={self.cluster.address} --num-cpus={cpus} --object-store-memory={80 * 2**20} --block"
        )
        environ = {**os.environ, "NODE_OF_TEST": name}
        command = ["unshare", "-m", "sh", "-c", script]
        node = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr, env=environ)
        self.nodes[name] = [node.pid]
        self.wait_for_more_than(before)
        return str(self.cluster.address)

    def wait_for_more_than(self, before: int) -> None:
        """Until the cluster has more nodes; far longer than Ray's own patience, for overloaded machines."""
        deadline = time.monotonic() + PATIENCE_S
        while self.alive() <= before:
            assert time.monotonic() < deadline, "the node did not join"
            time.sleep(0.5)

    def alive(self) -> int:
        """How many nodes the cluster has."""
        assert self.cluster is not None
        return sum(node["Alive"] for node in self.cluster.global_state.node_table())

    def kill(self, name: str) -> str:
        processes = [p for pid in self.nodes.pop(name) for p in below(psutil.Process(pid))]
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        return str(len(processes))

    def behead(self, name: str) -> str:
        for pid in self.nodes[name]:
            process = psutil.Process(pid)
            if process.name() == "raylet":
                process.kill()
                return "1"
        return "0"

    def close(self) -> None:
        for name in list(self.nodes)[::-1]:
            self.kill(name)


def main() -> None:
    nodes = Nodes()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    try:
        for line in sys.stdin:
            command, *arguments = line.split()
            print(getattr(nodes, command)(*arguments), file=answers, flush=True)
    finally:
        nodes.close()
        os._exit(0)


if __name__ == "__main__":
    main()

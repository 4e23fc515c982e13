"""What scheduling costs: trials that only sleep, through the engines that real ones go through.

    throughput   trials per hour on clusters of 1, 2, 4 and 8 nodes of one CPU each, all on this machine
    load         many trials on two CPUs, under Ray and without: is one lost or run twice, does the memory of the
                 command grow, what does a trial cost beyond its sleep

A stub is given to the engine in place of the supervisor (``work``): placing, actors, reports and the record of
what is done are the real ones, and no process is started. Each leaves one mark, and a second one shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
from reporting import load
from tabulate import tabulate

from sdbench import data, environment
from sdbench.engine import Engine, Job, Resources, local, ray_tune
from sdbench.identity import method_source
from sdbench.registry import baseline_name
from sdbench.spec import Identity, Options, Recipe, Status, Trial, TrialSpec

SAMPLE_S = 0.5


@dataclass(frozen=True)
class Stub:
    """Work that sleeps and leaves a mark with its beginning and end; a second mark of one job has a name of its own."""

    marks: str
    sleep_s: float

    def __call__(self, job: Job, stop: Event, environ: dict[str, str] | None = None) -> Status | None:
        began = time.time()
        time.sleep(self.sleep_s)
        path = Path(self.marks) / str(job.trial.spec.seed)
        if path.exists():
            path = path.with_name(f"{path.name}-again-{os.getpid()}")
        path.write_text(f"{began} {time.time()}")
        return "ok"


@dataclass(frozen=True)
class Figure:
    """One run. lost, twice: jobs without a mark, marks too many. overhead_ms: time of a slot per trial beyond its
    sleep. start_s: until the first trial began. rss: of the command, mean over the first and last quarter of trials."""

    engine: str
    nodes: int
    slots: int
    trials: int
    sleep_s: float
    lost: int
    twice: int
    start_s: float
    span_s: float
    per_hour: float
    overhead_ms: float
    rss_first_mib: float
    rss_last_mib: float
    rss_kib_per_trial: float
    load: float


def make_jobs(count: int, results: Path) -> list[Job]:
    """Jobs as a run has them, one seed each; none of them is trained."""
    name = baseline_name()
    facts = data.inspect("glyphs")
    identity = Identity(
        method_source=method_source(name), data_fingerprint=facts.fingerprint, protocol_version="benchmark"
    )
    recipe, options = Recipe(epochs=1), Options(device="cpu")
    specs = (
        TrialSpec(method=name, dataset="glyphs", network="resnet8", recipe=recipe, protocol="benchmark", seed=seed)
        for seed in range(count)
    )
    return [Job(trial=Trial(spec=spec, identity=identity), options=options, store=str(results)) for spec in specs]


class Sampler:
    """Samples of (marks so far, resident bytes of this process), taken beside the engine."""

    def __init__(self, marks: Path) -> None:
        self.marks, self.samples, self._done = marks, [(0, float(psutil.Process().memory_info().rss))], Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        process = psutil.Process()
        while not self._done.wait(SAMPLE_S):
            self.samples.append((sum(1 for _ in os.scandir(self.marks)), float(process.memory_info().rss)))

    def quarters(self, count: int) -> tuple[float, float]:
        """Mean resident bytes while the first quarter of trials, begun, and the last one ended."""
        first = [rss for seen, rss in self.samples if 0 < seen <= count / 4] or [self.samples[0][1]]
        last = [rss for seen, rss in self.samples if seen > count * 3 / 4] or [self.samples[-1][1]]
        return statistics.fmean(first), statistics.fmean(last)


def measure(
    name: str, run: Callable[..., None], count: int, sleep_s: float, resources: Resources, nodes: int
) -> Figure:
    """Run that many stubs and judge their marks."""
    with tempfile.TemporaryDirectory(prefix="sdbench-scheduler-") as scratch:
        marks = Path(scratch) / "marks"
        marks.mkdir()
        jobs = make_jobs(count, Path(scratch))
        slots = nodes if resources.address else resources.cpus or 1
        began, at = time.time(), load()
        with Sampler(marks) as sampler:
            run(jobs, resources, Event(), work=Stub(str(marks), sleep_s))
        names = [path.name for path in marks.iterdir()]
        times = [tuple(map(float, path.read_text().split())) for path in marks.iterdir()]
    first, last = min(start for start, _ in times), max(end for _, end in times)
    low, high = sampler.quarters(count)
    return Figure(
        engine=name,
        nodes=nodes,
        slots=slots,
        trials=count,
        sleep_s=sleep_s,
        lost=count - len({each.partition("-")[0] for each in names}),
        twice=sum("-" in each for each in names),
        start_s=first - began,
        span_s=last - first,
        per_hour=count / (last - first) * 3600,
        overhead_ms=((last - first) * slots / count - sleep_s) * 1000,
        rss_first_mib=low / 2**20,
        rss_last_mib=high / 2**20,
        rss_kib_per_trial=(high - low) / 1024 / (count * 3 / 4),
        load=at,
    )


@contextmanager
def cluster(nodes: int) -> Any:
    """The address of a cluster of that many nodes of one CPU each, beside a head without any."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    script = str(Path(__file__).with_name("nodes.py"))
    process = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = ""
        for number in range(nodes + 1):
            print("add", f"node{number}", min(1, number), file=process.stdin, flush=True)
            address = process.stdout.readline().strip()
            if not address:
                raise SystemExit(f"node {number} did not start")
        yield address
    finally:
        process.stdin.close()
        process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["throughput", "ray", "local"])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2], help="of the clusters")
    parser.add_argument("--per-node", type=int, default=5, help="trials for each node of a cluster")
    parser.add_argument("--sleep", type=float, nargs="*", default=[0.5], help="seconds; of each throughput's trials")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each setting")
    parser.add_argument("--trials", type=int, default=20, help="of the parts ray and local")
    parser.add_argument("--load-sleep", type=float, default=0.02, help="seconds that those sleep")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    if __name__ != "__main__":
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes cannot import this file
    figures: list[Figure] = []
    engines: dict[str, Engine] = {"ray": ray_tune.run, "local": local.run}
    # Clusters first: they ask for no token, and a Ray of this process's own makes it ask for one from then on.
    for nodes in chosen.nodes if "throughput" in chosen.parts else ():
        with cluster(nodes) as address:
            for sleep_s in chosen.sleep:
                for _ in range(chosen.repeat):
                    resources = Resources(gpus=0, address=address)
                    count = nodes * chosen.per_node
                    figures.append(measure("cluster", ray_tune.run, count, sleep_s, resources, nodes))
                    tell(figures[-1:])
    for name in ("ray", "local"):
        for _ in range(chosen.repeat if name in chosen.parts else 0):
            here = Resources(cpus=2, gpus=0)
            figures.append(measure(name, engines[name], chosen.trials, chosen.load_sleep, here, 1))
            tell(figures[-1:])
    print(summary(figures))
    if chosen.json:
        record = {"versions": environment.versions(), "cpu": environment.cpu_model(), "cores": environment.cpu_count()}
        chosen.json.write_text(json.dumps({**record, "figures": [asdict(f) for f in figures]}, indent=1) + "\n")


def tell(figures: Sequence[Figure]) -> None:
    for f in figures:
        print(f"{f.engine}: {f.trials} trials on {f.slots} slots, {f.per_hour:.0f} per hour, {f.lost} lost", flush=True)


def summary(figures: Sequence[Figure]) -> str:
    """One line for each setting: the mean of its runs, and their smallest and largest throughput."""
    groups: dict[tuple[Any, ...], list[Figure]] = {}
    for f in figures:
        groups.setdefault((f.engine, f.nodes, f.slots, f.trials, f.sleep_s), []).append(f)
    lines = []
    for (engine, nodes, slots, trials, sleep_s), runs in groups.items():
        rates, lost, twice = [f.per_hour for f in runs], sum(f.lost for f in runs), sum(f.twice for f in runs)
        most = 3600 * slots / sleep_s
        lines.append([
            engine, nodes, slots, trials, f"{sleep_s:g}", len(runs), lost, twice,
            f"{statistics.fmean(rates):.0f}", f"{min(rates):.0f} to {max(rates):.0f}",
            f"{statistics.fmean(rates) / most:.0%}", f"{statistics.fmean(f.overhead_ms for f in runs):.0f}",
            f"{runs[-1].rss_first_mib:.0f} to {runs[-1].rss_last_mib:.0f}", f"{runs[-1].rss_kib_per_trial:.1f}",
            f"{min(f.load for f in runs):.1f} to {max(f.load for f in runs):.1f}",
        ])  # fmt: skip
    headers = [
        "engine", "nodes", "slots", "trials", "sleep s", "n", "lost", "twice", "per hour", "range", "of the most",
        "overhead ms", "RSS MiB", "KiB/trial", "load",
    ]  # fmt: skip
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()

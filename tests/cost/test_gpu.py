"""What only a GPU can show: captured steps, no waiting inside an epoch, memory to the byte, whole runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdbench import registry
from sdbench.cost.memory import MemoryJob, memory_of
from sdbench.cost.setting import RATE, Contestant, Stepper, open_data, open_session
from sdbench.graph import FIRST_EAGER

from .conftest import SMALL

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

METHODS = ["ce", "ls", "zipf", "cskd", "byot", "pskd"]
VARIANTS = [*((m, {}) for m in METHODS), ("pskd", {"past": "model"})]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stepper]:
    """Steppers on the GPU, with kernels that repeat themselves."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device = torch.device("cuda", 0)
    data = open_data(SMALL, device)

    def build(method: str, params: dict[str, object] | None = None) -> Stepper:
        values = registry.resolve(method, "synthetic", params or {})
        return Stepper(open_session(SMALL, Contestant(method, values), data, device))

    return build


@pytest.mark.parametrize(("method", "params"), VARIANTS)
def test_a_graph_trains_as_eager_steps_do(on_gpu, method: str, params: dict[str, object]) -> None:
    """Two epochs, with a short batch between steps of the graph."""
    eager, graph = on_gpu(method, params), on_gpu(method, params)
    graph.session.choose_step("graph")
    for each in (eager, graph):
        for _ in range(8):
            each()
        batch = each.batch()
        partners = tuple(p[:5] for p in batch.partners)
        each.train(type(batch)(batch.images[:5], (), partners, batch.labels[:5], batch.index[:5]))
        each.settle()
        for _ in range(6):
            each()
    assert graph.session.step_kind == ("graph", "")
    for key, value in eager.session.network.state_dict().items():
        torch.testing.assert_close(value, graph.session.network.state_dict()[key], rtol=1e-3, atol=1e-4)
    assert vars(eager.session.network.passes) == vars(graph.session.network.passes)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("kind", ["eager", "graph"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_of_an_epoch_waits_for_the_device(on_gpu, method: str, kind: str) -> None:
    """Every batch of an epoch is made and trained on, the short last one too, with waits made errors. A graph is
    captured before; its first steps look for waits themselves."""
    session = on_gpu(method).session
    session.choose_step(kind)
    session.begin_epoch(0)
    batches = session.batches(0)
    for _ in range(FIRST_EAGER + 2):
        session.step(next(batches), RATE, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            session.step(batch, RATE, 0.5)
        session.end_epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_that_waits_stays_eager_and_says_why(on_gpu) -> None:
    found = on_gpu("planted_wait")
    found.session.choose_step("graph")
    for _ in range(6):
        found()
    kind, reason = found.session.step_kind
    assert kind == "eager"
    assert reason


def test_planted_bytes_come_out_on_a_gpu(planted: str) -> None:
    """The allocator rounds to 512 bytes, and 3 MiB are a multiple of that."""

    def measured(method: str):
        job = MemoryJob(setting=SMALL, method=method, params={}, plugins=(planted,), device="cuda")
        return memory_of(job)

    plain, buffer = measured("ce"), measured("planted_buffer")
    assert buffer.peak_bytes - plain.peak_bytes == 3 * 2**20
    assert buffer.split.method_state == 3 * 2**20
    assert sum(plain.split.model_dump().values()) == plain.peak_bytes
    assert plain.peak_reserved_bytes >= plain.peak_bytes


def command(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "sdbench", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_profile_counts_and_times_captured_steps(tmp_path: Path) -> None:
    common = ["-m", "zipf,cskd", "--model", "resnet8", "-b", "64", "--rounds", "20", "--max-seconds", "20", "-q"]
    document = command("profile", *common, "--device", "cuda", "--results", str(tmp_path), "--json")
    for row in document["rows"]:
        assert (row["step"], row["step_reason"]) == ("graph", "")
        assert row["flop_coverage"] > 0
        assert row["kernels_launched"] > 0
        assert row["memory"]["split"]["activations"] > 0
    assert {row["method"]: row["forward_images"] for row in document["rows"]} == {"ce": 1, "zipf": 1, "cskd": 2}


def test_a_run_trains_on_the_gpu_from_graphs(tmp_path: Path) -> None:
    common = ["--dataset", "glyphs", "--model", "resnet8", "--epochs", "1", "--seeds", "0", "--engine", "local", "-q"]
    command("run", "-m", "zipf", *common, "--device", "cuda", "--results", str(tmp_path), "--json")
    records = [json.loads(p.read_text()) for p in tmp_path.glob("trials/*/*/*/*/trial.json")]
    assert {r["status"] for r in records} == {"ok"}
    assert {(r["cost"]["step"], r["cost"]["step_reason"]) for r in records} == {("graph", "")}

"""Made-up results folders: trials with curves and logits, profiles, failures, hostile names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting
from sdbench.spec import Cost, Identity, Metrics, Provenance, Recipe, TrialResult, TrialSpec, digest
from sdbench.store import Store

METHODS = {"ce": 0.700, "ls": 0.706, "zipf": 0.712, "pskd": 0.718, "cskd": 0.709}
RATIOS = {"ls": (1.002, 1.0), "zipf": (1.008, 1.003), "pskd": (0.998, 1.0), "cskd": (1.33, 1.335)}
EPOCHS = 20

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</title></style></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u202c\u2066\u0007\x1b[31m",
    "x" * 200,
    "javascript:alert(1)//'`${alert(1)}",
    "$\\frac{1}{0}$ & % _ ^ \\input{x}",
)


def provenance(day: int = 1, **given: Any) -> Provenance:
    at = f"2026-01-{day:02}T00:00:00.000+00:00"
    base = {"versions": {"torch": "2.10.0", "sdbench": "0.1.0"}, "device": "cpu", "cpu": "Example 9000"}
    return Provenance(**{**base, "started": at, "finished": at, "commit": "ab" * 20, "dirty": False, **given})


def trial(
    method: str, seed: int = 0, top1: float = 0.7, *, status: str = "ok", reason: str = "", log_tail: str = "",
    caveat: str = "", seconds: float | None = None, where: dict[str, Any] | None = None, **spec: Any,
) -> TrialResult:  # fmt: skip
    """One record; seconds: processor time of the training, None where the timing does not count."""
    rules = {"dataset": "cifar100", "network": "resnet20", "recipe": Recipe(epochs=EPOCHS), "protocol": "fixed"}
    own = TrialSpec(**{**rules, **spec}, method=method, seed=seed)
    identity = Identity(method_source=digest(method) * 4, data_fingerprint="d" * 64, protocol_version="1")
    cost = Cost(
        train_s=50, process_s=seconds or 1, eval_s=1, setup_s=1, labelled_images=1000, images_with_gradient=1000,
        images_without_gradient=0, peak_memory_bytes=2**20, auxiliary_parameters=0, state_bytes=0,
        timing_valid=seconds is not None, timing_problems=() if seconds else ("load 2.3 above 1 cores",),
    )  # fmt: skip
    ok = status == "ok"
    return TrialResult(
        trial_id=digest([own.model_dump(mode="json"), identity.model_dump(mode="json")]),
        status=status,
        reason=reason,
        log_tail=log_tail,
        caveat=caveat,
        baseline="ce",
        spec=own,
        identity=identity,
        metrics=Metrics(top1=top1, top5=0.9, nll=1.5, ece=0.05, brier=0.4, aurc=0.1, eaurc=0.05) if ok else None,
        cost=cost if ok else None,
        provenance=provenance(**{"command": ("run", "--methods", method), **(where or {})}),
        epochs_done=EPOCHS if ok else 3,
        num_classes=100,
    )


def curve(final: float, seed: int, epochs: int = EPOCHS, every: int = 1) -> list[dict[str, Any]]:
    """A loss that falls and an accuracy that rises to ``final``, logged every so many epochs and at the end."""
    lines: list[dict[str, Any]] = []
    for epoch in range(epochs):
        wave = 0.03 * math.sin(3 * epoch + seed)
        line: dict[str, Any] = {"epoch": epoch, "lr": 0.1, "loss": 4 * math.exp(-epoch / 6) + 0.4 + wave}
        line |= {"terms": {"ce": line["loss"]}, "images_per_s": 1000.0 + seed}
        if every and ((epoch + 1) % every == 0 or epoch == epochs - 1):
            line["top1"] = final * (1 - math.exp(-(epoch + 1) / 5)) / (1 - math.exp(-epochs / 5))
        lines.append(line)
    return lines


def network_outputs(top1: float, seed: int, size: int = 600, classes: int = 20) -> dict[str, Any]:
    """Logits in fp16 that hit the label in a share ``top1`` of cases, overconfidently."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, size)
    said = np.where(random.random(size) < top1, labels, random.integers(0, classes, size))
    logits = random.normal(0, 1, (size, classes))
    logits[np.arange(size), said] += random.gamma(4, 1.2, size)
    return {"logits": logits.astype(np.float16), "labels": labels}


def write(
    root: Path, result: TrialResult, lines: Iterable[dict[str, Any]] = (), tensors: dict[str, Any] | None = None
) -> Path:
    """A trial's folder with all its files, the record sealed; returns the folder."""
    store = Store(root)
    folder = store.folder(result.spec, result.trial_id)
    folder.mkdir(parents=True)
    if text := "".join(json.dumps(line) + "\n" for line in lines):
        (folder / "curve.jsonl").write_text(text)
    if tensors is not None:
        save_file(tensors, folder / "logits.safetensors")
    store.write(result)
    return folder


def profile(
    ratios: dict[str, tuple[float, float]], caveats: dict[str, str] | None = None, **setting: Any
) -> ProfileResult:
    """A profile with the given measured and predicted ratios, intervals of 0.004 up and down."""
    own = {"network": "resnet20", "num_classes": 100, "num_train": 50_000, "image_size": 32, "augment": "crop-flip"}
    rows = [ProfileRow(method="ce", time_ratio=ratio(1.0), predicted_ratio=1.0, memory_ratio=1.0)]
    for method, (time, predicted) in ratios.items():
        flagged, caveat = time > 1.05 * predicted, (caveats or {}).get(method, "")
        own_row = {"method": method, "caveat": caveat, "predicted_ratio": predicted, "memory_ratio": 1.02}
        rows.append(ProfileRow(**own_row, time_ratio=ratio(time), flagged=flagged))
    origin = provenance(day=2)
    made = Setting(**{**own, "batch_size": 128, **setting})
    return ProfileResult(
        profile_id=digest([made.model_dump(mode="json"), sorted(ratios)]), setting=made, baseline="ce",
        rows=tuple(rows), load_start=0, load_end=0, seconds=9, provenance=origin,
    )  # fmt: skip


def ratio(median: float) -> Ratio:
    low, high = median - 0.004, median + 0.004
    verdict = "equal" if low > 0.97 and high < 1.03 else "costlier" if low > 1.03 else "inconclusive"
    return Ratio(median=median, low=low, high=high, rounds=60, verdict=verdict)


def fill(root: Path, seeds: int = 4) -> None:
    """Five methods with curves and logits, a sixth with a caveat, a profile, failures of three kinds."""
    for method, top1 in METHODS.items():
        for seed in range(seeds):
            final = top1 + 0.004 * math.sin(5 * seed + len(method))
            write(root, trial(method, seed, final), curve(final, seed), network_outputs(final, seed))
    for seed in range(seeds):
        named = trial("odd", seed, 0.69, caveat="not as its authors have it")
        write(root, named, curve(0.69, seed, every=0))
    write(root, trial("ls", 9, status="nan", reason="loss term ce is not finite in epoch 3; lower lr"))
    write(root, trial("zipf", 9, status="oom", reason="CUDA out of memory", log_tail="one line\nlast line"))
    write(root, trial("pskd", 9, status="interrupted"))
    archive.write(root, profile(RATIOS | {"odd": (1.2, 1.05)}, {"odd": "not as its authors have it"}))


def fill_hostile(root: Path) -> None:
    """Trials whose names, reasons and log messages try to break out of whatever holds them."""
    for seed in range(3):
        write(root, trial("ce", seed, 0.7), curve(0.7, seed), network_outputs(0.7, seed))
    for i, text in enumerate(HOSTILE):
        caveat = HOSTILE[(i + 1) % len(HOSTILE)][:60]
        for seed in range(3):
            named = trial(text, seed, 0.7 + i / 100, caveat=caveat, params={text[:50]: text[:50]})
            folder = named.model_copy(update={"trial_id": f"{named.trial_id}"})
            write(root, folder, curve(0.7, seed), network_outputs(0.7, seed))
        write(root, trial(text, 7, status="failed", reason=text, log_tail=f"{text}\n{text}", caveat=caveat))
    other = HOSTILE[0]
    write(root, trial("ce", 0, 0.5, dataset=other, network=HOSTILE[1], where={"cpu": other, "command": (other,)}))
    write(root, trial("ls", 0, 0.6, dataset=other, network=HOSTILE[1], caveat=other))
    archive.write(root, profile({text[:200]: (1.5, 1.2) for text in HOSTILE}, {HOSTILE[5][:200]: HOSTILE[0]}))


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that nobody writes to."""
    root = tmp_path_factory.mktemp("evidence")
    fill(root)
    return root


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of hostile records."""
    root = tmp_path_factory.mktemp("hostile")
    fill_hostile(root)
    return root


@pytest.fixture
def put() -> Callable[..., Path]:
    """``put(root, result, lines, tensors)``: ``write``."""
    return write


@pytest.fixture
def make_trial() -> Callable[..., TrialResult]:
    return trial


@pytest.fixture
def make_curve() -> Callable[..., list[dict[str, Any]]]:
    return curve


@pytest.fixture
def make_outputs() -> Callable[..., dict[str, Any]]:
    return network_outputs


@pytest.fixture
def make_profile() -> Callable[..., ProfileResult]:
    return profile

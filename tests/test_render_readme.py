"""README's headline table: equal to what the published records say, and tables worked out by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdbench.cost import archive
from sdbench.cost.headline import EMPTY, headline
from sdbench.cost.records import Operator, ProfileResult, ProfileRow, Ratio, Setting
from sdbench.spec import Cost, Identity, Metrics, Provenance, Recipe, TrialResult, TrialSpec, digest
from sdbench.store import Store

ROOT = Path(__file__).resolve().parent.parent


def render(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "render_readme.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def provenance(day: int = 1, **given: Any) -> Provenance:
    at = f"2026-01-{day:02}T00:00:00.000+00:00"
    where = {"device": "cpu", "cpu": "Example 9000", "versions": {"torch": "2.10.0"}, **given}
    return Provenance(**where, started=at, finished=at)


def measured(method: str, ratio: tuple[float, float, float] | None = (1.01, 1.0, 1.02), **given: Any) -> ProfileRow:
    found = None
    if ratio:
        found = Ratio(median=ratio[0], low=ratio[1], high=ratio[2], rounds=60, verdict=given.pop("verdict", "equal"))
    figures = {
        "time_ratio": found, "predicted_ratio": 1.0, "memory_ratio": 1.0, "images_loaded": 1, "forward_images": 1,
        "backward_images": 1, "auxiliary_parameters": 0, "state_bytes": 0, "state_bytes_at": {"cifar100": 0},
    }  # fmt: skip
    return ProfileRow(**{**figures, **given}, method=method)


def profile(
    *rows: ProfileRow, name: str, day: int = 1, where: dict[str, Any] | None = None, **setting: Any
) -> ProfileResult:
    usual = {"network": "resnet20", "num_classes": 100, "num_train": 50_000, "image_size": 32, "batch_size": 128}
    return ProfileResult(
        profile_id=name,
        setting=Setting(**{**usual, "augment": "crop-flip", **setting}),
        baseline="ce",
        rows=(measured("ce", (1, 1, 1)), *rows),
        load_start=0.254,
        load_end=1,
        seconds=60,
        provenance=provenance(day, **(where or {})),
    )


def trial(method: str, seed: int, top1: float, dataset: str = "cifar100", **given: Any) -> TrialResult:
    spec = TrialSpec(
        method=method, dataset=dataset, network="resnet20", recipe=Recipe(epochs=200), protocol="fixed", seed=seed,
        **given,
    )  # fmt: skip
    identity = Identity(method_source=method, data_fingerprint="d" * 64, protocol_version="1")
    return TrialResult(
        trial_id=digest([spec.model_dump(mode="json"), identity.model_dump(mode="json")]),
        status="ok",
        baseline="ce",
        spec=spec,
        identity=identity,
        metrics=Metrics(top1=top1, top5=0.9, nll=1.5, ece=0.05, brier=0.4, aurc=0.1, eaurc=0.05),
        cost=Cost(
            train_s=1, process_s=1, eval_s=1, setup_s=1, labelled_images=1, images_with_gradient=1,
            images_without_gradient=0, peak_memory_bytes=1, auxiliary_parameters=0, state_bytes=0, timing_valid=True,
        ),
        provenance=provenance(device="Another GPU"),
    )  # fmt: skip


BY_HAND = """\
**resnet20, 100 classes, CPU**

| method | time × [95 %] (rounds), verdict | FLOPs × | peak memory × | images loaded / forward / backward \
| auxiliary weights | state at CIFAR-100 |
| :-- | --: | --: | --: | --: | --: | --: |
| ce | 1 | 1.000 | 1.000 | 1 / 1 / 1 | 0 | 0 B |
| cskd | 1.335 [1.329, 1.341] (60), costlier | 1.333 | 1.250 | 2 / 2 / 1 | 0 | 0 B |
| byot | 1.640 [1.600, 1.680] (60), costlier | 1.500 | 1.701 | 1 / 1 / 1 | 2.02 M | 0 B |
| pskd | – | 1.000 | 1.001 | 1 / 1 / 1 | 0 | 19.1 MiB |
| ban | 1.200 [0.990, 1.400] (60), inconclusive | 1.334 | – | 1 / 2 / 1 | 0 | – |
| big | out of memory | – | – | – | – | – |

cpu (Example 9000), 1 thread, torch 2.10.0; batch size 128, precision bf16, synthetic images of 32 pixels; \
steps run eager; verdicts against a margin of 0.03; profile abc (load 0.25 to 1.00).

* byot: more than 5 % above what FLOPs predict; of the excess: aten::sort 60 %, aten::mm 25 %
* pskd: timing left out: load 3.0 above 2 cores; 1 other process
* ban: 3 trainings in a row; the figures are of the last one's steps
* big: 40 GiB asked for
"""


def rows_by_hand() -> list[ProfileRow]:
    dear = {"predicted_ratio": 4 / 3, "memory_ratio": 1.25, "images_loaded": 2, "forward_images": 2}
    heads = {"predicted_ratio": 1.5, "memory_ratio": 1.7006, "auxiliary_parameters": 2_020_000, "flagged": True}
    shares = (Operator(name="aten::sort", extra_ms=3, share=0.6), Operator(name="aten::mm", extra_ms=1, share=0.25))
    bad = {"timing_valid": False, "timing_problems": ("load 3.0 above 2 cores", "1 other process")}
    chain = {"predicted_ratio": 1.3336, "memory_ratio": None, "forward_images": 2, "generations": 3}
    return [
        measured("cskd", (1.335, 1.329, 1.341), verdict="costlier", **dear),
        measured("byot", (1.64, 1.6, 1.68), verdict="costlier", operators=shares, **heads),
        measured("pskd", (1.77, 1.76, 1.78), memory_ratio=1.0012, state_bytes_at={"cifar100": 20_000_000}, **bad),
        measured("ban", (1.2, 0.99, 1.4), verdict="inconclusive", state_bytes_at={"cifar100": None}, **chain),
        ProfileRow(method="big", status="oom", reason="40 GiB asked for"),
    ]


def test_a_table_by_hand() -> None:
    assert headline([profile(*rows_by_hand(), name="abc")], []) == BY_HAND


def cells(text: str, method: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_gains_stand_beside_costs_where_network_and_classes_agree() -> None:
    """ls: differences 0.01 and 0.03, mean 0.02, s = 0.01 sqrt(2), t_1(0.975) = 12.7062: half-width 0.127062."""
    trials = [trial("ce", 0, 0.70), trial("ce", 1, 0.70), trial("ls", 0, 0.71), trial("ls", 1, 0.73)]
    trials += [trial("ce", 0, 0.9, "cifar10"), trial("ls", 0, 0.95, "cifar10")]
    one = profile(measured("ls"), measured("pskd"), name="abc")
    text = headline([one], trials)
    header = next(line for line in text.splitlines() if line.startswith("| method"))
    assert header.endswith("| gain on cifar100, 200 epochs, points [95 %] (n) |")
    assert cells(text, "ls")[-1] == "+2.00 [-10.71, +14.71] (n too small: 2)"
    assert cells(text, "ce")[-1] == cells(text, "pskd")[-1] == "–"
    assert "cifar10," not in text
    few = headline([profile(measured("ls"), name="abc", num_classes=10)], trials)
    assert cells(few, "ls")[-1] == "+5.00 (n too small: 1)"
    assert "gain on" not in headline([profile(measured("ls"), name="abc", network="resnet18")], trials)
    two = headline([one], [*trials, *(trial(m, 0, 0.5, precision="fp32") for m in ("ce", "ls"))])
    assert "| gain on cifar100 (fixed, 200 epochs, bf16, full), points [95 %] (n) | gain on cifar100 (fixed" in two


def test_gains_of_several_variants_are_not_mixed_up() -> None:
    trials = [trial("ce", 0, 0.7), *(trial("ls", 0, 0.7 + e, params={"smoothing": e}) for e in (0.1, 0.2))]
    same = headline([profile(measured("ls", params={"smoothing": 0.2}), name="abc")], trials)
    assert cells(same, "ls")[-1] == "+20.00 (n too small: 1)"
    neither = headline([profile(measured("ls", params={"smoothing": 0.3}), name="abc")], trials)
    assert cells(neither, "ls")[-1] == "–"
    both = profile(*(measured("ls", params={"smoothing": e, "dense": True}) for e in (0.1, 0.2)), name="abc")
    assert "| ls[smoothing=0.1] |" in headline([both], [])


def test_one_table_for_each_place_and_gpus_first() -> None:
    gpu = {"device": "NVIDIA H200"}
    profiles = [
        profile(measured("ls"), name="a"),
        profile(measured("ls"), name="b", num_classes=1000),
        profile(measured("ls"), name="c", where=gpu),
        profile(measured("ls"), name="d", where=gpu, network="resnet18"),
        profile(measured("ls"), name="e", where={"versions": {"torch": "2.9.0"}}),
    ]
    for order in (profiles, profiles[::-1]):
        text = headline(order, [])
        assert [line for line in text.splitlines() if line.startswith("**")] == [
            "**resnet18, 100 classes, NVIDIA H200**",
            "**resnet20, 100 classes, NVIDIA H200**",
            "**resnet20, 100 classes, CPU**",
            "**resnet20, 1000 classes, CPU**",
            "**resnet20, 100 classes, CPU**",
        ]
        assert sorted("abcde", key=lambda i: text.index(f"profile {i} (")) == list("dcabe"), "by hardware, then network"


@pytest.mark.parametrize("order", [1, -1])
def test_a_place_measured_in_several_ways_shows_what_is_done_unasked(order: int) -> None:
    usual = profile(measured("ls", (1.1, 1.1, 1.1)), name="usual", day=1)
    profiles = [
        usual,
        profile(measured("ls"), measured("pskd"), name="small", day=9, batch_size=64),
        profile(measured("ls"), measured("pskd"), name="off", day=9, step="off"),
    ]
    text = headline(profiles[::order], [])
    assert cells(text, "ls")[1] == "1.100 [1.100, 1.100] (60), equal"
    assert "profile usual (" in text
    assert "pskd" not in text
    more = profile(measured("ls"), measured("pskd"), name="more", day=1, precision="fp32")
    assert "precision fp32" in headline([usual, more][::order], []), "more methods"
    newer = profile(measured("ls"), name="newer", day=2, precision="fp32")
    assert "precision fp32" in headline([usual, newer][::order], []), "as many, but newer"


@pytest.mark.parametrize("order", [1, -1])
def test_profiles_of_one_way_complete_each_other(order: int) -> None:
    bad = {"timing_valid": False, "timing_problems": ("load",)}
    old = profile(measured("ls", (1.1, 1.1, 1.1)), measured("pskd", (1.2, 1.2, 1.2)), name="old", day=1)
    new = profile(measured("ls", (1.3, 1.3, 1.3), **bad), measured("zipf", (1.4, 1.4, 1.4)), name="new", day=2)
    text = headline([old, new][::order], [])
    found = {m: cells(text, m)[1] for m in ("ce", "ls", "zipf", "pskd")}
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ") and "/" in line][1:] == [
        "ce",
        "ls",
        "zipf",
        "pskd",
    ]
    assert {m: cell[:5] for m, cell in found.items()} == {"ce": "1", "ls": "1.100", "zipf": "1.400", "pskd": "1.200"}
    assert "profiles new (load 0.25 to 1.00), old (load 0.25 to 1.00)." in text
    assert "timing left out" not in text


def test_hostile_names_stay_in_their_cells() -> None:
    text = headline([profile(measured("a|b<i>"), name="abc")], [])
    assert r"| a\|b&lt;i&gt; |" in text


def test_readme_says_what_the_published_records_say() -> None:
    done = render("--check")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """README.md and one published profile, in another folder."""
    shutil.copy(ROOT / "README.md", tmp_path)
    archive.write(tmp_path / "published", profile(*rows_by_hand(), name="abc"))
    return tmp_path


def test_a_readme_that_differs_is_found_and_put_right(copy: Path) -> None:
    readme = copy / "README.md"
    given = ("--readme", readme, "--published", copy / "published")
    assert render(*given).returncode == 0
    text = readme.read_text()
    assert f"<!-- headline:begin -->\n\n{BY_HAND}\n<!-- headline:end -->\n" in text
    around = (ROOT / "README.md").read_text().split("<!-- headline:begin -->")
    assert text.startswith(around[0])
    assert text.endswith(around[1].split("<!-- headline:end -->")[1])
    assert render(*given, "--check").returncode == 0
    readme.write_text(text.replace("1.335 [", "1.035 ["))
    typed = render(*given, "--check")
    assert typed.returncode == 1
    assert "run tools/render_readme.py" in typed.stderr
    assert "1.035 [" in readme.read_text(), "a check writes nothing"
    assert render(*given).returncode == 0
    assert readme.read_text() == text
    archive.write(copy / "published", profile(measured("ls"), name="later", day=2))
    assert render(*given, "--check").returncode == 1, "records that README does not show yet"


def test_published_trials_are_read(copy: Path) -> None:
    for one in (trial("ce", 0, 0.7), trial("cskd", 0, 0.72)):
        Store(copy / "published").write(one)
    assert render("--readme", copy / "README.md", "--published", copy / "published").returncode == 0
    assert cells((copy / "README.md").read_text(), "cskd")[-1] == "+2.00 (n too small: 1)"


def test_nothing_published_is_one_sentence(copy: Path) -> None:
    assert render("--readme", copy / "README.md", "--published", copy / "nothing").returncode == 0
    assert f"<!-- headline:begin -->\n\n{EMPTY}\n\n<!-- headline:end -->\n" in (copy / "README.md").read_text()


@pytest.mark.parametrize("broken", ["marker", "record"])
def test_what_cannot_be_rendered_says_so(copy: Path, broken: str) -> None:
    readme = copy / "README.md"
    if broken == "marker":
        readme.write_text(readme.read_text().replace("<!-- headline:end -->", ""))
    else:
        path = next(copy.glob("published/profiles/*/*/*/profile.json"))
        path.write_text(path.read_text().replace("1.335", "1.035"))
    before = readme.read_text()
    done = render("--readme", readme, "--published", copy / "published")
    assert done.returncode == 2
    assert {"marker": "headline:end", "record": "its checksum does not match"}[broken] in done.stderr
    assert readme.read_text() == before


def test_the_renderer_needs_no_torch() -> None:
    code = "import sys, sdbench.cost.headline as h; h.headline([], []); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

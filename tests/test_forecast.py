"""What a run needs, told before it: real sizes by arithmetic, hours by hand from a profile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdbench import api, environment, registry
from sdbench.cost import archive
from sdbench.cost.records import Memory, ProfileResult, ProfileRow, Ratio, Setting
from sdbench.forecast import DataSize, Holdings, Machine, forecast, key
from sdbench.forecast_facts import decoded_per_s, forecast_of, holdings
from sdbench.forecast_records import Forecast, Need, size_text
from sdbench.identity import method_source
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import index_profiles
from sdbench.plan import Plan
from sdbench.spec import Options, Provenance, Trial
from sdbench.tiny import TinyTask

INAT21 = DataSize(num_classes=10_000, num_train=2_686_843, num_test=100_000, image_size=224, streamed=True)
IMAGENET = DataSize(num_classes=1_000, num_train=1_281_167, num_test=50_000, image_size=224, streamed=True)
HERE = Hardware("cpu", "a processor", 1, "2.15.0")
ROOMY = Machine(HERE, free_memory=2**40, free_disk=2**50, at_once=1, workers=4)


def planned(
    method: str, *, params: dict[str, Any] | None = None, options: Options | None = None, **recipe: Any
) -> Plan:
    trial = TinyTask(network="resnet18").trial(method, registry.resolve(method, "", {}))
    changed = trial.spec.recipe.model_copy(update={"epochs": 100, "batch_size": 256, **recipe})
    spec = trial.spec.model_copy(update={"recipe": changed, "image_size": 224, "dataset": "big"})
    return Plan(
        trials=(Trial(spec=spec, identity=trial.identity),),
        options=options or Options(),
        resources={},
        engine="local",
        results="/results",
        rerun="none",
        baseline="ce",
    )


def told(plan: Plan, size: DataSize, machine: Machine = ROOMY, profiles: tuple[ProfileResult, ...] = ()) -> Forecast:
    spec = plan.trials[0].spec
    held = {key(spec): holdings(spec, size)}
    return forecast(plan, index_profiles(profiles), {"big": size}, held, machine, plan.trials)


def need(*given: Any, **more: Any) -> Need:
    [found] = told(*given, **more).needs
    return found


@pytest.mark.parametrize(("size", "each"), [(INAT21, 2_686_843 * 10_000 * 4), (IMAGENET, 1_281_167 * 1_000 * 4)])
@pytest.mark.parametrize("state", ["memory", "disk"])
def test_pskd_on_real_data_sets(size: DataSize, each: int, state: Any) -> None:
    without, own = (need(planned(method, options=Options(state=state)), size) for method in ("ce", "pskd"))
    assert (without.row_bytes, without.state_bytes, without.rows) == (0, 0, "none")
    assert own.row_bytes == each
    assert own.state_bytes == each + 4  # and alpha
    assert own.rows == state
    per_file = 2 if state == "disk" else 3  # two files; or part of three checkpoints
    assert own.training_bytes - without.training_bytes == per_file * each + 3 * 4
    assert own.kept_bytes == without.kept_bytes


def test_imagenets_rows_in_words() -> None:
    assert size_text(1_281_167 * 1_000 * 4) == "4.77 GiB"
    assert size_text(2_686_843 * 10_000 * 4) == "100 GiB"
    assert size_text(0) == "0 B"
    assert size_text(3 * 2**40) == "3 TiB"


def test_memory_or_disk_by_what_is_free() -> None:
    plan, each = planned("pskd"), 1_281_167 * 1_000 * 4
    for free, expected in ((4 * each, "memory"), (4 * each - 1, "disk")):
        assert need(plan, IMAGENET, Machine(HERE, free, 2**50, 1, 4)).rows == expected


def test_processes_that_join_their_rows_keep_them_in_memory() -> None:
    plan, each = planned("pskd"), 1_281_167 * 1_000 * 4
    trial = plan.trials[0]
    split = trial.model_copy(update={"spec": trial.spec.model_copy(update={"shards": 2})})
    found = need(plan.model_copy(update={"trials": (split,)}), IMAGENET, Machine(HERE, each, 2**50, 1, 4))
    assert found.rows == "memory"
    assert found.training_bytes > 3 * each  # in three checkpoints, as trials with several processes have them


def test_weights_are_those_of_the_network() -> None:
    """ResNet-18 with 1,000 classes, small stem: 11,689,512 parameters less the usual stem's 9,408 for its 1,728."""
    from sdbench import models

    spec = planned("ce").trials[0].spec
    network = models.build("resnet18", 1_000, 224)
    floats = sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    found = holdings(spec, IMAGENET)
    assert found.weight_bytes == 4 * floats + buffers
    assert need(planned("ce"), IMAGENET).training_bytes == 3 * 2 * found.weight_bytes
    logits = 50_000 * (2 * 1_000 + 8)
    assert need(planned("ce"), IMAGENET).kept_bytes == found.weight_bytes + logits
    kept = Options(keep_weights=False, logits_every=10)
    assert need(planned("ce", options=kept), IMAGENET).kept_bytes == 10 * logits
    assert need(planned("ce", options=Options(keep_weights=False, keep_logits=False)), IMAGENET).kept_bytes == 0


@pytest.mark.parametrize("name", registry.names())
def test_every_method_can_be_asked(name: str) -> None:
    spec = TinyTask().trial(name, registry.resolve(name, "", {})).spec
    found = holdings(spec, DataSize(num_classes=10, num_train=26, num_test=5, image_size=16))
    session = TinyTask().session(TinyTask().trial(name, registry.resolve(name, "", {})))
    assert found.auxiliary_bytes == 4 * session.auxiliary_parameters()
    assert found.state_bytes == session.state_bytes() or name == "ban" or session.method.taught
    assert found.row_bytes in (0, 4 * 26 * 10)


def profile(method: str, **changed: Any) -> ProfileResult:
    row = ProfileRow(
        method=method,
        params=dict(registry.resolve(method, "", {})),
        source=method_source(method),
        time_ratio=Ratio(median=1.0, low=0.99, high=1.01, rounds=60, verdict="equal"),
        memory=Memory(peak_bytes=10**10),
        step_ms=100.0,
        state_bytes=10**9,
        epoch_hooks_ms=50.0,
    )
    where = Provenance(versions={"torch": "2.15.0"}, device="cpu", cpu="a processor", started="2026", finished="2026")
    return ProfileResult(
        profile_id="abcdef0123456789",
        setting=Setting(
            network="resnet18", num_classes=1_000, num_train=1_000, image_size=224, augment="crop-flip",
            batch_size=changed.pop("batch_size", 256), precision="fp32",
        ),
        baseline="ce",
        rows=(row.model_copy(update=changed),),
        load_start=0.5, load_end=0.5, seconds=60, provenance=where,
    )  # fmt: skip


def test_hours_and_memory_by_hand() -> None:
    """5,005 steps of 100 ms and hooks of 50 ms in each of 100 epochs; 50,000 images evaluated ten times, each taking
    a third of 100 / 256 ms."""
    plan = planned("pskd", options=Options(eval_every=10))
    found = need(plan, IMAGENET, profiles=(profile("pskd"),))
    milliseconds = 100 * (5_005 * 100 + 50) + 10 * 50_000 * (100 / 256) / 3
    assert found.step_hours == pytest.approx(milliseconds / 3.6e6)
    assert found.hours is None, "how fast images are decoded is unknown"
    weights = holdings(plan.trials[0].spec, IMAGENET).weight_bytes
    assert found.memory_bytes == 10**10 - 10**9 + found.state_bytes
    assert (found.profile, found.scaled, found.advice) == ("abcdef0123456789", False, "")

    half = need(planned("pskd", batch_size=128, options=Options(state="disk")), IMAGENET, profiles=(profile("pskd"),))
    fixed = 3 * weights + 10**9
    assert half.scaled
    assert half.memory_bytes == pytest.approx(fixed - 10**9 + (10**10 - fixed) / 2 + 4, abs=1)


def test_decoding_may_be_what_takes_longest() -> None:
    size = DataSize(1_000, 1_281_167, 50_000, 224, streamed=True, decoded_per_s=200.0)
    for workers, expected in ((0, "sum"), (1, "decode"), (64, "step")):
        machine = Machine(HERE, 2**40, 2**50, 1, workers)
        found = need(planned("pskd"), size, machine, (profile("pskd"),))
        assert found.decode_hours == pytest.approx((100 * 1_281_167 + 50_000) / (200 * max(1, workers)) / 3600)
        assert found.step_hours is not None
        assert (
            found.hours
            == {
                "sum": found.step_hours + found.decode_hours,
                "decode": found.decode_hours,
                "step": found.step_hours,
            }[expected]
        )
    shown = told(planned("pskd"), size, Machine(HERE, 2**40, 2**50, 1, 1), (profile("pskd"),)).lines
    assert "(decoding)" in "\n".join(shown)
    assert "decoding big: 200 images/s per processor, 1 workers" in shown


@pytest.mark.parametrize("at_once", [1, 2])
def test_workers_share_the_processors(at_once: int) -> None:
    """Two processors for all trials at once: of 64 workers no more than a trial's share counts, and steps, which take
    one thread, and decoding together take at least what the share can do."""
    size = DataSize(1_000, 1_281_167, 50_000, 224, streamed=True, decoded_per_s=20.0)
    plan = planned("pskd")
    one = plan.trials[0]
    trials = [one.model_copy(update={"spec": one.spec.model_copy(update={"seed": seed})}) for seed in (0, 1)]
    images = 100 * 1_281_167 + 50_000
    for workers in (2, 64):
        machine = Machine(HERE, 2**40, 2**50, at_once, workers, processors=2)
        held = {key(one.spec): holdings(one.spec, size)}
        [found] = forecast(plan, index_profiles((profile("pskd"),)), {"big": size}, held, machine, trials).needs
        share = 2 / at_once
        assert found.decode_hours == pytest.approx(images / (20 * share) / 3600)
        assert found.step_hours is not None
        assert found.hours == pytest.approx((found.step_hours + images / 20 / 3600) / share)


def test_trials_at_once_share_the_memory() -> None:
    """Each takes 10 GB; of eight at once on 12 GB, or two on each of four devices, some do not fit."""
    plan, size = planned("ce"), DataSize(1_000, 1_281_167, 50_000, 224)
    one = plan.trials[0]
    trials = [one.model_copy(update={"spec": one.spec.model_copy(update={"seed": seed})}) for seed in range(8)]
    held = {key(one.spec): holdings(one.spec, size)}
    known = index_profiles((profile("ce", state_bytes=0),))

    def asked(running: int, at_once: int, sharing: int | None = None) -> Forecast:
        machine = Machine(HERE, 12 * 10**9, 2**50, at_once, 0, sharing=sharing)
        return forecast(plan, known, {"big": size}, held, machine, trials[:running])

    assert asked(8, 8).needs[0].memory_bytes == 10**10
    assert asked(8, 8).shared_memory_bytes == 8 * 10**10
    assert asked(8, 8).problems == [
        "8 trials at once take up to 74.5 GiB of memory together and 11.2 GiB are free; run fewer at once with --jobs, "
        "or take a smaller --batch-size"
    ]
    assert "2 trials at once" in asked(2, 8).problems[0]
    assert "2 trials at once" in asked(8, 8, sharing=2).problems[0]
    for fits in (asked(8, 1), asked(1, 8), asked(8, 4, sharing=1)):
        assert fits.problems == []
        assert fits.shared_memory_bytes == 10**10


PLUGIN = """
import torch.nn.functional as F
from sdbench import Method, register

@register("{name}")
class Own(Method):
    \"\"\"Cross-entropy.\"\"\"
    partners = 1

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        {init}

    def setup(self, task, network):
        {setup}

    def criterion(self, output, batch, progress):
        return {{"ce": F.cross_entropy(output.logits, batch.labels)}}
"""


@pytest.mark.parametrize(
    ("name", "init", "setup", "told"),
    [
        ("own_values", "pass", "self.scale = float(next(network.parameters()).abs().mean())", r"RuntimeError: "),
        ("own_key", "pass", "raise KeyError('this')", r"KeyError: 'this'"),
        ("own_value", "pass", "raise ValueError('no stages')", r"ValueError: no stages"),
        ("own_numpy", "pass", "assert next(network.parameters()).detach().numpy().any()", r"\w+Error: "),
        ("own_broken", "raise RuntimeError('broken')", "pass", r"RuntimeError: broken"),
    ],
)
def test_a_plugin_that_needs_real_tensors_is_told_of(
    name: str, init: str, setup: str, told: str, tmp_path: Path, own_registry: None
) -> None:
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name, init=init, setup=setup))
    options: Any = {
        "methods": name, "plugin": tmp_path / f"{name}.py", "model": "resnet8", "results": tmp_path / "results",
        "engine": "local", "num_seeds": 1, "device": "cpu",
    }  # fmt: skip
    found = api.preview(**options)
    assert found.forecast is not None
    needs = {need.method: need for need in found.forecast.needs}
    own, base = needs[name], needs["ce"]
    assert re.match(rf"it cannot be set up on tensors without content \({told}", own.unknown)
    assert (own.state_bytes, own.row_bytes, own.training_bytes, own.memory_bytes) == (None, None, None, None)
    assert (own.rows, own.kept_bytes) == ("unknown", base.kept_bytes)
    assert base.unknown == ""
    assert f"memory, state and disk of {name} are unknown: it cannot be set up" in found.text
    assert f"disk: at least {size_text(found.forecast.disk_bytes)}" in found.text
    assert json.loads(found.model_dump_json())["forecast"]["needs"]


def test_partners_are_decoded_too() -> None:
    size = DataSize(1_000, 1_000, 10, 224, streamed=True, decoded_per_s=1.0)
    assert need(planned("cskd"), size).decode_hours == pytest.approx((100 * 2_000 + 10) / 4 / 3600)


@pytest.mark.parametrize(
    "other",
    [
        Hardware("cpu", "another processor", 1, "2.15.0"),
        Hardware("a GPU", "a processor", 1, "2.15.0"),
        Hardware("cpu", "a processor", 1, "2.14.0"),
    ],
)
def test_a_profile_of_another_machine_says_nothing(other: Hardware) -> None:
    found = told(planned("pskd"), IMAGENET, Machine(other, 2**40, 2**50, 1, 4), (profile("pskd"),))
    assert (found.needs[0].hours, found.needs[0].memory_bytes, found.untold) == (None, None, 1)
    assert (
        "hours and memory of pskd are unknown; run: sdbench profile --methods pskd --model resnet18 --classes 1000 "
        "--image-size 224 --batch-size 256 --precision fp32 --results /results"
    ) in found.lines


def test_what_is_short_is_said() -> None:
    small = Machine(HERE, free_memory=10**9, free_disk=10**9, at_once=3, workers=4)
    found = told(planned("pskd", options=Options(state="disk")), IMAGENET, small, (profile("pskd"),))
    assert found.disk_bytes == found.needs[0].training_bytes + found.needs[0].kept_bytes  # one trial, not three
    text = "\n".join(found.lines)
    assert "not enough: the disk of the results folder has 954 MiB free" in text
    assert "not enough: pskd on big takes" in text
    assert not told(planned("ce"), IMAGENET).problems


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("a", "b"):
            for n in range(4):
                path = tmp_path / "photos" / part / label / f"{n}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_a_dry_run_tells_it(photographs: Path, tmp_path: Path) -> None:
    options: Any = {
        "methods": "pskd", "dataset": f"folder:{photographs}", "model": "resnet8", "results": tmp_path / "results",
        "protocol": "fixed", "engine": "local", "num_seeds": 2, "device": "cpu",
    }  # fmt: skip
    found = api.preview(**options)
    assert found.forecast is not None
    assert {n.method: n.trials for n in found.forecast.needs} == {"ce": 2, "pskd": 2}
    assert found.forecast.decoded_per_s["folder:photos"] > 0
    assert {n.row_bytes for n in found.forecast.needs} == {0, 4 * 8 * 2}
    assert "run: sdbench profile --methods pskd,ce" in found.text or "--methods ce,pskd" in found.text
    assert json.loads(found.model_dump_json())["forecast"]["untold"] == 4
    assert not (tmp_path / "results" / "trials").exists(), "nothing was started"


def test_a_measured_profile_is_found(tmp_path: Path) -> None:
    """What ``sdbench profile`` leaves is what the next dry run rests on."""
    options: Any = {"methods": "ls", "results": tmp_path, "engine": "local", "device": "cpu", "model": "resnet8"}
    plan = api.plan(**options)
    [command] = {need.advice for need in forecast_of(plan, plan.trials).needs if need.method == "ls"}
    assert command.startswith(
        "sdbench profile --methods ls --model resnet8 --classes 100 --image-size 32 --batch-size 32"
    )
    place = Provenance(
        versions=environment.versions(), device="cpu", cpu=environment.cpu_model(), started="2026", finished="2026"
    )
    made = profile("ls", batch_size=32)
    setting = made.setting.model_copy(
        update={"network": "resnet8", "num_classes": 100, "image_size": 32, "precision": "bf16"}
    )
    archive.write(tmp_path, made.model_copy(update={"provenance": place, "setting": setting}))
    needs = {need.method: need for need in forecast_of(plan, plan.trials).needs}
    assert needs["ls"].profile == made.profile_id
    assert needs["ls"].hours is not None
    assert needs["ce"].hours is None


def test_nothing_to_run_needs_nothing(tmp_path: Path) -> None:
    plan = api.plan(methods="ce", results=tmp_path, engine="local", device="cpu")
    found = forecast_of(plan, ())
    assert (found.needs, found.lines, found.problems) == ((), [], [])


def test_a_rate_is_of_whole_images(photographs: Path) -> None:
    from sdbench import data

    listed = data.listed(f"folder:{photographs}")
    assert listed is not None
    assert 0 < decoded_per_s(listed, 64, most=3) < 1e6
    assert data.listed("glyphs") is None


def test_a_trial_alone_takes_no_account_of_seeds() -> None:
    one = planned("ce").trials[0].spec
    assert key(one) == key(one.model_copy(update={"seed": 9}))
    assert key(one) != key(one.model_copy(update={"network": "resnet8"}))
    assert Holdings(1, 2, 3, 4).per_image == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"state_bytes": 2**53},
        {"memory": Memory(peak_bytes=2**53)},
        {"memory": Memory(peak_bytes=0), "state_bytes": 2**53},
        {"memory": Memory(peak_bytes=2**53), "batch_size": 2},
        {"step_ms": 1e12, "steps_ratio": 1e12, "epoch_hooks_ms": 1e18},
    ],
    ids=str,
)
def test_a_forged_profile_is_an_odd_answer_and_no_error(changed: dict[str, Any]) -> None:
    found = told(planned("ce"), IMAGENET, profiles=(profile("ce", **changed),))
    assert 0 <= (found.needs[0].memory_bytes or 0) <= 2**53
    assert found.lines

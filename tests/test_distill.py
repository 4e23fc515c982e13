"""Students of finished networks: the loss by hand, the trials they become, and the table."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from sdbench.methods.knowledge_distillation import KnowledgeDistillation
from typer.testing import CliRunner

from sdbench import Task, boards, distill
from sdbench.assembly import open_session
from sdbench.cli import app
from sdbench.distill_table import Lesson, build, render
from sdbench.engine import Job, Resources
from sdbench.errors import UserError
from sdbench.protocol import PROTOCOLS
from sdbench.spec import Options, Trial, TrialResult
from sdbench.store import Store
from sdbench.train import run_trial

PROGRESS = torch.tensor(0.0)


def test_the_loss_by_hand(logits_network, logits_batch):
    student = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    teacher = torch.tensor([[0.0, 2 * math.log(3)], [0.0, 0.0]])  # at T = 2: (1/4, 3/4) and (1/2, 1/2)

    class Fixed(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            return teacher

    from sdbench import wrap

    method = KnowledgeDistillation(alpha=0.3, temperature=2.0)
    method.setup(Task(2, 2, 2, 1, teacher=wrap(Fixed())), logits_network)
    terms = method.loss(logits_network, logits_batch(student, torch.tensor([1, 0])), PROGRESS)
    ce = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert terms["ce"].item() == pytest.approx(0.7 * ce, rel=1e-5)
    p = [torch.tensor([1.0, math.e]) / (1 + math.e), torch.tensor([math.exp(0.5), 1.0]) / (1 + math.exp(0.5))]
    q = [torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])]
    kl = sum((b * (b / a).log()).sum().item() for a, b in zip(p, q, strict=True)) / 2
    assert terms["distillation"].item() == pytest.approx(0.3 * 4 * kl, rel=1e-5)


def test_without_weight_it_is_cross_entropy_and_asks_no_teacher(staged_network, image_batch):
    network, batch = staged_network(), image_batch()
    method = KnowledgeDistillation(alpha=0.0)
    method.setup(Task(5, 6, 6, 1, teacher=network.frozen_copy()), network)
    before = network.passes.without_gradient
    terms = method.loss(network, batch, PROGRESS)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], F.cross_entropy(network(batch.images).logits, batch.labels))
    assert network.passes.without_gradient == before


@pytest.mark.parametrize("values", [{"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0.0}])
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        KnowledgeDistillation(**values)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_plain_run_refuses_it_with_the_reason(tmp_path: Path) -> None:
    for wanted in ("kd", "kd[alpha=0.5]", "kd+cutmix", "zipf,kd"):
        result = invoke("run", "--methods", wanted, "--dry-run", "--results", str(tmp_path))
        assert result.exit_code == 2, wanted
        assert "kd" in result.stderr
    assert "sdbench distill" in invoke("run", "--methods", "kd", "--dry-run", "--results", str(tmp_path)).stderr


def test_all_does_not_mean_it(tmp_path: Path) -> None:
    result = invoke("run", "--methods", "all,^byot", "--dry-run", "--json", "--results", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    methods = {trial["spec"]["method"] for trial in json.loads(result.stdout)["trials"]}
    assert "kd" not in methods
    assert {"ban", "zipf", "ce"} <= methods
    assert invoke("run", "--methods", "k*", "--dry-run", "--results", str(tmp_path)).exit_code == 2


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Trials run in this process; yields the methods that were trained, in order."""
    trained: list[str] = []

    def engine(jobs: list[Job], resources: Resources, stop: Event) -> None:
        for job in jobs:
            trained.append(job.trial.spec.method)
            run_trial(job.trial, Store(Path(job.store)), job.options)

    monkeypatch.setattr("sdbench.run.ENGINES", {"local": engine})
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield trained
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def world(small_world: Any, tmp_path: Path) -> Any:
    """A copy of the small world's results that may be written to."""
    shutil.copytree(small_world.results, tmp_path / "results")
    return small_world


def flags(world: Any, tmp_path: Path, **given: Any) -> dict[str, Any]:
    own = {"dataset": [f"folder:{world.pictures}"], "results": str(tmp_path / "results"), "engine": "local"}
    return {**own, "device": "cpu", "teachers": ["ce,ls"], "temperatures": ["1,4"], **given}


def test_students_of_two_teachers(world: Any, tmp_path: Path, here: list[str]) -> None:
    given = flags(world, tmp_path, student="resnet20", epochs="2")
    text, told, code = distill.run(given, quiet=True)
    assert code == 0, told
    assert here.count("kd") == 8  # two teachers, two temperatures, two seeds
    assert here.count("ce") == 2  # the student alone
    store = Store(tmp_path / "results")
    results = {r.trial_id: r for r in store.scan().results}
    students = [r for r in results.values() if r.spec.method == "kd"]
    for student in students:
        teacher = results[student.spec.teacher or ""]
        assert (teacher.spec.seed, teacher.spec.network) == (student.spec.seed, "resnet8")
        assert student.spec.network == "resnet20"
        assert student.spec.protocol == "fixed-distill"
        assert student.spec.recipe.epochs == 2
        assert student.spec.generation is None
        assert f"resnet8/{teacher.spec.method} 4 epochs" in str(student.spec.params["taught_by"])
        assert student.cost is not None
        assert student.cost.images_without_gradient == student.cost.images_with_gradient > 0
        assert student.pairing == next(
            r.pairing for r in students if r.spec.seed == student.spec.seed and r.spec.params["temperature"] == 1
        )
    assert len({r.trial_id for r in students}) == 8

    # The table, once more from the records.
    table = json.loads(distill.run({**given}, quiet=True, as_json=True)[0])
    assert len(here) == 10, "nothing was left to train"
    assert [(row["teacher"], row["temperature"]) for row in table["rows"]] == [
        ("ce", 1), ("ce", 4), ("ls", 1), ("ls", 4),
    ]  # fmt: skip

    def top1(method: str, seed: int, **params: Any) -> float:
        own = [
            r
            for r in results.values()
            if (r.spec.method, r.spec.seed) == (method, seed)
            and r.spec.network == ("resnet20" if params else "resnet8")
            and (params.get("by", "") in str(r.spec.params.get("taught_by", "")))
            and params.get("t") == r.spec.params.get("temperature")
        ]
        assert len(own) == 1
        assert own[0].metrics is not None
        return own[0].metrics.top1

    ours = [top1("kd", s, by="/ls", t=4.0) for s in (0, 1)]
    plain = [top1("kd", s, by="/ce", t=4.0) for s in (0, 1)]
    theirs = [top1("ls", s) for s in (0, 1)]
    row = table["rows"][3]
    assert row["student_top1"]["mean"] == pytest.approx(sum(ours) / 2)
    assert row["to_teacher"]["mean"] == pytest.approx(sum(ours) / 2 - sum(theirs) / 2)
    assert row["to_plain"]["mean"] == pytest.approx(sum(ours) / 2 - sum(plain) / 2)
    assert row["to_plain"]["seeds"] == [0, 1]
    assert table["rows"][1]["to_plain"] is None
    assert any("n too small" in note for note in table["notes"])
    assert "resnet8/ls" in text

    # On the board they are in a table of their own, one row per teacher and temperature.
    board = json.loads(boards.leaderboard(str(tmp_path / "results"), "json", boards.Filter())[0])
    own = [t for t in board["tables"] if any(r["method"] == "kd" for r in t["rows"])]
    assert [t["protocol"] for t in own] == ["fixed-distill"]
    assert {r["method"] for r in own[0]["rows"]} == {"kd"}
    assert len({r["label"] for r in own[0]["rows"]}) == 4


def test_the_teacher_is_the_network_that_was_named(world: Any, tmp_path: Path) -> None:
    found = distill.plan_distillation(flags(world, tmp_path, student="resnet20"))
    store = Store(tmp_path / "results")
    lesson = found.lessons[-1]
    deterministic = torch.are_deterministic_algorithms_enabled()
    session = open_session(lesson.trial, store, Options(data_dir=str(world.pictures), device="cpu"))
    torch.use_deterministic_algorithms(deterministic)
    folder = store.folder(lesson.teacher.spec, lesson.teacher.trial_id)
    weights = safetensors.torch.load_file(folder / "network.safetensors")
    assert lesson.teacher.spec.method == "ls"
    own = session.method.teacher.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    assert session.method.teacher.label == "resnet8"  # type: ignore[union-attr]
    assert session.network.label == "resnet20"
    # Unless told otherwise, students learn as their teachers did, and have an identity of their own per teacher.
    assert lesson.trial.spec.recipe == lesson.teacher.spec.recipe
    assert lesson.trial.spec.precision == "fp32"
    ids = {x.trial.id for x in found.lessons} | set(found.alone.values())
    assert len(ids) == len(found.lessons) + 2
    assert found.lessons[0].trial.spec.params["taught_by"] == "resnet8/ce"


def test_a_student_alone_that_was_trained_already_is_used(world: Any, tmp_path: Path, here: list[str]) -> None:
    text, told, code = distill.run(flags(world, tmp_path, seeds=["0"], temperatures=["2"]), quiet=True)
    assert code == 0, told
    assert here == ["kd", "kd"]
    assert "same network" in text


def test_a_teacher_is_one_however_it_is_typed(world: Any, tmp_path: Path) -> None:
    """The same students, by what the teacher's record says, and each of them once."""

    def ids(*teachers: str, temperatures: str = "4") -> list[str]:
        given = flags(world, tmp_path, teachers=teachers, temperatures=[temperatures])
        return [lesson.trial.id for lesson in distill.plan_distillation(given).lessons]

    assert ids("ls") == ids("ls[smoothing=0.1]") == ids("ls[smoothing=0.10]", "ls") == ids("ls", temperatures="4,4.0")
    store = Store(tmp_path / "results")
    ls = next(r for r in store.scan().results if r.spec.method == "ls")
    for params, name in (
        ({"smoothing": 0.1}, "ls"),
        ({"smoothing": 0.2}, "ls[smoothing=0.2]"),
    ):
        assert distill._named(ls.model_copy(update={"spec": ls.spec.model_copy(update={"params": params})})) == name
    mixed = ls.spec.model_copy(update={"method": "ls+cutmix", "params": {"smoothing": 0.2, "cutmix.alpha": 9.0}})
    assert distill._named(ls.model_copy(update={"spec": mixed})) == "ls+cutmix[cutmix.alpha=9.0,smoothing=0.2]"
    foreign = ls.spec.model_copy(update={"method": "of_a_plug_in", "params": {"on": True}})
    assert distill._named(ls.model_copy(update={"spec": foreign})) == "of_a_plug_in[on=true]"


def on_two_processes(result: TrialResult, store: Store) -> TrialResult:
    """The same trial once more, as if it had been trained on two processes."""
    spec = result.spec.model_copy(update={"shards": 2})
    trial = Trial(spec=spec, identity=result.identity)
    shutil.copytree(store.folder(result.spec, result.trial_id), store.folder(spec, trial.id))
    copied = result.model_copy(update={"spec": spec, "trial_id": trial.id})
    store.write(copied)
    return copied


def test_teachers_of_several_processes_are_kept_apart(world: Any, tmp_path: Path) -> None:
    """BatchNorm saw other shards: teachers of one seed on one process and of another on two are no two seeds of one."""
    store = Store(tmp_path / "results")
    found = {(r.spec.method, r.spec.seed): r for r in store.scan().results}
    split = [on_two_processes(found["ce", seed], store) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"several settings: .*fp32; .*fp32, 2 processes each.*--gpus-per-trial"):
        distill.plan_distillation(flags(world, tmp_path, teachers=["ce"]))
    for wanted, own in (("1", [found["ce", 0], found["ce", 1]]), ("2", split)):
        plan = distill.plan_distillation(flags(world, tmp_path, teachers=["ce"], gpus_per_trial=wanted))
        assert {x.teacher.trial_id for x in plan.lessons} == {r.trial_id for r in own}
        told = {str(x.trial.spec.params["taught_by"]) for x in plan.lessons}
        assert told == {"resnet8/ce" if wanted == "1" else "resnet8/ce on 2 processes"}
    both = flags(world, tmp_path, teachers=["ce,ls"])  # ls was trained on one process alone
    assert {x.teacher.spec.shards for x in distill.plan_distillation(both).lessons} == {1}
    shutil.rmtree(store.folder(found["ce", 0].spec, found["ce", 0].trial_id))
    shutil.rmtree(store.folder(split[1].spec, split[1].trial_id))
    with pytest.raises(UserError, match="several settings"):  # a seed of each
        distill.plan_distillation(flags(world, tmp_path, teachers=["ce"]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"teachers": []}, "no teacher named"),
        ({"teachers": ["zipf"]}, "no finished trial of zipf"),
        ({"seeds": ["0-2"]}, "not finished: ce seed 2, ls seed 2"),
        ({"temperatures": ["0"]}, "--temperatures 0"),
        ({"alpha": ["1.5"]}, "--alpha 1.5"),
        ({"alpha": ["much"]}, "--alpha much: expected a number"),
        ({"student": "resnet9"}, "unknown network 'resnet9'"),
        ({"model": ["resnet20"]}, "no finished trial of ce"),
        ({"teachers": ["ls[smoothing=0.7]"]}, "no finished trial of ls"),
        ({"teacher_epochs": "200"}, "no finished trial of ce"),
    ],
)
def test_what_is_refused(world: Any, tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told.replace("[", r"\[")):
        distill.plan_distillation(flags(world, tmp_path, **given))


def test_weights_that_are_gone_or_changed(world: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    ls = next(r for r in store.scan().results if r.spec.method == "ls" and r.spec.seed == 1)
    weights = store.folder(ls.spec, ls.trial_id) / "network.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"ls seed 1 .trial {ls.trial_id}.: its weights are not those"):
        distill.plan_distillation(flags(world, tmp_path))
    weights.unlink()
    with pytest.raises(UserError, match="its weights were not kept"):
        distill.plan_distillation(flags(world, tmp_path))
    assert len(distill.plan_distillation(flags(world, tmp_path, seeds=["0"])).lessons) == 4


def test_the_command(world: Any, tmp_path: Path) -> None:
    result = invoke(
        "distill", "--teachers", "ce,ls", "--dataset", f"folder:{world.pictures}", "--alpha", "0.5,1",
        "--results", str(tmp_path / "results"), "--dry-run", "--json", "--engine", "local",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["missing"] == 2 * 2 * 4 * 2  # teachers, seeds, the four temperatures, both weights


def student(score: dict[tuple[str, int], float], teacher: str, seed: int, template: TrialResult) -> Lesson:
    """A lesson whose teacher has a top-1 of ``score`` by method and seed."""
    spec = template.spec.model_copy(update={"method": teacher, "seed": seed})
    metrics = template.metrics.model_copy(update={"top1": score[teacher, seed]}) if template.metrics else None
    taught_by = template.model_copy(update={"spec": spec, "metrics": metrics, "trial_id": f"{teacher}{seed}"})
    params = {"alpha": 0.9, "temperature": 2.0, "taught_by": teacher}
    own = spec.model_copy(update={"method": "kd", "params": params, "teacher": f"{teacher}{seed}"})
    return Lesson(teacher, teacher, taught_by, Trial(spec=own, identity=template.identity))


def test_the_table_by_hand(small_world: Any) -> None:
    """Three seeds; students of ls 2, 3 and 4 points below those of ce: mean 3, t interval 3 -+ 4.303 / sqrt(3)."""
    template = next(r for r in Store(small_world.results).scan().results if r.status == "ok")
    assert template.metrics is not None
    teachers = {("ce", s): 0.5 for s in range(3)} | {("ls", s): 0.6 for s in range(3)}
    lessons = [student(teachers, teacher, seed, template) for teacher in ("ce", "ls") for seed in range(3)]
    scores = dict(zip((x.trial.id for x in lessons), (0.60, 0.62, 0.64, 0.58, 0.59, 0.60), strict=True))
    results = [
        template.model_copy(
            update={
                "trial_id": x.trial.id,
                "spec": x.trial.spec,
                "metrics": template.metrics.model_copy(update={"top1": scores[x.trial.id]}),
            }
        )
        for x in lessons
    ]
    table = build(lessons, {}, results, "ce")
    plain, smoothed = table.rows
    assert plain.to_plain is None
    assert plain.to_teacher.mean == pytest.approx(0.12)
    assert smoothed.to_teacher.mean == pytest.approx(-0.01)
    assert smoothed.to_plain is not None
    assert smoothed.to_plain.mean == pytest.approx(-0.03)
    half = 0.04302652729749464 / math.sqrt(3)
    assert smoothed.to_plain.low == pytest.approx(-0.03 - half)
    assert smoothed.to_plain.high == pytest.approx(-0.03 + half)
    assert any("1 of 1 rows worse" in note for note in table.notes)
    assert "-3.00 [-5.48, -0.52] (3)" in render(table, False)
    # One student failed: its seed is left out of every difference and said.
    broken = [*results[:5], results[5].model_copy(update={"status": "failed", "metrics": None})]
    left = build(lessons, {}, broken, "ce").rows[1]
    assert left.seeds == (0, 1)
    assert left.statuses == {"failed": 1}
    assert left.to_plain is not None
    assert left.to_plain.mean == pytest.approx(-0.025)


def test_the_students_protocol_is_known_by_its_rules() -> None:
    from sdbench.protocol import known

    found = known("demo-distill")
    assert found is not None
    assert (found.name, found.recipe) == ("demo-distill", PROTOCOLS["demo"].recipe)
    assert known("nothing-distill") is None

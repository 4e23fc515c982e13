"""``sdbench profile`` and ``sdbench claims`` as commands, on a task of seconds with planted costs."""

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench import environment
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.cost.counts import FLAG_ABOVE
from sdbench.cost.records import ProfileResult, ProfileRow

SMALL = ["--model", "resnet8", "--classes", "10", "--image-size", "16", "--batch-size", "32", "--quiet"]
FIXED_KEYS = {
    "method",
    "time_ratio",
    "wall_ratio",
    "predicted_ratio",
    "memory_ratio",
    "forward_images",
    "backward_images",
    "auxiliary_parameters",
    "state_bytes",
    "timing_valid",
}


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load of whatever else runs beside the tests is not what is tested."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, planted: str) -> tuple[dict, Path]:
    """One profile with what is needed by several tests."""
    results = tmp_path_factory.mktemp("profile") / "results"
    wanted = "zipf,planted_pass,planted_sort,planted_buffer,planted_every_fourth,planted_failure"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5))
        done = invoke(
            "profile", "-m", wanted, "--plugin", planted, *SMALL, "--rounds", "30", "--max-seconds", "10",
            "--results", str(results), "--json",
        )  # fmt: skip
    assert done.exit_code == 1, done.output  # planted_failure fails
    return json.loads(done.stdout), results


def document_baseline(document: dict) -> str:
    return document["rows"][0]["method"]


def rows_of(document: dict) -> dict[str, dict]:
    return {row["method"]: row for row in document["rows"]}


def test_every_row_has_the_promised_keys(measured) -> None:
    rows = rows_of(measured[0])
    others = ["zipf", "planted_pass", "planted_sort", "planted_buffer", "planted_every_fourth", "planted_failure"]
    assert sorted(rows) == sorted(["ce", *others])
    assert document_baseline(measured[0]) == "ce"
    for row in rows.values():
        assert row.keys() >= FIXED_KEYS
    assert rows["zipf"]["time_ratio"].keys() == {"median", "low", "high", "rounds", "verdict"}
    ratio = rows["zipf"]["time_ratio"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert ratio["rounds"] >= 1
    assert rows["ce"]["time_ratio"]["median"] == 1.0


def test_a_second_forward_pass_is_counted_timed_and_refuted(measured) -> None:
    row = rows_of(measured[0])["planted_pass"]
    assert (row["forward_images"], row["forward_images_without_gradient"], row["backward_images"]) == (2, 1, 1)
    assert row["predicted_ratio"] == pytest.approx(1.33, abs=0.02)
    assert row["one_pass"]["verdict"] == "refuted"
    assert "2 forward passes per labelled image" in row["one_pass"]["because"]


def test_work_without_flops_is_flagged_by_name(measured) -> None:
    row = rows_of(measured[0])["planted_sort"]
    assert row["predicted_ratio"] == 1.0
    assert row["flagged"]
    assert row["operators"][0]["name"] == "aten.sort"
    assert row["time_ratio"]["median"] > FLAG_ABOVE


def test_steps_that_differ_are_counted_on_average(measured) -> None:
    row = rows_of(measured[0])["planted_every_fourth"]
    assert row["steps_differ"]
    assert row["forward_images"] == pytest.approx(1.25)
    assert row["predicted_ratio"] == pytest.approx(1 + 0.34 / 4, abs=0.02)
    assert row["one_pass"]["verdict"] == "refuted"
    assert not any(other["steps_differ"] for name, other in rows_of(measured[0]).items() if name != row["method"])


def test_planted_state_is_found(measured) -> None:
    rows = rows_of(measured[0])
    assert rows["planted_buffer"]["state_bytes"] == 3 * 2**20
    difference = rows["planted_buffer"]["memory"]["peak_bytes"] - rows["ce"]["memory"]["peak_bytes"]
    assert difference == 3 * 2**20
    assert rows["planted_buffer"]["state_bytes_at"]["inat21"] == 3 * 2**20


def test_a_method_that_fails_is_a_row_with_the_reason(measured) -> None:
    row = rows_of(measured[0])["planted_failure"]
    assert row["status"] == "failed"
    assert "ZeroDivisionError: planted" in row["reason"]
    assert row["time_ratio"] is None
    assert row["one_pass"] is None


def test_the_profile_is_kept_sealed_with_its_provenance(measured) -> None:
    document, results = measured
    kept = archive.scan(results).results
    assert {each.profile_id for each in kept} == set(document["profile_id"].split(", "))  # two groups
    assert all(each.provenance.versions["torch"] for each in kept)
    assert document["load_start"] == 0.5
    assert all(re.fullmatch(r"[0-9a-f]{64}", row.source) for each in kept for row in each.rows)
    path = next(results.glob("profiles/*/*/*/profile.json"))
    text = path.read_text()
    assert text.count('"load_start": 0.5') == 1
    path.write_text(text.replace('"load_start": 0.5', '"load_start": 0.4'))
    (damaged,) = archive.scan(results).damaged
    assert "checksum" in damaged.reason
    path.write_text(text)


def test_claims_read_what_was_profiled(measured, planted: str) -> None:
    done = invoke(
        "claims", "-m", "zipf,planted_pass", "--no-measure", "--plugin", planted, "--results", str(measured[1]), "-q"
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Zipf's LS is one-pass with no overhead: ")
    line = next(x for x in done.stdout.splitlines() if re.match(r"- planted_pass(, \w)?: one pass", x))
    assert "refuted" in line
    assert "2 forward passes" in line
    as_json = json.loads(invoke("claims", "--no-measure", "--results", str(measured[1]), "-q", "--json").stdout)
    assert next(iter(as_json)) == "headline"


def test_claims_measure_what_is_missing_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdbench.cost import commands

    asked: list[list[str]] = []

    def stand_in(plan, told) -> ProfileResult:
        names = [c.name for c in plan.contestants]
        asked.append(names)
        origin = commands_provenance(plan)
        rows = tuple(ProfileRow(method=c.name, params=dict(c.params)) for c in plan.contestants)
        return ProfileResult(
            profile_id=f"p{len(asked)}", setting=plan.setting, baseline="ce", rows=rows, load_start=0, load_end=0,
            seconds=1, provenance=origin,
        )  # fmt: skip

    monkeypatch.setattr(commands, "profile", stand_in)
    results = ["--results", str(tmp_path / "r"), "-q"]
    assert invoke("claims", "-m", "ls,zipf", *results).exit_code == 0
    assert invoke("claims", "-m", "ls,zipf", *results).exit_code == 0
    assert invoke("claims", "-m", "ls,pskd", *results).exit_code == 0
    assert asked == [["ce", "ls", "zipf"], ["ce", "pskd"]]


def commands_provenance(plan):
    import torch

    from sdbench.outcomes import provenance

    return provenance(plan.options, torch.device("cpu"), environment.now())


def test_a_sweep_is_a_table_and_a_plot(tmp_path: Path) -> None:
    options = ["--model", "resnet8", "--image-size", "16", "-b", "16", "--rounds", "3", "--max-seconds", "2", "-q"]
    where = ["--results", str(tmp_path), "--no-memory"]
    done = invoke("profile", "-m", "ls,zipf", "--sweep", "classes=10,200", *options, *where, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [(row["classes"], row["method"]) for row in document["rows"]] == [
        (k, m) for k in ("10", "200") for m in ("ce", "ls", "zipf")
    ]
    assert [p["setting"]["num_classes"] for p in document["profiles"]] == [10, 200]
    assert len(archive.scan(tmp_path).results) == 2
    (picture,) = (tmp_path / "profiles").glob("classes-*.svg")
    assert ET.parse(picture).getroot().tag.endswith("svg")
    text = invoke("profile", "-m", "ls", "--sweep", "model=resnet8,resnet20", *options[2:], *where).stdout
    assert "model resnet8" in text
    assert "model resnet20" in text


def test_a_busy_machine_invalidates_every_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start or at the end, the load above the cores leaves no timing in any cost column."""
    calls = iter([0.5, 99.0] + [99.0] * 50)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(calls),) * 3)
    arguments = ["-m", "ls", *SMALL, "--rounds", "2", "--max-seconds", "1", "--no-memory", "--results", str(tmp_path)]
    done = invoke("profile", *arguments)
    assert done.exit_code == 0
    assert "no timing counts here: load 99.0 above" in done.stdout
    line = next(x for x in done.stdout.splitlines() if x.startswith("ls "))
    assert re.search(r"\d\.\d{3} \[", line) is None
    (kept,) = archive.scan(tmp_path).results
    assert not any(row.timing_valid for row in kept.rows)
    assert not any(row.flagged for row in kept.rows)
    assert {row.time_ratio.verdict for row in kept.rows} == {"inconclusive"}
    claims = invoke("claims", "--no-measure", "--results", str(tmp_path), "-q").stdout
    assert "load 99.0" in claims


def test_all_mistakes_are_named_at_once_and_nothing_is_measured(tmp_path: Path) -> None:
    done = invoke(
        "profile", "-m", "zpf", "--model", "resnet21", "--batch-size", "1", "--margin", "2", "--precision", "int8",
        "--sweep", "clases=1,2", "--compile", "fast", "--results", str(tmp_path / "r"),
    )  # fmt: skip
    assert done.exit_code == 2
    for text in ("'zpf'", "'resnet21'", "--batch-size 1", "--margin 2", "--precision", "'clases'", "--compile"):
        assert text in done.stderr, text
    assert "did you mean 'zipf'" in done.stderr
    assert not list(tmp_path.glob("r/profiles/*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "glyphs", "--classes", "10"], "drop one"),
        (["--dataset", "glyphs", "--sweep", "classes=10"], "drop one"),
        (["--sweep", "classes"], "expected classes=VALUE"),
        (["--sweep", "classes=10,x"], "expected a whole number"),
        (["--dataset", "glyphs", "--batch-size", "20000"], "10000 training images"),
        (["-m", "zipf,zipf[upsample=2]"], "several sets of parameters"),
        (["--compile", "graph", "--device", "cpu"], "needs a GPU"),
        (["--max-seconds", "soon"], "duration"),
    ],
)
def test_bad_requests_say_what_to_type(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = invoke("profile", *arguments, "--results", str(tmp_path / "r"), "-q")
    assert done.exit_code == 2, done.output
    assert told in done.stderr


def test_no_measure_without_results_says_so(tmp_path: Path) -> None:
    done = invoke("claims", "--no-measure", "--results", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "no results folder" in done.stderr


def test_real_images_can_be_profiled(tmp_path: Path) -> None:
    done = invoke(
        "profile", "-m", "cskd", "--dataset", "glyphs", "--model", "resnet8", "-b", "32", "--rounds", "2",
        "--max-seconds", "2", "--no-memory", "-q", "--json", "--results", str(tmp_path),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["setting"]["dataset"] == "glyphs"
    assert document["setting"]["num_train"] == 10_000
    assert rows_of(document)["cskd"]["images_loaded"] == 2


QUICK = ["--model", "resnet8", "--classes", "10", "--image-size", "16", "-b", "16", "--max-seconds", "2", "-q"]


@pytest.mark.parametrize("step", [3, 12, 40])
def test_a_failure_at_any_time_costs_the_others_nothing(step: int, planted: str, tmp_path: Path) -> None:
    """While counting, while operators are timed, and in the rounds."""
    method = f"planted_failure[step={step}]"
    where = ["--plugin", planted, "--results", str(tmp_path), "--no-memory", "--json"]
    done = invoke("profile", "-m", f"{method},ls", "--rounds", "30", *QUICK, *where)
    assert done.exit_code == 1, done.output
    rows = rows_of(json.loads(done.stdout))
    assert rows["planted_failure"]["status"] == "failed"
    assert "ZeroDivisionError: planted" in rows["planted_failure"]["reason"]
    assert rows["ls"]["time_ratio"]["rounds"] >= 1


def test_the_baseline_is_there_and_first_whatever_was_asked_for(tmp_path: Path) -> None:
    for asked in ("ls,^ce", "ls,ce", "^ce", "ce"):
        options = ["--rounds", "1", *QUICK, "--no-memory", "--results", str(tmp_path), "--json"]
        done = invoke("profile", "-m", asked, *options)
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert (document["baseline"], document_baseline(document)) == ("ce", "ce")


@pytest.mark.parametrize("phase", ["memory_of", "joules", "rounds"])
def test_an_interruption_keeps_what_was_measured(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdbench.cost import profile as module

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if phase == "rounds":
        whole = module.take_turns

        def interrupted(*given: object, **options: object):
            found = whole(*given, **options)
            found.interrupted = True
            return found

        monkeypatch.setattr(module, "take_turns", interrupted)
    else:
        monkeypatch.setattr(module, {"memory_of": "memory_of", "joules": "_let_go"}[phase], interrupt)
    done = invoke("profile", "-m", "ls", "--rounds", "20", *QUICK, "--results", str(tmp_path), "--json")
    assert done.exit_code == 130, done.output
    document = json.loads(done.stdout)
    assert document["interrupted"]
    assert rows_of(document)["ls"]["time_ratio"]["rounds"] >= 1
    assert len(archive.scan(tmp_path).results) == 1


def test_what_a_plug_in_prints_stays_out_of_the_answer(tmp_path: Path) -> None:
    plugin = tmp_path / "chatty.py"
    plugin.write_text(
        "from sdbench import Method, register\n\n\n@register('chatty')\nclass Chatty(Method):\n"
        "    def criterion(self, output, batch, progress):\n        print('x', end='')\n"
        "        return super().criterion(output, batch, progress)\n"
    )
    done = invoke(
        "profile",
        "-m",
        "chatty",
        "--plugin",
        str(plugin),
        "--rounds",
        "1",
        *QUICK,
        "--results",
        str(tmp_path),
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert rows_of(json.loads(done.stdout))["chatty"]["memory_ratio"] == 1.0


@pytest.mark.parametrize("sweep", ["classes=10", "model=resnet8", "batch-size=16"])
def test_a_swept_quantity_is_not_given_twice(sweep: str, tmp_path: Path) -> None:
    done = invoke("profile", "--sweep", sweep, *QUICK, "--results", str(tmp_path / "r"))
    assert done.exit_code == 2
    assert "together; drop one" in done.stderr


def test_many_methods_take_turns_in_groups(tmp_path: Path) -> None:
    """Seven methods: two records of four and three with the baseline in each, shown as one table."""
    results = tmp_path / "results"
    names = ["ls", "focal", "mbls", "maxsup", "logit_penalty", "confidence_penalty", "tfkd_reg"]
    done = invoke(
        "profile", "-m", ",".join(names), *SMALL, "--rounds", "2", "--max-seconds", "1", "--no-memory",
        "--results", str(results), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [row["method"] for row in document["rows"]] == ["ce", *names]
    kept = archive.scan(results).results
    assert sorted(len(result.rows) for result in kept) == [4, 5]
    assert all(result.rows[0].method == "ce" for result in kept)
    assert document["profile_id"].split(", ") == [
        result.profile_id for result in sorted(kept, key=lambda r: names.index(r.rows[1].method))
    ]
    for row in document["rows"][1:]:
        (own,) = [r for result in kept for r in result.rows if r.method == row["method"]]
        assert row["time_ratio"] == own.time_ratio.model_dump(mode="json")

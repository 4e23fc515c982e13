"""The paper's table beside the measured one: the data as printed, every rule by hand, every format."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from sdbench.cost.claims import judge_claims, load_claims
from sdbench.cost.claims_formats import TEXT_WIDTH, render
from sdbench.cost.claims_records import ClaimsTable, DataSize, MeasuredGain, MethodClaims
from sdbench.cost.claims_rules import combine, grows_with_images, judge_count, judge_gain, judge_interval, of_chain
from sdbench.cost.records import Memory, MemorySplit, ProfileResult, ProfileRow, Ratio, Setting
from sdbench.cost.verdict import judge
from sdbench.errors import UserError
from sdbench.spec import Provenance
from sdbench.statistics import PairedDifference

PEAK = 100_000_000
"""Bytes of the baseline's peak."""
SIZES = load_claims().sizes
PRINTED = """
Baseline  ce        . .  . . .  1  x1       56.4
BAN       ban       S N  T . A  2  x2       2.2
BYOT      byot      S N  . . A  1  x1+O(M)  1.4
CS-KD     cskd      S N  . C .  2  x1       2.0
DDGSD     ddgsd     S N  . C .  2  x2       2.1
PS-KD     pskd      S N  . C .  1  x1+O(D)  2.0
LS        ls        . .  . . .  1  x1       0.5
TF-KD     tfkd_reg  . .  . . .  1  x1       0.3
Ours      zipf      S N  . . .  1  x1       2.8
"""
"""The image, typed by hand: sample level, non-uniform, then what a method needs (where the paper has a cross):
pretrained teacher, contrastive samples, auxiliary parameters."""


def ratio(median: float, half: float = 0.005, margin: float = 0.03) -> Ratio:
    low, high = median - half, median + half
    return Ratio(median=median, low=low, high=high, rounds=60, verdict=judge(low, high, margin))


def row(name: str, time: float = 1.0, memory: float = 1.0, **given: object) -> ProfileRow:
    """A method that costs what the baseline costs, but for what is given. state, weights: within the peak."""
    state, weights = int(given.pop("state", 0)), int(given.pop("weights", 0))  # type: ignore[call-overload]
    peak = round(PEAK * memory)
    rest = peak - state - 4 * weights
    split = MemorySplit(
        network=0, optimizer=0, auxiliary_parameters=4 * weights, method_state=state, batch=0, activations=rest
    )
    values = {
        "time_ratio": ratio(time), "predicted_ratio": time, "memory_ratio": memory,
        "memory": Memory(peak_bytes=peak, split=split), "images_loaded": 1.0, "forward_images": 1.0,
        "backward_images": 1.0, "auxiliary_parameters": weights, "state_bytes": state,
    }  # fmt: skip
    return ProfileRow(method=name, **{**values, **given})  # type: ignore[arg-type]


def profile(*rows: ProfileRow, margin: float = 0.03, profile_id: str = "p1", device: str = "cpu") -> ProfileResult:
    provenance = Provenance(
        versions={"torch": "2.15.0"}, device=device, cpu="Some CPU", started="2026-01-01", finished="2026-01-01"
    )
    setting = Setting(
        network="resnet20",
        num_classes=100,
        num_train=50_000,
        image_size=32,
        augment="crop",
        batch_size=128,
        margin=margin,
    )
    return ProfileResult(
        profile_id=profile_id,
        setting=setting,
        baseline="ce",
        rows=(row("ce"), *rows),
        load_start=0.1,
        load_end=0.1,
        seconds=1,
        provenance=provenance,
    )


def table(*rows: ProfileRow, gains: Mapping[str, MeasuredGain] | None = None, margin: float = 0.03) -> ClaimsTable:
    result = profile(*rows, margin=margin)
    return judge_claims(load_claims(), {r.method: (r, result) for r in result.rows}, gains or {})


def judged(one: ProfileRow, margin: float = 0.03) -> MethodClaims:
    return found(table(one, margin=margin), one.method)


def found(claims: ClaimsTable, method: str) -> MethodClaims:
    return next(r for r in claims.rows if r.method == method)


def verdicts(method: MethodClaims) -> list[str | None]:
    return [entry.verdict for entry in method.readings.values()]


def test_entries_are_those_of_the_image() -> None:
    claims = load_claims()
    lines = [line.split() for line in PRINTED.strip().splitlines()]
    assert len(claims.entries) == len(lines) == 9
    for entry, (label, name, *ticks, iterations, memory, last) in zip(claims.entries, lines, strict=True):
        own = (entry.sample_level, entry.non_uniform, entry.pretrained_teacher, entry.contrastive_samples)
        assert (entry.label, entry.name, entry.memory) == (label, name, memory)
        assert [*own, entry.auxiliary_parameters] == [tick != "." for tick in ticks]
        assert entry.training_iterations == float(iterations)
        assert entry.gain == (None if name == "ce" else float(last))
    assert (claims.baseline_top1, claims.dataset) == (56.4, "tinyimagenet")
    assert claims.headline.method == "zipf"
    assert claims.headline.text == "Zipf's LS is one-pass with no overhead"


def test_sizes_are_those_that_state_is_extrapolated_to() -> None:
    from sdbench.cost.state import LARGE

    assert {name: (size.num_classes, size.num_train) for name, size in SIZES.items()} == LARGE


def test_claims_need_no_torch() -> None:
    code = (
        "import sys, sdbench.cost.claims as c, sdbench.cost.claims_formats as f\n"
        "f.render(c.judge_claims(c.load_claims(), {}, {}), 'text')\n"
        "print([m for m in ('torch', 'ray', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_combine_says_what_every_way_of_settling_the_open_readings_would() -> None:
    """An open reading may yet turn out either way: where all ways agree, that is the verdict."""
    kinds = ("confirmed", "refuted", "inconclusive", "not measured")
    for size in range(6):
        for given in itertools.product(kinds, repeat=size):
            options = [(v,) if v in ("confirmed", "refuted") else ("confirmed", "refuted") for v in given]
            ends = {w[0] if len(set(w)) == 1 else "depends on the reading" for w in itertools.product(*options) if w}
            expected = ends.pop() if len(ends) == 1 else "inconclusive"
            if set(given) <= {"not measured"}:
                expected = "not measured"
            assert combine(given) == expected, given  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "claimed", "verdict"),
    [(1.005, 1, "confirmed"), (1.0051, 1, "refuted"), (0.995, 1, "confirmed"), (0.99, 1, "refuted"),
     (2.01, 2, "confirmed"), (2.02, 2, "refuted"), (1.99, 2, "confirmed"), (1.0, 2, "refuted")],
)  # fmt: skip
def test_counts(value: float, claimed: float, verdict: str) -> None:
    assert judge_count(value, claimed) == verdict


@pytest.mark.parametrize(
    ("low", "high", "claimed", "verdict"),
    [(0.97, 1.03, 1, "confirmed"), (0.96, 1.0, 1, "inconclusive"), (1.0, 1.04, 1, "inconclusive"),
     (1.04, 1.05, 1, "refuted"), (0.9, 0.96, 1, "refuted"), (0.5, 1.5, 1, "inconclusive"),
     (1.95, 2.05, 2, "confirmed"), (1.33, 1.34, 2, "refuted"), (2.05, 2.07, 2, "inconclusive")],
)  # fmt: skip
def test_intervals(low: float, high: float, claimed: float, verdict: str) -> None:
    assert judge_interval(low, high, claimed, 0.03) == verdict


def test_chain() -> None:
    assert [of_chain(1.5, g) for g in (1, 2, 3)] == [1.5, 2.5, 4.0]


def test_a_partner_per_image_depends_on_the_reading() -> None:
    """Two images loaded and forwarded, one sent backward: x2 in counts of images, 4/3 in FLOPs and time."""
    one = judged(row("cskd", time=4 / 3, images_loaded=2.0, forward_images=2.0))
    assert verdicts(one) == ["confirmed", "confirmed", "refuted", "refuted", "refuted"]
    assert one.iterations.verdict == "depends on the reading"
    assert (one.iterations.low, one.iterations.high) == (1.0, 2.0)
    assert one.contrastive_samples.verdict == "confirmed"
    assert one.one_pass.verdict == "refuted"


def test_a_chain_counts_all_of_its_trainings() -> None:
    """A later generation forwards through teacher and student and is trained once more: 1 + 1, 1 + 2, 1 + 4/3."""
    one = judged(row("ban", time=4 / 3, forward_images=2.0, generations=2, memory=1.4, state=10))
    assert [round(entry.value or 0, 3) for entry in one.readings.values()] == [2.0, 3.0, 2.0, 2.333, 2.333]
    time = one.readings["time"]
    assert (time.low, time.high) == (pytest.approx(2.3283, abs=1e-4), pytest.approx(2.3383, abs=1e-4))
    assert verdicts(one) == ["confirmed", "refuted", "confirmed", "refuted", "refuted"]
    assert (one.pretrained_teacher.verdict, one.pretrained_teacher.value) == ("confirmed", 2)
    assert one.auxiliary_parameters.verdict == "refuted"  # the paper has it need them
    assert "2 trainings in a row" in one.one_pass.reason
    third = judged(row("ban", time=1.0, generations=3))
    assert [entry.value for entry in third.readings.values()] == [3.0] * 5
    assert third.iterations.verdict == "refuted"


def test_needs_are_set_against_the_ticks() -> None:
    pskd, ddgsd = judged(row("pskd")), judged(row("ddgsd", images_loaded=2.0))
    assert (pskd.contrastive_samples.paper, pskd.contrastive_samples.verdict) == (True, "refuted")
    assert (ddgsd.contrastive_samples.needed, ddgsd.contrastive_samples.verdict) == (True, "confirmed")
    zipf = judged(row("zipf", weights=5, images_loaded=1.0049, generations=2))
    assert zipf.auxiliary_parameters.verdict == "refuted"
    assert zipf.contrastive_samples.verdict == "confirmed"
    assert zipf.pretrained_teacher.verdict == "refuted"


def test_counts_are_relative_to_the_baselines() -> None:
    base, own = row("ce", images_loaded=0.5), row("zipf", images_loaded=1.0)
    result = profile(own).model_copy(update={"rows": (base, own)})
    claims = judge_claims(load_claims(), {"zipf": (own, result)}, {})
    assert found(claims, "zipf").readings["images loaded"].value == 2.0


def test_a_spoiled_time_is_not_measured_and_leaves_the_rest_open() -> None:
    one = judged(row("zipf", timing_valid=False, timing_problems=("load average 3.1",)))
    assert verdicts(one) == ["confirmed"] * 4 + ["not measured"]
    assert one.readings["time"].reason == "load average 3.1"
    assert one.readings["time"].value is None
    assert (one.iterations.verdict, one.one_pass.verdict) == ("inconclusive", "inconclusive")
    crossing = judged(row("zipf", time_ratio=ratio(1.03)))
    assert (crossing.readings["time"].verdict, crossing.iterations.verdict) == ("inconclusive", "inconclusive")


def test_the_margin_is_the_profiles() -> None:
    assert judged(row("zipf", time=1.05), margin=0.03).iterations.verdict == "depends on the reading"
    assert judged(row("zipf", time=1.05), margin=0.10).iterations.verdict == "confirmed"
    assert judged(row("zipf", memory=1.05), margin=0.03).memory.verdict == "refuted"
    assert judged(row("zipf", memory=1.05), margin=0.10).memory.verdict == "confirmed"


def test_the_baseline_costs_what_it_costs() -> None:
    noisy = row("ce", time=1.2, timing_valid=False)
    one = found(judge_claims(load_claims(), {"ce": (noisy, profile())}, {}), "ce")
    assert verdicts(one) == ["confirmed"] * 5
    assert (one.one_pass.verdict, one.gain.verdict) == ("confirmed", None)


NK = {name: 4 * size.num_train * size.num_classes for name, size in SIZES.items()}
KK = {name: 4 * size.num_classes**2 + 7 for name, size in SIZES.items()}


@pytest.mark.parametrize(
    ("one", "verdict", "told"),
    [
        (row("zipf", memory=1.03), "confirmed", "×1.030"),
        (row("zipf", memory=1.031), "refuted", "×1.031"),
        (row("zipf", memory=0.5), "confirmed", "×0.500"),
        (row("ddgsd", memory=1.94), "confirmed", "×1.940"),
        (row("ddgsd", memory=2.07), "refuted", "×2.070"),
        (row("ddgsd", memory=1.0), "refuted", "×1.000"),
        # A million weights, 12 MB of a baseline's 100 MB: 1.15 - 0.12 = 1.03, and 1.16 - 0.12 = 1.04.
        (row("byot", memory=1.15, weights=1_000_000), "confirmed", "×1.030 without"),
        (row("byot", memory=1.16, weights=1_000_000), "refuted", "×1.040 without"),
        (row("byot", memory=1.0), "refuted", "0 auxiliary parameters"),
        (row("byot", memory=1.1, memory_ratio=None, memory_reason="killed"), "not measured", "killed"),
        (row("pskd", memory=1.2, state=20_000_000, state_bytes_at=NK), "confirmed", "×1.000 without"),
        (row("pskd", memory=1.2, state=10_000_000, state_bytes_at=NK), "refuted", "×1.100 without"),
        (row("pskd", memory=1.2, state=20_000_000, state_bytes_at=KK), "refuted", "does not grow"),
        (row("pskd", memory=1.2, state=20_000_000), "inconclusive", "cannot be told"),
        (row("pskd", memory=1.2, state=10_000_000), "refuted", "cannot be told"),
        (row("plugin", memory=1.2), None, "×1.200"),
    ],
)
def test_memory(one: ProfileRow, verdict: str | None, told: str) -> None:
    entry = judged(one).memory
    assert entry.verdict == verdict
    assert told in entry.reason


def test_state_without_a_split_is_that_of_the_row() -> None:
    on_gpu = row("pskd", memory=1.2, state=20_000_000, state_bytes_at=NK)
    on_gpu = on_gpu.model_copy(update={"memory": Memory(peak_bytes=120_000_000)})
    assert judged(on_gpu).memory.verdict == "confirmed"


@pytest.mark.parametrize(
    ("formula", "grows"),
    [
        (lambda k, n: 0, False),
        (lambda k, n: 1_000_000, False),
        (lambda k, n: 512 * 4 * k + 8, False),
        (lambda k, n: k * (k - 1) // 2, False),
        (lambda k, n: n, True),
        (lambda k, n: n // 8, True),
        (lambda k, n: 4 * n * k, True),
        (lambda k, n: 4 * n * k + 4 * k * k + 100, True),
        (lambda k, n: 4 * k * k + n, True),
    ],
)
def test_growth_with_images(formula: object, grows: bool) -> None:
    sizes = {name: formula(size.num_classes, size.num_train) for name, size in SIZES.items()}  # type: ignore[operator]
    assert grows_with_images(sizes, SIZES) is grows


def test_growth_is_told_only_where_it_can_be() -> None:
    assert grows_with_images({}, SIZES) is None
    assert grows_with_images(dict.fromkeys(SIZES), SIZES) is None
    assert grows_with_images({"cifar100": 5, "tinyimagenet": 900, "imagenet": 7_000}, SIZES) is None
    assert grows_with_images({"cifar100": 5, "elsewhere": 900}, SIZES) is None
    assert grows_with_images({"cifar100": 5, "tinyimagenet": 5}, SIZES) is False
    alike = {"few": DataSize(num_classes=10, num_train=100), "many": DataSize(num_classes=10, num_train=10_000)}
    assert grows_with_images({"few": 100, "many": 10_000}, alike) is True
    assert grows_with_images({"few": 40, "many": 40}, alike) is False


def points(mean: float, low: float, high: float, n: int = 3) -> PairedDifference:
    return PairedDifference(mean / 100, low / 100, high / 100, n, tuple(range(n)))


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (points(2.5, 2.0, 3.0), "confirmed"),
        (points(1.0, -1.0, 3.0), "inconclusive"),
        (points(1.0, 0.5, 1.5), "refuted"),
        (points(-1.0, -2.0, 0.1), "refuted"),
        (points(4.0, 3.0, 5.0), "refuted"),
        (points(2.8, 2.7, 2.9, n=2), "inconclusive"),
        (PairedDifference(0.028, None, None, 1, (0,)), "inconclusive"),
        (PairedDifference(None, None, None, 0, ()), "not measured"),
    ],
)
def test_gains(difference: PairedDifference, verdict: str) -> None:
    assert judge_gain(difference, 2.8) == verdict
    gain = MeasuredGain(dataset="tinyimagenet", network="preact_resnet18", difference=difference)
    entry = found(table(gains={"zipf": gain}), "zipf").gain
    assert (entry.verdict, entry.paper) == (verdict, 2.8)
    if difference.mean is not None:
        assert entry.value == pytest.approx(100 * difference.mean)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"dataset": "cifar100"}, "on other data: cifar100, preact_resnet18, n = 3"),
        ({"network": "resnet20"}, "on another network: tinyimagenet, resnet20, n = 3"),
        (
            {"epochs": 2, "protocol": "demo"},
            "on another number of epochs: tinyimagenet, preact_resnet18, protocol",
        ),
    ],
)
def test_gains_had_elsewhere_are_shown_and_not_judged(where: dict[str, object], told: str) -> None:
    setting: dict[str, object] = {"dataset": "tinyimagenet", "network": "preact_resnet18", **where}
    gain = MeasuredGain(difference=points(2.5, 2.0, 3.0), **setting)  # type: ignore[arg-type]
    claims = table(gains={"zipf": gain, "plugin": gain})
    entry = found(claims, "zipf").gain
    assert entry.verdict == "not measured"
    assert entry.reason.startswith(told)
    assert entry.value == pytest.approx(2.5)
    assert found(claims, "plugin").gain.verdict is None
    assert "+2.8 – (+2.50)" in render(claims, "text")


def test_what_was_not_profiled_is_not_measured() -> None:
    claims = judge_claims(load_claims(), {}, {})
    assert [r.method for r in claims.rows] == [entry.name for entry in load_claims().entries]
    for one in claims.rows:
        assert {*verdicts(one), one.iterations.verdict, one.memory.verdict, one.one_pass.verdict} == {"not measured"}
    assert claims.headline.verdict == "not measured"
    assert render(claims, "text").splitlines()[0] == "Zipf's LS is one-pass with no overhead: not measured"
    broken = ProfileRow(method="zipf", status="oom", reason="16 GiB were asked for")
    one = found(table(broken), "zipf")
    assert one.iterations.verdict == "not measured"
    assert "oom: 16 GiB were asked for" in one.one_pass.reason


@pytest.mark.parametrize("format_name", ["text", "md"])
def test_the_headline_is_the_first_line(format_name: str) -> None:
    def first(one: ProfileRow) -> str:
        return render(table(one), format_name).splitlines()[0].strip("*")

    numbers = "1.00 loaded, 1.00 forward, 1.00 backward; time ×1.010 [1.005, 1.015]; memory ×1.000"
    assert first(row("zipf", time=1.01)) == f"Zipf's LS is one-pass with no overhead: confirmed ({numbers})"
    assert "overhead: refuted (1.00 loaded, 1.00 forward, 1.00 backward; time ×1.100" in first(row("zipf", time=1.1))
    assert "overhead: inconclusive" in first(row("zipf", time_ratio=ratio(1.03)))
    assert "time not measured" in first(row("zipf", timing_valid=False))


def test_a_second_forward_pass_refutes_a_plug_ins_one_pass() -> None:
    claims = table(row("planted", time=4 / 3, forward_images=2.0))
    one = found(claims, "planted")
    assert (one.label, one.iterations.verdict, one.one_pass.verdict) == ("", None, "refuted")
    assert one.readings["forward passes"].value == 2.0
    told = "planted: one pass, no overhead: refuted (2 forward passes per labelled image; time ×1.333"
    assert told in render(claims, "text")
    assert told in render(claims, "md")
    assert claims.rows[-1].method == "planted"


HOSTILE = [
    "a|b", "<script>alert(1)</script>", "two\nlines\r\n", "\x1b[31mred\x07\u202e", "[x](javascript:alert(1))",
    "**bold** `code` __it__", "x" * 200, "", " ", "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    plain = profile(row("plugin"), row(name))
    named = plain.model_copy(
        update={"profile_id": name, "provenance": plain.provenance.model_copy(update={"device": name})}
    )
    failed = ProfileRow(method=name + "2", status="failed", reason=name * 9)
    gains = {"zipf": MeasuredGain(dataset=name, network=name, protocol=name, difference=points(1, 0, 2))}
    rows = {"plugin": (plain.rows[1], plain), name: (named.rows[2], named), failed.method: (failed, named)}
    claims = judge_claims(load_claims(), rows, gains)
    text, md = render(claims, "text"), render(claims, "md")
    for character in "\x1b\x07\u202e\r":
        assert character not in text + md
    assert max(map(len, text.splitlines())) <= TEXT_WIDTH + 2
    assert "<script>" not in md
    assert "](javascript" not in md
    lines = [line.replace("\\|", "") for line in md.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}  # eight columns in both tables, none added by a name
    assert len(lines) == 2 * (2 + len(claims.rows))
    assert ClaimsTable.model_validate_json(render(claims, "json")) == claims


def test_json_is_the_record_with_the_headline_first() -> None:
    gain = MeasuredGain(dataset="tinyimagenet", network="resnet18", difference=points(1 / 3, 0.1, 1.0))
    claims = table(row("zipf", time=1.01), row("ban", generations=2), gains={"zipf": gain, "plugin": gain})
    read = json.loads(render(claims, "json"))
    assert next(iter(read)) == "headline"
    assert read["headline"]["verdict"] == "confirmed"
    assert read["headline"]["time"]["median"] == 1.01
    assert ClaimsTable.model_validate(read) == claims
    zipf = next(r for r in read["rows"] if r["method"] == "zipf")
    assert (zipf["pretrained_teacher"]["paper"], zipf["iterations"]["paper"], zipf["memory"]["paper"]) == (
        False,
        1,
        "x1",
    )


def test_cells_for_people() -> None:
    gain = MeasuredGain(dataset="tinyimagenet", network="resnet18", difference=points(2.5, 2.0, 3.0))
    claims = table(
        row("zipf"), row("byot", time=1.3, memory=1.15, weights=1_000_000), row("pskd"), gains={"zipf": gain}
    )
    text, md = render(claims, "text"), render(claims, "md").replace("\\", "")
    lines = {line.split(" ")[0]: " ".join(line.split()) for line in reversed(text.splitlines())}
    assert (
        lines["zipf"] == "zipf (Ours) no = no no = no no = 0 ×1 = 1.00 ×1 = 1.000 +2.8 = +2.50 [+2.00, +3.00] confirmed"
    )
    assert lines["byot"].startswith("byot (BYOT) no = no no = no yes = 1.00 M ×1 ~ 1.00 to 1.30 ×1+O(M) = 1.150 +1.4 –")
    assert "pskd (PS-KD) no = no yes ≠ no no = 0" in lines["pskd"]
    assert "ban (BAN) yes – no – yes – ×2 – ×2 – +2.2 – not measured" in lines["ban"]
    assert "56.4 % top-1" in lines["ce"]
    assert "| ×1; measured 1.00 to 1.30: depends on the reading |" in md
    assert "| yes; measured no: refuted " in md
    assert "not profiled: ban, cskd, ddgsd, ls, tfkd_reg" in text
    assert "resnet20, synthetic images, 100 classes, 32 pixels; batch 128, bf16, 1 thread, 60 rounds" in md
    assert "profile p1" in text


def test_profiles_are_told_apart_where_there_are_several() -> None:
    first, second = profile(row("zipf")), profile(row("ls"), profile_id="p2", device="H200")
    rows = {"zipf": (first.rows[1], first), "ls": (second.rows[1], second)}
    text = render(judge_claims(load_claims(), rows, {}), "text")
    assert "zipf (Ours), A" in text
    assert "ls (LS), B" in text
    assert "Measured A: cpu" in text
    assert "Measured B: H200" in text


def test_an_unknown_format_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match="json, md, text"):
        render(table(), "html")

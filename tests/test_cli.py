"""The command line as a user meets it: exit codes, messages, stdout against stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench.cli import app

BROKEN = "import nothing_of_that_name\n"
CLASHING = '''
from sdbench import Method, Terms, register

@register("zipf")
class Clash(Method):
    """Takes a name that is taken."""

    def criterion(self, output, batch, progress) -> Terms:
        return {"ce": output.logits.mean()}
'''


def sdbench(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, run in this process."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def results(tmp_path: Path) -> str:
    return str(tmp_path / "results")


def test_a_misspelt_method_is_answered_with_near_matches_and_the_list(results: str) -> None:
    code, out, err = sdbench("run", "--methods", "zpf", "--results", results)
    assert code == 2
    assert out == ""
    assert "did you mean 'zipf'" in err
    listed = err.partition("Known: ")[2].strip().split(", ")
    assert listed == sorted(listed)
    assert {"byot", "ce", "cskd", "ls", "pskd", "zipf"} <= set(listed)
    assert not (Path(results) / "trials").exists() or not list((Path(results) / "trials").iterdir())


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    code, out, err = sdbench(
        "run", "--methods", "zpf,zipf[wieght=1],ls[smoothing=2],pskd[alpha_final=x]", "--dataset", "cifar1000",
        "--model", "resnet21", "--seeds", "4-1", "--epochs", "many", "--batch-size", "0", "--precision", "fp8",
        "--protocol", "fixd", "--engine", "rey", "--timeout", "soon", "--plugin", str(plugin),
        "--results", str(blocker / "results"),
    )  # fmt: skip
    assert code == 2
    assert out == ""
    for part in (
        "unknown method 'zpf'", "did you mean 'weight'", "ls", "smoothing", "alpha_final=x", "did you mean 'cifar100'",
        "did you mean 'resnet20'", "seeds '4-1'", "--epochs 'many'", "--batch-size 0", "'fp8'", "did you mean 'fixed'",
        "did you mean 'ray'", "duration 'soon'", "nothing_of_that_name", "--results",
    ):  # fmt: skip
        assert part in err, part
    assert all(line.startswith("error: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("methods = [", "not TOML"),
        ("metods = ['zipf']", "did you mean 'methods'"),
        ("[methods]\nzipf = 1", "a text or a list"),
        ("epochs = [1]", "takes one value"),
    ],
)
def test_bad_configuration_files(tmp_path: Path, results: str, text: str, expected: str) -> None:
    config = tmp_path / "sdbench.toml"
    config.write_text(text)
    code, _, err = sdbench("run", "--config", str(config), "--results", results)
    assert code == 2
    assert expected in err


def test_a_missing_configuration_file(results: str) -> None:
    code, _, err = sdbench("run", "--config", "nowhere.toml", "--results", results)
    assert code == 2
    assert "nowhere.toml" in err


def test_nothing_is_downloaded_for_a_request_with_mistakes(results: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdbench import data

    monkeypatch.delenv("SDBENCH_DATA", raising=False)
    monkeypatch.setattr(data, "inspect", lambda *_: pytest.fail("the data set was opened"))
    code, _, err = sdbench("run", "--methods", "zpf", "--dataset", "cifar100", "--results", results)
    assert code == 2
    assert len(err.splitlines()) == 1


def test_data_dir_without_data(tmp_path: Path, results: str) -> None:
    code, _, err = sdbench("run", "--dataset", "cifar100", "--data-dir", str(tmp_path), "--results", results)
    assert code == 2
    assert "cifar-100-python" in err


def test_a_plugin_that_takes_a_taken_name(tmp_path: Path, results: str) -> None:
    plugin = tmp_path / "clash.py"
    plugin.write_text(CLASHING)
    code, _, err = sdbench("run", "--plugin", str(plugin), "--results", results)
    assert code == 2
    assert "'zipf' is taken" in err


def test_flags_override_the_environment_and_that_the_file(
    tmp_path: Path, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "sdbench.toml"
    config.write_text('methods = "ls"\nepochs = 3\nbatch-size = 64\nseeds = [5]\n')
    monkeypatch.setenv("SDBENCH_EPOCHS", "2")
    monkeypatch.setenv("SDBENCH_BATCH_SIZE", "32")
    arguments = ("run", "-C", str(config), "-b", "16", "--dry-run", "--json", "--results", results)
    code, out, _ = sdbench(*arguments)
    assert code == 0
    trials = json.loads(out)["trials"]
    assert {t["spec"]["method"] for t in trials} == {"ce", "ls"}
    assert {t["spec"]["seed"] for t in trials} == {5}
    assert {(t["spec"]["recipe"]["epochs"], t["spec"]["recipe"]["batch_size"]) for t in trials} == {(2, 16)}


def test_dry_run_starts_nothing(results: str) -> None:
    code, out, _ = sdbench("run", "--dry-run", "--results", results)
    assert code == 0
    assert "12 of 12 trials to run" in out
    assert not Path(results).exists()


def test_the_baseline_is_added_unless_refused(results: str) -> None:
    for arguments, expected in (((), {"ce", "zipf"}), (("--no-baseline",), {"zipf"})):
        _, out, _ = sdbench("run", "-m", "zipf", "--dry-run", "--json", "--results", results, *arguments)
        assert {t["spec"]["method"] for t in json.loads(out)["trials"]} == expected


def test_variants_carry_all_their_values(results: str) -> None:
    _, out, _ = sdbench("run", "-m", "zipf[weight=0.5]", "-m", "zipf", "--dry-run", "--json", "--results", results)
    weights = {t["spec"]["params"]["weight"] for t in json.loads(out)["trials"] if t["spec"]["method"] == "zipf"}
    assert weights == {0.5, 0.1}


@pytest.mark.parametrize("kind", ["methods", "datasets", "models", "protocols", "metrics"])
def test_list(kind: str) -> None:
    code, out, _ = sdbench("list", kind, "--json")
    assert code == 0
    names = {row["name"] for row in json.loads(out)}
    expected = {
        "methods": {"ce", "ls", "cskd", "byot", "pskd", "zipf"},
        "datasets": {"glyphs", "cifar10", "cifar100", "tinyimagenet", "folder"},
        "models": {"resnet8", "resnet20", "resnet56", "preact_resnet18", "resnet18", "resnet50"},
        "protocols": {"fixed", "demo", "holdout"},
        "metrics": {"top1", "top5", "nll", "ece", "brier", "aurc", "eaurc"},
    }[kind]
    assert expected <= names
    code, out, _ = sdbench("list", kind)
    assert code == 0
    assert all(name in out for name in expected)


def test_list_of_an_unknown_kind() -> None:
    code, _, err = sdbench("list", "method")
    assert code == 2
    assert "did you mean 'methods'" in err


@pytest.mark.parametrize("name", ["ce", "ls", "cskd", "byot", "pskd", "zipf", "glyphs", "resnet8", "fixed"])
def test_describe(name: str) -> None:
    code, out, _ = sdbench("describe", name)
    assert code == 0
    assert name in out


def test_describe_says_which_byot_and_prints_ranges() -> None:
    _, out, _ = sdbench("describe", "byot")
    assert "luanyunteng" in out
    _, out, _ = sdbench("describe", "zipf", "--json")
    card = json.loads(out)
    assert {p["name"] for p in card["parameters"]} >= {"weight", "power", "upsample", "deep_layers", "aux_weight"}
    assert card["recommended"]["cifar100"]["weight"] == 0.1
    assert card["recommended"]["tinyimagenet"]["weight"] == 1.0


def test_describe_of_an_unknown_name() -> None:
    code, _, err = sdbench("describe", "zpf")
    assert code == 2
    assert "did you mean 'zipf'" in err


def test_doctor_has_one_line_per_fact(results: str) -> None:
    code, out, _ = sdbench("doctor", "--results", results)
    assert code in (0, 3)
    lines = out.splitlines()
    assert all(line[:4].strip() in ("ok", "warn", "FAIL") for line in lines[:-1])
    assert {"python", "torch", "cpu", "results"} <= {line[5:].split(":")[0] for line in lines[:-1]}
    code, out, _ = sdbench("doctor", "--results", results, "--json")
    assert all(fact["remedy"] for fact in json.loads(out) if fact["level"] != "ok")


def test_version_is_one_line() -> None:
    code, out, _ = sdbench("--version")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert {"sdbench", "torch", "driver"} <= set(out.replace(",", " ").split())


def test_unknown_options_and_verbs_exit_2() -> None:
    for arguments in (("run", "--metods", "zipf"), ("rnu",)):
        done = subprocess.run(
            [sys.executable, "-m", "sdbench", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr


def test_help_names_every_verb() -> None:
    code, out, _ = sdbench("--help")
    assert code == 0
    for verb in ("run", "list", "describe", "leaderboard", "check", "doctor", "show"):
        assert verb in out


BROKEN_METHODS = '''
import torch.nn.functional as F
from torch import nn

from sdbench import Method, register


@register("toy_cli_nan")
class NaN(Method):
    """A loss that is not a number."""

    def criterion(self, output, batch, progress):
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels) * float("nan")}


@register("toy_cli_writes")
class Writes(Method):
    """Writes into the labels."""

    def criterion(self, output, batch, progress):
        batch.labels[0] = 0
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}


@register("toy_cli_unused")
class Unused(Method):
    """An auxiliary parameter that nothing uses."""

    def setup(self, task, network):
        self.head = nn.Linear(2, 2)

    def criterion(self, output, batch, progress):
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}


@register("toy_cli_raises")
class Raises(Method):
    """Raises."""

    def criterion(self, output, batch, progress):
        raise RuntimeError("out of ideas")
'''


def test_check_says_what_to_mend(tmp_path: Path) -> None:
    """In a process of its own, as an author would run it: the registry here stays clean."""
    plugin = tmp_path / "broken_methods.py"
    plugin.write_text(BROKEN_METHODS)
    command = [sys.executable, "-m", "sdbench", "check", "--plugin", str(plugin), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    failed = {name: " ".join(f["message"] for f in found if not f["passed"]) for name, found in report.items()}
    assert "nan" in failed["toy_cli_nan"].lower() or "finite" in failed["toy_cli_nan"]
    assert "labels" in failed["toy_cli_writes"]
    assert "head" in failed["toy_cli_unused"]
    assert "out of ideas" in failed["toy_cli_raises"]


def test_check_needs_a_name() -> None:
    code, _, err = sdbench("check")
    assert code == 2
    assert "sdbench list methods" in err
    code, _, err = sdbench("check", "zpf")
    assert code == 2
    assert "did you mean 'zipf'" in err


def test_the_options_are_those_that_scripts_rely_on() -> None:
    """A snapshot of every verb's options: whoever removes or renames one breaks someone's script."""
    import typer.main

    group = typer.main.get_command(app)
    found = {
        name: sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    stored = Path(__file__).parent / "options.json"
    assert found == json.loads(stored.read_text())

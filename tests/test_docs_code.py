"""Every code block of README, CONTRIBUTING and docs/ is run: Python as it stands, commands against a small results
folder. Trainings are planned and not started, measurements are left out; a block of any other language fails."""

from __future__ import annotations

import copy
import functools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import sdbench.checks
import sdbench.run
from sdbench import environment, registry
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Ratio, Setting, profile_id
from sdbench.cost.request import ProfilePlan
from sdbench.engine.job import Job
from sdbench.identity import method_source
from sdbench.outcomes import provenance
from sdbench.request import Request
from sdbench.spec import Provenance
from sdbench.store import Store
from sdbench.train import run_trial

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "sh", "toml", "json", "indented", "bash"}
PROGRAMS = ("sdbench", "pip", "pytest", "pre-commit", "python", "ray")
RATIOS = {"ls": 1.0, "zipf": 1.0, "pskd": 1.1}
MADE_UP = {"network": "resnet8", "num_classes": 4, "num_train": 80, "image_size": 8, "batch_size": 16}


@dataclass(frozen=True)
class Block:
    """language: of a fence, or "indented". line: of its first line of text, from 1."""

    page: str
    line: int
    language: str
    text: str


def blocks(text: str, page: str) -> list[Block]:
    """Fenced blocks, without the indentation of their fence, and blocks indented by four."""
    found: list[Block] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        start, fence = i, re.match(r"( *)(```+|~~~+) *([^\s`]*)", lines[i])
        i += 1
        if fence:
            while i < len(lines) and lines[i].strip() != fence[2]:
                i += 1
            assert i < len(lines), f"{page}:{start + 1}: the fence is never closed"
            inside = [line.removeprefix(fence[1]) for line in lines[start + 1 : i]]
            found.append(Block(page, start + 2, fence[3], "\n".join(inside) + "\n"))
            i += 1
        elif lines[start].startswith("    ") and (start == 0 or not lines[start - 1].strip()):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            inside = [line.removeprefix("    ") for line in lines[start:i]]
            found.append(Block(page, start + 1, "indented", "\n".join(inside).rstrip() + "\n"))
    return found


def commands(text: str) -> list[list[str]]:
    """Each command of a block of shell lines as words, comments left out, ``&&`` between two taken apart."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found += [words] if words else []
    return found


def is_configuration(block: Block) -> bool:
    """Whether it is TOML whose first key is an option of a run."""
    return block.language == "toml" and block.text.split(" = ")[0].replace("-", "_") in Request.model_fields


def is_tree(block: Block) -> bool:
    """Whether an indented block is README's map of files."""
    return block.language == "indented" and block.text.split()[0].endswith("/")


ALL = [block for path in PAGES for block in blocks(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())]
SHELL = [b for b in ALL if b.language in ("sh", "indented") and not is_tree(b)]
LINES = [
    pytest.param(words, id=f"{block.page}:{block.line} {' '.join(words)}")
    for block in SHELL
    for words in commands(block.text)
]


def test_blocks_are_found() -> None:
    text = "a\n\n    one\n\n    two\n\n* item\n\n  ```python\n  x = 1\n    y\n  ```\n\n~~~ rust\nfn\n~~~\nb\n    none\n"
    found = [(b.line, b.language, b.text) for b in blocks(text, "page")]
    assert found == [(3, "indented", "one\n\ntwo\n"), (10, "python", "x = 1\n  y\n"), (15, "rust", "fn\n")]
    with pytest.raises(AssertionError, match="never closed"):
        blocks("```python\n1\n", "page")
    told = "sdbench run \\\n  -m ls  # why\n# all\npip install x && sdbench list 'a b'\n"
    assert commands(told) == [["sdbench", "run", "-m", "ls"], ["pip", "install", "x"], ["sdbench", "list", "a b"]]


def test_every_block_is_of_a_language_that_is_run() -> None:
    without = {"docs/methods.md", "docs/security.md", "docs/reliability.md"}
    assert {block.page for block in ALL} >= {path.relative_to(ROOT).as_posix() for path in PAGES} - without
    strange = [f"{b.page}:{b.line}: {b.language or 'no language'}" for b in ALL if b.language not in LANGUAGES]
    assert strange == [], "add a language that is run, or write it as text"
    assert {b.page for b in ALL if b.language == "indented"} <= {"README.md", "CONTRIBUTING.md"}
    assert [b.page for b in ALL if is_tree(b)] == ["README.md"]


def profile_of(dataset: str) -> ProfileResult:
    """A profile on this machine, made up, under the conditions of the small results folder."""
    rows = [ProfileRow(method="ce", params={}, source=method_source("ce"), predicted_ratio=1, memory_ratio=1)]
    for name, median in RATIOS.items():
        verdict = "equal" if median == 1 else "costlier"
        ratio = Ratio(median=median, low=median - 0.01, high=median + 0.01, rounds=60, verdict=verdict)  # type: ignore[arg-type]
        known = {"params": registry.resolve(name, dataset, {}), "source": method_source(name), "predicted_ratio": 1.0}
        rows.append(ProfileRow(method=name, time_ratio=ratio, memory_ratio=1, **known))
    where = Provenance(
        versions=environment.versions(), device="cpu", cpu=environment.cpu_model(), started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    )  # fmt: skip
    setting = Setting(**MADE_UP, augment="resized-crop-flip", precision="fp32")
    return ProfileResult(
        profile_id=profile_id(setting, [row.method for row in rows], where), setting=setting, baseline="ce",
        rows=tuple(rows), load_start=0, load_end=0, seconds=60, provenance=where,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of three methods and three seeds, another results folder, and a plug-in."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(small_world.results, folder / "results")
    shutil.copytree(small_world.results, folder / "other")
    shutil.copytree(small_world.pictures, folder / "pictures")
    world = copy.copy(small_world)
    world.results = folder / "results"
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        world.train(methods=["ls,zipf"], seeds=["0-2"], keep_logits="every:2", eval_every="1")
    torch.use_deterministic_algorithms(deterministic)
    archive.write(folder / "results", profile_of("folder:pictures"))
    (folder / "lab").mkdir()
    (configuration,) = (block.text for block in ALL if is_configuration(block))
    (folder / "run.toml").write_text(configuration, encoding="utf-8")
    new_method = runpy.run_path(str(ROOT / "tools" / "new_method.py"))["main"]
    new_method(["my_penalty", "--directory", str(folder), "--tests", str(folder / "lab")])
    return folder


def unmeasured(plan: ProfilePlan, told: object) -> ProfileResult:
    """A profile of what was planned, in which nothing was measured."""
    return ProfileResult(
        profile_id="unmeasured",
        setting=plan.setting,
        baseline=plan.contestants[0].name,
        rows=tuple(ProfileRow(method=c.name, params=dict(c.params)) for c in plan.contestants),
        load_start=0,
        load_end=0,
        seconds=0,
        provenance=provenance(plan.options, None, ""),
    )


def train_here(jobs: list[Job], resources: object, stop: object) -> None:
    """An engine without processes."""
    for job in jobs:
        run_trial(job.trial, Store(Path(job.store)), job.options)


@pytest.fixture
def desk(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: None) -> Path:
    """A copy of that folder as the current one; what is not said is as its results were made."""
    here = tmp_path / "desk"
    shutil.copytree(finished, here)
    monkeypatch.chdir(here)
    images = f"folder:{here / 'pictures'}"
    made = {"dataset": images, "model": "resnet8", "protocol": "fixed", "epochs": 4, "batch_size": 16}
    made |= {"image_size": 8, "precision": "fp32", "engine": "local", "device": "cpu"}
    for name, value in made.items():
        monkeypatch.setenv(f"SDBENCH_{name.upper()}", str(value))
    monkeypatch.setitem(sdbench.run.ENGINES, "local", train_here)  # type: ignore[attr-defined]
    monkeypatch.setattr("sdbench.cost.commands.profile", unmeasured)
    monkeypatch.setattr("sdbench.checks.run_checks", functools.partial(sdbench.checks.run_checks, quick=True))
    return here


def stand_ins(desk: Path) -> dict[str, str]:
    """What documents name and this machine lacks, and what is there instead."""
    images = f"folder:{desk / 'pictures'}"
    trial = next((desk / "results" / "trials").glob("*/*/*/*")).name
    large = dict.fromkeys(("preact_resnet18", "resnet50"), "resnet8")
    large |= dict.fromkeys(("cifar100", "imagenet", "inat21", "cub200", "folder:PATH"), images)
    return {"IMAGES": str(desk / "pictures"), "TRIAL": trial, **large}


@pytest.mark.parametrize("words", LINES)
def test_commands_work(words: list[str], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in PROGRAMS, f"nothing here runs {words[0]}"
    if "--address" in words:
        monkeypatch.setenv("SDBENCH_ENGINE", "ray")
    if words[0] == "sdbench":
        run_sdbench([stand_ins(desk).get(word, word) for word in words[1:]], desk)
    elif words[0] == "python":
        run_tool(ROOT / words[1], words[2:])
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[1:3] == ["install", "-e"]
        assert re.fullmatch(rf"\.(\[({'|'.join(extras)})\])?", words[3])
    elif words[0] == "ray":
        told = help_of_ray(words[1])
        assert all(word.partition("=")[0] in told for word in words[2:] if word.startswith("--"))
    elif words[0] == "pytest":
        assert all((ROOT / word).parent.is_dir() for word in words[1:] if "/" in word)
    else:
        assert (ROOT / ".pre-commit-config.yaml").is_file()


def help_of_ray(command: str) -> str:
    asked = [sys.executable, "-m", "ray.scripts.scripts", command, "--help"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def run_sdbench(arguments: list[str], desk: Path) -> None:
    """The command itself, but for training, and its files are there afterwards."""
    planned = arguments[0] in ("run", "distill", "tune") and "--dry-run" not in arguments
    done = CliRunner().invoke(app, [*arguments, *(["--dry-run"] if planned else [])])
    allowed = {"doctor": (0, 3)}.get(arguments[0], (0, 4) if "--fail-if" in arguments else (0,))
    assert done.exit_code in allowed, f"{done.exit_code}: {done.output}"
    assert done.stdout.strip()
    if "--output" in arguments:
        file = desk / arguments[arguments.index("--output") + 1]
        assert any(each.stat().st_size > 100 for each in file.parent.glob(f"{file.stem}*{file.suffix}")), file


def run_tool(tool: Path, words: list[str]) -> None:
    """A script of tools/: a new method is written, what else would write here is asked for its help."""
    main: Callable[..., Any] = runpy.run_path(str(tool))["main"]
    if tool.name == "new_method.py":
        main(words if "--directory" in words else [*words, "--directory", "lab", "--tests", "lab"])
        assert list(Path("lab").glob("*.py"))
    else:
        assert (ROOT / tool).is_file()
        assert set(words) <= {"--check"}


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_python_runs(page: str, desk: Path) -> None:
    """The blocks of a page, one after the other in one namespace; a block that registers a method is checked."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    for block in ALL:
        if block.page != page or block.language != "python":
            continue
        if "@register(" in block.text:
            check_plugin(block.text, desk / f"block_{block.line}.py")
        else:
            for name, instead in stand_ins(desk).items():
                block = Block(page, block.line, "python", block.text.replace(f'"{name}"', repr(instead)))
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), scope)


def check_plugin(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    before = set(registry.names())
    registry.load_plugin(file)
    for name in set(registry.names()) - before:
        assert [f for f in sdbench.checks.run_checks(name) if not f.passed] == []


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.language in ("toml", "json")], ids=lambda b: f"{b.page}:{b.line}"
)
def test_data_are_well_formed(block: Block) -> None:
    assert (json if block.language == "json" else tomllib).loads(block.text)


def test_the_map_of_files_names_what_is_there() -> None:
    """Files and folders of the tree exist; those within a folder are indented below it."""
    tree, folder = next(block for block in ALL if is_tree(block)), ROOT
    for line in tree.text.splitlines():
        place = folder if line.startswith(" ") else ROOT
        for word in takewhile(lambda word: word.endswith((".py", "/")), line.split()):
            assert list(place.glob(word.rstrip("/"))), f"the map names {word} in {place.name}"
            folder = folder if line.startswith(" ") else ROOT / word

"""Arrows between modules point one way; heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HARNESS = sorted((ROOT / "sdbench").rglob("*.py"))
METHODS = sorted((ROOT / "methods").glob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file names in import statements, ``from a import b`` as both a and a.b."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def uses(path: Path, package: str, *, top_level: bool = False) -> bool:
    return any(name.split(".")[0] == package for name in imports(path, top_level=top_level))


def test_only_the_ray_engine_imports_ray() -> None:
    found = [module_name(p) for p in HARNESS if uses(p, "ray")]
    assert "sdbench.engine.ray_tune" in found
    assert all(name.startswith("sdbench.engine.ray_") for name in found), found
    assert not any(uses(p, "ray", top_level=True) for p in HARNESS)


@pytest.mark.parametrize(
    "name",
    [
        *("store", "statistics", "leaderboard", "spec", "space", "selectors", "progress"),
        *("cost.records", "cost.archive", "engine.worker", "engine.local", "engine.ray_errand"),
    ],
)
def test_records_boards_and_supervisors_need_no_torch(name: str) -> None:
    code = f"import sys, sdbench.{name}; print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sdbench.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'ray', 'scipy', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["--version", "leaderboard", "show x", "list runs", "profile --help", "report"])
def test_reading_commands_need_no_torch(command: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sdbench.cli import app\n"
        f"CliRunner().invoke(app, {command.split()!r})\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_the_harness_names_no_method() -> None:
    """Neither an import of a method's module nor a comparison with a method's name."""
    from sdbench import registry

    names = {n for n in registry.names() if registry.origin(n) == "built in"}
    for path in HARNESS:
        assert not any(m.startswith("sdbench.methods.") for m in imports(path)), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
                assert not texts & names, f"{path}:{node.lineno} compares with a method's name"


def test_a_method_imports_no_other_method_and_no_harness() -> None:
    allowed = {"sdbench", "sdbench.losses", "sdbench.parts", "sdbench.method", "sdbench.network", "sdbench.errors"}
    for path in METHODS:
        for name in imports(path):
            if name.startswith("sdbench"):
                home = name if name in allowed else name.rpartition(".")[0]
                assert home in allowed, f"{path.name} imports {name}"


LAYERS = [
    {"sdbench.cli", "sdbench.api", "sdbench.api_cost", "sdbench.api_evidence", "sdbench.api_care", "sdbench.api_tune"},
    {"sdbench.analysis.questions"},
    {"sdbench.analysis.pictures"},
    {"sdbench.report.commands"},
    {"sdbench.report.page", "sdbench.report.plots"},
    {"sdbench.report.figures", "sdbench.report.listings", "sdbench.report.plot_style"},
    {"sdbench.report.charts"},
    {"sdbench.report.costs"},
    {"sdbench.report.material"},
    {"sdbench.distill", "sdbench.tuning_run"},
    {"sdbench.analysis.trials", "sdbench.analysis.logits", "sdbench.analysis.planes", "sdbench.analysis.features"},
    {"sdbench.upkeep"},
    {"sdbench.rescoring", "sdbench.bundle", "sdbench.scaffold", "sdbench.starting"},
    {"sdbench.commands", "sdbench.boards", "sdbench.showing", "sdbench.catalog", "sdbench.doctor", "sdbench.checks"},
    {"sdbench.configuration"},
    {"sdbench.preview", "sdbench.preparation"},
    {"sdbench.forecast_facts"},
    {"sdbench.forecast"},
    {"sdbench.forecast_records"},
    {"sdbench.cost.commands"},
    {"sdbench.cost.profile", "sdbench.cost.scaling"},
    {"sdbench.cost.request"},
    {"sdbench.study_search"},
    {"sdbench.run"},
    {"sdbench.tuning"},
    {"sdbench.teachers", "sdbench.distill_table", "sdbench.study"},
    {"sdbench.plan"},
    {"sdbench.plan_options"},
    {"sdbench.shards"},
    {"sdbench.iso_cost", "sdbench.variants", "sdbench.protocol", "sdbench.request"},
    {
        "sdbench.engine",
        "sdbench.engine.local",
        "sdbench.engine.ray_tune",
        "sdbench.engine.ray_own",
        "sdbench.engine.ray_head",
        "sdbench.engine.ray_train",
        "sdbench.engine.ray_search",
        "sdbench.engine.ray_errand",
        "sdbench.engine.ray_halt",
        "sdbench.engine.ray_cluster",
        "sdbench.engine.ray_nodes",
        "sdbench.engine.shipping",
    },
    {"sdbench.engine.follow"},
    {"sdbench.engine.supervise", "sdbench.engine.worker", "sdbench.engine.fence"},
    {"sdbench.engine.group", "sdbench.engine.process"},
    {"sdbench.engine.job"},
    {"sdbench.cost.memory", "sdbench.cost.counts", "sdbench.cost.energy", "sdbench.cost.state"},
    {"sdbench.cost.setting"},
    {"sdbench.coupling"},
    {"sdbench.train", "sdbench.account", "sdbench.assembly", "sdbench.session"},
    {"sdbench.joining"},
    {"sdbench.graph"},
    {"sdbench.outcomes", "sdbench.kept"},
    {"sdbench.data", "sdbench.models", "sdbench.evaluate", "sdbench.temperature"},
    {"sdbench.zoo"},
    {"sdbench.timm_models"},
    {"sdbench.parts"},
    {
        "sdbench.shelf",
        "sdbench.rows",
        "sdbench.registry",
        "sdbench.network",
        "sdbench.method",
        "sdbench.wrapped",
        "sdbench.watching",
        "sdbench.remainder",
        "sdbench.anatomy",
    },
    {"sdbench.workers"},
    {"sdbench.cost.archive"},
    {"sdbench.housekeeping"},
    {"sdbench.housekeeping_removal"},
    {"sdbench.housekeeping_looks"},
    {"sdbench.housekeeping_records"},
    {"sdbench.superseded", "sdbench.budget"},
    {"sdbench.study_records"},
    {"sdbench.kept_logits"},
    {"sdbench.store"},
    {"sdbench.attempts"},
    {"sdbench.sealed"},
    {"sdbench.trial_folder", "sdbench.curve_lines"},
    {"sdbench.durable"},
    {"sdbench.cost.verdict", "sdbench.cost.timing"},
    {"sdbench.statistics"},
    {"sdbench.cost.records"},
    {"sdbench.study_values"},
    {"sdbench.paths", "sdbench.public_command"},
    {"sdbench.spec", "sdbench.space", "sdbench.errors"},
    {"sdbench.tuning_records"},
    {"sdbench.record"},
]


def test_arrows_point_one_way() -> None:
    """No module imports one of a layer above its own, not even inside a function."""
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for path in HARNESS:
        own = level.get(module_name(path))
        if own is None:
            continue
        for name in imports(path):
            assert level.get(name, own) >= own, f"{module_name(path)} imports {name} of a layer above"


def test_files_and_functions_stay_small() -> None:
    for path in [*HARNESS, *METHODS, *sorted((ROOT / "tools").glob("*.py"))]:
        text = path.read_text()
        assert text.count("\n") <= 300, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and path.name != "cli.py":
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                assert size <= 50, f"{path}:{node.lineno} {node.name} has {size} lines"

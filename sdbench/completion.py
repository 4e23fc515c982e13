"""What a shell completes: names of methods, data sets, networks, protocols and trials, and words that options take.

``sdbench --install-completion`` tells the shell. It then runs sdbench at every press of the key, so nothing heavy is
imported: methods are read off the text of their files, plug-ins named on the same line included, and trials off the
names of their folders. Methods of packages that only an import would show are not completed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sdbench.errors import UserError
from sdbench.paths import path_of

Words = Callable[[Mapping[str, Any]], Iterable[str]]
"""All that may stand for a parameter, given what else was typed on the line."""

MOST = 1000
"""Trials that are completed at most."""

MOST_BYTES = 2**20
"""Of a plug-in's file."""

METRICS = ("top1", "top5", "nll", "ece", "brier", "scaled_nll", "scaled_ece", "scaled_brier")
"""That trials are compared by."""
RUN_KINDS = ("methods", "datasets", "models", "protocols", "metrics", "runs")


def method_names(typed: Mapping[str, Any]) -> list[str]:
    """Names that files register, those of built-in methods and of the plug-ins that were typed."""
    import sdbench.methods

    files = [path for folder in sdbench.methods.__path__ for path in Path(folder).glob("*.py")]
    with contextlib.suppress(UserError):  # of a path that is none, the command itself will tell
        files += [path_of(str(name)) for name in typed.get("plugin") or ()]
    found: set[str] = {"all"}
    for path in files:
        try:
            found.update(re.findall(r'^@register\(\s*"(\w+)"', _text(path), re.MULTILINE))
        except (OSError, UnicodeDecodeError):
            continue
    return sorted(found)


def _text(path: Path) -> str:
    from sdbench.bounded import read_plain

    return read_plain(path, MOST_BYTES).decode()


def dataset_names(typed: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}:" if name == "folder" else name for name in _named("(?:DatasetInfo|_photographs)", "data/__init__.py")
    ]


def protocol_names(typed: Mapping[str, Any]) -> list[str]:
    return _named("Protocol", "protocol.py")


def _named(kind: str, file: str) -> list[str]:
    """The names of records of one kind as a file of sdbench spells them out; importing it would take longer."""
    text = (Path(__file__).parent / file).read_text("utf-8")
    constants = dict(re.findall(r'^([A-Z]+) = ("\w+")$', text, re.MULTILINE))
    found = re.findall(rf'\b{kind}\(\s*name=("\w+"|[A-Z]+)', text)
    return [constants.get(name, name).strip('"') for name in found]


def model_names(typed: Mapping[str, Any]) -> list[str]:
    from sdbench.zoo import MODELS

    return list(MODELS)


def trial_ids(typed: Mapping[str, Any]) -> list[str]:
    """Names of the folders of trials; links and hidden ones are left out."""
    found: list[str] = []
    try:
        root = path_of(str(typed.get("results") or os.environ.get("SDBENCH_RESULTS") or "results"))
    except UserError:
        return found
    for path in (root / "trials").glob("*/*/*/*"):
        if len(found) >= MOST:
            break
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            found.append(path.name)
    return sorted(found)


def methods_or_trials(typed: Mapping[str, Any]) -> list[str]:
    return [*method_names(typed), *trial_ids(typed)]


def anything(typed: Mapping[str, Any]) -> list[str]:
    """What ``describe`` knows."""
    kinds = (method_names, dataset_names, model_names, protocol_names)
    return [name for kind in kinds for name in kind(typed) if name != "all"]


def these(*words: str) -> Words:
    return lambda typed: words


OPTIONS: dict[str, Words] = {
    "methods": method_names,
    "teachers": method_names,
    "reference": method_names,
    "dataset": dataset_names,
    "model": model_names,
    "student": model_names,
    "protocol": protocol_names,
    "metric": these(*METRICS),
    "precision": these("bf16", "fp32"),
    "engine": these("auto", "ray", "local"),
    "device": these("auto", "cpu", "cuda"),
    "compile": these("auto", "off", "graph"),
    "state": these("auto", "memory", "disk"),
    "augment": these("basic", "cutout", "trivialaugment"),
    "search": these("random", "optuna"),
    "scheduler": these("none", "asha"),
    "rerun": these("none", "failed", "stale", "all"),
    "progress": these("auto", "rich", "plain", "none"),
    "keep": these("newest", "oldest", "fail"),
    "status": these("ok", "failed", "oom", "nan", "timeout", "interrupted"),
    "gpus": these("all"),
}
"""By the name of an option of any command."""

ARGUMENTS: dict[tuple[str, str], Words] = {
    ("list", "kind"): these(*RUN_KINDS),
    ("describe", "name"): anything,
    ("check", "names"): method_names,
    ("show", "trial"): trial_ids,
    ("compare", "names"): method_names,
    ("analyze", "trials"): methods_or_trials,
    ("analyze", "kind"): these("zipf", "calibration", "geometry", "all"),
    ("plot", "kind"): these("pareto", "curves", "reliability", "cost", "zipf"),
    ("schema", "kind"): these("trial", "profile", "study"),
    ("prepare", "datasets"): dataset_names,
    ("rm", "trials"): trial_ids,
    ("rescore", "trials"): trial_ids,
    ("export", "trials"): trial_ids,
    ("leaderboard", "format"): these("text", "md", "csv", "latex", "html", "json"),
    ("compare", "format"): these("text", "md", "json"),
    ("claims", "format"): these("text", "md", "json"),
    ("profile", "compile"): these("auto", "off", "graph", "inductor"),
}
"""By command and parameter; goes before ``OPTIONS``."""


def attach(commands: Mapping[str, Any]) -> None:
    """Give every parameter of the commands that has a name above its words."""
    for verb, command in commands.items():
        for parameter in command.params:
            name = str(parameter.name).rstrip("_")
            words = ARGUMENTS.get((verb, name)) or OPTIONS.get(name)
            if words is not None:
                parameter._custom_shell_complete = _completer(words)


def _completer(words: Words) -> Callable[[Any, Any, str], list[str]]:
    def complete(context: Any, parameter: Any, incomplete: str) -> list[str]:
        return completed(incomplete, words(context.params))

    return complete


def completed(incomplete: str, words: Iterable[str]) -> list[str]:
    """What may stand for the last item of a list: behind a comma, ``^`` or ``+``, not within brackets.

    >>> completed("ce,z", ["ce", "zipf"]), completed("^c", ["ce"]), completed("zipf[weight=", ["zipf"])
    (['ce,zipf'], ['^ce'], [])
    """
    cut = max(incomplete.rfind(sign) for sign in ",^+") + 1
    if incomplete.count("[") > incomplete.count("]"):
        return []
    head, last = incomplete[:cut], incomplete[cut:]
    return [head + word for word in words if word.startswith(last)]

"""Keyword arguments of ``sdbench.api``: named as the options of the command line, and how they become those."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from sdbench.errors import UserError, unknown
from sdbench.paths import path_of

if TYPE_CHECKING:
    from sdbench.store import Damaged

One = str | int | float | Path | None
Many = str | int | Path | Iterable[str | int | Path] | None


class RunOptions(TypedDict, total=False):
    """What ``sdbench run`` takes; see ``sdbench run --help``. seeds: also numbers or a range."""

    methods: Many
    dataset: Many
    model: Many
    seeds: Many
    num_seeds: One
    protocol: One
    epochs: One
    limit_steps: One
    batch_size: One
    lr: One
    weight_decay: One
    augment: One
    precision: One
    threads: One
    image_size: One
    data_dir: One
    plugin: Many
    results: One
    engine: One
    device: One
    gpus: One
    per_gpu: One
    gpus_per_trial: One
    cpus: One
    cpus_per_trial: One
    jobs: One
    address: One
    timeout: One
    budget: One
    max_failures: One
    workers: One
    state: One
    compile: One
    eval_every: One
    rerun: One
    baseline: bool
    temperature_scaling: bool
    iso_cost: bool
    keep_checkpoints: bool
    keep_logits: One
    weights: bool
    logits: bool


class ProfileOptions(TypedDict, total=False):
    """What ``sdbench profile`` takes; see ``sdbench profile --help``."""

    methods: Many
    dataset: One
    model: One
    classes: One
    image_size: One
    batch_size: One
    precision: One
    compile: One
    rounds: One
    margin: One
    max_seconds: One
    memory: bool
    device: One
    data_dir: One
    plugin: Many
    results: One


class ClaimsOptions(TypedDict, total=False):
    """What ``sdbench claims`` takes; see ``sdbench claims --help``."""

    methods: Many
    model: One
    classes: One
    max_seconds: One
    device: One
    plugin: Many
    results: One


class DistillOptions(TypedDict, total=False):
    """What ``sdbench distill`` takes; see ``sdbench distill --help``."""

    teachers: Many
    student: One
    temperatures: Many
    alpha: Many
    dataset: Many
    model: Many
    seeds: Many
    protocol: One
    teacher_epochs: One
    epochs: One
    data_dir: One
    results: One
    engine: One
    device: One
    gpus: One
    cpus: One
    compile: One
    timeout: One
    rerun: One


def text(value: object) -> str:
    """A value as it would be typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def texts(values: Many) -> list[str]:
    """A list as it would be typed; one value is a list of one.

    >>> texts("ce,zipf"), texts(range(2)), texts(None)
    (['ce,zipf'], ['0', '1'], [])
    """
    if values is None:
        return []
    if isinstance(values, str | int | float | Path):
        return [text(values)]
    return [text(value) for value in values]


def typed(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Options as texts, those that are None left out. Raises UserError for a name that is no option."""
    problems = [unknown("option", name, known) for name in options if name not in known]
    if problems:
        raise UserError(problems)
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None:
            plain = isinstance(value, str | int | float | Path)
            found[name] = text(value) if plain else texts(value)
    return found


def given(value: One) -> str | None:
    """A value as it would be typed, where there is one."""
    return None if value is None else text(value)


def folder(results: One) -> Path:
    """A results folder's place."""
    return path_of(text(results)).absolute()


def warn(damaged: Iterable[Damaged]) -> None:
    """A warning for each damaged record, in the name of who called the function that calls this one."""
    for one in damaged:
        warnings.warn(f"damaged record left out: {one.path}: {one.reason}", stacklevel=3)


def command(verb: str, options: Mapping[str, Any]) -> list[str]:
    """The command line that asks for the same, which records keep.

    >>> command("run", {"methods": ["ce", "ls"], "baseline": "false", "epochs": "2", "iso_cost": "true"})
    ['run', '--methods', 'ce,ls', '--no-baseline', '--epochs', '2', '--iso-cost']
    """
    words = [verb]
    for name, value in options.items():
        option = name.replace("_", "-")
        if value in ("true", "false", True, False):
            words.append(f"--{option}" if text(value) == "true" else f"--no-{option}")
        else:
            words += [f"--{option}", value if isinstance(value, str) else ",".join(value)]
    return words

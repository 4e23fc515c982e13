"""What a user asked for, gathered as text from defaults, a file, the environment and flags."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdbench.bounded import parse_toml, read_plain
from sdbench.errors import EnvironmentProblem, UserError, unknown
from sdbench.selectors import split_list
from sdbench.spec import Record

T = TypeVar("T")

MAX_CONFIG_BYTES = 2**16
MAX_TEXT, MAX_ITEMS = 4096, 10_000
"""Characters of a value, and values of a list, at most."""


class Request(Record):
    """What was asked for, as text. Field names are the names of options and of configuration keys."""

    methods: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    num_seeds: str | None = None
    protocol: str | None = None
    epochs: str | None = None
    limit_steps: str | None = None
    batch_size: str | None = None
    lr: str | None = None
    weight_decay: str | None = None
    augment: str | None = None
    precision: str | None = None
    threads: str | None = None
    image_size: str | None = None
    data_dir: str | None = None
    plugin: tuple[str, ...] = ()
    results: str | None = None
    engine: str | None = None
    device: str | None = None
    gpus: str | None = None
    per_gpu: str | None = None
    gpus_per_trial: str | None = None
    cpus: str | None = None
    cpus_per_trial: str | None = None
    jobs: str | None = None
    address: str | None = None
    timeout: str | None = None
    budget: str | None = None
    max_failures: str | None = None
    workers: str | None = None
    state: str | None = None
    compile: str | None = None
    eval_every: str | None = None
    keep_logits: str | None = None
    rerun: str | None = None
    baseline: str | None = None
    iso_cost: str | None = None
    temperature_scaling: str | None = None
    keep_checkpoints: str | None = None
    weights: str | None = None
    logits: str | None = None

    @classmethod
    def gather(cls, flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str]) -> Request:
        """Defaults < configuration file < SDBENCH_* variables < flags. Raises UserError."""
        problems: list[str] = []
        merged: dict[str, Any] = {}
        if config is not None:
            try:
                merged.update(read_config(config))
            except UserError as error:
                problems += error.problems
        for name in cls.model_fields:
            if value := environ.get(f"SDBENCH_{name.upper()}"):
                merged[name] = value
        merged.update({name: value for name, value in flags.items() if value not in (None, [], ())})
        for name in merged:
            if cls.model_fields[name].annotation == tuple[str, ...]:
                merged[name] = tuple(split_list([merged[name]] if isinstance(merged[name], str) else merged[name]))
        for name, value in merged.items():
            problems += _unfit(name, [value] if isinstance(value, str) else value)
        if problems:
            raise UserError(problems)
        return cls(**merged)


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a TOML file as texts. Raises UserError for a missing, malformed or unknown one."""
    try:
        content = parse_toml(read_plain(path, MAX_CONFIG_BYTES))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); give an existing TOML file") from error
    except ValueError as error:  # TOML's own, bytes that are not UTF-8, numbers of thousands of digits
        raise UserError(f"--config {path}: not TOML ({error}); mend that place") from error
    found: dict[str, Any] = {}
    problems = []
    for raw, value in content.items():
        key = raw.replace("-", "_")
        if key not in Request.model_fields:
            problems.append(f"--config {path}: {unknown('key', raw, Request.model_fields)}")
        elif Request.model_fields[key].annotation == tuple[str, ...]:
            items = value if isinstance(value, list) else [value]
            if any(isinstance(item, dict | list) for item in items):
                problems.append(f"--config {path}: {raw} is a text or a list of texts")
            found[key] = [_text(item) for item in items]
        elif isinstance(value, list | dict):
            problems.append(f"--config {path}: {raw} takes one value, got a {type(value).__name__}")
        else:
            found[key] = _text(value)
    if problems:
        raise UserError(problems)
    return found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unfit(name: str, texts: Iterable[str]) -> list[str]:
    """What no value may be: longer than any sensible one, or with characters that are not to be seen or kept."""
    option, found = f"--{name.replace('_', '-')}", []
    for number, text in enumerate(texts, start=1):
        if number > MAX_ITEMS:
            found.append(f"{option}: more than {MAX_ITEMS} values")
            break
        if len(text) > MAX_TEXT:
            found.append(f"{option} {text[:40]!r}...: longer than {MAX_TEXT} characters")
        elif any(unicodedata.category(c) == "Cc" for c in text):
            found.append(f"{option} {text[:100]!r}: has control characters")
        elif any(unicodedata.category(c) == "Cs" for c in text):  # how Python shows bytes of a name that are not UTF-8
            found.append(f"{option} {text[:100]!r}: is not UTF-8, which records need; rename it")
    return found[:10]


@dataclass
class Problems:
    """Collects what is wrong instead of stopping at the first."""

    found: list[str] = field(default_factory=list)
    of_the_machine: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except UserError as error:
            self.found += error.problems
            if isinstance(error, EnvironmentProblem):
                self.of_the_machine += error.problems
            return None

    def raised(self) -> UserError:
        """All of them, as one error: an EnvironmentProblem where the machine alone is to blame."""
        kind = EnvironmentProblem if self.found == self.of_the_machine else UserError
        return kind(list(dict.fromkeys(self.found)))

    def number(self, name: str, text: str | None, kind: type[int] | type[float], low: float, high: float) -> Any:
        """The number that ``text`` stands for, in [low, high]; None where it is not given or wrong."""
        if text is None:
            return None
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            self.found.append(f"--{name.replace('_', '-')} {text!r}: expected {what}")
            return None
        if not low <= value <= high:
            self.found.append(f"--{name.replace('_', '-')} {text}: expected a value in [{low:g}, {high:g}]")
            return None
        return value

    def choice(self, name: str, text: str | None, allowed: Sequence[str], default: str) -> str:
        if text is None:
            return default
        if text not in allowed:
            self.found.append(f"--{name}: {unknown('value', text, allowed)}")
            return default
        return text

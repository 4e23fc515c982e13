"""Conformance checks that a method's author runs: ``sdbench check NAME``.

They try a method on a tiny task on the CPU, through the same session and trainer as a real trial.
Not covered: whether the method is the paper's (golden arrays show that), a GPU, compiled steps, processes that
train together (but for the batches that they share), and state that the method keeps in its class or module,
which only a fresh process would lose.
"""

from __future__ import annotations

import inspect
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdbench import behaviour_checks, contract_checks, registry
from sdbench.errors import UserError, unknown
from sdbench.spec import Value
from sdbench.subject import Failed, Subject
from sdbench.tiny import TinyTask

QUICK = TinyTask()
FULL = TinyTask(num_classes=20, num_train=50, image_size=32, batch_size=24, network="resnet20")


@dataclass(frozen=True)
class Check:
    """One thing that every method must do. ``summary`` says it in a sentence; ``function`` tries it."""

    name: str
    summary: str
    function: Callable[[Subject], None]


@dataclass(frozen=True)
class Finding:
    """What one check found. ``message`` says what to mend, or the check's summary where it passed."""

    check: str
    passed: bool
    message: str
    seconds: float


def _listed(*functions: Callable[[Subject], None]) -> tuple[Check, ...]:
    return tuple(Check(f.__name__, (f.__doc__ or "").strip().removesuffix("."), f) for f in functions)


FIRST = _listed(
    contract_checks.constructs,
    contract_checks.sets_up,
    contract_checks.mixes_within_bounds,
    contract_checks.returns_terms,
    contract_checks.leaves_batch_alone,
    behaviour_checks.stays_finite,
)
"""Where one of these fails, the others could only say the same again."""

CHECKS = FIRST + _listed(
    contract_checks.names_terms_alike,
    behaviour_checks.reaches_network,
    contract_checks.uses_its_parameters,
    behaviour_checks.neutral_is_baseline,
    contract_checks.leaves_network_alone,
    behaviour_checks.takes_two_classes,
    behaviour_checks.takes_short_batch,
    behaviour_checks.computes_in_bf16,
    behaviour_checks.splits_over_devices,
    behaviour_checks.repeats,
    behaviour_checks.draws_from_its_generator,
    behaviour_checks.resumes,
)
"""All checks, in the order in which they run."""


def run_checks(name: str, params: Mapping[str, Value] | None = None, *, quick: bool = False) -> list[Finding]:
    """Hold the method ``name``, or ``base+mixer``, to the contract; one finding per check that was run.

    params: hyper-parameters that differ from their defaults, a mixer's prefixed with its name and a dot.
    quick: a smaller network on smaller images, for tests. After a failure of one of ``FIRST`` the rest is
    left out. Whatever the method raises becomes a finding; the process's random generators, threads and
    determinism are as before. Raises UserError for an unknown method or parameter.
    """
    subject = Subject(name, _all_values(name, params or {}), QUICK if quick else FULL)
    findings: list[Finding] = []
    for check in CHECKS:
        with _process_settings_kept():
            findings.append(_run(check, subject))
        if check in FIRST and not findings[-1].passed:
            break
    return findings


def _all_values(name: str, given: Mapping[str, Value]) -> dict[str, Value]:
    """Every hyper-parameter of a method or combination, the defaults where none is given."""
    values: dict[str, Value] = {}
    base, *mixers = name.split("+")
    for member, prefix in [(base, ""), *((mixer, f"{mixer}.") for mixer in mixers)]:
        known = registry.parameters(registry.get(member))
        values.update({prefix + key: parameter.default for key, parameter in known.items()})
    problems = [f"{name}: {unknown('parameter', key, values)}" for key in given if key not in values]
    if problems:
        raise UserError(problems)
    return {**values, **given}


def _run(check: Check, subject: Subject) -> Finding:
    began = time.perf_counter()
    try:
        check.function(subject)
    except Failed as failure:
        message = str(failure)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; its author wants to read where
        message = f"{_explain(error, subject)}. Where: {check.summary}"
    else:
        message = ""
    return Finding(check.name, not message, message or check.summary, time.perf_counter() - began)


def _explain(error: BaseException, subject: Subject) -> str:
    """The error, with the hook that it came out of and the line of the method's file, if it came from there."""
    files = {inspect.getsourcefile(registry.get(member)) for member in subject.members}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    said = f"{type(error).__name__}: {error}".removesuffix(": ").removesuffix(".")
    if not own:
        return said
    return f"{own[0].name}() raised {said} ({Path(own[-1].filename).name}:{own[-1].lineno})"


@contextmanager
def _process_settings_kept() -> Iterator[None]:
    """Puts back what a trial sets for the whole process."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    gradients, plain, numeric = torch.is_grad_enabled(), random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        random.setstate(plain)
        np.random.set_state(numeric)

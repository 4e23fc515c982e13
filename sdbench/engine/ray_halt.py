"""How ``Tuner.fit()`` is ended, and what Tune's callback hears while it runs."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from sdbench.engine import ray_cluster
from sdbench.engine.process import WORKER


class Halted(Exception):
    """The command was asked to stop."""


@dataclass
class Running:
    """What Tune's callback looks at. Module state, since Tune copies its callbacks."""

    stop: Event
    halt: Any = None
    vacancy: ray_cluster.Vacancy | None = None
    given_up: dict[int, str] = field(default_factory=dict)
    handler: Any = field(default_factory=lambda: signal.getsignal(signal.SIGUSR1))


_running: Running | None = None


def begin(running: Running) -> None:
    """From now on, the callback looks at this."""
    global _running
    _running = running


def take_given_up() -> dict[int, str]:
    """The jobs that Tune gave up since the last call, and why."""
    if _running is None:
        return {}
    found, _running.given_up = _running.given_up, {}
    return found


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Around ``fit()``: a stop ends it quietly, and of an error that Ray itself had, standard error tells. What is left
    is left to the same command."""
    import ray

    try:
        with contextlib.suppress(Halted):
            yield
    except (RuntimeError, ray.exceptions.RayError) as error:  # a node ran out of memory, for example
        told = str(error).strip().splitlines() or [type(error).__name__]
        print(f"Ray ended early: {told[0][:300]}", file=sys.stderr)


def callback() -> Any:
    """A Tune callback that ends ``fit()`` once the command was asked to stop, and keeps its memory flat."""
    from ray.tune import Callback

    class HaltCallback(Callback):
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            # Tune pickles this class by value; the import reaches the one module that holds the stop.
            from sdbench.engine import ray_halt

            ray_halt.halt_if_asked()

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            from sdbench.engine import ray_halt

            ray_halt.give_up(trial.config.get("job", -1), trial.error_file)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            # Running means of everything that was reported: most of what Tune remembers of a finished trial.
            trial.run_metadata.metric_analysis.clear()
            trial.run_metadata.metric_n_steps.clear()

    return HaltCallback()


def halt_if_asked() -> None:
    """Raise Halted, after telling the trials, once the command was asked to stop."""
    if _running is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _running.handler)  # fit() took it, and would end as if all were done
    if _running is not None and _running.vacancy is not None:
        _running.vacancy.tell()
    if _running is not None and _running.stop.is_set():
        if _running.halt is None:
            _ask_trials_to_stop()
        else:
            ray_cluster.halt_all(_running.halt)
        raise Halted


def give_up(job: int, told: str | None) -> None:
    """Remember a job that Tune will not try again, and the end of the file in which it says why."""
    reason = "no reason is known"
    with contextlib.suppress(OSError):
        reason = ray_cluster.last_line(Path(told).read_text(errors="replace")) if told else reason
    if _running is not None:
        _running.given_up[job] = reason


def _ask_trials_to_stop() -> None:
    """SIGTERM to every trial process below this one, so that each ends at its next step."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if WORKER in process.cmdline():
                process.terminate()

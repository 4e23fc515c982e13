"""Searches under Ray Tune: its ASHA scheduler stops trials early, its Optuna searcher proposes configurations.

Every search trial is a trial of the store in a process of its own, as under ``ray_tune``; a Tune worker follows its
curve (``follow``) and reports each validation accuracy, after the trial's last epoch as well. What an earlier command
left is reported again from the curves, in the time that reading them takes: so a search that was cut short goes on as
one. Only ``ray.tune`` is used.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from sdbench.engine import Resources, ray_halt, ray_tune
from sdbench.engine.job import Job
from sdbench.engine.ray_errand import admit
from sdbench.engine.ray_nodes import Place
from sdbench.engine.shipping import unpacked
from sdbench.space import Choice, LogUniform, Space
from sdbench.spec import Trial
from sdbench.store import Store
from sdbench.study_records import mark_stopped
from sdbench.study_values import Point, at, settled, values_of

METRIC, TIME = "validation_top1", "epochs"
REDUCTION = 3
"""ASHA goes on with the best third of what reached a rung; each rung is so many times as late as the one before."""

FIRST_RUNG = 10
"""The first rung is at this part of the epochs: a tenth, at least one."""


def optuna_available() -> bool:
    """Whether Optuna is installed."""
    return find_spec("optuna") is not None


@dataclass(frozen=True)
class Ask:
    """One search. template: the default point's job. points: the configurations to be tried in any case, the default
    point first where it is among them. asha: whether trials may be stopped early; the default point never is.
    propose: how many further configurations Optuna proposes, in ``space``, from ``seed`` and what is ``known``:
    configurations that are over, with their validation accuracy. again: by their ids, finished trials that are to be
    run again, with the time at which they were finished."""

    template: Job
    points: tuple[Point, ...]
    asha: bool = False
    space: Mapping[str, Space] | None = None
    propose: int = 0
    seed: int = 0
    known: tuple[tuple[Point, float], ...] = ()
    again: Mapping[str, str] = field(default_factory=dict)

    def job(self, config: Mapping[str, Any]) -> Job:
        """The job of what Tune calls a configuration: the place of a point, or proposed values."""
        trial = self.template.trial
        if "point" in config:
            values = self.points[config["point"]]
        else:
            assert self.space is not None
            like = values_of(trial.spec, self.space)
            values = {name: settled(space, config[name], like[name]) for name, space in self.space.items()}
            given = [point for point in self.points if all(config[name] == value for name, value in point.items())]
            values = given[0] if given else values  # a default may have more digits than what is proposed
        own = Trial(spec=at(trial.spec, values), identity=trial.identity, caveat=trial.caveat)
        return self.template.model_copy(update={"trial": own, "replaces": self.again.get(own.id, "")})

    @property
    def epochs(self) -> int:
        """Of a trial that is not stopped."""
        return self.template.trial.spec.recipe.epochs


def run(templates: Sequence[Job], asks: Iterable[Ask], resources: Resources, stop: Event) -> None:
    """Carry out all searches, one after the other, each with as many trials at once as there is room for. templates:
    what the cluster's nodes must be fit for; without any, nothing is asked for. Raises EnvironmentProblem where a
    cluster cannot be joined."""
    if not templates or stop.is_set():
        return
    with ray_tune.session(templates, resources, stop) as (place, _):
        for ask in asks:
            _fit(ask, resources, place)


def _fit(ask: Ask, resources: Resources, place: Place | None) -> None:
    """One search. place: on a cluster, where Tune's own files are seen by every node, and the plug-ins for them. What
    is left when Ray gives up is left to the same command again."""
    import ray
    from ray import tune

    share = ray_tune.share_of(resources)
    needs = {"cpu": resources.cpus_per_trial, "gpu": share}
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    limit = ray_tune.limit_of(resources, share) if place else resources.jobs
    room = int(total.get("GPU", 0) / share) if share else int(total.get("CPU", 1) // resources.cpus_per_trial)
    trainable = tune.with_resources(tune.with_parameters(_followed(), ask=ask, place=place), needs)
    places = range(len(ask.points))
    with tempfile.TemporaryDirectory(prefix="sdbench-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            param_space={} if ask.propose else {"point": tune.grid_search(list(places))},
            tune_config=tune.TuneConfig(
                num_samples=len(places) + ask.propose if ask.propose else 1,
                search_alg=_optuna(ask) if ask.propose else None,
                scheduler=_asha(ask) if ask.asha else None,
                max_concurrent_trials=min(max(1, room), limit or room + 1) if ask.propose else limit,
                reuse_actors=False,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=place.folder if place else scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=ray_tune.NODE_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[ray_halt.callback()],
            ),
        )
        with ray_halt.fitting():
            tuner.fit()


def _followed() -> Any:
    """What a Tune worker runs: a search trial, one report per validation accuracy."""
    from ray import tune

    class Followed(tune.Trainable):
        def setup(self, config: dict[str, Any], ask: Ask | None = None, place: Place | None = None) -> None:
            from sdbench.engine.follow import Follower

            assert ask is not None, "handed over by with_parameters"
            self.kept = contextlib.ExitStack()
            job = ask.job(config)
            if place is not None:  # a cluster, whose nodes need not see the files that were named
                admit(place, Event())
                job = job.with_plugins(self.kept.enter_context(unpacked(place.plugins)))
            self.follower = Follower(job)
            self.epochs = ask.epochs

        def step(self) -> dict[str, Any]:
            told = self.follower.next()
            if told is None:
                return {"done": True}
            return {TIME: told.epochs, METRIC: told.top1, "done": told.epochs >= self.epochs}

        def cleanup(self) -> None:
            self.follower.end()
            self.kept.close()

    return Followed


def _asha(ask: Ask) -> Any:
    """ASHA (Li et al., 2020) over the validation accuracies, with the best third of each rung going on."""
    from ray.tune.schedulers import ASHAScheduler

    default = ask.template.trial.id

    class Scheduler(ASHAScheduler):
        """Says in the store which trials it stopped. The default point is never stopped: others are measured by it."""

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            action: str = super().on_trial_result(controller, trial, result)
            if action != ASHAScheduler.STOP or result[TIME] >= ask.epochs:
                return action
            job = ask.job(trial.config)
            if job.trial.id == default:
                return str(ASHAScheduler.CONTINUE)
            mark_stopped(Store(Path(job.store)).folder(job.trial.spec, job.trial.id), "asha", int(result[TIME]))
            return action

    grace = max(1, ask.epochs // FIRST_RUNG)
    return Scheduler(TIME, METRIC, "max", max_t=ask.epochs, grace_period=grace, reduction_factor=REDUCTION)


def _optuna(ask: Ask) -> Any:
    """Optuna's TPE sampler, told what is known, with the points to be tried in any case before its own proposals."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    assert ask.space is not None
    space = OptunaSearch.convert_search_space({name: _domain(each, tune) for name, each in ask.space.items()})
    searcher = OptunaSearch(space=space, metric=METRIC, mode="max", points_to_evaluate=list(ask.points), seed=ask.seed)
    for point, top1 in ask.known:
        searcher.add_evaluated_point(point, top1)
    return searcher


def _domain(space: Space, tune: Any) -> Any:
    if isinstance(space, Choice):
        return tune.choice(list(space.values))
    return (tune.loguniform if isinstance(space, LogUniform) else tune.uniform)(space.low, space.high)

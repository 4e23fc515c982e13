"""The functions of ``sdbench.api`` that search for values before they train, as ``cli_tune`` has the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

from sdbench.api_options import Many, One, command, typed

if TYPE_CHECKING:
    from sdbench.tuning import TuningPlan
    from sdbench.tuning_run import TuneOutcome


class TuneOptions(TypedDict, total=False):
    """What ``sdbench tune`` takes; see ``sdbench tune --help``."""

    methods: Many
    trials: One
    search: One
    scheduler: One
    search_seed: One
    dataset: Many
    model: Many
    seeds: Many
    num_seeds: One
    epochs: One
    batch_size: One
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
    cpus: One
    cpus_per_trial: One
    address: One
    timeout: One
    max_failures: One
    workers: One
    compile: One
    rerun: One


def plan_tune(**options: Unpack[TuneOptions]) -> TuningPlan:
    """What ``tune`` would do, ``sdbench tune --dry-run``: ``.studies``, one for each method, with their ranges and the
    configurations that are known before anything is trained. Raises as ``tune``."""
    from sdbench import tuning

    flags = typed(dict(options), TuneOptions.__annotations__)
    return tuning.plan_tuning(flags, command("tune", flags))


def tune(*, quiet: bool = True, **options: Unpack[TuneOptions]) -> TuneOutcome:
    """Search for each method's values on held-out training images, then train with the best on fresh seeds,
    ``sdbench tune``: ``.studies`` say what was tried and chosen, ``.outcome.results`` are the trials with it.

    Trials run in processes of their own; calling it again resumes. The boards under the results folder are written.
    Raises UserError with every problem, EnvironmentProblem where the machine lacks something, such as Optuna.
    """
    from sdbench import tuning_run

    return tuning_run.carry_through(plan_tune(**options), quiet=quiet)[0]

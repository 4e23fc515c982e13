"""The functions of ``sdbench.api`` around a run, as ``sdbench.cli_care`` has the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdbench.api_options import Many, One, given, text, texts

if TYPE_CHECKING:
    from sdbench.bundle import Bundle
    from sdbench.housekeeping_records import Sweep
    from sdbench.preparation import Prepared
    from sdbench.rescoring import Rescoring
    from sdbench.scaffold import Scaffold


def prepare(datasets: Many = None, *, data_dir: One = None, image_size: One = None) -> list[Prepared]:
    """Download, verify and decode data sets, ``sdbench prepare``: where each is, and its fingerprint. Raises UserError
    with the problems of all of them; the others are ready then."""
    from sdbench import preparation

    return preparation.prepare(texts(datasets), given(data_dir), given(image_size))


def gc(
    *,
    stale: bool = False,
    failed: bool = False,
    plugin: Many = None,
    results: One = "results",
    dry_run: bool = True,
) -> Sweep:
    """Remove what is of no more use, ``sdbench gc``: what went, or would; ``.failed`` names what could not go. Only
    looks unless ``dry_run=False``, which does not ask. Raises UserError where there is no results folder."""
    from sdbench import upkeep

    return upkeep.gc(text(results), stale=stale, failed=failed, plugins=texts(plugin), dry_run=dry_run)


def rm(
    *trials: One,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    status: Many = None,
    results: One = "results",
    dry_run: bool = True,
) -> Sweep:
    """Remove trials, ``sdbench rm``, by id or by what they are: what went, or would, as ``gc`` has it. Only looks
    unless ``dry_run=False``, which does not ask. Raises as ``gc``, and for names that are none."""
    from sdbench import boards, upkeep

    chosen = boards.Filter.read(texts(methods), texts(dataset), texts(model), protocol)
    return upkeep.rm(text(results), [text(each) for each in trials], chosen, texts(status), dry_run=dry_run)


def rescore(
    *trials: One,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    write: bool = False,
    results: One = "results",
) -> Rescoring:
    """Metrics of finished trials from the logits they keep, ``sdbench rescore``; ``.agrees`` where records are right.
    write: renew those that are not. Raises UserError for names that are none and where no finished trial is meant."""
    from sdbench import boards, upkeep

    chosen = boards.Filter.read(texts(methods), texts(dataset), texts(model), protocol)
    return upkeep.rescore(text(results), [text(each) for each in trials], chosen, write=write)


def export(
    *trials: One,
    output: One = None,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
) -> Bundle:
    """Records and curves of trials in a zip file, ``sdbench export``: what is in it. output: by default ``trials.zip``.
    Raises UserError where nothing is meant and where the file is there already."""
    from sdbench import boards, upkeep

    chosen = boards.Filter.read(texts(methods), texts(dataset), texts(model), protocol)
    return upkeep.export(text(results), [text(each) for each in trials], chosen, given(output))


def new_method(name: str, *, kind: str = "criterion", directory: One = ".", tests: One = ".") -> Scaffold:
    """Write a method that works as it is, and its test, ``sdbench new-method``: their files. Raises UserError with all
    that forbids it."""
    from sdbench import scaffold

    return scaffold.write(name, kind, Path(text(directory)), Path(text(tests)))


def init(file: One = None) -> Path:
    """Write a configuration file with every option of ``run``, commented, ``sdbench init``. Raises UserError where it
    is there already."""
    import typer.main

    from sdbench import starting
    from sdbench.cli import app

    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    return starting.init(given(file), {str(each.name).rstrip("_"): each.help or "" for each in run.params})

"""The functions of ``sdbench.api`` that read finished trials, as ``sdbench.cli_evidence`` has the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from sdbench.api_options import DistillOptions, Many, One, command, given, text, texts, typed, warn

if TYPE_CHECKING:
    from sdbench.analysis.records import Analysis
    from sdbench.boards import Filter
    from sdbench.comparison_records import Comparison
    from sdbench.distill import Distillation
    from sdbench.distill_table import DistillTable
    from sdbench.leaderboard_records import Board
    from sdbench.merging import Merge
    from sdbench.plan import Plan
    from sdbench.report.commands import PlotFile, ReportFile
    from sdbench.validation_records import Validation


def leaderboard(
    *,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    published: bool = False,
    results: One = "results",
    write: bool = False,
) -> Board:
    """The board of all finished trials, ``sdbench leaderboard``. published: with what papers print beside it. write:
    also under the results folder, as files, those of all trials.

    Damaged records are told on stderr, and in the board's notes. Raises UserError where no trial is found.
    """
    from sdbench import boards

    chosen = _chosen(methods, dataset, model, protocol)
    return boards.read_board(text(results), chosen, write_files=write, published=published)[0]


def compare(
    *names: str,
    reference: str | None = None,
    metric: str = "top1",
    fail_if: Many = None,
    target: One = None,
    at: One = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
) -> Comparison:
    """Differences to a reference paired by seed, ``sdbench compare``; ``.failed`` are the conditions of ``fail_if``
    that hold or cannot be decided. target: a top-1 in per cent, and at: seconds or a duration such as "5m"; then tables
    have ``.paces``.

    Damaged records are told on stderr, and in the notes. Raises UserError for names, a metric or conditions that
    cannot be read or found.
    """
    from sdbench import boards

    chosen = _chosen(None, dataset, model, protocol)
    return boards.compared(
        text(results), names, chosen, reference=reference, metric=metric, fail_if=texts(fail_if),
        target=given(target), at=given(at),
    )[0]  # fmt: skip


def analyze(
    *trials: One,
    kind: str = "all",
    ranks: str | None = None,
    over: str | None = None,
    classes: Many = None,
    train_images: One = None,
    output: One = None,
    dataset: Many = None,
    model: Many = None,
    seeds: Many = None,
    data_dir: One = None,
    device: str | None = None,
    results: One = "results",
) -> list[Analysis]:
    """The papers' questions, ``sdbench analyze``: a record for each group of trials that can be set side by side.

    trials: methods, globs, ids or folders; all where none is given. Other arguments as the options; output: a picture,
    whose files are in ``.pictures`` by kind. What could not be looked at is in ``.notes``. Raises UserError for
    arguments that cannot be read, where no trial is meant, and where nothing that was asked has an answer.
    """
    from sdbench.analysis import questions
    from sdbench.analysis.trials import Choice

    three = ",".join(texts(classes)) or None
    images, folder, picture = given(train_images), given(data_dir), given(output)
    asked = questions.read_asked(kind, ranks, over, three, images, folder, device, picture)
    choice = Choice([text(each) for each in trials], texts(dataset), texts(model), texts(seeds))
    return questions.analyses(text(results), choice, asked)


def plan_distill(**options: Unpack[DistillOptions]) -> Plan:
    """What ``distill`` would do, ``sdbench distill --dry-run``: the trials of the students alone and of those that are
    taught, whether they are done or not. Raises as ``distill``."""
    return _distillation(dict(options)).plan


def distill(*, quiet: bool = True, **options: Unpack[DistillOptions]) -> DistillTable:
    """Train a student on each finished teacher, ``sdbench distill``: the table of what each teaches.

    Trials run in processes of their own; calling it again resumes. A row names the students that did not finish, after
    Ctrl-C as well. Raises UserError with every problem: teachers that are not there or whose weights are gone, values
    out of range, other data.
    """
    from sdbench import distill as distillation

    return distillation.teach(_distillation(dict(options)), quiet=quiet)[0]


def _distillation(options: dict[str, Any]) -> Distillation:
    from sdbench import distill as distillation

    flags = typed(options, DistillOptions.__annotations__)
    words = command("distill", flags)
    for name in ("teachers", "temperatures", "alpha"):
        if name in flags:
            flags[name] = texts(flags[name])
    return distillation.plan_distillation(flags, words)


def report(
    output: One = None,
    *,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
) -> ReportFile:
    """Write one HTML file of everything, ``sdbench report``: the file and what is in it. output: by default
    ``report.html`` in the results folder.

    A damaged record is a warning. Raises UserError for a file that is not HTML and where there is nothing to show,
    EnvironmentProblem for a file that cannot be written.
    """
    from sdbench.report import commands

    chosen = _chosen(methods, dataset, model, protocol)
    written, damaged = commands.write_report(text(results), given(output), chosen)
    warn(damaged)
    return written


def plot(
    kind: str,
    output: One,
    *,
    methods: Many = None,
    dataset: Many = None,
    model: Many = None,
    protocol: str | None = None,
    results: One = "results",
) -> PlotFile:
    """Draw a figure for a paper, ``sdbench plot``: the file, its caption and what was left out.

    kind: pareto, curves, reliability, cost or zipf. output: an .svg, .pdf or .png file. A damaged record is a warning.
    Raises UserError for another kind or file and where there is nothing to draw, EnvironmentProblem for a file that
    cannot be written.
    """
    from sdbench.report import commands

    chosen = _chosen(methods, dataset, model, protocol)
    written, damaged = commands.write_plot(kind, text(results), given(output), chosen)
    warn(damaged)
    return written


def _chosen(methods: Many, dataset: Many, model: Many, protocol: str | None) -> Filter:
    from sdbench.boards import Filter

    return Filter.read(texts(methods), texts(dataset), texts(model), protocol)


def validate(*paths: One, against: One = None) -> Validation:
    """Whether records are what they say, ``sdbench validate``: findings, and ``.valid``. Raises UserError where a path
    is no record and holds none, and where none is given."""
    from sdbench import validation

    return validation.validate([text(path) for path in paths], given(against))


def merge(*sources: One, into: One, keep: str = "newest") -> Merge:
    """Copy trials and profiles of other results folders into one, ``sdbench merge``: what became of each record.

    keep: newest, oldest or fail. Raises UserError for folders that are not there or no results, EnvironmentProblem
    where ``into`` cannot be written.
    """
    from sdbench import merging

    return merging.merge([text(source) for source in sources], given(into), keep)


def schema(kind: str = "trial") -> dict[str, Any]:
    """The JSON Schema of trial.json, profile.json or study.json, ``sdbench schema``. Raises UserError for another
    kind."""
    from sdbench import schemas

    return schemas.schema(kind)

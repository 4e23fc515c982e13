"""One trial's record against itself, its files, its place, and the protocol that it names. No torch but for
``protocol_findings``, which asks the registry of protocols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath

from sdbench.paths import readable
from sdbench.spec import Trial, TrialResult, TrialSpec
from sdbench.store import EPOCH_LOGITS, Store, sha256
from sdbench.validation_files import SEALED, STARTED, TRIAL, Found, Unsound, curve_lines, tensors
from sdbench.validation_records import Finding, error, warning
from sdbench.validation_tuning import SEARCHED, search_problems, tuning_problems

RERUN = "run its trial again, or take the record out"
TOLERANCE = 1e-9
"""Sums of many rounded terms may pass a bound by that much."""

USERS = ("epochs", "batch_size", "lr", "weight_decay", "policy")
"""What of a recipe a user may set; ``augment`` follows the data set, ``warmup_epochs`` the epochs."""


def expected_id(record: TrialResult) -> str:
    """The hash of spec and identity."""
    return Trial(spec=record.spec, identity=record.identity).id


def place_findings(found: Found, expected: Path) -> Iterator[Finding]:
    """Whether a record stands where its content says. expected: its folder, relative to a results folder."""
    folder = found.path.parent
    if folder.parts[-len(expected.parts) :] == expected.parts:
        return
    if found.named and (
        len(folder.parts) < len(expected.parts) or folder.parts[-len(expected.parts)] != expected.parts[0]
    ):
        yield warning("place", found.place, "not in a results folder, so its place could not be checked", "merge it")
        return
    yield error("place", found.place, f"belongs in {expected.as_posix()}, by what it says", "move its folder there")


def trial_findings(found: Found, record: TrialResult) -> Iterator[Finding]:
    """All that one record and the files beside it can tell."""
    yield from place_findings(found, Store(Path()).folder(record.spec, record.trial_id))
    if record.trial_id != expected_id(record):
        problem = f"trial_id {record.trial_id[:60]!r} is not the hash of its spec and identity, {expected_id(record)}"
        yield error("identity", found.place, problem, RERUN)
    for problem in _out_of_range(record):
        yield error("range", found.place, problem, RERUN)
    for problem in _times(record):
        yield warning("range", found.place, problem, "look where it was made")
    if found.path.name == TRIAL:
        yield from _files(found, record)
        if record.status != "interrupted":
            yield from _unsealed(found, record)
    elif record.status != "interrupted":
        problem = f"{STARTED} says {record.status}, where only interrupted is possible"
        yield error("range", found.place, problem, RERUN)


def _out_of_range(record: TrialResult) -> Iterator[str]:
    epochs, metrics = record.spec.recipe.epochs, record.metrics
    score = record.validation_top1 if record.spec.search else metrics
    if record.status == "ok" and (score is None or record.cost is None):
        yield "status is ok, but metrics or cost are missing"
    yield from search_problems(record)
    if record.status == "ok" and record.epochs_done != epochs:
        yield f"status is ok after {record.epochs_done} of {epochs} epochs"
    if record.epochs_done > epochs:
        yield f"epochs_done {record.epochs_done} is more than the recipe's {epochs}"
    if any(epoch >= epochs for epoch in record.resumes):
        yield f"resumed at epoch {max(record.resumes)}, which a recipe of {epochs} epochs does not have"
    if record.num_classes is not None and record.num_classes < 2:
        yield f"num_classes is {record.num_classes}"
    if record.scaled and record.spec.split == "full":
        yield "scaled, although no images were held out"
    for values, who in ((metrics, "metrics"), (record.scaled, "scaled")):
        if values and not -TOLERANCE <= values.eaurc <= values.aurc + TOLERANCE:
            yield f"{who}.eaurc {values.eaurc:g} is outside [0, aurc]"
    if metrics and metrics.top5 < metrics.top1:
        yield f"top5 {metrics.top5:g} is below top1 {metrics.top1:g}"
    if metrics and metrics.top5 < 1 and (record.num_classes or 6) <= 5:
        yield f"top5 {metrics.top5:g} of {record.num_classes} classes, where it is 1"
    cost = record.cost
    if cost and record.status == "ok" and not (cost.train_s and cost.labelled_images and cost.images_with_gradient):
        yield "status is ok, but nothing was trained: no seconds or no images"


def _times(record: TrialResult) -> Iterator[str]:
    try:
        started, finished = (datetime.fromisoformat(t) for t in (record.provenance.started, record.provenance.finished))
        if finished < started:
            yield f"finished {record.provenance.finished[:40]}, before it started"
    except (ValueError, TypeError):
        yield f"started or finished is not a time: {record.provenance.started[:40]!r}"


def safe_sibling(name: str) -> bool:
    """Whether a name from a record is that of a file beside it or one folder below: no way out of the folder."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,150})?", name) is not None


def _files(found: Found, record: TrialResult) -> Iterator[Finding]:
    """The files that the record seals, and those it should have sealed."""
    folder, where = found.path.parent, PurePosixPath(found.place).parent
    for name, expected in record.checksums.items():
        if name == TRIAL:
            continue
        path, place = folder / name, f"{where}/{name}"
        if not safe_sibling(name):
            yield error("checksum", found.place, f"seals {name[:60]!r}, which is no file beside it", RERUN)
        elif path.is_symlink() or path.parent.is_symlink():
            yield error("link", place, "a link, which is not followed", "put the file itself there")
        elif not path.is_file():
            yield warning("missing", place, "its record seals it, but it is not there", "copy it too, if you need it")
        elif sha256(path) != expected:
            yield error("checksum", place, "changed after the record was written", RERUN)
        else:
            yield from _content(path, place, record)


def _unsealed(found: Found, record: TrialResult) -> Iterator[Finding]:
    """Files that a finished trial's record would seal if they had been there when it was written. One that failed
    may have been taken up again since."""
    folder, where = found.path.parent, PurePosixPath(found.place).parent
    epochs = folder / EPOCH_LOGITS
    kept = [] if epochs.is_symlink() else sorted(epochs.glob("*.safetensors"))
    for name in (*SEALED, *(f"{EPOCH_LOGITS}/{path.name}" for path in kept)):
        path = folder / name
        if name not in record.checksums and (path.is_symlink() or path.exists()):
            made = error if record.status == "ok" else warning
            yield made("checksum", f"{where}/{readable(name)}", "its record does not seal it", "take it out")


def _content(path: Path, place: str, record: TrialResult) -> Iterator[Finding]:
    """Whether a sealed file holds what it should."""
    try:
        problems = list(_curve(path, record) if path.suffix == ".jsonl" else _logits(path, record))
    except Unsound as unsound:
        problems = [str(unsound)]
    for problem in problems:
        yield error("range", place, problem, RERUN)


def _curve(path: Path, record: TrialResult) -> Iterator[str]:
    count, last = 0, None
    for count, line in enumerate(curve_lines(path), 1):
        if line.get("epoch") != count - 1:
            yield f"line {count} is not of epoch {count - 1}"
            return
        last = line.get("top1")
    if record.status == "ok" and count != record.epochs_done:
        yield f"{count} epochs, where the record has {record.epochs_done}"
    if record.status == "ok" and record.metrics and isinstance(last, float) and abs(last - record.metrics.top1) > 1e-6:
        yield f"top1 of the last epoch is {last:g}, where the record has {record.metrics.top1:g}"


def _logits(path: Path, record: TrialResult) -> Iterator[str]:
    if path.suffix != ".safetensors":
        return
    shape = tensors(path).get("logits", ("", ()))[1]
    if path.name != "logits.safetensors" or record.status != "ok":
        return
    if len(shape) != 2:
        yield "holds no table of logits [images, classes]"
    elif record.num_classes not in (None, shape[1]):
        yield f"logits of {shape[1]} classes, where the record has {record.num_classes}"
    elif record.metrics and abs(record.metrics.top1 * shape[0] - round(record.metrics.top1 * shape[0])) > 1e-4:
        yield f"top1 {record.metrics.top1!r} is no share of {shape[0]} images"


def protocol_findings(place: str, record: TrialResult) -> Iterator[Finding]:
    """Whether the recipe is what the protocol and the data set say. What a user may set is a warning."""
    from sdbench.data import DATASETS
    from sdbench.protocol import HOLDOUT, PROTOCOLS, known

    spec, version = record.spec, record.identity.protocol_version
    protocol = known(spec.protocol, spec.dataset)
    if protocol is None:
        remedy = f"known here: {', '.join(PROTOCOLS)}; upgrade sdbench or run it again"
        yield error("protocol", place, f"protocol {spec.protocol[:60]!r} is unknown", remedy)
        return
    if version != protocol.version:
        newer = not re.fullmatch(r"[0-9]{1,9}", version) or int(version) > int(protocol.version)
        made = error if newer else warning
        problem = f"version {version[:20]!r} of protocol {protocol.name}, where this sdbench has {protocol.version}"
        yield made("protocol", place, problem, "upgrade sdbench" if newer else "boards keep versions apart")
        return
    if spec.split not in (protocol.split, HOLDOUT):
        yield error("protocol", place, f"split {spec.split}, which {protocol.name} does not have", RERUN)
    data = DATASETS.get(spec.dataset.partition(":")[0])
    if data is None:
        yield warning("protocol", place, f"data set {spec.dataset[:60]!r} is unknown here", "upgrade sdbench")
    own = {name: getattr(spec.recipe, name) for name in USERS}
    wanted = protocol.recipe_for(data.augment if data else spec.recipe.augment, own)
    for name, value in wanted.model_dump().items():
        if getattr(spec.recipe, name) != value:
            problem = f"recipe.{name} is {getattr(spec.recipe, name)}, where {protocol.name} says {value}"
            yield error("protocol", place, problem, RERUN)
    for problem in tuning_problems(record):
        yield error("protocol", place, problem, RERUN)
    searched = SEARCHED if spec.search else ()
    yield from _overridden(place, spec, {n: getattr(protocol.recipe, n) for n in USERS if n not in searched})


def _overridden(place: str, spec: TrialSpec, standard: dict[str, object]) -> Iterator[Finding]:
    recipe = spec.common_recipe
    changed = {name: value for name, value in standard.items() if getattr(recipe, name) != value}
    if changed:
        told = ", ".join(f"{name} {getattr(recipe, name)} for {value}" for name, value in changed.items())
        problem = f"departs from protocol {spec.protocol}: {told}"
        yield warning("protocol", place, problem, "say so where you quote it; boards keep it in a table of its own")

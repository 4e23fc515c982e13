"""Records that cross every border: frozen, validated, no unknown key. No torch, no Ray."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "oom", "nan", "timeout", "interrupted"]
StepKind = Literal["eager", "graph", "inductor"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Up to where every whole number is a float, so that ratios and means of counts stay finite."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Nats = Annotated[float, Field(ge=0, le=1e100, allow_inf_nan=False)]
Value = bool | int | FiniteFloat | str


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_inf_nan="null")


GAINED = {"gained_later": True}
"""Marks a field that a growing record gained after its first release: ``Field(default, json_schema_extra=GAINED)``."""


@functools.cache
def _gained(kind: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """The marked fields of a record with their defaults."""
    fields = kind.model_fields.items()
    return tuple((name, field.default) for name, field in fields if field.json_schema_extra == GAINED)


class Growing(Record):
    """A part of a trial's identity, which may gain fields: those left at their defaults are not written.

    So a spec of an earlier version keeps its id, and a field that is used becomes part of it.
    """

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = [name for name, default in _gained(type(self)) if getattr(self, name) == default]
        found: dict[str, Any] = serialize(self)
        return {name: value for name, value in found.items() if name not in unused} if unused else found


class Recipe(Growing):
    """Everything about training that is not the method.

    lr: the peak learning rate. milestones: shares of the epochs, in (0, 1), from which on the step
    schedule multiplies the rate by ``gamma``: epoch e of E runs at lr * gamma^(number of m with
    e >= m E). warmup_epochs: the rate grows linearly from 0 over that many epochs, step by step.
    cosine: lr * (1 + cos(pi t)) / 2, t the share of the steps after warm-up.
    augment: "crop" zero-pads by an eighth of the side and crops, "crop-flip" also flips,
    "resized-crop-flip" is RandomResizedCrop with flip, "none" leaves images alone.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    optimizer: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 5e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    gamma: Fraction = 0.1
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    augment: Literal["none", "crop", "crop-flip", "resized-crop-flip"] = "crop-flip"


class TrialSpec(Growing):
    """All that can change a result. Nothing in it comes from the host.

    split: "full", or "holdout-F" where the share F of the training images is held out, F in (0, 1).
    generation: None for the last generation, which uses the seed's own random stream; k for an
    earlier one, which uses the stream (seed, k). teacher: trial id of the generation before.
    shards: equal parts of every batch that pass through the network one by one, each with batch statistics of its
    own; with more than one, each on a process of its own, in [1, 1024].
    """

    method: str
    params: dict[str, Value] = {}
    dataset: str
    image_size: int | None = None
    network: str
    recipe: Recipe
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    split: Annotated[str, Field(pattern=r"^(full|holdout-0\.\d+)$")] = "full"
    protocol: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    generation: Count | None = None
    teacher: str | None = None
    shards: Annotated[int, Field(ge=1, le=1024, json_schema_extra=GAINED)] = 1

    @property
    def stream(self) -> str:
        """The name of this trial's random stream: the same for every method of one seed."""
        return f"{self.seed}" if self.generation is None else f"{self.seed}/generation-{self.generation}"

    @property
    def holdout(self) -> float:
        """The share of the training set that is held out, in [0, 1)."""
        return 0.0 if self.split == "full" else float(self.split.removeprefix("holdout-"))

    @property
    def title(self) -> str:
        """Short name for people: method[changed parameters], seed."""
        earlier = "" if self.generation is None else f" generation {self.generation}"
        return f"{self.method} seed {self.seed}{earlier}"


class Identity(Record):
    """What a trial's id is the hash of, beside its spec."""

    method_source: str
    data_fingerprint: str
    protocol_version: str


class Trial(Record):
    """A trial to run: its spec, its identity, and the method's caveat, which is told with its results."""

    spec: TrialSpec
    identity: Identity
    caveat: str = ""

    @property
    def id(self) -> str:
        return digest([self.spec.model_dump(mode="json"), self.identity.model_dump(mode="json")])


class Metrics(Record):
    """On the whole test set, after the last epoch. top1, top5, ece (15 bins) in [0, 1]; nll in nats;
    brier in [0, 2]; aurc and eaurc in [0, 1]. top5 is 1 where there are at most five classes."""

    top1: Fraction
    top5: Fraction
    nll: Nats
    ece: Fraction
    brier: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    aurc: Fraction
    eaurc: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


TEMPERATURES = (1e-3, 1e3)
"""The range, ends included, in which a temperature is fitted."""


class Scaled(Record):
    """On the whole test set, after the last epoch, with logits divided by a temperature (``sdbench.temperature``).

    temperature: fitted on held-out images, in TEMPERATURES; at an end of that range, the best one lies at or beyond
    it. held_out: how many images it was fitted on. The others: as in Metrics; top1 and top5 are those of Metrics,
    as dividing reorders no logits.
    """

    temperature: Annotated[float, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])]
    held_out: Annotated[int, Field(ge=1)]
    nll: Nats
    ece: Fraction
    brier: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    aurc: Fraction
    eaurc: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]

    @property
    def named(self) -> dict[str, float]:
        """The values under the names by which boards and ``sdbench list metrics`` call them."""
        others = self.model_dump(exclude={"temperature", "held_out"})
        return {"temperature": self.temperature, **{f"scaled_{name}": value for name, value in others.items()}}


class Cost(Record):
    """What a trial cost. Seconds add up over resumed segments; evaluation is outside train_s.

    process_s: processor time of the training loop, for CPU. peak_memory_bytes: on a GPU the
    largest amount of live tensors, on a CPU the largest resident set of the trial's process.
    images_with_gradient, images_without_gradient: forwarded through the network and its copies.
    step: how full batches were trained on at the end; step_reason: why not from a CUDA graph, where one was wanted.
    """

    train_s: Seconds
    process_s: Seconds
    eval_s: Seconds
    setup_s: Seconds
    labelled_images: Count
    images_with_gradient: Count
    images_without_gradient: Count
    peak_memory_bytes: Count
    peak_reserved_bytes: Count = 0
    auxiliary_parameters: Count
    state_bytes: Count
    timing_valid: bool
    timing_problems: tuple[str, ...] = ()
    step: StepKind = "eager"
    step_reason: str = ""

    @property
    def forward_per_image(self) -> float:
        """Images forwarded per labelled image, with and without gradient together."""
        return (self.images_with_gradient + self.images_without_gradient) / max(1, self.labelled_images)


class Provenance(Record):
    """Where a result came from. No host name, no user name, no absolute path.

    config: what the options of the run came to, by name. origins: where their values came from, where not by default.
    """

    versions: dict[str, str]
    device: str
    driver: str = ""
    cpu: str
    commit: str = ""
    dirty: bool | None = None
    command: tuple[str, ...] = ()
    started: str
    finished: str
    plugin_sha256: str = ""
    config: dict[str, str] = {}
    origins: dict[str, str] = {}


class Pairing(Record):
    """SHA-256 of the initial weights of the bare network and of the first batch's images and labels."""

    initial_weights: str
    first_batch: str


class TrialResult(Record):
    """trial.json. ``metrics`` and ``cost`` are None where training did not get that far.

    scaled: None where no images were held out, and in older records. caveat: what must be said wherever the method
    is shown. baseline: the method that gains are counted from. resumes: the epochs (from 0) at which a later
    process took the trial up again. num_classes: of the data set; None in older records and where the trial ended
    before its data were opened. checksums: SHA-256 of the files beside it, and of this record itself under
    "trial.json".
    """

    schema_version: Annotated[int, Field(ge=1)] = SCHEMA_VERSION
    trial_id: str
    status: Status
    reason: str = ""
    log_tail: str = ""
    caveat: str = ""
    baseline: str = ""
    spec: TrialSpec
    identity: Identity
    metrics: Metrics | None = None
    scaled: Scaled | None = None
    cost: Cost | None = None
    pairing: Pairing | None = None
    provenance: Provenance
    resumes: tuple[Count, ...] = ()
    epochs_done: Count = 0
    num_classes: Count | None = None
    checksums: dict[str, str] = {}


class Options(Record):
    """How to run trials; nothing here can change a result, so nothing here is part of an identity.

    workers: decoding processes of a streamed data set; None for as many as the trial has processors to spare.
    state: where a memory of every training image is kept, see ``sdbench.shelf``.
    """

    data_dir: str | None = None
    plugins: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    keep_weights: bool = True
    keep_logits: bool = True
    logits_every: Count = 0
    keep_checkpoints: bool = False
    eval_every: Count = 0
    timeout_s: float | None = None
    max_failures: Count = 1
    workers: Count | None = None
    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    state: Literal["auto", "memory", "disk"] = "auto"
    compile: Literal["auto", "off", "graph"] = "auto"
    packed: bool = False
    baseline: str = ""
    command: tuple[str, ...] = ()
    config: dict[str, str] = {}
    origins: dict[str, str] = {}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text for one value. NaN and infinity are errors."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits (BLAKE2b) of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=8).hexdigest()

"""Records that cross every border: frozen, validated, no unknown key. No torch, no Ray."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sdbench.record import GAINED as GAINED
from sdbench.record import MAX_WHOLE as MAX_WHOLE
from sdbench.record import Count as Count
from sdbench.record import Fraction as Fraction
from sdbench.record import Growing as Growing
from sdbench.record import Nats as Nats
from sdbench.record import Record as Record
from sdbench.record import Seconds as Seconds
from sdbench.record import Size as Size
from sdbench.record import Value as Value
from sdbench.result_records import TEMPERATURES as TEMPERATURES
from sdbench.result_records import Cost as Cost
from sdbench.result_records import Metrics as Metrics
from sdbench.result_records import Pairing as Pairing
from sdbench.result_records import Provenance as Provenance
from sdbench.result_records import Scaled as Scaled
from sdbench.result_records import StepKind as StepKind
from sdbench.tuning_records import Budget as Budget
from sdbench.tuning_records import Tuned as Tuned
from sdbench.tuning_records import Tuning as Tuning

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "oom", "nan", "timeout", "interrupted"]
Policy = Literal["basic", "cutout", "trivialaugment"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


class Recipe(Growing):
    """Everything about training that is not the method.

    lr: the peak learning rate. milestones: shares of the epochs, in (0, 1), from which on the step
    schedule multiplies the rate by ``gamma``: epoch e of E runs at lr * gamma^(number of m with
    e >= m E). warmup_epochs: the rate grows linearly from 0 over that many epochs, step by step.
    cosine: lr * (1 + cos(pi t)) / 2, t the share of the steps after warm-up.
    augment: "crop" zero-pads by an eighth of the side and crops, "crop-flip" also flips,
    "resized-crop-flip" is RandomResizedCrop with flip, "none" leaves images alone.
    policy: what is done to images after that; see ``sdbench.data.policies``.
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
    policy: Annotated[Policy, Field(json_schema_extra=GAINED)] = "basic"


class TrialSpec(Growing):
    """All that can change a result. Nothing in it comes from the host.

    split: "full", or "holdout-F" where the share F of the training images is held out, F in (0, 1).
    generation: None for the last generation, which uses the seed's own random stream; k for an
    earlier one, which uses the stream (seed, k). teacher: trial id of the generation before.
    shards: equal parts of every batch that pass through the network one by one, each with batch statistics of its
    own; with more than one, each on a process of its own, in [1, 1024].
    limit_steps: steps after which every epoch ends; a trial with a limit shows that things work and never counts.
    search: True for a trial of a tuning study, which is scored on held-out images alone and has random streams of its
    own. tuning: the study that chose the values of a trial under protocol ``tuned``.
    """

    method: str
    params: dict[str, Value] = {}
    dataset: str
    image_size: Annotated[int | None, Field(ge=0, le=2**53)] = None
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
    limit_steps: Annotated[int | None, Field(ge=1, le=2**31, json_schema_extra=GAINED)] = None
    search: Annotated[bool, Field(json_schema_extra=GAINED)] = False
    tuning: Annotated[Tuning | None, Field(json_schema_extra=GAINED)] = None

    @property
    def stream(self) -> str:
        """The name of this trial's random stream: the same for every method of one seed."""
        own = f"{self.seed}/search" if self.search else f"{self.seed}"
        return own if self.generation is None else f"{own}/generation-{self.generation}"

    @property
    def budget(self) -> Budget | None:
        """What the search for this trial's values was allowed, without the study's id."""
        return None if self.tuning is None else Budget(**self.tuning.model_dump(exclude={"study"}))

    @property
    def common_recipe(self) -> Recipe:
        """The recipe that trials which can be compared have in common: that of the default point, where values were
        searched for."""
        tuning = self.tuning
        if tuning is None:
            return self.recipe
        return self.recipe.model_copy(update={"lr": tuning.lr, "weight_decay": tuning.weight_decay})

    @property
    def holdout(self) -> float:
        """The share of the training set that is held out, in [0, 1)."""
        return 0.0 if self.split == "full" else float(self.split.removeprefix("holdout-"))

    @property
    def title(self) -> str:
        """Short name for people: method[changed parameters], seed."""
        earlier = "" if self.generation is None else f" generation {self.generation}"
        smoke = "" if self.limit_steps is None else f" (smoke, {self.limit_steps} steps per epoch)"
        tried = f"search lr {self.recipe.lr:g}, weight decay {self.recipe.weight_decay:g}"
        return f"{self.method} {tried if self.search else f'seed {self.seed}'}{earlier}{smoke}"


class Identity(Record):
    """What a trial's id is the hash of, beside its spec."""

    method_source: str
    data_fingerprint: str
    protocol_version: str


class Trial(Record):
    """A trial to run: its spec, its identity, and what is told with its results: the method's caveat, and how its
    values were chosen."""

    spec: TrialSpec
    identity: Identity
    caveat: str = ""
    tuned: Tuned | None = None

    @property
    def id(self) -> str:
        return digest([self.spec.model_dump(mode="json"), self.identity.model_dump(mode="json")])


class TrialResult(Record):
    """trial.json. ``metrics`` and ``cost`` are None where training did not get that far.

    scaled: None where no images were held out, and in older records. caveat: what must be said wherever the method
    is shown. baseline: the method that gains are counted from. resumes: the epochs (from 0) at which a later
    process took the trial up again. num_classes: of the data set; None in older records and where the trial ended
    before its data were opened. rescored_from: where ``sdbench rescore`` renewed the metrics, the checksum that the
    record had before. validation_top1: of a search trial, on the held-out images after the last epoch. tuned: under
    protocol ``tuned``, what the search found. checksums: SHA-256 of the files beside it, and of this record itself
    under "trial.json". resumable: it ended for want of disk space or the like, which is no result: the same command
    takes it up again.
    """

    schema_version: Annotated[int, Field(ge=1, le=MAX_WHOLE)] = SCHEMA_VERSION
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
    rescored_from: str = ""
    validation_top1: Fraction | None = None
    tuned: Tuned | None = None
    checksums: dict[str, str] = {}
    resumable: bool = False

    @property
    def final(self) -> bool:
        """Whether the same command leaves the trial alone: it ended by itself, well or not."""
        return self.status != "interrupted" and not self.resumable


class Options(Record):
    """How to run trials; nothing here can change a result, so nothing here is part of an identity.

    folders: where the folders of images are, by the data set's name; all others are looked for in ``data_dir``.
    workers: decoding processes of a streamed data set; None for as many as the trial has processors to spare.
    state: where a memory of every training image is kept, see ``sdbench.shelf``.
    """

    data_dir: str | None = None
    folders: dict[str, str] = {}
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

    def place_of(self, dataset: str) -> Path | None:
        """Where a data set's files are; None for wherever data is kept by default."""
        place = self.folders.get(dataset, self.data_dir)
        return Path(place) if place else None


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text for one value. NaN and infinity are errors."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits (BLAKE2b) of the canonical JSON of ``value``."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=8).hexdigest()

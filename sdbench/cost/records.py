"""What a profile consists of: frozen records, kept in the store beside trials. No torch.

Ratios are to the baseline's step; 1 is as costly. Whatever is *per labelled image* is divided by the
images that carry a label of their own, so that partners and further views are part of a method's cost.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdbench.spec import MAX_WHOLE, Count, Provenance, Record, Size, StepKind, Value, digest

PROFILE_SCHEMA_VERSION = 1

SYNTHETIC = "synthetic"
"""The data set's name where images are noise that was made up."""

Verdict = Literal["equal", "costlier", "cheaper", "inconclusive"]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]


class Ratio(Record):
    """Median over rounds of (method's step / baseline's step of the same round).

    low, high: bootstrap 95 % interval over rounds. verdict: against the profile's margin; "inconclusive"
    also where the timing does not count.
    """

    median: Positive
    low: Positive
    high: Positive
    rounds: Count
    verdict: Verdict

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class MemorySplit(Record):
    """Bytes that are live at the moment of the peak; they add up to it.

    network: weights and buffers. optimizer: its state (momentum), of auxiliary parameters too.
    auxiliary_parameters: the method's trainable weights. method_state: its buffers and frozen networks.
    batch: the images handed to the step, views and partners included. activations: all else, which is
    what is saved for backward, gradients, and temporaries.
    """

    network: Count
    optimizer: Count
    auxiliary_parameters: Count
    method_state: Count
    batch: Count
    activations: Count


class Memory(Record):
    """Peak memory of a training step, measured in a process of its own from the second step on.

    peak_bytes: live tensors on a CPU (every storage that an operator returns, counted by its bytes,
    which is exact and repeats), allocated memory on a GPU. The data set is not in it.
    split: by what it is for; None on a GPU, where the allocator does not tell.
    peak_reserved_bytes: what the caching allocator took from a GPU. driver_bytes: what the driver
    counts for the process, context and libraries included. peak_resident_bytes: largest resident set
    of the process on the host before the tracker ran.
    """

    peak_bytes: Count
    split: MemorySplit | None = None
    peak_reserved_bytes: Count | None = None
    driver_bytes: Count | None = None
    peak_resident_bytes: Count = 0


class Operator(Record):
    """One operator's part in what a step costs beyond the baseline's.

    extra_ms: its time per step minus that in the baseline's step. share: of all such excess, in (0, 1].
    """

    name: str
    extra_ms: NotNegative
    share: NotNegative


class ProfileRow(Record):
    """One method's cost. Figures that could not be had are None; ``status`` and ``reason`` say why.

    caveat: what must be said wherever the method is shown.
    source: SHA-256 of the method's source, as trials have it; empty where unknown.
    time_ratio: processor time of the step on a CPU, device time on a GPU. wall_ratio: elapsed time.
    predicted_ratio: what the counted FLOPs of the two steps predict. flagged: the measured ratio is
    more than 5 % above it; ``operators`` are then those that cost most beyond the baseline's step.
    step: how the step ran; step_reason: why not as asked. step_ms: median time of the step.
    steps_differ: its steps do unlike work; counts are then means over several steps, and ratios are of sums over
    blocks of rounds. warmup_s: first steps of that kind, a capture or compilation included.
    steps_ratio: steps of an epoch over the baseline's; above 1 where partners are within the batch. All ratios
    include it; what is of one step (flops, operators_launched, kernels_launched, host_syncs, step_ms) does not.
    images_loaded, forward_images, backward_images: per labelled image; forwards with and without gradient
    together. flops: of the whole step, backward included. flop_coverage: share of the
    step's operator time that went to operators which the FLOP counter knows. operators_launched: calls
    of operators per step. kernels_launched: on a GPU. host_syncs: operators per step that make the host
    wait for a GPU.
    state_bytes_at: state extrapolated to data sets, by name, from its size at several small sizes; None
    where it follows no polynomial in the number of classes and of images.
    epoch_hooks_ms: what before_epoch and after_epoch cost once per epoch, outside the step.
    generations: trainings in a row; the ratios are of the last one.
    joules_per_1000_images: from the driver's counter, on a GPU that nobody else used.
    """

    method: str
    caveat: str = ""
    params: dict[str, Value] = {}
    source: str = ""
    status: Literal["ok", "failed", "oom"] = "ok"
    reason: str = ""
    time_ratio: Ratio | None = None
    wall_ratio: Ratio | None = None
    predicted_ratio: Positive | None = None
    memory_ratio: Positive | None = None
    memory: Memory | None = None
    memory_reason: str = ""
    step_ms: Positive | None = None
    step: StepKind = "eager"
    step_reason: str = ""
    steps_differ: bool = False
    warmup_s: NotNegative | None = None
    steps_ratio: Positive = 1.0
    images_loaded: NotNegative | None = None
    forward_images: NotNegative | None = None
    forward_images_without_gradient: NotNegative | None = None
    backward_images: NotNegative | None = None
    flops: Count | None = None
    flop_coverage: NotNegative | None = None
    flagged: bool = False
    operators: tuple[Operator, ...] = ()
    operators_launched: Count | None = None
    kernels_launched: Count | None = None
    host_syncs: Count | None = None
    auxiliary_parameters: Count | None = None
    state_bytes: Count | None = None
    state_bytes_at: dict[str, Size | None] = {}
    epoch_hooks_ms: NotNegative | None = None
    generations: Annotated[int, Field(ge=1, le=2**53)] = 1
    joules_per_1000_images: NotNegative | None = None
    timing_valid: bool = True
    timing_problems: tuple[str, ...] = ()


class Setting(Record):
    """What was profiled, on what task, and to what precision.

    margin: half-width of the band around 1 within which a ratio is *equal*. rounds: the least number of
    counted rounds; more follow until every interval's half-width is below ``half_width`` or ``max_seconds``
    have gone. step: how steps were asked to run.
    """

    dataset: str = SYNTHETIC
    network: str
    num_classes: Annotated[int, Field(ge=2, le=2**53)]
    num_train: Annotated[int, Field(ge=1, le=2**53)]
    image_size: Annotated[int, Field(ge=8, le=2**53)]
    augment: str
    batch_size: Annotated[int, Field(ge=2, le=2**53)]
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: Annotated[int, Field(ge=1, le=2**53)] = 1
    step: Literal["auto", "off", "graph", "inductor"] = "auto"
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03
    half_width: Positive = 0.01
    rounds: Annotated[int, Field(ge=1, le=2**53)] = 60
    max_seconds: Positive = 480.0


class ProfileResult(Record):
    """profile.json: one setting, all methods that took turns in it, the baseline first.

    load_start, load_end: one-minute load averages. seconds: how long it took in all.
    checksums: SHA-256 of this record under "profile.json".
    """

    schema_version: Annotated[int, Field(ge=1, le=MAX_WHOLE)] = PROFILE_SCHEMA_VERSION
    profile_id: str
    setting: Setting
    baseline: str
    rows: tuple[ProfileRow, ...]
    load_start: NotNegative
    load_end: NotNegative
    seconds: NotNegative
    gpus: Count = 0
    provenance: Provenance
    interrupted: bool = False
    checksums: dict[str, str] = {}

    def row(self, method: str) -> ProfileRow | None:
        """The row of a method, or None."""
        return next((row for row in self.rows if row.method == method), None)


class Overhead(Record):
    """Whether a method is one-pass with no overhead, which is asked of every method.

    one_pass: one image loaded, forwarded and sent backward per labelled image, in one training.
    no_overhead: time and memory within the margin of the baseline's.
    """

    verdict: Literal["confirmed", "refuted", "inconclusive"]
    because: tuple[str, ...]


def profile_id(setting: Setting, methods: list[str], provenance: Provenance) -> str:
    """Names one measurement: what was measured, with what, and when."""
    where = provenance.model_dump(mode="json", include={"versions", "device", "cpu", "started"})
    return digest([setting.model_dump(mode="json"), methods, where])

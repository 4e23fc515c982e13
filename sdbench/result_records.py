"""What a trial is worth, what it cost and where it comes from: the parts of its record. No torch, no Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdbench.record import Count, Fraction, Nats, Record, Seconds

StepKind = Literal["eager", "graph", "inductor"]


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
    held_out: Annotated[int, Field(ge=1, le=2**53)]
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

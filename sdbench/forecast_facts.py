"""What a forecast rests on: data sets, what methods hold on them, the machine, a few decoded images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sdbench import data, environment, models, registry
from sdbench.cost import archive
from sdbench.data.augment import pad_width
from sdbench.data.listing import Listing, facts_of
from sdbench.data.loaders import spare_workers
from sdbench.data.resident import fits
from sdbench.data.stream import Decoder, Request, Wanted
from sdbench.engine.local import slots
from sdbench.forecast import DataSize, Holdings, Machine, forecast, key
from sdbench.forecast_records import Forecast
from sdbench.holdings import bytes_of, tensors_of
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import index_profiles
from sdbench.method import Task
from sdbench.plan import Plan
from sdbench.rows import RowFile
from sdbench.shelf import Shelf, free_memory
from sdbench.spec import Options, Trial, TrialSpec

PROBED = 50
"""Images that are decoded to see how fast that is."""


def forecast_of(plan: Plan, running: Sequence[Trial]) -> Forecast:
    """What the trials ``running`` of a plan need on this machine. Starts nothing, writes nothing."""
    if not running:
        return forecast(plan, {}, {}, {}, Machine(Hardware("", "", 1, ""), 0, 0, 1, 0), ())
    specs = {key(trial.spec): trial.spec for trial in running}
    machine = machine_of(plan, next(iter(specs.values())))
    facts = {spec.dataset: data_size(spec, plan.options) for spec in specs.values()}
    held = {name: holdings(spec, facts[spec.dataset]) for name, spec in specs.items()}
    profiles = index_profiles(archive.scan(Path(plan.results)).results)
    return forecast(plan, profiles, facts, held, machine, running)


def machine_of(plan: Plan, spec: TrialSpec) -> Machine:
    """This machine, as trials find it."""
    options, device = plan.options, environment.choose_device(plan.options.device)
    name, torch_version = environment.device_name(device), environment.versions().get("torch", "")
    spare = spare_workers(
        on_gpu=device.type == "cuda",
        cpus_per_trial=options.cpus_per_trial,
        threads=spec.threads,
        packed=options.packed,
    )
    return Machine(
        hardware=Hardware(name, environment.cpu_model(), spec.threads, torch_version),
        free_memory=environment.steady(free_memory(device)),
        free_disk=environment.free_disk(Path(plan.results)),
        at_once=1 if plan.resources.get("address") else max(1, len(slots(plan.typed_resources()))),
        workers=spare if options.workers is None else options.workers,
    )


def data_size(spec: TrialSpec, options: Options) -> DataSize:
    """What of a trial's data set decides what it needs."""
    location = options.place_of(spec.dataset)
    listing = data.listed(spec.dataset, location)
    if listing is None:
        facts = data.inspect(spec.dataset, location, spec.image_size)
        side, streamed, rate = facts.image_size, False, None
    else:
        source = data.parse(spec.dataset)
        facts = facts_of(listing, source, data.DATASETS[source.kind], spec.image_size)
        device, count = environment.choose_device(options.device), facts.num_train + facts.num_test
        side, batch = listing.side or 0, spec.recipe.batch_size
        streamed = not (listing.side and fits(count, listing.side, facts.image_size, batch, device))
        rate = decoded_per_s(listing, facts.image_size) if streamed else None
    padded = facts.image_size + 2 * pad_width(facts.image_size)
    held = 0 if streamed else 3 * (facts.num_train + facts.num_test) * (side**2 + padded**2)
    return DataSize(
        num_classes=facts.num_classes,
        num_train=facts.num_train,
        num_test=facts.num_test,
        image_size=facts.image_size,
        streamed=streamed,
        resident_bytes=held,
        decoded_per_s=rate,
    )


def decoded_per_s(listing: Listing, image_size: int, most: int = PROBED) -> float:
    """Images that a processor reads, decodes, and cuts and mirrors a box of in a second: of a few, evenly spread."""
    chosen = np.linspace(0, len(listing.train) - 1, min(most, len(listing.train))).round().astype(int).tolist()
    decoder = Decoder(listing.root, listing.side, image_size)
    requests = [Request("box", (Wanted((listing.train.path(i),), ((i,),), ((i % 2 == 0,),)),)) for i in chosen]
    decoder[requests[0]]  # what is loaded for the first image only
    began = time.process_time()
    for request in requests:
        decoder[request]
    return len(requests) / max(1e-6, time.process_time() - began)


class _Counter(Shelf):
    """Counts the memories that are asked for."""

    counted = 0

    def offer(self, num_rows: int, columns: int, fill: float, device: torch.device) -> RowFile | None:
        self.counted += 4 * num_rows * columns
        return None


def holdings(spec: TrialSpec, size: DataSize) -> Holdings:
    """What a method holds on a data set of this size: it is set up on tensors that have no content."""
    shelf = _Counter(Path())
    with torch.device("meta"):
        network = models.build(spec.network, size.num_classes, size.image_size)
        method = registry.build(spec.method, spec.params)
        teacher = network.frozen_copy() if method.taught else None
        task = Task(
            num_classes=size.num_classes,
            num_train=size.num_train - round(size.num_train * spec.holdout),
            batch_size=spec.recipe.batch_size,
            epochs=spec.recipe.epochs,
            teacher=teacher,
            generator=torch.Generator("cpu"),
            shelf=shelf,
        )
        method.setup(task, network)
    own = [*network.parameters(), *network.buffers()]
    trained = [p for p in method.parameters() if p.requires_grad]
    return Holdings(
        weight_bytes=bytes_of(own),
        auxiliary_bytes=bytes_of(trained),
        state_bytes=bytes_of(tensors_of(method, [*own, *trained])),
        row_bytes=shelf.counted,
        per_image=1 + method.partners,
        validates=method.wants_validation,
    )

"""Build a trial's session from its parts, every random draw from the trial's own streams."""

from __future__ import annotations

from collections.abc import Callable

import safetensors.torch
import torch
from torch import nn

from sdbench import data, environment, models, registry
from sdbench.data.loaders import spare_workers
from sdbench.data.streams import derive_seed
from sdbench.errors import UserError
from sdbench.joining import refuse_apart
from sdbench.method import Task
from sdbench.network import Network
from sdbench.session import Session
from sdbench.shelf import Mode, RowFiles, Shelf
from sdbench.spec import Options, Trial, TrialSpec
from sdbench.store import Store, read_result
from sdbench.workers import ALONE, Workers


def open_session(trial: Trial, store: Store, options: Options, workers: Workers = ALONE) -> Session:
    """Build everything for a trial; nothing of it depends on what ran in the process before."""
    spec = trial.spec
    device = environment.choose_device(options.device, workers.device_index)
    configure(spec, device)
    location = options.place_of(trial.spec.dataset)
    dataset = data.load(
        spec.dataset,
        location,
        spec.image_size,
        device=device,
        split=spec.holdout,
        workers=_workers(trial.spec, options, device),
        batch_size=spec.recipe.batch_size,
    )
    if dataset.fingerprint != trial.identity.data_fingerprint:
        raise UserError(f"data set {spec.dataset} changed since the run was planned; run the command again")

    def build_network() -> Network:
        return models.build(spec.network, dataset.num_classes, dataset.image_size)

    shelf = Shelf(store.folder(spec, trial.id), _where_rows_lie(spec, options))
    return assemble(trial, device, dataset, build_network, _teacher(spec, store, dataset, device), shelf, workers)


def _where_rows_lie(spec: TrialSpec, options: Options) -> Mode:
    if spec.shards == 1:
        return options.state
    if options.state == "disk":
        raise UserError("--state disk: not with several processes per trial, which join their memories of every image")
    return "memory"


def _workers(spec: TrialSpec, options: Options, device: torch.device) -> int:
    if options.workers is not None:
        return options.workers
    on_gpu, given = device.type == "cuda", options.cpus_per_trial
    return spare_workers(on_gpu=on_gpu, cpus_per_trial=given, threads=spec.threads, packed=options.packed)


def assemble(
    trial: Trial,
    device: torch.device,
    dataset: data.DataSet,
    build_network: Callable[[], Network],
    teacher: Network | None = None,
    shelf: Shelf | None = None,
    workers: Workers = ALONE,
) -> Session:
    """The session of a trial from its parts, every random draw from the trial's own streams.

    build_network: a fresh network on the CPU, its weights drawn from torch's global generator.
    teacher: the last generation's network, frozen and on ``device``. shelf: where memories of every image may lie
    besides the device. workers: which of a trial's processes this is; after the set-up, alike in all, each draws from
    streams of its own. Raises whatever the method's constructor and ``setup`` raise, RuntimeError where the method
    keeps the network itself, UserError where it cannot be trained on several processes.
    """
    spec = trial.spec
    torch.manual_seed(derive_seed(spec.stream, "weights"))
    network = build_network()
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if teacher is not None:
        teacher.passes = network.passes  # the teacher's passes are part of what the method costs
    generator = torch.Generator(device).manual_seed(derive_seed(spec.stream, "method"))
    torch.manual_seed(derive_seed(spec.stream, "setup"))
    method = registry.build(spec.method, spec.params)
    task = Task(
        num_classes=dataset.num_classes,
        num_train=dataset.num_train,
        batch_size=spec.recipe.batch_size,
        epochs=spec.recipe.epochs,
        teacher=teacher,
        generator=generator,
        shelf=shelf,
    )
    method.setup(task, network)
    _place(method, device)
    _refuse_shared(method, network)
    torch.manual_seed(derive_seed(spec.stream, "training"))
    if workers.shard.size > 1:
        refuse_apart(spec.method, method, network)
    if workers.shard.rank:
        torch.manual_seed(derive_seed(spec.stream, "training", "shard", workers.shard.rank))
        generator.manual_seed(derive_seed(spec.stream, "method", "shard", workers.shard.rank))
    rows = RowFiles(method, shelf.folder if shelf else None)
    return Session(trial, device, dataset, network, method, generator, rows, workers)


def _place(method: nn.Module, device: torch.device) -> None:
    """Move a method to the device, its maps and filters to channels_last layout."""
    method.to(device)
    for tensor in [*method.parameters(), *method.buffers()]:
        if tensor.dim() == 4:  # Module.to(memory_format=...) refuses a module that holds a 5-d buffer
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def configure(spec: TrialSpec, device: torch.device) -> None:
    """Settings of the whole process that a trial needs: threads, deterministic kernels on the CPU."""
    torch.set_num_threads(spec.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # the statistics below do not do it by themselves
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        torch.cuda.reset_peak_memory_stats(device)
    else:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time and changes no result


def _teacher(spec: TrialSpec, store: Store, dataset: data.DataSet, device: torch.device) -> Network | None:
    """The network that the teacher's trial left, of its own architecture, frozen."""
    if spec.teacher is None:
        return None
    folder = store.find(spec.teacher)
    weights = folder / "network.safetensors" if folder else None
    if weights is None or not weights.exists():
        raise UserError(
            f"the teacher's weights (trial {spec.teacher}) are missing; run its trial again with weights kept"
        )
    if not store.teaches(spec.teacher):
        raise UserError(
            f"the teacher's weights (trial {spec.teacher}) are not those that were recorded; run the command again, "
            "which trains it anew"
        )
    name = read_result(weights.with_name("trial.json")).spec.network
    network = models.build(name, dataset.num_classes, dataset.image_size)
    network.load_state_dict(safetensors.torch.load_file(weights))
    moved: Network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved.frozen_copy()


def _refuse_shared(method: nn.Module, network: nn.Module) -> None:
    own = {id(p) for p in network.parameters()}
    shared = sorted(name for name, p in method.named_parameters() if id(p) in own)
    if shared:
        raise RuntimeError(
            f"the method holds the network's own parameter {shared[0]} as if it were auxiliary. In setup(), keep a "
            "bound method such as network.classify, or network.frozen_copy(), not the network or a module of it"
        )

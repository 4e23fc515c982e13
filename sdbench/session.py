"""A trial in memory: data, network, method, optimizer, random streams, and one training step.

Streams: the network's weights, the order of the images, their augmentation, further views, partners
and mixing each have a stream of their own, derived from the seed alone, so that all methods of one
seed start from the same weights and see the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sdbench import data, environment, models, registry
from sdbench.data.streams import derive_seed
from sdbench.errors import UserError
from sdbench.method import Batch, Combination, Method, Task, Terms, refuse_other_than_terms
from sdbench.network import Network
from sdbench.spec import Options, Trial, TrialSpec
from sdbench.store import Store


class Session:
    """Everything that one trial's training touches. Built by :func:`open_session`."""

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        dataset: data.DataSet,
        network: Network,
        method: Method,
        generator: torch.Generator,
    ) -> None:
        self.trial_id = trial.id
        self.spec: TrialSpec = trial.spec
        self.device = device
        self.data = dataset
        self.network = network
        self.method = method
        self.generator = generator
        recipe = self.spec.recipe
        self.batch_size = recipe.batch_size
        self.steps = dataset.steps(recipe.batch_size, method.partners, method.partners_in_batch)
        self.auxiliary = {k: p for k, p in method.named_parameters() if p.requires_grad}
        self._unused = set(self.auxiliary)
        self._progress = torch.zeros((), device=device)
        self._mixing = torch.Generator(device)
        if isinstance(method, Combination):
            method.hand_generator(self._mixing)
        trainable = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            [*trainable, *self.auxiliary.values()],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def autocast(self) -> torch.autocast:
        """bfloat16 where the spec says so; parameters stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16")

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, a function of the seed and the epoch alone."""
        return self.data.epoch(
            epoch,
            stream=self.spec.stream,
            batch_size=self.batch_size,
            augment=self.spec.recipe.augment,
            views=self.method.views,
            partners=self.method.partners,
            partners_in_batch=self.method.partners_in_batch,
            dtype=torch.float32,
        )

    def begin_epoch(self, epoch: int) -> None:
        self.network.train()
        self.method.train()
        self._mixing.manual_seed(derive_seed(self.spec.stream, "mix", epoch))
        self.method.before_epoch(epoch, self.spec.recipe.epochs)

    def step(self, batch: Batch, rate: float, progress: float) -> Terms:
        """Forward, backward, update. Returns the loss terms, still on the device."""
        self._progress.fill_(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.autocast():
            terms = self.method.loss(self.network, batch, self._progress)
        refuse_other_than_terms(terms)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([term.reshape(()).float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        if self._unused:
            self._unused -= {name for name in self._unused if self.auxiliary[name].grad is not None}
        self.optimizer.step()
        with torch.no_grad():
            self.method.after_step(self.network)
        return terms

    def end_epoch(self) -> None:
        with torch.no_grad():
            self.method.after_epoch(self.network)

    def validate(self) -> None:
        """Show the held-out images' logits to a method that wants them."""
        if self.method.wants_validation:
            logits, labels = self._logits(self.data.validation_batches(self.batch_size * 4, torch.float32))
            with torch.no_grad():
                self.method.after_validation(logits, labels)

    def refuse_unused_parameters(self) -> None:
        """An auxiliary parameter that no loss reaches is a mistake in the method."""
        if self._unused:
            raise RuntimeError(
                f"auxiliary parameter {', '.join(sorted(self._unused))} got no gradient in the first steps: no loss "
                "term depends on it. Use it in the loss, or register it as a buffer if it is not to be trained"
            )

    def finite(self) -> Tensor:
        """0-d bool on the device: all weights of the network are finite."""
        return torch.stack([p.detach().isfinite().all() for p in self.network.parameters()]).all()

    def test_logits(self) -> tuple[Tensor, Tensor]:
        """float32 logits [V, K] of the bare network on the test set and labels [V], on the CPU."""
        logits, labels = self._logits(self.data.test_batches(self.batch_size * 4, torch.float32))
        return logits.cpu(), labels.cpu()

    @torch.no_grad()
    def _logits(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        passes = vars(self.network.passes).copy()
        self.network.eval()
        with self.autocast():
            pairs = [(self.network(images).logits.float(), labels) for images, labels in batches]
        self.network.train()
        vars(self.network.passes).update(passes)  # evaluation is no cost of the method
        return torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs])

    def auxiliary_parameters(self) -> int:
        return sum(p.numel() for p in self.auxiliary.values())

    def state_bytes(self) -> int:
        """Bytes of training state: the method's buffers and frozen networks."""
        frozen = [p for p in self.method.parameters() if not p.requires_grad]
        return sum(t.numel() * t.element_size() for t in [*frozen, *self.method.buffers()])

    def pairing(self) -> dict[str, str]:
        """SHA-256 of the initial weights and of the first batch, to prove that trials are paired."""
        weights = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        batch = next(self.batches(0))
        first = hashlib.sha256()
        for value in (batch.images, batch.labels, batch.index):
            first.update(value.cpu().contiguous().numpy().tobytes())
        return {"initial_weights": weights.hexdigest(), "first_batch": first.hexdigest()}

    def state(self) -> dict[str, Any]:
        """All that training goes on from, as tensors and plain values."""
        random = {"cpu": torch.get_rng_state(), "method": self.generator.get_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random,
            "passes": vars(self.network.passes).copy(),
            "unused": sorted(self._unused),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"]["cpu"])
        self.generator.set_state(state["random"]["method"])
        if "cuda" in state["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
        vars(self.network.passes).update(state["passes"])
        self._unused = set(state["unused"])


def open_session(trial: Trial, store: Store, options: Options) -> Session:
    """Build everything for a trial; nothing of it depends on what ran in the process before."""
    spec = trial.spec
    device = environment.choose_device(options.device)
    configure(spec, device)
    location = Path(options.data_dir) if options.data_dir else None
    dataset = data.load(
        spec.dataset,
        location,
        spec.image_size,
        device=device,
        split=spec.holdout,
        workers=options.workers,
        batch_size=spec.recipe.batch_size,
    )
    if dataset.fingerprint != trial.identity.data_fingerprint:
        raise UserError(f"data set {spec.dataset} changed since the run was planned; run the command again")

    def build_network() -> Network:
        return models.build(spec.network, dataset.num_classes, dataset.image_size)

    return assemble(trial, device, dataset, build_network, _teacher(spec, store, build_network, device))


def assemble(
    trial: Trial,
    device: torch.device,
    dataset: data.DataSet,
    build_network: Callable[[], Network],
    teacher: Network | None = None,
) -> Session:
    """The session of a trial from its parts, every random draw from the trial's own streams.

    build_network: a fresh network on the CPU, its weights drawn from torch's global generator.
    teacher: the last generation's network, frozen and on ``device``. Raises whatever the method's
    constructor and ``setup`` raise, RuntimeError where the method keeps the network itself.
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
    )
    method.setup(task, network)
    _place(method, device)
    _refuse_shared(method, network)
    torch.manual_seed(derive_seed(spec.stream, "training"))
    return Session(trial, device, dataset, network, method, generator)


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
        torch.backends.cudnn.benchmark = True
        torch.cuda.reset_peak_memory_stats(device)
    else:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time and changes no result


def _teacher(
    spec: TrialSpec, store: Store, build_network: Callable[[], Network], device: torch.device
) -> Network | None:
    if spec.teacher is None:
        return None
    folder = store.find(spec.teacher)
    weights = folder / "network.safetensors" if folder else None
    if weights is None or not weights.exists():
        raise UserError(
            f"the teacher's weights (trial {spec.teacher}) are missing; run its trial again with weights kept"
        )
    network = build_network()
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

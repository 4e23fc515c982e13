"""A trial in memory: data, network, method, optimizer, random streams, and one training step.

Streams: the network's weights, the order of the images, their augmentation, further views, partners
and mixing each have a stream of their own, derived from the seed alone, so that all methods of one
seed start from the same weights and see the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sdbench import data
from sdbench.data.dataset import anchors_per_step
from sdbench.data.streams import derive_seed
from sdbench.graph import CapturedStep, CudaRecorder
from sdbench.holdings import bytes_of, tensors_of
from sdbench.joining import Joiner
from sdbench.method import Batch, Combination, Method, Terms, refuse_other_than_terms
from sdbench.network import Network
from sdbench.shelf import RowFiles
from sdbench.spec import StepKind, Trial, TrialSpec
from sdbench.workers import ALONE, WHOLE, Workers


class Session:
    """Everything that one trial's training touches. Built by ``assembly.assemble``."""

    def __init__(
        self,
        trial: Trial,
        device: torch.device,
        dataset: data.DataSet,
        network: Network,
        method: Method,
        generator: torch.Generator,
        rows: RowFiles | None = None,
        workers: Workers = ALONE,
    ) -> None:
        self.trial_id = trial.id
        self.spec: TrialSpec = trial.spec
        self.device = device
        self.data = dataset
        self.network = network
        self.method = method
        self.generator = generator
        self.rows = rows or RowFiles(method, None)
        self.workers = workers
        self.joiner = Joiner(network, method, dataset.num_train, workers)
        recipe = self.spec.recipe
        self.batch_size = recipe.batch_size
        whole = dataset.steps(recipe.batch_size, method.partners, method.partners_in_batch)
        self.steps = min(whole, self.spec.limit_steps or whole)
        self.labelled_per_step = anchors_per_step(recipe.batch_size, method.partners, method.partners_in_batch)
        self.auxiliary = {k: p for k, p in method.named_parameters() if p.requires_grad}
        self._unused = set(self.auxiliary)
        self._some_without_momentum = recipe.momentum > 0
        self._progress = torch.zeros((), device=device)
        self._rate = torch.zeros((), device=device)
        self._captured: CapturedStep | None = None
        self._compiled: Callable[..., Terms] | None = None
        self._mixing = torch.Generator(device)
        if isinstance(method, Combination):
            method.hand_generator(self._mixing)
        trainable = [p for p in network.parameters() if p.requires_grad]
        self._trained = [*trainable, *self.auxiliary.values()]
        self.optimizer = torch.optim.SGD(
            self._trained,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def autocast(self) -> torch.autocast:
        """bfloat16 where the spec says so; parameters stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16")

    def batches(self, epoch: int, *, whole: bool = False) -> Iterator[Batch]:
        """This process's part of the batches of an epoch, a function of the seed and the epoch alone, or the whole
        batches. Where a batch has fewer images than there are processes, a part may have none."""
        every = self.data.epoch(
            epoch,
            stream=self.spec.stream,
            batch_size=self.batch_size,
            augment=self.spec.recipe.augment,
            policy=self.spec.recipe.policy,
            views=self.method.views,
            partners=self.method.partners,
            partners_in_batch=self.method.partners_in_batch,
            dtype=torch.float32,
            shard=WHOLE if whole else self.workers.shard,
        )
        return every if self.spec.limit_steps is None else islice(every, self.spec.limit_steps)

    def labelled(self, step: int) -> int:
        """Labelled images of step ``step`` of an epoch, on all processes together."""
        return min(self.labelled_per_step, self.data.num_train - step * self.labelled_per_step)

    def choose_step(self, kind: StepKind) -> None:
        """How steps run from now on. "eager": operator by operator. "graph": replayed from a CUDA graph.
        "inductor": the loss compiled by torch, which rounds differently. ValueError for a graph without a GPU."""
        self._captured = self._compiled = None
        if kind == "graph":
            if self.device.type != "cuda":
                raise ValueError("a CUDA graph needs a GPU; choose eager steps")
            self._captured = CapturedStep(self._work, self.network.passes, self._stateful, CudaRecorder(self.device))
            self._captured.obstacle = self.rows.obstacle
        elif kind == "inductor":
            self._compiled = torch.compile(self.method.loss, fullgraph=True, dynamic=False)

    @property
    def step_kind(self) -> tuple[StepKind, str]:
        """How full batches are trained on by now, and why not from a graph where that was asked for."""
        if self._captured is not None:
            return ("eager", self._captured.obstacle) if self._captured.obstacle else ("graph", "")
        return ("inductor" if self._compiled else "eager"), ""

    def _stateful(self) -> tuple[nn.Module, tuple[torch.Generator, ...]]:
        return self.method, (self.generator, self._mixing)

    def begin_epoch(self, epoch: int) -> None:
        self.network.train()
        self.method.train()
        self._mixing.manual_seed(derive_seed(self.spec.stream, "mix", epoch))
        self.rows.begin(epoch)
        self.method.before_epoch(epoch, self.spec.recipe.epochs)
        self.joiner.begin()
        if self._captured is not None:
            self._captured.forget()  # before_epoch may have changed what the step does

    def step(self, batch: Batch, rate: float, progress: float, share: float = 1.0) -> Terms:
        """Forward, backward, update. Returns the loss terms, still on the device, without gradient.

        After a captured step they are overwritten by the next one. share: of the batch's images that this process
        has; its terms are weighted by it, so that over all processes they add up to the mean over the batch.
        """
        self._progress.fill_(progress)
        self._set_rate(rate)
        if self._captured is not None and len(batch.labels) == self.labelled_per_step:
            return self._captured(batch)
        return self._work(batch, share)

    def _set_rate(self, rate: float) -> None:
        """On a GPU the rate lies on the device, so that a captured step reads the current one."""
        on_device = self.device.type == "cuda"
        if on_device:
            self._rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate if on_device else rate

    def _work(self, batch: Batch, share: float = 1.0) -> Terms:
        terms = self._backward(batch, share) if len(batch.labels) else self._nothing()
        self.workers.add_gradients(self._trained)
        if self._unused:
            self._unused -= {name for name in self._unused if self.auxiliary[name].grad is not None}
        self._admit_late_gradients()
        self.optimizer.step()
        with torch.no_grad():
            self.method.after_step(self.network)
        return {name: term.detach() for name, term in terms.items()}

    def _backward(self, batch: Batch, share: float) -> Terms:
        with self.autocast():
            terms = (self._compiled or self.method.loss)(self.network, batch, self._progress)
        refuse_other_than_terms(terms)
        if share != 1:
            terms = {n: term if n in self.method.summed_terms else share * term for n, term in terms.items()}
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([term.reshape(()).float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        self.joiner.saw(batch.index)
        return terms

    def _nothing(self) -> Terms:
        """A step of which this process has no image."""
        self.optimizer.zero_grad(set_to_none=True)
        return {}

    def _admit_late_gradients(self) -> None:
        """Momentum of zero for a parameter whose first gradient comes after the others', which the fused step does
        not make by itself; the first update is then its gradient, as everywhere."""
        state = self.optimizer.state
        if not self._some_without_momentum or not state:
            return
        without = [p for p in self.optimizer.param_groups[0]["params"] if "momentum_buffer" not in state[p]]
        for parameter in without:
            if parameter.grad is not None:
                state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._some_without_momentum = any("momentum_buffer" not in state[p] for p in without)

    def end_epoch(self) -> None:
        with torch.no_grad():
            self.joiner.join()
            self.method.after_epoch(self.network)

    def validate(self) -> None:
        """Show the held-out images' logits to a method that wants them: one process's, so that all see the same."""
        if self.method.wants_validation:
            logits, labels = self.workers.led(self._held_out)
            with torch.no_grad():
                self.method.after_validation(logits.to(self.device), labels.to(self.device))

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

    def judged_logits(self) -> tuple[Tensor, Tensor]:
        """What the trial is scored on: the test set, or the held-out images where it is part of a search."""
        if not self.spec.search:
            return self.test_logits()
        held_out = self.validation_logits()
        if held_out is None:
            raise RuntimeError("a search trial is scored on held-out images, and this one's split holds none out")
        return held_out

    def validation_logits(self) -> tuple[Tensor, Tensor] | None:
        """The same on the held-out images; None where there are none."""
        if self.data.num_validation == 0:
            return None
        logits, labels = self._held_out()
        return logits.cpu(), labels.cpu()

    def _held_out(self) -> tuple[Tensor, Tensor]:
        return self._logits(self.data.validation_batches(self.batch_size * 4, torch.float32))

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
        """Bytes of training state: all that the method holds besides auxiliary parameters, on disk too."""
        return bytes_of(self.method_state()) + self.rows.nbytes

    def method_state(self) -> list[Tensor]:
        """The tensors of the method's training state, wherever it keeps them, but for the harness's own."""
        others = [*self.network.parameters(), *self.network.buffers(), *self.auxiliary.values()]
        return tensors_of(self.method, [*others, self._progress, self._rate])

    def state(self) -> dict[str, Any]:
        """All that training goes on from, as tensors and plain values; every process has to ask for it."""
        state = {
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "rows": self.rows.notes(),
            "optimizer": self.optimizer.state_dict(),
            "unused": sorted(self._unused),
            "device": self.device.type,
        }
        random = {"cpu": torch.get_rng_state(), "method": self.generator.get_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        own = {"random": random, "passes": vars(self.network.passes).copy(), "apart": self.joiner.own()}
        return {**state, **own, "everyone": self.workers.gather(own)[1:]}

    def restore(self, state: dict[str, Any]) -> None:
        rank = self.workers.shard.rank
        own = state["everyone"][rank - 1] if rank else state
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(self.rows.restore(state.get("rows", {}), state["method"]) | own.get("apart", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(own["random"]["cpu"])
        self.generator.set_state(own["random"]["method"])
        if "cuda" in own["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["random"]["cuda"], self.device)
        vars(self.network.passes).update(own["passes"])
        self._unused = set(state["unused"])

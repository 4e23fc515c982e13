"""What a method needs, found out in moments on a small task: passes, feature maps, weights, training state.

Nothing of it is declared by the method. Times and memory need ``sdbench profile``.
"""

from __future__ import annotations

import torch
from torch import nn

from sdbench import registry
from sdbench.cost.counts import count_passes
from sdbench.cost.records import Setting
from sdbench.cost.setting import EPOCHS, PROGRESS, Contestant, Stepper, noise, open_session
from sdbench.cost.state import state_at_large
from sdbench.method import Batch, Task, mixes
from sdbench.network import wrap
from sdbench.outcomes import explain
from sdbench.spec import Count, Record

NETWORK = "resnet8"
SMALL = Setting(
    network=NETWORK, num_classes=10, num_train=24, image_size=16, augment="crop-flip", batch_size=12, precision="fp32"
)
STEPS = 4
"""Steps over which passes are counted, in the middle of training: a method may alternate."""


class Nature(Record):
    """What was found with a method's defaults.

    needs: what it asks for beyond one augmentation of each image with its label, in words.
    images_loaded, forward_images, forward_images_without_gradient, backward_images: per labelled image, of the last
    generation. generations: trainings in a row. auxiliary_parameters: weights beside a ``NETWORK`` for ten classes.
    state: names of the buffers and networks that it keeps. problem: why something was not counted; empty where all
    was.
    """

    needs: tuple[str, ...] = ()
    images_loaded: float | None = None
    forward_images: float | None = None
    forward_images_without_gradient: float | None = None
    backward_images: float | None = None
    generations: int = 1
    auxiliary_parameters: Count | None = None
    state: tuple[str, ...] = ()
    problem: str = ""


def nature(name: str) -> Nature:
    """What the method ``name`` needs. One that cannot be tried says why under ``problem``."""
    contestant = _with_defaults(name)
    try:
        return _counted(contestant)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; a listing goes on
        return Nature(problem=explain(error))


def state_sizes(name: str) -> dict[str, int | None]:
    """Bytes of state on large data sets beside a ``NETWORK``, by name; empty where the method cannot be tried."""
    try:
        return state_at_large(SMALL, _with_defaults(name))
    except (Exception, SystemExit):  # ``nature`` says why
        return {}


def _with_defaults(name: str) -> Contestant:
    return Contestant(name, registry.resolve(name, "", {}))


def _counted(contestant: Contestant) -> Nature:
    device = torch.device("cpu")
    images = noise(SMALL.num_classes, SMALL.num_train, SMALL.image_size, device)
    session = open_session(SMALL, contestant, images, device)
    stepper = Stepper(session)
    stepper()
    stepper.settle()
    stepper()
    passes = count_passes(stepper, STEPS)
    auxiliary, state = session.auxiliary_parameters(), _kept(session.method)
    return Nature(
        needs=_needs(contestant, session.method, auxiliary),
        images_loaded=passes.loaded,
        forward_images=passes.with_gradient + passes.without_gradient,
        forward_images_without_gradient=passes.without_gradient,
        backward_images=passes.backward,
        generations=session.method.generations,
        auxiliary_parameters=auxiliary,
        state=state,
    )


def _needs(contestant: Contestant, tried: nn.Module, auxiliary: int) -> tuple[str, ...]:
    """tried: the method after its steps. auxiliary: how many weights it trains beside the network's."""
    method = registry.get(contestant.name)(**contestant.params)
    asked = {
        f"{method.views} augmentations of each image": method.views > 1,
        f"{method.partners} further image{'s' * (method.partners > 1)} of the same class": method.partners > 0,
        f"{method.generations} trainings in a row": method.generations > 1,
        "a finished network that is named": method.wants_teacher,
        "held-out images": method.wants_validation,
        "mixed images": mixes(method),
        "features of the network": not _works_on_logits(contestant),
        "auxiliary parameters": auxiliary > 0,
        "a memory of every training image": any(b.dim() and len(b) == SMALL.num_train for b in tried.buffers()),
    }
    return tuple(words for words, needed in asked.items() if needed)


def _works_on_logits(contestant: Contestant) -> bool:
    """Whether it trains a network of which only the logits are to be had."""
    classes, count = SMALL.num_classes, SMALL.batch_size
    network = wrap(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes)))
    method = registry.get(contestant.name)(**contestant.params)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SMALL.image_size, SMALL.image_size, generator=generator)
    batch = Batch(
        images=images,
        views=(images,) * (method.views - 1),
        partners=(images,) * method.partners,
        labels=torch.arange(count) % classes,
        index=torch.arange(count),
    )
    teacher = network.frozen_copy() if method.taught else None
    try:
        method.setup(Task(classes, SMALL.num_train, count, EPOCHS, teacher, generator), network)
        method.before_epoch(0, EPOCHS)
        method.loss(network, batch, torch.tensor(PROGRESS))
    except Exception:  # each has its own way to say that there are no maps
        return False
    return True


def _kept(method: nn.Module) -> tuple[str, ...]:
    """Names of a method's memories and of the frozen networks within it. Single numbers are left out, and so are the
    running statistics of modules that are trained."""
    parts = {name: [p.requires_grad for p in part.parameters()] for name, part in method.named_children()}
    networks = tuple(name for name, trained in parts.items() if trained and not any(trained))
    inside = tuple(f"{name}." for name, trained in parts.items() if trained)
    buffers = (n for n, b in method.named_buffers() if b.numel() > 1 and not n.startswith(inside))
    return (*networks, *buffers)

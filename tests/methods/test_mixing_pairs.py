"""One method's loss on another's mixed images: pairs that train, and pairs that are refused with the reason."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sdbench import registry
from sdbench.checks import CHECKS, run_checks
from sdbench.errors import UserError
from sdbench.tiny import TinyTask


def defaults(name: str) -> dict[str, object]:
    """All values of ``base+mixer``."""
    base, mixer = name.split("+")
    values = registry.resolve(base, "", {})
    return values | {f"{mixer}.{key}": value for key, value in registry.resolve(mixer, "", {}).items()}


PAIRS = ["zipf+cutmix", "ls+mixup", "ls+cutmix", "zipf+mixup"]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_conform(name):
    findings = run_checks(name, quick=True)
    assert [f"{f.check}: {f.message}" for f in findings if not f.passed] == []
    assert len(findings) == len(CHECKS)


@pytest.mark.parametrize("name", ["zipf+cutmix", "ls+mixup"])
def test_pairs_learn(name):
    """Forty epochs on sixty images whose classes are plain to see: test images come out better than chance."""
    task = replace(TinyTask(num_classes=4, num_train=60), epochs=40)
    session = task.session(task.trial(name, defaults(name)))
    for epoch in range(task.epochs):
        session.begin_epoch(epoch)
        for batch in session.batches(epoch):
            session.step(batch, 0.02, epoch / task.epochs)
        session.end_epoch()
    logits, labels = session.test_logits()
    assert F.cross_entropy(logits, labels) < 0.5 * torch.tensor(4.0).log()
    assert (logits.argmax(1) == labels).float().mean() > 0.8


def test_loss_of_a_pair_by_hand():
    """ls+mixup: smoothed cross-entropy with torch's own function under both labels."""
    task = TinyTask()
    session = task.session(task.trial("ls+mixup", {"smoothing": 0.2, "spread": "all", "mixup.alpha": 1.0}))
    session.begin_epoch(0)
    batch = next(session.batches(0))
    state = session._mixing.get_state()
    loss = session.method.loss(session.network, batch, torch.tensor(0.0))["ce"]
    session._mixing.set_state(state)
    mixed = session.method.mixer.mix(batch, session._mixing)
    logits = session.network(mixed.images).logits
    own, other = (F.cross_entropy(logits, y, label_smoothing=0.2) for y in (batch.labels, mixed.labels_b))
    torch.testing.assert_close(loss, mixed.share * own + (1 - mixed.share) * other)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pskd+cutmix", "pskd cannot be trained on mixed images: its targets are past predictions for single, unmixed"),
        ("cskd+mixup", "cskd cannot be trained on mixed images: it needs more than the one forward pass"),
        ("ban+mixup", "ban cannot be trained on mixed images: it needs more than the one forward pass"),
        ("tfkd+cutmix", "tfkd cannot be trained on mixed images: it needs more than the one forward pass"),
        ("label_refinery+cutmix", "label_refinery cannot be trained on mixed images: it needs more than the one"),
        ("ddgsd+mixup", "ddgsd cannot be trained on mixed images: it needs more than the one forward pass"),
        ("mixup+cutmix", "mixup cannot be trained on mixed images: it mixes images itself"),
        ("cutmix+cutmix", "cutmix cannot be trained on mixed images: it mixes images itself"),
        ("manifold_mixup+mixup", "manifold_mixup cannot be trained on mixed images: it mixes images itself, inside"),
        ("zipf+manifold_mixup", "manifold_mixup does not hand mixed images to another method; these do: cutmix, mixup"),
        ("zipf+ls", "ls does not hand mixed images to another method; these do: cutmix, mixup"),
    ],
)
def test_pairs_that_cannot_be_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=f"{name.replace('+', r'[+]')}: {reason}"):
        registry.build(name, defaults(name))

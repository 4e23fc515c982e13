"""Cards of methods: what is counted agrees with the papers, and no plug-in breaks a list."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdbench import registry
from sdbench.cards import method_card, text
from sdbench.cli import app
from sdbench.cost.nature import nature

BROKEN = '''
"""A plug-in."""
from sdbench import Method, register


@register("broken_on_setup", caveat="for a test")
class Broken(Method):
    """Raises."""

    def setup(self, task, network):
        raise RuntimeError("no disk left")

    def criterion(self, output, batch, progress):
        return {"ce": output.logits.sum()}
'''

# (images loaded, forward, of them without gradient, backward) per labelled image.
PASSES = {
    "ce": (1, 1, 0, 1),
    "ls": (1, 1, 0, 1),
    "zipf": (1, 1, 0, 1),
    "pskd": (1, 1, 0, 1),
    "cskd": (2, 2, 1, 1),
    "byot": (1, 1, 0, 1),
    "ddgsd": (2, 2, 0, 2),
    "dlb": (2, 2, 0, 2),
    "mean_teacher": (2, 2, 1, 1),
    "ban": (1, 2, 1, 1),
    "tfkd": (1, 2, 1, 1),
    "label_refinery": (1, 2, 1, 1),
    "bake": (4, 4, 0, 4),
    "mixskd": (1, 2, 0, 2),
    "cutmix": (1, 1, 0, 1),
    "sfr": (1, 1, 0, 1),
}

NEEDS = {
    "ce": (),
    "focal": (),
    "cskd": ("1 further image of the same class",),
    "ddgsd": ("2 augmentations of each image", "features of the network"),
    "dlb": ("2 augmentations of each image",),
    "ban": ("2 trainings in a row",),
    "cals": ("held-out images",),
    "mixup": ("mixed images",),
    "zipf": ("features of the network",),
    "byot": ("features of the network", "auxiliary parameters"),
    "ls_plus_plus": ("auxiliary parameters",),
    "pskd": ("a memory of every training image",),
    "temporal_ensembling": ("a memory of every training image",),
    "ols": (),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    found = nature(name)
    assert found.problem == ""
    counted = (found.images_loaded, found.forward_images, found.forward_images_without_gradient, found.backward_images)
    assert counted == PASSES[name]


@pytest.mark.parametrize("name", NEEDS)
def test_needs(name: str) -> None:
    assert nature(name).needs == NEEDS[name]


def test_state_is_named_and_sized() -> None:
    card = method_card("pskd")
    assert card.nature.state == ("predictions",)
    assert card.state_bytes_at["imagenet"] == pytest.approx(4 * 1_281_167 * 1000, abs=100)
    assert "predictions: 19.1 MiB on cifar100" in text(card)
    assert method_card("ban").nature.state == ("teacher",)


def test_a_card_tells_paper_needs_passes_and_published_numbers() -> None:
    card = CliRunner().invoke(app, ["describe", "cskd"]).stdout
    assert "paper: https://arxiv.org/abs/2003.13964" in card
    assert "needs: 1 further image of the same class" in card
    assert "passes: 2 loaded, 2 forward (1 of them without gradient), 1 backward per labelled image" in card
    assert "Published, not measured here:" in card


def test_tfkd_reg_tells_that_it_is_label_smoothing() -> None:
    card = CliRunner().invoke(app, ["describe", "tfkd_reg"]).stdout
    assert "label smoothing" in card
    assert "0.0999493" in card


def test_a_reconstruction_is_marked_and_has_no_published_number() -> None:
    card = json.loads(CliRunner().invoke(app, ["describe", "sfr", "--json"]).stdout)
    assert card["caveat"] == "reconstruction, paper withdrawn"
    assert card["canonical"] is False
    assert card["published"] == []
    assert "sfr (reconstruction, paper withdrawn)" in CliRunner().invoke(app, ["list", "methods"]).stdout
    assert registry.caveat("sfr+cutmix") == "reconstruction, paper withdrawn"
    assert registry.caveat("zipf+cutmix") == ""


def test_a_list_goes_on_past_a_method_that_cannot_be_tried(tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    try:
        done = CliRunner().invoke(app, ["list", "methods", "--json", "--plugin", str(plugin)])
    finally:
        registry._METHODS.pop("broken_on_setup", None)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert "no disk left" in rows["broken_on_setup"]["problem"]
    assert rows["cskd"]["passes"]["forward_images"] == 2
    assert rows["cskd"]["needs"] == ["1 further image of the same class"]
    assert rows["cskd"]["parameters"] == {"temperature": 4.0, "weight": 1.0}
    assert all(row["problem"] == "" for name, row in rows.items() if name != "broken_on_setup")

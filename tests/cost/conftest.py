"""The plug-in with planted costs, and sessions on a task of seconds."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sdbench import registry
from sdbench.cost.records import Setting
from sdbench.cost.setting import Contestant, Stepper, open_data, open_session

PLANTED = Path(__file__).parent.parent / "plugins" / "planted_costs.py"

SMALL = Setting(network="resnet8", num_classes=10, num_train=200, image_size=16, augment="crop-flip", batch_size=16)


@pytest.fixture(autouse=True, scope="package")
def planted() -> Iterator[str]:
    """The plug-in's path; its methods are registered for these tests alone."""
    registry.load_builtin()
    before = dict(registry._METHODS), dict(registry._ORIGIN)
    module = registry.load_plugin(str(PLANTED))
    yield str(PLANTED)
    registry._METHODS, registry._ORIGIN = before
    del sys.modules[module.__name__]  # a worker that comes back to these tests loads it anew


@pytest.fixture(scope="package")
def dataset():
    return open_data(SMALL, torch.device("cpu"))


@pytest.fixture
def stepper(dataset) -> Callable[..., Stepper]:
    def build(method: str, setting: Setting = SMALL) -> Stepper:
        params = registry.resolve(method, "synthetic", {})
        data = dataset if setting is SMALL else open_data(setting, torch.device("cpu"))
        return Stepper(open_session(setting, Contestant(method, params), data, torch.device("cpu")))

    return build

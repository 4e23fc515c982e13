"""The plug-in with planted costs, and sessions on a task of seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdbench import registry
from sdbench.cost.records import Setting
from sdbench.cost.setting import Contestant, Stepper, open_data, open_session

PLANTED = Path(__file__).parent.parent / "plugins" / "planted_costs.py"

SMALL = Setting(network="resnet8", num_classes=10, num_train=200, image_size=16, augment="crop-flip", batch_size=16)


@pytest.fixture(autouse=True, scope="session")
def planted() -> str:
    if "planted_buffer" not in registry.names():
        registry.load_plugin(str(PLANTED))
    return str(PLANTED)


@pytest.fixture(scope="session")
def dataset():
    return open_data(SMALL, torch.device("cpu"))


@pytest.fixture
def stepper(dataset) -> Callable[..., Stepper]:
    def build(method: str, setting: Setting = SMALL) -> Stepper:
        params = registry.resolve(method, "synthetic", {})
        data = dataset if setting is SMALL else open_data(setting, torch.device("cpu"))
        return Stepper(open_session(setting, Contestant(method, params), data, torch.device("cpu")))

    return build

"""Results of one protocol version must compare: weights, batches and losses are pinned.

Where this test fails and the change was meant, raise the protocol's version in sdbench/protocol.py, say
so in CHANGELOG.md and renew the file: python tools/digests.py > tests/digests.json
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sdbench.errors import UserError
from sdbench.protocol import PROTOCOLS

HERE = Path(__file__).resolve().parent
PINNED = json.loads((HERE / "digests.json").read_text())


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("digests_tool", HERE.parent / "tools" / "digests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pins_belong_to_these_protocol_versions() -> None:
    assert PINNED["protocols"] == {name: protocol.version for name, protocol in PROTOCOLS.items()}


@pytest.mark.parametrize("dataset", sorted(PINNED["digests"]))
def test_nothing_changed_what_a_trial_computes(dataset: str) -> None:
    tool = load_tool()
    for network, pinned in PINNED["digests"][dataset].items():
        try:
            found = tool.digests(dataset, network)
        except UserError as error:
            pytest.skip(str(error))
        assert found["initial_weights"] == pinned["initial_weights"], network
        assert found["first_batch"] == pinned["first_batch"], network
        assert found["losses"] == pytest.approx(pinned["losses"], abs=2e-3), network

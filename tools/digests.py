"""Print what tests/digests.json pins: initial weights, first batch and first losses per network and data set.

    python tools/digests.py > tests/digests.json

Run it after a change that is meant to change results; raise the protocol's version with it and say
in CHANGELOG.md which results no longer compare.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from sdbench import data, registry, zoo
from sdbench.account import pairing_of
from sdbench.assembly import open_session
from sdbench.errors import UserError
from sdbench.identity import method_source
from sdbench.protocol import PROTOCOLS
from sdbench.spec import Identity, Options, Trial, TrialSpec
from sdbench.store import Store

STEPS = 3
SETS = ("glyphs", "cifar10", "cifar100")


def digests(dataset: str, network: str) -> dict[str, object]:
    """SHA-256 of the weights and the first batch, and the first losses of the baseline, in float32."""
    facts = data.inspect(dataset, None, None)
    protocol = PROTOCOLS["fixed"]
    method = registry.baseline_name()
    spec = TrialSpec(
        method=method,
        dataset=dataset,
        network=network,
        recipe=protocol.recipe_for(facts.augment, {"batch_size": 8, "lr": 0.01}),
        precision="fp32",
        protocol=protocol.name,
        seed=0,
    )
    identity = Identity(
        method_source=method_source(method),
        data_fingerprint=facts.fingerprint,
        protocol_version=protocol.version,
    )
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(spec=spec, identity=identity)
        session = open_session(trial, Store(Path(folder)), Options(device="cpu"))
        pinned: dict[str, object] = dict(pairing_of(session))
        session.begin_epoch(0)
        batches = session.batches(0)
        pinned["losses"] = [round(session.step(next(batches), 0.01, 0.0)["ce"].item(), 4) for _ in range(STEPS)]
    return pinned


def main() -> None:
    found: dict[str, dict[str, object]] = {}
    for dataset in SETS:
        try:
            found[dataset] = {network: digests(dataset, network) for network in zoo.MODELS}
        except UserError as error:
            print(f"{dataset} left out: {error}", file=sys.stderr)
    versions = {name: protocol.version for name, protocol in PROTOCOLS.items()}
    print(json.dumps({"protocols": versions, "digests": found}, indent=1))


if __name__ == "__main__":
    main()

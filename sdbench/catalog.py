"""``list`` and ``describe``: what there is, as tables, cards and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from sdbench.errors import UserError, unknown
from sdbench.paths import path_of
from sdbench.terminal import tell

KINDS = ("methods", "datasets", "models", "protocols", "metrics", "runs")

METRICS = {
    "top1": "share of test images whose highest logit is the label; higher is better",
    "top5": "share whose label is among the five highest logits; higher is better",
    "nll": "mean negative log-likelihood of the label, in nats; lower is better",
    "ece": "expected calibration error, 15 equal bins of confidence, (lo, hi]; lower is better",
    "brier": "squared distance of the softmax from the one-hot label, summed over classes; lower is better",
    "aurc": "area under the risk-coverage curve by confidence; lower is better",
    "eaurc": "AURC minus that of the best possible ordering; lower is better",
    "temperature": "what logits are divided by to minimize the NLL of held-out images; below 1 sharpens, above softens",
    "scaled_nll": "nll of the test set after temperature scaling; where a trial holds out images, as the next four",
    "scaled_ece": "ece after temperature scaling; top1 and top5 stay as they are",
    "scaled_brier": "brier after temperature scaling",
    "scaled_aurc": "aurc after temperature scaling",
    "scaled_eaurc": "eaurc after temperature scaling",
}


def listing(kind: str, plugins: Sequence[str], results: str, as_json: bool) -> str:
    """The table of one kind of thing, or a JSON list of objects; as ``rows``."""
    found = rows(kind, plugins, results, counted=as_json)
    if as_json:
        return json.dumps(found, indent=1)
    if not found:
        return f"no {kind} under {results}; sdbench run makes some"
    shown = [{key: _cell(value) for key, value in row.items()} for row in found]
    return tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True)


def rows(kind: str, plugins: Sequence[str], results: str, *, counted: bool) -> list[dict[str, Any]]:
    """One kind of thing as rows of plain values. counted: methods with their needs and passes, which takes seconds.
    Raises UserError for another kind."""
    if kind not in KINDS:
        raise UserError(unknown("list", kind, KINDS))
    readers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: _methods(plugins, counted=counted),
        "datasets": _datasets,
        "models": _models,
        "protocols": _protocols,
        "metrics": lambda: [{"name": name, "meaning": text} for name, text in METRICS.items()],
        "runs": lambda: _runs(results),
    }
    return readers[kind]()


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _methods(plugins: Sequence[str], *, counted: bool) -> list[dict[str, Any]]:
    from sdbench import cards, registry

    for plugin in plugins:
        registry.load_plugin(plugin)
    return cards.rows(counted=counted)


def _datasets() -> list[dict[str, Any]]:
    from sdbench import data

    return [
        {"name": info.name, "classes": info.num_classes or "any", "side": info.image_size, "summary": info.summary}
        for info in data.DATASETS.values()
    ]


def _models() -> list[dict[str, Any]]:
    from sdbench import zoo

    return [{"name": info.name, "summary": info.summary} for info in (*zoo.MODELS.values(), *zoo.PATTERNS)]


def _protocols() -> list[dict[str, Any]]:
    from sdbench.protocol import PROTOCOLS

    return [
        {"name": p.name, "version": p.version, "epochs": p.epochs, "seeds": list(p.seeds), "summary": p.summary}
        for p in PROTOCOLS.values()
    ]


def _runs(results: str) -> list[dict[str, Any]]:
    from sdbench.store import Store

    root = path_of(results)
    scan = Store(root).scan()
    tell("", (f"damaged record left out: {one.told(root)}; run its trial again" for one in scan.damaged))
    return [
        {
            "trial": r.trial_id,
            "dataset": r.spec.dataset,
            "network": r.spec.network,
            "method": r.spec.method,
            "seed": r.spec.seed,
            "status": r.status,
            "top1": r.metrics.top1 if r.metrics else None,
        }
        for r in scan.results
    ]


def card(name: str, plugins: Sequence[str], as_json: bool) -> str:
    """The card of a method, data set, network or protocol as text or JSON; as ``entry``."""
    from sdbench import cards
    from sdbench.spec import Record

    found = entry(name, plugins)
    if isinstance(found, cards.MethodCard):
        return found.model_dump_json(indent=1) if as_json else cards.text(found)
    if isinstance(found, Record):
        return found.model_dump_json(indent=1)
    plain = found if isinstance(found, dict) else asdict(found)
    return json.dumps(plain, indent=1) if as_json else tabulate(list(plain.items()), tablefmt="plain")


def entry(name: str, plugins: Sequence[str]) -> Any:
    """What is known under a name: a MethodCard, a Protocol, a DatasetInfo, a network's ModelInfo, or for a network
    of timm a dict. Raises UserError for an unknown name."""
    from sdbench import cards, data, registry, zoo
    from sdbench.protocol import PROTOCOLS
    from sdbench.timm_models import TIMM

    for plugin in plugins:
        registry.load_plugin(plugin)
    if name in registry.names():
        return cards.method_card(name)
    for known in (PROTOCOLS, data.DATASETS, zoo.MODELS):
        if name in known:
            return known[name]
    if name.startswith(TIMM):
        return {"name": ", ".join(zoo.choose([name])), "summary": zoo.PATTERNS[0].summary}
    raise UserError(unknown("name", name, [*registry.names(), *data.DATASETS, *zoo.MODELS, *PROTOCOLS]))

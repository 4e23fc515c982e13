"""``list`` and ``describe``: what there is, as tables, cards and JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sdbench.errors import UserError, unknown

KINDS = ("methods", "datasets", "models", "protocols", "metrics", "runs")

METRICS = {
    "top1": "share of test images whose highest logit is the label; higher is better",
    "top5": "share whose label is among the five highest logits; higher is better",
    "nll": "mean negative log-likelihood of the label, in nats; lower is better",
    "ece": "expected calibration error, 15 equal bins of confidence, (lo, hi]; lower is better",
    "brier": "squared distance of the softmax from the one-hot label, summed over classes; lower is better",
    "aurc": "area under the risk-coverage curve by confidence; lower is better",
    "eaurc": "AURC minus that of the best possible ordering; lower is better",
}


def listing(kind: str, plugins: Sequence[str], results: str, as_json: bool) -> str:
    """The table of one kind of thing, or a JSON list of objects. Raises UserError for another kind."""
    if kind not in KINDS:
        raise UserError(unknown("list", kind, KINDS))
    readers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: _methods(plugins),
        "datasets": _datasets,
        "models": _models,
        "protocols": _protocols,
        "metrics": lambda: [{"name": name, "meaning": text} for name, text in METRICS.items()],
        "runs": lambda: _runs(results),
    }
    rows = readers[kind]()
    if as_json:
        return json.dumps(rows, indent=1)
    if not rows:
        return f"no {kind} under {results}; sdbench run makes some"
    shown = [{key: _cell(value) for key, value in row.items()} for row in rows]
    return tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _methods(plugins: Sequence[str]) -> list[dict[str, Any]]:
    from sdbench import registry

    for plugin in plugins:
        registry.load_plugin(plugin)
    return [
        {
            "name": name,
            "summary": _first_line(registry.get(name)),
            "parameters": {k: p.default for k, p in registry.parameters(registry.get(name)).items()},
            "needs": needs(registry.get(name)),
            "origin": registry.origin(name),
        }
        for name in registry.names()
    ]


def needs(cls: Any) -> list[str]:
    """What a method asks of the harness beyond images and labels."""
    from sdbench.method import Method

    found = []
    if cls.views > 1:
        found.append(f"{cls.views} views")
    if cls.partners:
        found.append(f"{cls.partners} same-class partner(s)")
    if cls.generations > 1:
        found.append(f"{cls.generations} generations")
    if cls.wants_validation:
        found.append("validation data")
    if cls.mix is not Method.mix:
        found.append("mixed images")
    return found


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _datasets() -> list[dict[str, Any]]:
    from sdbench import data

    return [
        {"name": info.name, "classes": info.num_classes or "any", "side": info.image_size, "summary": info.summary}
        for info in data.DATASETS.values()
    ]


def _models() -> list[dict[str, Any]]:
    from sdbench import zoo

    return [{"name": info.name, "summary": info.summary} for info in zoo.MODELS.values()]


def _protocols() -> list[dict[str, Any]]:
    from sdbench.protocol import PROTOCOLS

    return [
        {"name": p.name, "version": p.version, "epochs": p.epochs, "seeds": list(p.seeds), "summary": p.summary}
        for p in PROTOCOLS.values()
    ]


def _runs(results: str) -> list[dict[str, Any]]:
    from sdbench.store import Store

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
        for r in Store(Path(results)).scan().results
    ]


def card(name: str, plugins: Sequence[str], as_json: bool) -> str:
    """The card of a method, data set, network or protocol. Raises UserError for an unknown name."""
    from sdbench import data, registry, zoo
    from sdbench.protocol import PROTOCOLS

    for plugin in plugins:
        registry.load_plugin(plugin)
    if name in registry.names():
        facts = method_card(name)
        return json.dumps(facts, indent=1) if as_json else _method_text(facts)
    if name in PROTOCOLS:
        return PROTOCOLS[name].model_dump_json(indent=1)
    for found in (data.DATASETS.get(name), zoo.MODELS.get(name)):
        if found is not None:
            plain = asdict(found)
            return json.dumps(plain, indent=1) if as_json else tabulate(list(plain.items()), tablefmt="plain")
    raise UserError(unknown("name", name, [*registry.names(), *data.DATASETS, *zoo.MODELS, *PROTOCOLS]))


def method_card(name: str) -> dict[str, Any]:
    """All that is known of a method, as plain values."""
    from sdbench import registry

    cls = registry.get(name)
    return {
        "name": name,
        "summary": _first_line(cls),
        "description": inspect.getdoc(cls) or "",
        "paper": cls.paper,
        "official": cls.official,
        "origin": registry.origin(name),
        "needs": needs(cls),
        "parameters": [
            {"name": p.name, "type": p.type.__name__, "default": p.default, "range": str(p.range) if p.range else ""}
            for p in registry.parameters(cls).values()
        ],
        "recommended": {dataset: dict(values) for dataset, values in cls.recommended.items()},
        "refuses_mixing": cls.refuses_mixing,
    }


def _method_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['name']}: {facts['description']}", ""]
    for key in ("paper", "official", "origin"):
        if facts[key]:
            lines.append(f"{key}: {facts[key]}")
    lines.append(f"needs: {', '.join(facts['needs']) or 'one forward pass'}")
    if facts["parameters"]:
        lines += ["", tabulate(facts["parameters"], headers="keys", tablefmt="simple", disable_numparse=True)]
    for dataset, values in facts["recommended"].items():
        lines.append(f"recommended for {dataset}: {_cell(values)}")
    return "\n".join(lines)

"""One trial in full: ``sdbench show``. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from tabulate import tabulate

from sdbench.errors import UserError
from sdbench.leaderboard_tuning import tuned_text, values_text
from sdbench.paths import path_of
from sdbench.spec import TrialResult
from sdbench.store import Store, read_curve

CURVE_LINES = 12


def show(results: str, wanted: str, as_json: bool) -> str:
    """One trial as a card or JSON; as ``find_trial``."""
    result = find_trial(results, wanted)
    root = path_of(results).absolute()
    return result.model_dump_json(indent=1) if as_json else _card(result, Store(root))


def find_trial(results: str, wanted: str) -> TrialResult:
    """One trial: by its id, the beginning of one, or its folder. Raises UserError where none or several match."""
    root = path_of(results).absolute()
    name = Path(wanted).name
    scan = Store(root).scan()
    found = [r for r in scan.results if r.trial_id.startswith(name)]
    named = [one for one in scan.damaged if name and name in (one.path.name, one.path.parent.name[: len(name)])]
    if named and not found:
        raise UserError([f"trial {wanted!r} is damaged: {one.told(root)}; run it again" for one in named])
    if len(found) != 1:
        known = ", ".join(sorted(r.trial_id for r in found)[:5])
        many = f"{len(found)} trials begin with {name!r} ({known} ...); give more digits"
        raise UserError(many if found else f"no trial {wanted!r} under {results}; see `sdbench list runs`")
    return found[0]


def _card(result: TrialResult, store: Store) -> str:
    folder = store.folder(result.spec, result.trial_id)
    spec = result.spec.model_dump(mode="json")
    recipe = spec.pop("recipe")
    facts: list[tuple[str, object]] = [("trial", result.trial_id), ("status", result.status)]
    if result.reason:
        facts.append(("reason", result.reason))
    facts += [(key, json.dumps(value)) for key, value in spec.items() if value is not None]
    facts.append(("recipe", ", ".join(f"{k}={v}" for k, v in recipe.items())))
    if result.metrics:
        facts += [(key, f"{value:.6g}") for key, value in result.metrics.model_dump().items()]
    if result.scaled:
        facts += [(key, f"{value:.6g}") for key, value in result.scaled.named.items()]
    if result.validation_top1 is not None:
        facts.append(("top-1 on held-out images", f"{result.validation_top1:.6g}"))
    if result.tuned:
        facts.append(("tuned", f"{values_text(result.tuned.values)}; {tuned_text(result.tuned)}"))
    if result.cost:
        facts += [(key, value) for key, value in result.cost.model_dump().items() if value != ()]
    facts.append(("resumed at epochs", ", ".join(map(str, result.resumes)) or "never"))
    made = result.provenance.model_dump(exclude={"config", "origins"})
    facts += [(key, value) for key, value in made.items() if value not in ("", (), None)]
    parts = [tabulate(facts, tablefmt="plain", disable_numparse=True)]
    curve = read_curve(folder / "curve.jsonl")
    if curve:
        step = max(1, -(-len(curve) // CURVE_LINES))
        shown = [line for number, line in enumerate(curve, start=1) if number % step == 0]
        rows = [[line.get(key, "") for key in ("epoch", "lr", "loss", "top1", "images_per_s")] for line in shown]
        parts.append(tabulate(rows, headers=["epoch", "lr", "loss", "top-1", "images/s"], floatfmt=".4g"))
    if result.log_tail:
        parts.append("the end of what it printed:\n" + result.log_tail)
    return "\n\n".join(parts)

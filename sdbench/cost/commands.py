"""What ``sdbench profile`` and ``sdbench claims`` do, as functions that return a text and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sdbench import environment
from sdbench.cost import archive, formats
from sdbench.cost.profile import profile
from sdbench.cost.records import ProfileResult
from sdbench.cost.request import ProfileRequest, make_plans
from sdbench.errors import EnvironmentProblem
from sdbench.store import Store

INTERRUPTED = 130


def run_profile(request: ProfileRequest, command: Sequence[str], *, quiet: bool, as_json: bool) -> tuple[str, int]:
    """Profile a setting, or each of a sweep, keep the records and show them. Exit code 1 where a method failed,
    130 after Ctrl-C, when what was measured until then is kept."""
    from sdbench.cost import scaling

    sweep, plans = make_plans(request, command)
    root = results_folder(request.results)
    told = silent if quiet else to_stderr
    found: list[ProfileResult] = []
    for plan in plans:
        require_device(plan.options.device)
        result = profile(plan, told)
        told(f"kept as {archive.write(root, result).relative_to(root.parent)}")
        found.append(result)
        if result.interrupted:
            break
    if sweep.quantity:
        picture = scaling.plot(sweep, found, root / "profiles")
        told(f"drawn in {picture.relative_to(root.parent)}")
        answer = formats.json_text(scaling.document(sweep, found)) if as_json else scaling.text(sweep, found)
    else:
        answer = formats.json_text(formats.document(found[0])) if as_json else formats.text(found[0])
    if any(result.interrupted for result in found):
        return answer, INTERRUPTED
    return answer, 1 if any(row.status != "ok" for result in found for row in result.rows) else 0


def results_folder(given: str | None) -> Path:
    """The results folder, shown to be writable."""
    root = Path(given or "results").expanduser().absolute()
    Store(root).prepare()
    return root


def require_device(wanted: str) -> None:
    """Raises EnvironmentProblem where a GPU is asked for and torch sees none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("--device cuda: torch sees no GPU; see `sdbench doctor`, or use --device cpu")
    environment.choose_device(wanted)


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """Says nothing."""

"""The iso-cost baseline: plain cross-entropy, trained for as long as a method costs.

A method that takes 1.33 times as long per step is compared with the baseline at 1.33 times the epochs, under the same
recipe, whose schedule stretches with the epochs. Without that control a gain may be one of longer training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdbench import environment, registry
from sdbench.cost import archive
from sdbench.errors import UserError
from sdbench.identity import method_source
from sdbench.leaderboard_costs import Hardware
from sdbench.leaderboard_profiles import Conditions, ProfileIndex, fitting, index_profiles, iso_cost_epochs
from sdbench.protocol import Cell
from sdbench.spec import Recipe

RecipeFor = Callable[[str, int], Recipe]
"""The recipe on a data set, by name, for a number of epochs."""


def iso_cost_cells(
    cells: Sequence[Cell], results: Path, device: str, num_classes: dict[str, int], recipe_for: RecipeFor
) -> list[Cell]:
    """Each method's cell again, with the epochs of its iso-cost baseline; those that cost as much as it are left out.

    results: the store with the profiles. num_classes: by data set. Raises UserError, with every problem, where a method
    was not profiled on this hardware under the cells' conditions.
    """
    index = index_profiles(archive.scan(results).results)
    where = environment.device_name(environment.choose_device(device)), environment.cpu_model()
    torch = environment.versions().get("torch", "")
    found: list[Cell] = []
    unknown: dict[tuple[str, int, int, str], list[str]] = {}
    for cell in cells:
        if cell.method == registry.baseline_name():
            continue
        place = Hardware(*where, cell.threads, torch)
        epochs = _epochs(cell, num_classes[cell.dataset], place, index)
        if epochs is None:
            key = (cell.network, num_classes[cell.dataset], cell.recipe.batch_size, cell.precision)
            unknown.setdefault(key, []).append(cell.method)
        elif epochs != cell.recipe.epochs:
            found.append(cell.model_copy(update={"recipe": recipe_for(cell.dataset, epochs)}))
    if unknown:
        raise UserError([_advice(*key, list(dict.fromkeys(names)), results) for key, names in unknown.items()])
    return found


def _epochs(cell: Cell, num_classes: int, place: Hardware, index: ProfileIndex) -> int | None:
    task = Conditions(
        network=cell.network,
        num_classes=num_classes,
        image_size=cell.image_size,
        precision=cell.precision,
        batch_size=cell.recipe.batch_size,
        baseline=registry.baseline_name(),
    )
    measured = fitting(cell.method, cell.params, {method_source(cell.method)}, task, place, index)
    if measured is None or not measured.timed or measured.row.time_ratio is None:
        return None
    return iso_cost_epochs(cell.recipe.epochs, measured.row.time_ratio, measured.row.generations)


def _advice(
    network: str, num_classes: int, batch_size: int, precision: str, methods: Sequence[str], results: Path
) -> str:
    place = "" if results == Path("results").absolute() else f" --results {results}"
    return (
        f"--iso-cost: what {', '.join(methods)} cost on {network} with {num_classes} classes in batches of {batch_size}"
        f" was not measured on this machine; type: sdbench profile --methods {','.join(methods)} --model {network} "
        f"--classes {num_classes} --batch-size {batch_size} --precision {precision}{place}"
    )

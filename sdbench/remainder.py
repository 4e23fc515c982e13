"""What runs between one stage of a module and its global average pooling, as a module of its own.

The module's ``forward`` is followed with torch.fx on a copy, with symbols in place of images; parts that hold neither a
stage nor the classifier are taken whole, so what they do inside does not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from sdbench.errors import UserError

POOLS = {F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean}


class _Skeleton(fx.Tracer):
    """Enters a part only where one of those named lies within it."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(name.startswith(f"{module_qualified_name}.") for name in self._names)


def remainder(module: nn.Module, stages: Sequence[str], index: int, classifier: str, label: str) -> nn.Module:
    """A copy of all that leads from the output of stage ``index`` to the pooled map.

    stages, classifier: names of modules, the stages in the order in which they run. label: of the module, for
    messages. Raises UserError where the way depends on values that only real images have, or on more than that stage.
    """
    root = copy.deepcopy(module)
    try:
        graph = _Skeleton((*stages, classifier)).trace(root)
    except Exception as error:  # whatever a module's code does with a symbol
        raise UserError(
            f"what follows stage {stages[index]!r} of {label} cannot be copied, its forward pass cannot be followed "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). Use a network "
            "of `sdbench list models`, or a method that copies no stages"
        ) from error
    by_name = {node.target: node for node in graph.nodes if node.op == "call_module"}
    start, last = by_name[stages[index]], by_name[stages[-1]]
    return _between(root, start, _pooled(root, graph, last), f"stage {stages[index]!r} of {label}")


def _pooled(root: nn.Module, graph: fx.Graph, last: fx.Node) -> fx.Node:
    """The node whose output is pooled: the input of the first pooling after the last stage, or that stage."""
    after = False
    for node in graph.nodes:
        if after and _is_pooling(root, node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            return source
        after = after or node is last
    return last


def _is_pooling(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any("Pool" in type(part).__name__ for part in root.get_submodule(str(node.target)).modules())
    return node.target in POOLS if node.op == "call_function" else node.op == "call_method" and node.target == "mean"


def _between(root: nn.Module, start: fx.Node, end: fx.Node, what: str) -> nn.Module:
    """The nodes that lead from ``start`` to ``end``, as a module with the parts that they use."""
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {start: graph.placeholder("feature_map")}
    needed, waiting = {start}, [end]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    for node in start.graph.nodes:
        if node in needed and node is not start:
            if node.op == "placeholder":
                raise UserError(
                    f"what follows {what} needs more than that stage's map. Use a network of `sdbench list models`, or "
                    "a method that copies no stages"
                )
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(copies[end])
    return fx.GraphModule(root, graph)

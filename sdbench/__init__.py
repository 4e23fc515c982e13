"""sdbench: self-distillation and label softening, compared with paired seeds and measured cost.

Public names are imported on first use (PEP 562), so ``import sdbench`` and ``sdbench --help``
load no torch.

>>> import sdbench
>>> {"ce", "ls"} <= set(sdbench.names())
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sdbench import api
    from sdbench.method import Batch, Method, Mixed, Output, Task, Terms
    from sdbench.network import Network, wrap
    from sdbench.registry import get, names, register
    from sdbench.space import Choice, LogUniform, Uniform

_HOME = {
    "Batch": "sdbench.method",
    "Method": "sdbench.method",
    "Mixed": "sdbench.method",
    "Output": "sdbench.method",
    "Task": "sdbench.method",
    "Terms": "sdbench.method",
    "Network": "sdbench.network",
    "wrap": "sdbench.network",
    "get": "sdbench.registry",
    "names": "sdbench.registry",
    "register": "sdbench.registry",
    "Choice": "sdbench.space",
    "LogUniform": "sdbench.space",
    "Uniform": "sdbench.space",
}

__all__ = [
    "Batch",
    "Choice",
    "LogUniform",
    "Method",
    "Mixed",
    "Network",
    "Output",
    "Task",
    "Terms",
    "Uniform",
    "api",
    "get",
    "names",
    "register",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module("sdbench.api")
    if name not in _HOME:
        raise AttributeError(f"module 'sdbench' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

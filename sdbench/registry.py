"""The registry of methods: a decorator, look-up by name, plug-ins, hyper-parameters."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from sdbench.errors import UserError, unknown
from sdbench.method import Combination, Method, mixes, mixing_obstacle
from sdbench.paths import path_of
from sdbench.record import MAX_WHOLE
from sdbench.space import LogUniform, Scalar, Space

_METHODS: dict[str, type[Method]] = {}
_ORIGIN: dict[str, str] = {}
_loading = "plug-in"
_builtin_loaded = False

PLUGIN = "sdbench_plugin_"
"""Beginning of the names of the modules that plug-in files become."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter of a method, read off its constructor and its ``space``."""

    name: str
    type: type
    default: Scalar
    range: Space | None

    def parse(self, text: str) -> Scalar:
        """The value that a command line's text stands for. ValueError says what was expected."""
        if self.type is bool:
            if text.lower() in ("true", "1", "yes", "on"):
                return True
            if text.lower() in ("false", "0", "no", "off"):
                return False
            raise ValueError("expected true or false")
        try:
            return typing.cast(Scalar, self.type(text))
        except ValueError:
            raise ValueError(f"expected {'an integer' if self.type is int else 'a number'}") from None

    def problem(self, value: object) -> str:
        """What is wrong with ``value``; empty if nothing is."""
        wanted: tuple[type, ...] = (int, float) if self.type is float else (self.type,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and self.type is not bool):
            return f"expected {self.type.__name__}, got {value!r}"
        most = MAX_WHOLE if isinstance(value, int) else sys.float_info.max
        if isinstance(value, int | float) and not abs(value) <= most:  # NaN included
            return f"expected a finite number, got {value!r}"
        off = isinstance(self.range, LogUniform) and value == 0  # a coefficient switched off
        if self.range is not None and not off and value != self.default and value not in self.range:
            return f"{value!r} is outside {self.range}"
        return ""


def register(
    name: str, *, paper: str = "", official: str = "", year: int = 0, caveat: str = ""
) -> Callable[[type[Method]], type[Method]]:
    """Class decorator that makes a method known under ``name``.

    name: lower-case letters, digits and underscores, starting with a letter.
    paper: address of the paper. official: ``owner/repository@commit`` of the authors' code. year: of publication,
    0 where there is none. caveat: what must be said wherever the method's numbers are shown, such as
    "reconstruction, paper withdrawn"; a few words in parentheses after its name.
    Raises UserError where the name is taken or malformed, or a hyper-parameter lacks a default or
    an annotation of bool, int, float or str.
    """

    def decorate(cls: type[Method]) -> type[Method]:
        problems = []
        if not NAME.fullmatch(name):
            problems.append(f"method name {name!r}: use lower-case letters, digits and underscores")
        if name == "all":
            problems.append("method name 'all' stands for all methods; choose another name in @register(...)")
        if name in _METHODS:
            problems.append(
                f"method name {name!r} is taken by {_METHODS[name].__module__} "
                f"({_ORIGIN[name]}); choose another name in @register(...)"
            )
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise UserError([*problems, f"@register({name!r}): derive {cls!r} from sdbench.Method"])
        if not any(getattr(cls, hook) is not getattr(Method, hook) for hook in ("criterion", "loss", "mix")):
            problems.append(f"method {name!r}: override criterion(), loss() or mix(); it has none of them")
        problems += _signature_problems(name, cls)
        # What a class inherits from another method must not make it the baseline, or one of the core.
        cls.baseline, cls.core = (bool(vars(cls).get(mark, False)) for mark in ("baseline", "core"))
        others = [n for n, c in _METHODS.items() if c.baseline]
        if cls.baseline and others:
            problems.append(f"method {name!r}: baseline is True, but {others[0]!r} is the baseline; leave it out")
        if problems:
            raise UserError(problems)
        cls.name, cls.paper, cls.official, cls.year, cls.caveat = name, paper, official, year, caveat
        _METHODS[name] = cls
        # A module of the package may be imported by itself, before all of them are.
        _ORIGIN[name] = "built in" if cls.__module__.startswith("sdbench.methods.") else _loading
        return cls

    return decorate


def _signature_problems(name: str, cls: type[Method]) -> list[str]:
    problems = []
    signature = _constructor(cls)
    hints = typing.get_type_hints(cls.__init__) if signature else {}
    for key, parameter in signature.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            problems.append(f"method {name!r}: hyper-parameter {key!r} must be keyword-only with a default")
        elif _base_type(hints.get(key)) is None:
            problems.append(f"method {name!r}: annotate {key!r} as bool, int, float, str or a Literal of strings")
    for key in [*cls.space, *(k for values in cls.recommended.values() for k in values), *cls.neutral]:
        if key not in signature:
            problems.append(f"method {name!r}: {key!r} is in space, recommended or neutral but not in __init__")
    return problems


def _base_type(hint: object) -> type | None:
    if hint in (bool, int, float, str):
        return typing.cast(type, hint)
    if typing.get_origin(hint) is typing.Literal and all(isinstance(v, str) for v in typing.get_args(hint)):
        return str
    return None


def _constructor(cls: type[Method]) -> dict[str, inspect.Parameter]:
    if cls.__init__ is Method.__init__:
        return {}
    found = dict(inspect.signature(cls.__init__).parameters)
    found.pop("self", None)
    return found


def parameters(cls: type[Method]) -> dict[str, Parameter]:
    """The hyper-parameters of a method, in the order of its constructor."""
    from sdbench.space import Choice

    hints = typing.get_type_hints(cls.__init__) if _constructor(cls) else {}
    found = {}
    for key, parameter in _constructor(cls).items():
        base = _base_type(hints[key])
        assert base is not None
        values = cls.space.get(key)
        if values is None and typing.get_origin(hints[key]) is typing.Literal:
            values = Choice(*typing.get_args(hints[key]))
        found[key] = Parameter(key, base, parameter.default, values)
    return found


def load_builtin() -> None:
    """Import every module of ``sdbench.methods`` and of the entry-point group, once."""
    global _builtin_loaded
    if _builtin_loaded:
        return
    _builtin_loaded = True
    package = import_module("sdbench.methods")
    for module in sorted(m.name for m in iter_modules(package.__path__)):
        _load(lambda m=module: import_module(f"sdbench.methods.{m}"), "built in")  # type: ignore[misc]
    for point in sorted(entry_points(group="sdbench.methods"), key=lambda p: p.name):
        dist = point.dist.name if point.dist else "unknown package"
        try:
            _load(point.load, f"entry point of {dist}")
        except UserError:
            raise
        except Exception as error:  # a broken package must be named, not raise a bare traceback
            raise UserError(
                f"the installed package {dist} offers the method module {point.value!r}, which does not "
                f"import: {type(error).__name__}: {error}. Mend or uninstall {dist}"
            ) from error


def _load(importer: Callable[[], object], origin: str) -> None:
    global _loading
    before, _loading = _loading, origin
    try:
        importer()
    finally:
        _loading = before


def load_plugin(path: str | Path) -> ModuleType:
    """Execute a plug-in file once, so that the methods that it registers are known.

    Raises UserError where the file is missing, does not import, or registers nothing.
    """
    load_builtin()
    file = path_of(path).resolve()
    if not file.is_file():
        raise UserError(f"plug-in {path}: no such file; give the path of a Python file")
    module_name = f"{PLUGIN}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"plug-in {path}: not a Python file; it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    before = set(_METHODS)
    sys.path.insert(0, str(file.parent))  # a plug-in may import its neighbours
    loader = spec.loader
    try:
        _load(lambda: loader.exec_module(module), f"plug-in {file.name}")
    except BaseException as error:
        del sys.modules[module_name]
        for name in set(_METHODS) - before:
            del _METHODS[name], _ORIGIN[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, UserError):
            raise UserError([f"plug-in {path}: {p}" for p in error.problems]) from error
        raise UserError(f"plug-in {path} does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    if set(_METHODS) == before:
        raise UserError(f'plug-in {path} registers no method; decorate its class with @register("name")')
    return module


def names() -> list[str]:
    """Names of all methods known, sorted."""
    load_builtin()
    return sorted(_METHODS)


def get(name: str) -> type[Method]:
    """The class registered under ``name``. Raises UserError with near matches if there is none."""
    load_builtin()
    if name not in _METHODS:
        raise UserError(unknown("method", name, _METHODS) + ". See `sdbench list methods`")
    return _METHODS[name]


def origin(name: str) -> str:
    """Where a method came from: built in, an entry point's package, or a plug-in's file name."""
    get(name)
    return _ORIGIN[name]


def caveat(name: str) -> str:
    """What must be said wherever a method, ``base+mixer`` allowed, is shown; mostly nothing."""
    return "; ".join(filter(None, (get(part).caveat for part in name.split("+"))))


def baseline_name() -> str:
    """The name of the one method marked as the baseline."""
    load_builtin()
    return next(n for n, cls in sorted(_METHODS.items()) if cls.baseline)


def core_names() -> list[str]:
    """The methods that a run without ``--methods`` takes, the baseline first."""
    load_builtin()
    return sorted((n for n, c in _METHODS.items() if c.core), key=lambda n: (not _METHODS[n].baseline, n))


def resolve(name: str, dataset: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """All hyper-parameters of a method for a data set: default < recommended < given."""
    cls = get(name)
    values = {key: p.default for key, p in parameters(cls).items()}
    values.update(cls.recommended.get(dataset, {}))
    values.update(given)
    for key, parameter in parameters(cls).items():
        if parameter.type is float and isinstance(values[key], int):
            values[key] = float(values[key])  # 1 and 1.0 are one value and one identity
    return values


def build(name: str, params: Mapping[str, Scalar]) -> Method:
    """A method from its name, ``base+mixer`` allowed, where ``params`` are all of its values.

    In a combination the mixer's hyper-parameters are prefixed with its name and a dot.
    """
    base_name, _, mixer_name = name.partition("+")
    own = {k: v for k, v in params.items() if "." not in k}
    base = get(base_name)(**own)
    if not mixer_name:
        return Combination(base, base) if mixes(base) else base
    prefix = mixer_name + "."
    mixer = get(mixer_name)(**{k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)})
    if not mixes(mixer):
        able = ", ".join(n for n in names() if mixes(get(n)))
        raise UserError(f"{name}: {mixer_name} does not hand mixed images to another method; these do: {able}")
    obstacle = mixing_obstacle(type(base), base)
    if obstacle:
        raise UserError(f"{name}: {base_name} cannot be trained on mixed images: {obstacle}")
    return Combination(base, mixer)

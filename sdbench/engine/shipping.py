"""What a node is given of this machine's code: the package as it is here, and plug-ins by their content.

Ids are made from source, so a node must run the source that the command was planned with. Knows nothing of Ray.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from sdbench import environment
from sdbench.paths import path_of
from sdbench.spec import Record

ELSEWHERE = {"sdbench.methods": "methods", "sdbench.evidence": "evidence"}
"""Subpackages that a checkout keeps beside the package, and their folders within it."""

SOURCES = (".py", ".toml", ".json")

PREFIXES = ("SDBENCH_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH_", "PYTORCH_", "CUBLAS_", "NCCL_")
"""Beginnings of the names of variables that a trial may look at."""

FOLDERS = ("SDBENCH_DATA", "SDBENCH_CACHE")


class Plugin(Record):
    """A plug-in and what it imports from beside it, each as (path from its folder, content); itself comes first."""

    files: tuple[tuple[str, bytes], ...]


def stage_package(folder: Path) -> Path:
    """A whole copy of the package as this process has it, in ``folder``; returns the copy, named ``sdbench``."""
    home = Path(__file__).resolve().parent.parent
    copy = folder / "sdbench"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for package, name in ELSEWHERE.items():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            (copy / name).mkdir(exist_ok=True)
            for file in Path(place).iterdir():
                if file.suffix in SOURCES and file.is_file():
                    shutil.copy(file, copy / name)
    commit, dirty = environment.source_commit()
    if commit:
        (copy / environment.COMMIT_FILE).write_text(f"{commit} {dirty}\n", encoding="utf-8")
    return copy


def pack(plugins: Sequence[str]) -> tuple[Plugin, ...]:
    """The plug-in files of these paths, with what they import from beside them."""
    from sdbench import identity  # brings torch, which a supervisor does without

    found = []
    for path in plugins:
        own = Path(path).resolve()
        found.append(Plugin(files=tuple((identity.name_of(f, own), text) for f, text in identity.files(own).items())))
    return tuple(found)


@contextmanager
def unpacked(plugins: Sequence[Plugin]) -> Iterator[tuple[str, ...]]:
    """The paths of the plug-ins in a folder of this process's own, which is gone afterwards."""
    if not plugins:
        yield ()
        return
    with tempfile.TemporaryDirectory(prefix="sdbench-plugins-") as scratch:
        paths = []
        for number, plugin in enumerate(plugins):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            for name, content in plugin.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            paths.append(str(folder / plugin.files[0][0]))
        yield tuple(paths)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the environment the nodes are given; paths are made absolute, as they work in other folders."""
    found = {name: value for name, value in environ.items() if name.startswith(PREFIXES)}
    return {**found, **absolute_folders(found)}


def absolute_folders(environ: Mapping[str, str]) -> dict[str, str]:
    """The folders that the environment names, as they are to be named to whoever works in another one."""
    return {name: str(path_of(environ[name]).absolute()) for name in FOLDERS if environ.get(name)}

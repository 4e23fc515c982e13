"""The user's cache folder: arrays in safetensors files, written atomically, verified on reading."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdbench.errors import UserError
from sdbench.paths import path_of

Array = NDArray[Any]


def cache_folder() -> Path:
    """Where data are kept between runs: SDBENCH_CACHE, else XDG_CACHE_HOME/sdbench, else
    ~/.cache/sdbench. It need not exist. UserError where none of the three is known."""
    if own := os.environ.get("SDBENCH_CACHE"):
        return path_of(own).absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return path_of(shared).absolute() / "sdbench"
    try:
        return Path.home() / ".cache" / "sdbench"
    except RuntimeError as error:
        raise UserError(
            "no cache folder: the user has no home folder; set SDBENCH_CACHE to a folder of your own"
        ) from error


def named_folder(data_dir: Path | None) -> Path | None:
    """The folder that the user said holds data: ``data_dir``, else the environment's SDBENCH_DATA,
    else None."""
    if data_dir is not None:
        return path_of(data_dir).absolute()
    named = os.environ.get("SDBENCH_DATA")
    return path_of(named).absolute() if named else None


def checksum(arrays: Mapping[str, Array]) -> str:
    """Thirty-two hexadecimal digits (BLAKE2b) of the arrays' names, types, shapes and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def store_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to ``path`` so that a reader finds all of them or the file as it was before.

    Raises OSError where the folder cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(whole, temporary, metadata={"checksum": checksum(arrays)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # how its writer reports a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def read_arrays(path: Path) -> dict[str, Array] | None:
    """The arrays that ``store_arrays`` wrote to ``path``; None where the file is missing, cannot be
    read, is truncated, or holds other bytes than were written."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would never answer
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            expected = (file.metadata() or {}).get("checksum")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError, AttributeError):  # the last two for types that NumPy lacks
        return None
    return arrays if checksum(arrays) == expected else None

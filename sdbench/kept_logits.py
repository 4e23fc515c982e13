"""The test-set logits that a trial keeps, read within bounds. NumPy only.

Records come from anybody, and a seal that fits says nothing of what is in a file: one reader looks at it for reports,
plots, analyses and ``rescore``, and whatever it cannot use is an UnusableLogits, which names one trial and hides none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbench.store import sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Integers = NDArray[np.integer]

MAX_BYTES = 2**30
"""Of a file of logits: in half precision, fifty thousand images of ten thousand classes."""

LOGIT_TYPES = ("F16", "F32", "F64", "BF16")
LABEL_TYPES = ("I32", "I64")


class UnusableLogits(Exception):
    """Logits that cannot be used; the text says why."""


def read_logits(path: Path, checksum: str = "") -> tuple[Floats, Integers]:
    """Logits [V, K] and labels [V] of a test set, V >= 1, K >= 2; bfloat16 comes as float32. Whether logits are finite
    and labels lie in [0, K) is not looked at. Other tensors of the file are not read.

    checksum: SHA-256 that the file must have; empty for any. Raises UnusableLogits where there are none.
    """
    found = _read(path, checksum, "logits", "labels")
    if found is None:
        raise UnusableLogits("its logits cannot be read: the file lacks logits and labels")
    return found


def read_held_out(path: Path, checksum: str = "") -> tuple[Floats, Integers] | None:
    """The same of the images that were held out, or None where none were. Raises UnusableLogits."""
    return _read(path, checksum, "validation_logits", "validation_labels")


def _read(path: Path, checksum: str, *names: str) -> tuple[Floats, Integers] | None:
    """Logits and labels under those names; None where the file has neither."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise UnusableLogits("its logits were not kept")
        if path.stat().st_size > MAX_BYTES:
            raise UnusableLogits(f"its logits are larger than {MAX_BYTES} bytes")
        if checksum and sha256(path) != checksum:
            raise UnusableLogits("its logits were changed after the trial: their checksum does not match")
        with safe_open(path, framework="numpy") as file:
            lacking = set(names) - set(file.keys())
            if len(lacking) == 2:
                return None
            if lacking:
                raise UnusableLogits(f"its logits cannot be read: the file lacks {lacking.pop()}")
            _judge(file, *names)
            logits, labels = (_tensor(path, file, name) for name in names)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UnusableLogits(f"its logits cannot be read: {type(error).__name__}") from error
    return logits, labels


def _judge(file: Any, logits: str, labels: str) -> None:
    """Look at types and shapes before any value is read. Raises UnusableLogits."""
    kinds = [file.get_slice(name).get_dtype() for name in (logits, labels)]
    shape, other = (list(file.get_slice(name).get_shape()) for name in (logits, labels))
    if kinds[0] not in LOGIT_TYPES or kinds[1] not in LABEL_TYPES:
        raise UnusableLogits(
            f"its logits cannot be read: need {logits} of {', '.join(LOGIT_TYPES)} and {labels} of "
            f"{' or '.join(LABEL_TYPES)}, got {kinds[0]} and {kinds[1]}"
        )
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2 or other != shape[:1]:
        raise UnusableLogits(f"its logits cannot be read: need {logits} [V, K] and {labels} [V], got {shape}, {other}")


def _tensor(path: Path, file: Any, name: str) -> Any:
    import numpy as np

    if file.get_slice(name).get_dtype() != "BF16":
        return file.get_tensor(name)
    shape = file.get_slice(name).get_shape()
    with path.open("rb") as raw:  # NumPy has no bfloat16: the upper halves of float32, placed where the header says
        length = int.from_bytes(raw.read(8), "little")
        start = 8 + length + json.loads(raw.read(length))[name]["data_offsets"][0]
    upper = np.fromfile(path, "<u2", shape[0] * shape[1], offset=start)
    return (upper.astype(np.uint32) << 16).view(np.float32).reshape(shape)

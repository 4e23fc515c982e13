"""``sdbench init``: a configuration file with every option of ``run``, commented, to be filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sdbench.errors import EnvironmentProblem, UserError
from sdbench.paths import path_of
from sdbench.request import Request
from sdbench.store import write_atomic

HEAD = """\
# sdbench run --config {name}
#
# Every key is an option of `sdbench run`: take the # away and give it a value. What is not given is as the protocol or
# the default has it; SDBENCH_* variables and flags go before this file. `sdbench run --config {name} --show-config`
# says what is in force and where it comes from, `sdbench plan --config {name}` what would run.
"""

EXAMPLES = {
    "methods": '["ce", "zipf", "pskd"]', "dataset": '["glyphs"]', "model": '["resnet8"]', "seeds": '["0-4"]',
    "num_seeds": "5", "protocol": '"demo"', "epochs": "2", "limit_steps": "20", "batch_size": "32", "lr": "0.25",
    "weight_decay": "0.0005", "precision": '"bf16"', "threads": "1", "image_size": "32", "data_dir": '"data"',
    "augment": '"basic"', "gpus_per_trial": "1", "state": '"auto"',
    "plugin": '["my_method.py"]', "results": '"results"', "engine": '"auto"', "device": '"auto"', "gpus": '"all"',
    "per_gpu": "1", "cpus": "2", "cpus_per_trial": "1", "jobs": "2", "address": '"auto"', "timeout": '"6h"',
    "budget": '"24h"', "max_failures": "1", "workers": "0", "compile": '"auto"', "eval_every": "1",
    "keep_logits": '"every:10"', "rerun": '"none"', "baseline": "true", "iso_cost": "false",
    "temperature_scaling": "false", "keep_checkpoints": "false", "weights": "true", "logits": "true",
}  # fmt: skip
"""A value that each key takes."""

INSTEAD = {"num_seeds": "seeds"}
"""Keys that are given instead of another one."""


def configuration_text(name: str, helps: Mapping[str, str]) -> str:
    """The file's text. helps: what each option says of itself, by its name."""
    lines = [HEAD.format(name=name)]
    for key in Request.model_fields:
        told = re.sub(r"\\(?=\[)", "", helps.get(key, ""))
        instead = f"; instead of {INSTEAD[key]}" if key in INSTEAD else ""
        lines.append(f"# {told}{instead}\n# {key.replace('_', '-')} = {EXAMPLES.get(key, chr(34) * 2)}\n")
    return "\n".join(lines)


def init(file: str | None, helps: Mapping[str, str]) -> Path:
    """Write the file. Raises UserError where it is there already, EnvironmentProblem where it cannot be written."""
    path = path_of(file or "sdbench.toml")
    if os.path.lexists(path):
        raise UserError(f"{path} exists, so it is kept; give another name, such as: sdbench init mine.toml")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.parent} is no folder; make it, or give another name")
    try:
        write_atomic(path, configuration_text(path.name, helps))
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror or error}); give another") from error
    return path

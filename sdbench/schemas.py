"""The published JSON Schema of the records: what a reader in any language may rely on.

``sdbench/schema/*.json`` are installed with sdbench and generated from the records (tools/write_schemas.py). They
hold for records of every earlier version too: what came later is not required.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdbench.cost.records import PROFILE_SCHEMA_VERSION, ProfileResult
from sdbench.errors import UserError, unknown
from sdbench.spec import SCHEMA_VERSION, Record, TrialResult
from sdbench.study_records import STUDY_SCHEMA_VERSION, StudyResult

FOLDER = Path(__file__).parent / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

KINDS: dict[str, tuple[type[Record], int]] = {
    "trial": (TrialResult, SCHEMA_VERSION),
    "profile": (ProfileResult, PROFILE_SCHEMA_VERSION),
    "study": (StudyResult, STUDY_SCHEMA_VERSION),
}


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of trial.json, profile.json or study.json. Raises UserError for another kind."""
    if kind not in KINDS:
        raise UserError(unknown("kind of record", kind, KINDS))
    record, newest = KINDS[kind]
    made = record.model_json_schema(mode="validation")
    made["properties"]["schema_version"] |= {"minimum": 1, "maximum": newest}
    return {"$schema": DIALECT, "$id": f"urn:sdbench:schema:{kind}:{newest}", **made}


def text(kind: str) -> str:
    """The schema as it is published."""
    return json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write all schemas; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in KINDS:
        path = folder / f"{kind}.schema.json"
        path.write_text(text(kind), encoding="utf-8")
        paths.append(path)
    return paths

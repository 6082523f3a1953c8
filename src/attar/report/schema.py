"""The JSON Schema of `run.json`, generated from the records in `attar.facts`."""

from __future__ import annotations

from typing import Any

from attar.facts import SCHEMA_VERSION, RunFacts


def run_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) that every `run.json` of this version fulfils."""
    schema = RunFacts.model_json_schema(mode="serialization")
    schema["properties"]["schema_version"] |= {"const": SCHEMA_VERSION}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "attar run.json"}

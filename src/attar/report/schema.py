"""The JSON Schemas of `run.json` and `bench.json`, generated from the records in `attar.facts`."""

from __future__ import annotations

from typing import Any

from attar.facts import BENCH_VERSION, SCHEMA_VERSION, BenchFacts, Facts, RunFacts

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) that every `run.json` of this version fulfils."""
    return _schema(RunFacts, SCHEMA_VERSION, "attar run.json")


def bench_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) that every `bench.json` of this version fulfils."""
    return _schema(BenchFacts, BENCH_VERSION, "attar bench.json")


def _schema(record: type[Facts], version: int, title: str) -> dict[str, Any]:
    schema = record.model_json_schema(mode="serialization")
    schema["properties"]["schema_version"] |= {"const": version}
    return {"$schema": _DRAFT, **schema, "title": title}

"""Exports for devices in a recipe: what a runtime does not take is said before any work, and what to use instead."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from plan.samples import plan_of, problems_of


def installed(monkeypatch: pytest.MonkeyPatch, but: Collection[str] = ()) -> None:
    """Every package is there, `but` these."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in but else real(name, *rest) or object()
    )


@pytest.mark.parametrize(
    ("export", "told"),
    [
        ({"kind": "executorch", "precision": "int8"}, 'precision: "int8" of executorch is for convolutional nets'),
        ({"kind": "litert", "length": 4000}, "length: 4000 tokens, but texts are cut at task.max_length: 64"),
        ({"kind": "executorch", "length": 4000}, "length: 4000 tokens, but texts are cut at task.max_length: 64"),
        ({"kind": "coreml"}, 'kind: "coreml" is for images'),
    ],
)
def test_what_a_runtime_does_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: dict[str, Any], told: str
) -> None:
    installed(monkeypatch)
    (found,) = problems_of(tmp_path, export=[export])
    assert found.startswith(f"export[0].{told}")


@pytest.mark.parametrize("kind", ["openvino", "litert", "executorch", "coreml"])
def test_language_models_have_other_files(tmp_path: Path, kind: str) -> None:
    found = [one for one in problems_of(tmp_path, task={"kind": "causal_lm"}, export=[{"kind": kind}]) if kind in one]
    assert f'"{kind}" is for classifiers, not for task.kind: causal_lm. Use onnx or gguf.' in found[0]


def test_absent_packages_are_told_by_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, but={"nncf", "ai_edge_quantizer", "litert_torch", "executorch"})
    exports = [{"kind": "openvino", "precision": "int8"}, {"kind": "litert"}, {"kind": "executorch"}]
    found = problems_of(tmp_path, export=exports)
    assert [line.split('"')[1] for line in found] == ["nncf", "litert_torch", "executorch"]
    for line, extra in zip(found, ("openvino", "litert", "executorch"), strict=True):
        assert f'pip install "attar[{extra}]"' in line
    assert plan_of(tmp_path, export=[{"kind": "openvino"}])

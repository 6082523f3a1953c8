"""A quantization-aware training must train for a file that comes, with weights that it can round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.errors import RecipeError
from plan.samples import plan_of, problems_of

AWARE = {"quantization": {"precision": "int8"}}
INT8 = [{"kind": "onnx", "precision": "int8"}]


def test_a_plan_shows_what_it_trains_for(tmp_path: Path) -> None:
    exports = [*INT8, {"kind": "onnx", "precision": "fp32"}, {"kind": "web", "precision": "int8"}]
    plan = plan_of(tmp_path, training=AWARE, export=exports)
    assert plan.rounding == "int8 from the first step, for onnx-int8, web-int8"
    assert f"rounding  {plan.rounding} (quantization-aware)" in plan.lines()
    assert plan.warnings == plan_of(tmp_path, export=exports).warnings
    late = plan_of(tmp_path, training={"quantization": {"precision": "int8", "start": 0.4}}, export=INT8)
    assert late.rounding.startswith("int8 after 40% of the steps")
    assert not any(line.startswith("rounding") for line in plan_of(tmp_path, export=INT8).lines())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training": AWARE, "export": []}, "Add {kind: onnx, precision: int8} to export, or remove"),
        ({"training": {"quantization": {"precision": "int4"}}, "export": INT8}, '"int4" is for language models'),
        ({"training": {"quantization": {"precision": "q8_0"}}, "export": INT8}, '"q8_0" is for language models'),
        ({"training": {**AWARE, "parallel": "fsdp"}, "export": INT8}, "training.parallel: fsdp no process holds"),
        ({"training": {**AWARE, "activation_checkpointing": True}, "export": INT8}, "layers run again after the"),
        ({"training": {**AWARE, "extra": {"torch_compile": True}}, "export": INT8}, "Remove training.extra.torch_com"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_do(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    found = [line for line in problems_of(tmp_path, **changes) if "training.quantization" in line]
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize("value", [{"precision": "int2"}, {"precision": "int8", "start": 1.0}, {}])
def test_values_out_of_range_are_refused(tmp_path: Path, value: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"training\.quantization"):
        plan_of(tmp_path, training={"quantization": value})

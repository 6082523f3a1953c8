"""`training.quantization`: train for the rounding that an exported file will do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.recipe.base import Spec


class QuantizationSpec(Spec):
    """Quantization-aware training: the student learns with the numbers of its exported file."""

    precision: Literal["int8", "int4", "q8_0", "q4_0"] = Field(
        description="Of the export that it is for, which must be in the recipe: int8 (onnx, web), int4 (onnx, language "
        "models), q8_0 and q4_0 (gguf)."
    )
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Share of the training after which numbers are rounded."
    )

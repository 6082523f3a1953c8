"""What teachers and students share: where a model comes from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

Source = Annotated[
    str,
    Field(
        min_length=1,
        description="A Hub name, a local folder, `package:NAME/PATH` for a model inside an installed pip package, "
        "`timm:NAME` for a timm model, or (of a language model's teacher) a .gguf file.",
    ),
]
Revision = Annotated[str | None, Field(description="Hub revision (branch, tag or commit).")]
RemoteCode = Annotated[
    bool, Field(description="Run Python code that comes with the model. Off unless you have read that code.")
]
ModelConfig = Annotated[
    dict[str, JsonValue],
    Field(description="A Transformers configuration: `model_type` and the fields of its config class."),
]

"""`rollouts`: answers that are written while the student is trained, and take the place of the data's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from attar.recipe.base import Fraction, Positive, Rate, Spec


class RolloutsSpec(Spec):
    """On-policy distillation (GKD, arXiv:2306.13649): in some steps the prompts' answers are written anew.

    A whole step learns either from the data's answers or from written ones: which, is drawn step by step.
    """

    fraction: Fraction = Field(description="Share of the steps whose answers are written; 0: none, 1: all.")
    source: Literal["student", "vllm"] = Field(
        default="student",
        description="Who writes. `student`: the student as it is in that step. `vllm`: the teacher, served by vLLM at "
        "`url` (sequence-level distillation).",
    )
    temperature: Rate = Field(default=1.0, description="Of the writer's logits, as tokens are drawn.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="Tokens are drawn from the likeliest that make up this probability; 1: from all."
    )
    max_new_tokens: Positive = Field(default=128, description="Longest answer in tokens; `task.max_length` holds too.")
    cold_start: Fraction = Field(
        default=0.1, description="Share of all steps, the first ones, that learn from the data's answers alone."
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        examples=["http://localhost:8000"],
        description="`vllm`: where the server answers, without /v1.",
    )
    model: str | None = Field(default=None, description="`vllm`: the name under which the server has the teacher.")

    @model_validator(mode="after")
    def _one_writer(self) -> RolloutsSpec:
        served = (self.url is not None, self.model is not None)
        if self.source == "vllm" and not all(served):
            raise ValueError("`source: vllm` needs `url` and `model`: the server, and the name it has for the teacher")
        if self.source == "student" and any(served):
            raise ValueError("`url` and `model` are for `source: vllm`; the student writes here, by itself")
        return self

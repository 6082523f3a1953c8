"""`task`: what the student is to do, which columns hold it, and which metric counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from attar.recipe.base import Finite, Positive, Rate, Spec

ClassificationMetric = Literal["auto", "accuracy", "macro_f1", "micro_f1", "pearson", "spearman"]


class TextClassificationSpec(Spec):
    """Text classification: single texts or pairs; one label, several labels, or a number."""

    kind: Literal["text_classification"]
    text: str = Field(default="text", description="Column with the text, or with the first text of a pair.")
    text_pair: str | None = Field(
        default=None, description="Column with the second text of a pair; absent: single texts."
    )
    label: str = Field(
        default="label", description="Column with the label; a list of labels per row for `multi_label`."
    )
    problem: Literal["single_label", "multi_label", "regression"] = Field(
        default="single_label", description="One label of several, any number of labels, or a number."
    )
    labels: tuple[str, ...] | None = Field(
        default=None, description="Names of the labels in the order of their ids; absent: from the data."
    )
    metric: ClassificationMetric = Field(
        default="auto", description="`auto`: accuracy, micro_f1 or spearman, by `problem`; higher is better for all."
    )
    max_length: Positive = Field(default=128, description="Longest input in tokens; longer rows are cut and counted.")
    slice_by: str | None = Field(default=None, description="Column by whose values quality is also reported.")


class ImageClassificationSpec(Spec):
    """Image classification, one label per image."""

    kind: Literal["image_classification"]
    image: str = Field(default="image", description="Column with the image.")
    label: str = Field(default="label", description="Column with the label.")
    labels: tuple[str, ...] | None = Field(
        default=None, description="Names of the labels in the order of their ids; absent: from the data."
    )
    metric: Literal["auto", "accuracy", "macro_f1"] = Field(default="auto", description="`auto`: accuracy.")
    image_size: Positive = Field(default=224, description="Images are resized to this many pixels a side.")
    mean: tuple[Finite, Finite, Finite] = Field(
        default=(0.5, 0.5, 0.5), description="Channel means after scaling to 0..1."
    )
    std: tuple[Rate, Rate, Rate] = Field(default=(0.5, 0.5, 0.5), description="Channel standard deviations.")
    slice_by: str | None = Field(default=None, description="Column by whose values quality is also reported.")


class CausalLMSpec(Spec):
    """A language model: each token is told from those before it. Plain texts, prompts with answers, or chats."""

    kind: Literal["causal_lm"]
    text: str = Field(default="text", description="Column with the text; with `prompt`, the column with the answer.")
    prompt: str | None = Field(default=None, description="Column with what the answer follows; absent: plain texts.")
    messages: str | None = Field(
        default=None,
        description="Column with chats, each a list of {role, content}; takes the place of `text` and `prompt`.",
    )
    template: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="`auto`: prompts and chats are written by the tokenizer's chat template where it has one; "
        "`always`: one that has none is refused; `never`: prompt and answer stand one after another.",
    )
    learn: Literal["answers", "all"] = Field(
        default="answers",
        description="Which tokens count: those of answers (in chats, of the assistant), or all. Of plain texts all do.",
    )
    metric: Literal["auto", "perplexity"] = Field(
        default="auto", description="`auto`: perplexity of the tokens that count; lower is better."
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        default=512,
        description="Longest sequence in tokens. Longer plain texts become several; longer prompts with answers, and "
        "chats, are cut and counted.",
    )
    slice_by: str | None = Field(default=None, description="Column by whose values quality is also reported.")

    @model_validator(mode="after")
    def _one_form(self) -> CausalLMSpec:
        if self.messages is not None and (self.prompt is not None or "text" in self.model_fields_set):
            raise ValueError("give either `messages`, or `text` with or without `prompt`")
        return self

    @property
    def columns(self) -> dict[str, str]:
        """The columns that it reads, by the field that names each."""
        if self.messages is not None:
            return {"messages": self.messages}
        return {"text": self.text} if self.prompt is None else {"prompt": self.prompt, "text": self.text}


ClassificationSpec = TextClassificationSpec | ImageClassificationSpec
"""Tasks whose rows have labels."""
TaskSpec = Annotated[ClassificationSpec | CausalLMSpec, Field(discriminator="kind")]

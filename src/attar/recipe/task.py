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


class SpansSpec(Spec):
    """A value of a JSON answer that is an object itself: the named pieces of a text."""

    spans: str = Field(
        description="Column with a text in pieces, each a pair [piece, name], or that list as JSON. Pieces with a name "
        "become members of the object; null names nothing."
    )


class GenerationSpec(Spec):
    """How answers are written where `metric: exact_match` compares them: the likeliest token each time."""

    max_tokens: Positive = Field(
        default=128, description="An answer that has not ended after so many tokens is cut there, and counted."
    )
    watched_rows: Positive = Field(
        default=64, description="Rows of validation, evenly spaced, that are answered at each validation in training."
    )


class CausalLMSpec(Spec):
    """A language model: each token is told from those before it. Plain texts, prompts with answers, or chats."""

    kind: Literal["causal_lm"]
    text: str = Field(default="text", description="Column with the text; with `prompt`, the column with the answer.")
    prompt: str | None = Field(default=None, description="Column with what the answer follows; absent: plain texts.")
    json_fields: Annotated[dict[str, str | SpansSpec], Field(min_length=1)] | None = Field(
        default=None,
        description="Takes the place of `text`: the answer is a JSON object with these members, in this order, each "
        "with the column that holds its value, or with `{spans: COLUMN}`.",
    )
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
    metric: Literal["auto", "perplexity", "exact_match"] = Field(
        default="auto",
        description="`auto`: perplexity of the tokens that count; lower is better. `exact_match`: the share of "
        "held-out prompts that are answered as the data does; objects and lists are compared as JSON.",
    )
    generation: GenerationSpec = Field(
        default=GenerationSpec(), description="How answers are written (`metric: exact_match`)."
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        default=512,
        description="Longest sequence in tokens. Longer plain texts become several; longer prompts with answers, and "
        "chats, are cut and counted.",
    )
    slice_by: str | None = Field(default=None, description="Column by whose values quality is also reported.")

    @model_validator(mode="after")
    def _one_form(self) -> CausalLMSpec:
        has_text = self.text != "text"  # its default stands in every recipe that a run has written out
        if self.messages is not None and (self.prompt is not None or self.json_fields is not None or has_text):
            raise ValueError("give either `messages`, or `text` with or without `prompt`")
        if self.json_fields is not None and (self.prompt is None or has_text):
            raise ValueError("`json_fields` takes the place of `text`, as what answers a `prompt`: give these two")
        if self.metric == "exact_match" and self.prompt is None:
            raise ValueError("`metric: exact_match` compares answers, and there are none without `prompt`")
        if self.metric != "exact_match" and self.generation != GenerationSpec():
            raise ValueError("`generation` is for `metric: exact_match`; nothing is written for perplexity")
        return self

    @property
    def columns(self) -> dict[str, str]:
        """The columns that it reads, by the field that names each."""
        if self.messages is not None:
            return {"messages": self.messages}
        if self.prompt is not None and self.json_fields is not None:
            return {"prompt": self.prompt, **{f"json_fields.{name}": of for name, of in self.json_columns.items()}}
        return {"text": self.text} if self.prompt is None else {"prompt": self.prompt, "text": self.text}

    @property
    def json_columns(self) -> dict[str, str]:
        """The columns of `json_fields`, by the name of the member that each fills."""
        fields = self.json_fields or {}
        return {name: of if isinstance(of, str) else of.spans for name, of in fields.items()}


ClassificationSpec = TextClassificationSpec | ImageClassificationSpec
"""Tasks whose rows have labels."""
TaskSpec = Annotated[ClassificationSpec | CausalLMSpec, Field(discriminator="kind")]

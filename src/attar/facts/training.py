"""How students were trained: starts, curves, layers, rollouts, seeds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from attar.facts.base import Facts


class StepFacts(Facts):
    """How an exported decoder answers token by token, through its cache, against the checkpoint asked at once."""

    max_abs: float
    agreement: float
    kl: float
    n: int = Field(description="Tokens.")


class ContinuedFacts(Facts):
    """What an exported language model writes after prompts, its likeliest token each time, against the checkpoint."""

    prompts: int
    tokens: int
    same: float = Field(description="Share of the tokens that are the checkpoint's, place by place.")
    unchanged: int = Field(description="Prompts after which both write the same to the end.")
    first_difference: int | None = Field(description="Earliest place, from 0, where they differ; None: nowhere.")


class StartFacts(Facts):
    """A model and its terms: what a pretrained student starts from, or one of several teachers."""

    name: str
    licence: str | None
    rule: str = Field(description="Row of the policy table, or `unknown`.")
    verdict: Literal["allow", "conditional", "ask", "block"]
    reason: str
    source: str = Field(description="Where the rule stands.")
    date: str = Field(description="When the rule was read.")


class BalanceFacts(Facts):
    """One objective, balanced before the first step."""

    norm: float = Field(description="Of its gradient with respect to the student's parameters, at weight 1.")
    factor: float = Field(description="Its weight was multiplied by this.")


class LayerMapFacts(Facts):
    """The layers that one objective compares, and how they were matched."""

    how: Literal["given", "last", "uniform", "cka"]
    pairs: list[tuple[int, int]] = Field(
        description="(student, teacher): hidden states from 0, the embeddings' output; attention layers from 1."
    )
    similarities: list[float] = Field(default=[], description="`cka`: linear CKA of each pair, before training.")
    rows: int | None = Field(default=None, description="`cka`: training rows on which layers were compared.")


class RolloutFacts(Facts):
    """Answers that were written while the student was trained."""

    texts: int
    length: float = Field(description="Mean tokens, the end among them.")
    at_limit: float = Field(description="Share of texts that were cut at the longest length allowed.")
    share_of_time: float = Field(description="Of the training steps' wall time, spent on writing.")


class QuantizationFacts(Facts):
    """A training with the rounding of an exported file: what is saved holds the file's numbers."""

    precision: Literal["int8", "int4", "q8_0", "q4_0"]
    start: float = Field(description="Share of the training after which numbers were rounded.")
    numbers: int = Field(description="Parameters that were rounded, tied ones once.")
    activations: Literal["row", "batch"] | None = Field(
        description="Inputs of products were rounded to uint8 too, with a range a row or a batch; null: weights alone."
    )


class TrainingFacts(Facts):
    """One training, student or control."""

    steps: int
    epochs: float
    rows_per_second: float = Field(description="Rows, or learned tokens, a second: see `counted`.")
    counted: Literal["rows", "tokens"] = "rows"
    packed: bool = Field(default=False, description="Whether a language model read its batches without their padding.")
    seconds: float
    curve: list[dict[str, float]] = Field(description="Logged points: step, loss, each term, validation metric.")
    best_step: int
    initial: dict[str, JsonValue] = Field(default={}, description="What was copied into the student at its birth.")
    layers: dict[str, LayerMapFacts] = Field(default={}, description="By term that compares layers.")
    balance: dict[str, BalanceFacts] = Field(
        default={}, description="By objective, where training.balance is on: what the probe found."
    )
    rollouts: RolloutFacts | None = Field(default=None, description="Where answers were written in the training.")
    quantization: QuantizationFacts | None = Field(
        default=None, description="Where the training was quantization-aware."
    )
    processes: int = Field(default=1, description="That trained together.")
    parallel: Literal["ddp", "fsdp"] | None = Field(
        default=None, description="How several processes shared the training; null: there was one."
    )


class SeedFacts(Facts):
    """One seed of several."""

    seed: int
    path: str
    student: float | None
    control: float | None
    retention: float | None
    agreement: float | None
    validation: float | None
    artifacts: dict[str, float] = Field(default={}, description="Quality of each exported file, by kind and precision.")

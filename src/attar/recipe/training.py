"""`training`: how the student (and its control) is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from attar.recipe.base import Fraction, NonNegative, Positive, Rate, Spec
from attar.recipe.quantization import QuantizationSpec


class TrainingSpec(Spec):
    """Plain names where Transformers has long ones; the rest of TrainingArguments goes under `extra`."""

    epochs: Rate = Field(default=10.0, description="Passes over train and transfer rows.")
    max_steps: Positive | None = Field(default=None, description="Stop after this many steps; overrides `epochs`.")
    batch_size: Positive = Field(default=32, description="Rows a step and device.")
    accumulate: Positive = Field(default=1, description="Batches a step (gradient accumulation).")
    learning_rate: Rate = Field(default=1e-3, description="Peak learning rate (AdamW).")
    weight_decay: NonNegative = Field(default=0.01, description="AdamW weight decay.")
    warmup: Fraction = Field(default=0.05, description="Share of steps with rising learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="Learning rate after warm-up."
    )
    clip: NonNegative = Field(default=1.0, description="Largest gradient norm; 0 does not clip.")
    packing: Literal["auto", "packed", "padded"] = Field(
        default="auto",
        description="Language models: `packed` reads the sequences of a batch end to end, each attending to itself "
        "alone, and does no work on padding; `auto`: where the models can; `padded`: never. The loss is the same.",
    )
    mixup: NonNegative = Field(
        default=0.0, description="Beta parameter of mixup (images); the teacher sees the mixed input."
    )
    token_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="Share of the student's input tokens hidden from it in each step (a regulariser, like dropout).",
    )
    subword_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0,
        description="Share of the student's tokens spelled in shorter pieces in each step, as words outside a reduced "
        "vocabulary will be.",
    )
    balance: Literal["off", "gradient_norm"] = Field(
        default="off",
        description="gradient_norm: measure each objective's gradient before the first step, and scale the weights so "
        "that they divide its size between the objectives.",
    )
    keep: Literal["best", "last"] = Field(default="last", description="Weights kept: best on validation, or the last.")
    evaluations: Positive = Field(default=10, description="Validation passes, evenly spaced over training.")
    checkpoints: Annotated[int, Field(ge=0)] = Field(
        default=5, description="Resumable checkpoints over training; 0: at the end."
    )
    control: bool = Field(default=True, description="Also train the same student on the labels alone.")
    control_random: bool = Field(default=False, description="A second control from random initialisation.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda|cuda:\d+|mps)$",
        examples=["auto", "cpu", "cuda", "cuda:0", "mps"],
        description="auto, cpu, cuda, cuda:N, mps.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Arithmetic of the forward pass; bf16 is float32 on a CPU that has no instructions for it.",
    )
    quantization: QuantizationSpec | None = Field(
        default=None,
        description="Quantization-aware: student and control learn with the rounding of an exported file; absent: "
        "exports round what was trained without it.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="How several processes, as torchrun starts them, share the training: each holds all weights (ddp), "
        "or weights, gradients and optimizer state are sharded between them (fsdp: FSDP2). One process needs neither.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Keep only the input of each of the student's layers, and run the layer again in the backward "
        "pass: less memory, about a third more arithmetic.",
    )
    threads: Positive | None = Field(default=None, description="CPU threads; absent: all.")
    tensorboard: bool = Field(default=False, description="Also write TensorBoard events.")
    seed: int = Field(default=0, ge=0, description="Seed of initialisation, order and dropout.")
    extra: dict[str, JsonValue] = Field(default={}, description="Further fields of transformers.TrainingArguments.")

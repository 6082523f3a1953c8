"""`student`: the small model, and what it takes over from the teacher before training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from attar.recipe.base import Fraction, Positive, Rate, Spec
from attar.recipe.model import ModelConfig, RemoteCode, Revision, Source

LayerImportance = Literal["uniform", "block_influence", "kl", "greedy_kl"]


class VocabularySpec(Spec):
    """Which tokens of the teacher's vocabulary the student keeps (text)."""

    keep: Literal["all", "used"] = Field(
        default="used",
        description="`used`: tokens seen in the training and transfer texts, the special tokens, and a fallback by the "
        "tokenizer's own rules (single characters or bytes), so that any text still has a spelling.",
    )
    min_count: Positive = Field(default=1, description="Keep tokens seen at least this often.")


class LoraSpec(Spec):
    """Small matrices that are learned beside frozen weights (LoRA, arXiv:2106.09685), and added to them at the end."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(default=16, description="Inner width of the matrices.")
    alpha: Rate = Field(default=32.0, description="Their product is multiplied by alpha / rank.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.0, description="Dropout of what they read.")
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Linear layers that get them, by the end of their names (q_proj, v_proj); absent: all but the "
        "head.",
    )


Lora = Annotated[
    LoraSpec | None,
    Field(description="Learn small matrices beside frozen weights (causal language models); absent: all weights."),
]


class FromConfigSpec(Spec):
    """A student built from a Transformers configuration, randomly initialised."""

    kind: Literal["from_config"]
    config: ModelConfig
    vocabulary: VocabularySpec = Field(default=VocabularySpec(), description="Tokens kept (text).")
    trust_remote_code: RemoteCode = False


class FromTeacherSpec(Spec):
    """A student cut from the teacher: fewer layers, narrower, fewer tokens."""

    kind: Literal["from_teacher"]
    layers: Positive | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        description="How many layers (which ones, `layer_importance` says), or which ones (0 is the first)."
    )
    layer_importance: LayerImportance | None = Field(
        default=None,
        description="Which layers stay, where `layers` is a number. `uniform`: evenly spaced, of a causal language "
        "model the first two and the last among them. The others are for causal language models, measured on training "
        "rows: `block_influence`: those that turn their input furthest (ShortGPT); `kl`: those whose removal, one at a "
        "time, moves the answers furthest; `greedy_kl`: the same, measured again after each removal (many passes). "
        "Absent: `block_influence` of a causal language model where there are rows to measure it on, else `uniform`.",
    )
    hidden_size: Positive | None = Field(
        default=None,
        description="Width; absent: the teacher's. Embeddings are projected by PCA; of a causal language model the "
        "channels that are largest in use stay.",
    )
    heads: Positive | None = Field(
        default=None,
        description="Attention heads; absent: as many as keep the teacher's head size, or its ratio to the width.",
    )
    key_value_heads: Positive | None = Field(
        default=None,
        description="Key and value heads of a causal language model, each with its group of query heads; absent: as "
        "many as keep the teacher's groups whole.",
    )
    intermediate_size: Positive | None = Field(
        default=None, description="Feed-forward width; absent: the teacher's ratio."
    )
    max_positions: Positive | None = Field(default=None, description="Position embeddings kept; absent: all.")
    init: Literal["teacher", "embeddings", "random"] = Field(
        default="teacher",
        description="`teacher`: embeddings and layers (where the width is cut, projected, or refitted in a causal "
        "language model); `embeddings`: embeddings only; `random`: nothing.",
    )
    dropout: Fraction | None = Field(default=None, description="Dropout of the student; absent: the teacher's.")
    lora: Lora = None
    vocabulary: VocabularySpec = Field(default=VocabularySpec(), description="Tokens kept (text).")


class PretrainedSpec(Spec):
    """A small pretrained model that becomes the student."""

    kind: Literal["pretrained"]
    model: Source
    revision: Revision = None
    trust_remote_code: RemoteCode = False
    licence: str | None = Field(
        default=None, description="Licence of this model (SPDX id), where its card or package does not say it."
    )
    lora: Lora = None
    vocabulary: VocabularySpec = Field(default=VocabularySpec(keep="all"), description="Tokens kept (text).")


StudentSpec = Annotated[FromConfigSpec | FromTeacherSpec | PretrainedSpec, Field(discriminator="kind")]

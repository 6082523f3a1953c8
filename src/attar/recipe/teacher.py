"""`teacher`: who is asked for signals."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attar.recipe.base import Fraction, Name, NonNegative, Positive, Rate, Spec
from attar.recipe.model import ModelConfig, RemoteCode, Revision, Source
from attar.recipe.targets import TargetsSpec


class FittingSpec(Spec):
    """How `fit: probe` or `fit: full` trains the teacher on the user's training split."""

    epochs: Positive = Field(default=5, description="Passes over the training split (`full`).")
    batch_size: Positive = Field(default=32, description="Rows a step (`full`).")
    learning_rate: Rate = Field(default=5e-5, description="Peak learning rate of the body (`full`).")
    head_learning_rate: Rate | None = Field(
        default=None, description="Peak learning rate of the head; absent: the body's."
    )
    weight_decay: NonNegative = Field(default=0.01, description="AdamW weight decay (`full`).")
    warmup: Fraction = Field(default=0.1, description="Share of steps with rising learning rate (`full`).")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="Learning rate after warm-up."
    )
    label_smoothing: Fraction = Field(default=0.0, description="Share of the target spread over all labels (`full`).")
    probe_first: bool = Field(
        default=True, description="`full` starts from the probe's head, where there is one label."
    )
    min_count: Positive = Field(
        default=1,
        description="Of a language model (`full`): rows with tokens seen less often than this are read a second time "
        "with these in pieces, as a student with this `vocabulary.min_count` will spell them; 1: once.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the fitting.")


class ModelSpec(Spec):
    """A model that is asked, and how it is made ready for the task."""

    model: Source | None = Field(default=None, description="The model; absent when `config` builds one.")
    config: ModelConfig | None = Field(default=None, description="Build an untrained teacher (`fit: full` trains it).")
    revision: Revision = None
    trust_remote_code: RemoteCode = False
    fit: Literal["none", "probe", "full"] = Field(
        default="none",
        description="`none`: the model has a head for this task. `probe`: frozen features and calibrated logistic "
        "regression. `full`: the whole model is trained on the training split.",
    )
    fitting: FittingSpec = Field(default=FittingSpec(), description="How `fit` trains.")
    pooling: Literal["auto", "mean", "first", "model"] = Field(
        default="auto",
        description="How an encoder's tokens become one vector for `fit`: `mean`, the `first` token, or the `model`'s "
        "own head; `auto`: what the model's folder says (sentence-transformers), else `mean`.",
    )
    label_map: dict[str, str] | None = Field(
        default=None, description="Teacher's label name -> the data's label name, where they differ."
    )
    licence: str | None = Field(
        default=None, description="SPDX id of the teacher's licence, if the table does not know it."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.config is None):
            raise ValueError("give either `model` or `config`")
        if self.config is not None and self.fit != "full":
            raise ValueError("a teacher built from `config` knows nothing: it needs `fit: full`")
        return self


class AskedSpec(Spec):
    """How teachers on this machine are asked."""

    signals: Literal["auto", "live", "store"] = Field(
        default="auto",
        description="`store`: label once, train from disk. `live`: ask in every step. `auto`: `store`, but `live` "
        "where training makes new views (mixup) or compares states of every token (`hidden` with `pool: none`), which "
        "are not stored, and for language models.",
    )
    targets: TargetsSpec | None = Field(
        default=None,
        description="What `signals: store` keeps of a language model's answer to each token; absent: `kind: sampled`.",
    )
    batch_tokens: Positive = Field(
        default=8192,
        description="Tokens (text) or thousands of pixels (images) a labelling batch; on a CPU 1,024 at most.",
    )


class LocalTeacherSpec(ModelSpec, AskedSpec):
    """A Transformers or timm model on this machine."""

    kind: Literal["local"]


class MemberSpec(ModelSpec):
    """One of several teachers."""

    weight: Rate = Field(
        default=1.0, description="Its share in the mixture, relative to the others'; not where rows are routed."
    )


class RouteSpec(Spec):
    """Which teacher is asked about a row, by what stands in a column."""

    by: str = Field(min_length=1, description="The column.")
    to: Annotated[dict[str, str], Field(min_length=1)] = Field(description="The column's value -> the teacher's name.")
    otherwise: str | None = Field(
        default=None, description="Name of the teacher for all other values; absent: another value is an error."
    )


class EnsembleSpec(AskedSpec):
    """Several models that teach as one: mixed row by row, or each asked about rows of its own."""

    kind: Literal["ensemble"]
    members: Annotated[dict[Name, MemberSpec], Field(min_length=2)] = Field(
        description="The teachers by name. A student that is cut from the teacher is cut from the first."
    )
    combine: Literal["probabilities", "logits"] = Field(
        default="probabilities",
        description="What is averaged by the members' weights: `probabilities`, at temperature 1 (the objectives' "
        "temperature is applied to the log of the mixture), or `logits`, which makes the normalised geometric mean.",
    )
    route: RouteSpec | None = Field(default=None, description="Each row to one teacher; absent: all are mixed.")

    @model_validator(mode="after")
    def _all_are_asked(self) -> Self:
        if self.route is None:
            return self
        named = [*self.route.to.values(), *([] if self.route.otherwise is None else [self.route.otherwise])]
        if strangers := [name for name in named if name not in self.members]:
            raise ValueError(
                f'`route` leads to "{strangers[0]}", which is none of the members: {", ".join(self.members)}'
            )
        if unasked := [name for name in self.members if name not in named]:
            raise ValueError(f'`route` leads no row to "{unasked[0]}": remove it, or add a value to `route.to`')
        if "combine" in self.model_fields_set or any("weight" in one.model_fields_set for one in self.members.values()):
            raise ValueError("`combine` and `weight` are of mixtures, and with `route` each row has one teacher")
        return self

    def alone(self, name: str) -> LocalTeacherSpec:
        """A member as it would be asked without the others."""
        fields = {key: getattr(self.members[name], key) for key in ModelSpec.model_fields}
        return LocalTeacherSpec(kind="local", signals=self.signals, batch_tokens=self.batch_tokens, **fields)

    @property
    def weights(self) -> tuple[float, ...]:
        """The members' shares, which sum to 1."""
        total = sum(member.weight for member in self.members.values())
        return tuple(member.weight / total for member in self.members.values())


class StoredTeacherSpec(Spec):
    """Signals that `attar label` has written, on this machine or another."""

    kind: Literal["stored"]
    path: str = Field(description="The store's folder.")
    spot_check: int = Field(default=8, ge=0, description="Rows scored again on load when `rescore_with` is given.")
    rescore_with: Source | None = Field(
        default=None,
        description="The teacher's folder, to score some rows again; absent: the one named in the store, if there.",
    )
    licence: str | None = Field(
        default=None, description="SPDX id of the teacher's licence; absent: from the store's lineage."
    )


TeacherSpec = Annotated[LocalTeacherSpec | StoredTeacherSpec | EnsembleSpec, Field(discriminator="kind")]

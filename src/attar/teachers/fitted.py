"""An encoder with a head: what `fit` makes of a model that has none for the task. Also: how it is written and read.

OUT/teacher.json          labels, pooling, temperature, quality on validation (`FittedFacts`)
OUT/encoder/              the encoder and its tokenizer or image processor, a normal Transformers folder
OUT/head.safetensors      `weight` [C, D] and `bias` [C]
OUT/model/                instead of the two above: a model that has its own head
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from attar.errors import TeacherError
from attar.facts import Facts, SourceFacts
from attar.signals import pooled
from attar.storage import atomic_folder
from attar.tasks.base import Problem, Processor, Task
from attar.teachers.labels import OutputOrder
from attar.teachers.local import LocalTeacher, assemble, load_parts, made_up_row
from attar.teachers.origin import quiet

Pooling = Literal["mean", "first", "model"]

TEACHER = "teacher.json"
_ENCODER, _MODEL, _HEAD = "encoder", "model", "head.safetensors"
_LEGACY_POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_POOLS: dict[str, Pooling] = {"mean": "mean", "cls": "first"}


class FittedFacts(Facts):
    """`teacher.json`: what a fitted teacher is and how good it is on validation."""

    format: Literal[1] = 1
    fit: Literal["probe", "full"]
    form: Literal["encoder", "model"] = Field(description="An encoder with a head of ours, or a model with its own.")
    labels: tuple[str, ...] = Field(description="In the order of the logits.")
    problem: Problem
    pooling: Pooling | None = Field(None, description="How the encoder's tokens become one vector; None for `model`.")
    normalise: bool = Field(False, description="The vector is scaled to length 1 before the head.")
    temperature: float = Field(1.0, description="Fitted on validation: the logits over this are calibrated.")
    temperature_folded: bool = Field(False, description="The head is divided by it already.")
    strength: float | None = Field(None, description="The probe's inverse regularisation (C, or 1/alpha for ridge).")
    metric: str
    validation: float | None = Field(description="The metric on validation; None where validation has no labels.")
    train_rows: int
    validation_rows: int
    seconds: float
    curve: tuple[dict[str, float], ...] = Field((), description="Epoch, loss and validation metric (`full`).")
    seed: int
    source: SourceFacts


class FittedEncoder(nn.Module):
    """Encoder, pooling, linear head. Answers like a Transformers classifier: `.logits` [N, C], `.hidden_states`."""

    def __init__(self, encoder: nn.Module, head: nn.Linear, pooling: Pooling, *, normalise: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.pooling: Pooling = pooling
        self.normalise = normalise
        self.config: Any = getattr(encoder, "config", None)

    def forward(self, output_hidden_states: bool = False, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits [N, C] of a batch of the task."""
        answer = self.encoder(**inputs, output_hidden_states=output_hidden_states)
        vector = embed(answer, inputs.get("attention_mask"), self.pooling, normalise=self.normalise)
        return SequenceClassifierOutput(logits=self.head(vector), hidden_states=answer.hidden_states)


class Features(nn.Module):
    """The encoder up to the head: answers with the pooled vectors [N, D] in the place of logits."""

    def __init__(self, fitted: FittedEncoder) -> None:
        super().__init__()
        self.fitted = fitted

    def forward(self, **inputs: Tensor) -> Tensor:
        """Vectors [N, D] of a batch of the task."""
        answer = self.fitted.encoder(**inputs)
        return embed(answer, inputs.get("attention_mask"), self.fitted.pooling, normalise=self.fitted.normalise)


def embed(answer: Any, mask: Tensor | None, pooling: Pooling, *, normalise: bool) -> Tensor:
    """One vector a row [N, D] from an encoder's answer. Raises TeacherError where the model does not pool."""
    if pooling == "model":
        vector = getattr(answer, "pooler_output", None)
        if vector is None:
            raise TeacherError(
                "teacher.pooling: this encoder has no pooling of its own (no `pooler_output`). Use `mean` or `first`."
            )
        vector = cast("Tensor", vector).flatten(1)
    else:
        vector = pooled(answer.last_hidden_state, mask, pooling)
    return nn.functional.normalize(vector, dim=1) if normalise else vector


def read_pooling(folder: Path, wanted: Literal["auto", "mean", "first", "model"]) -> tuple[Pooling, bool]:
    """How an encoder wants to be pooled, and whether its vectors are scaled to length 1.

    sentence-transformers writes both into `modules.json` and the folders that it names; elsewhere mean, unscaled.
    """
    modules = folder / "modules.json"
    entries: list[dict[str, str]] = json.loads(modules.read_bytes()) if modules.is_file() else []
    by_kind = {entry["type"].rpartition(".")[2]: folder / entry["path"] for entry in entries}
    normalise = "Normalize" in by_kind
    if wanted != "auto":
        return wanted, normalise
    if "Pooling" not in by_kind:
        return "mean", normalise
    content: dict[str, Any] = json.loads((by_kind["Pooling"] / "config.json").read_bytes())
    legacy = [mode for key, mode in _LEGACY_POOLS.items() if content.get(key)]
    mode = content.get("pooling_mode", legacy[0] if len(legacy) == 1 else None)
    pooling = _POOLS.get(str(mode))
    if pooling is None:
        raise TeacherError(
            f"{by_kind['Pooling'] / 'config.json'}: this pooling is not supported ({mode or content}). Set "
            "`teacher.pooling` to `mean` or `first`."
        )
    return pooling, normalise


def load_encoder(folder: Path, pooling: Pooling, *, trust_remote_code: bool = False) -> nn.Module:
    """An encoder without a head, float32, in eval mode; its pooling layer only where `pooling` is `model`."""
    options: dict[str, Any] = {"trust_remote_code": True} if trust_remote_code else {}
    probe = _model_class(folder, trust_remote_code=trust_remote_code)
    if probe is not None and "add_pooling_layer" in inspect.signature(probe.__init__).parameters:
        options["add_pooling_layer"] = pooling == "model"
    return cast("nn.Module", AutoModel.from_pretrained(folder, dtype=torch.float32, **options)).eval()


def with_head(
    encoder: nn.Module, processor: Processor, task: Task, pooling: Pooling, *, normalise: bool
) -> FittedEncoder:
    """An encoder with a new, untrained head for the task's labels, as wide as the encoder's answer to one row."""
    inputs = made_up_row(processor, task)
    with torch.no_grad():
        width = embed(encoder(**inputs), inputs.get("attention_mask"), pooling, normalise=False).shape[1]
    return FittedEncoder(encoder, nn.Linear(width, len(task.labels)), pooling, normalise=normalise)


def save_fitted(model: nn.Module, processor: Processor, facts: FittedFacts, out: Path) -> None:
    """Write a fitted teacher, whole or not at all. Raises StorageError."""
    with atomic_folder(out) as partial, quiet():
        if isinstance(model, FittedEncoder):
            _save_part(model.encoder, processor, partial / _ENCODER)
            head = {"weight": model.head.weight, "bias": model.head.bias}
            content = save({name: value.detach().cpu().contiguous() for name, value in head.items()})
            (partial / _HEAD).write_bytes(content)
        else:
            _save_part(model, processor, partial / _MODEL)
        (partial / TEACHER).write_text(facts.model_dump_json(indent=1))


def read_fitted(out: Path) -> FittedFacts:
    """`teacher.json` of a fitted teacher. Raises TeacherError."""
    try:
        return FittedFacts.model_validate_json((out / TEACHER).read_bytes())
    except (OSError, ValidationError) as error:
        raise TeacherError(f"{out / TEACHER}: no fitted teacher here ({error}). Fit it again.") from None


def load_fitted(out: Path, task: Task, *, trust_remote_code: bool = False) -> LocalTeacher:
    """A fitted teacher from its folder. Raises TeacherError, also where its labels are not the task's, in order."""
    facts = read_fitted(out)
    if facts.labels != task.labels:
        raise TeacherError(
            f"{out}: fitted for the labels {list(facts.labels)[:8]}..., but the task has {list(task.labels)[:8]}.... "
            "Fit it again on this data."
        )
    folder = out / (_ENCODER if facts.form == "encoder" else _MODEL)
    model, processor = load_parts(
        str(out), lambda: (_load_model(out, facts, task, trust_remote_code), task.load_processor(folder))
    )
    return assemble(model, processor, task, order=OutputOrder(None), source=facts.source, folder=out)


def _load_model(out: Path, facts: FittedFacts, task: Task, trust_remote_code: bool) -> nn.Module:
    if facts.form == "model":
        return task.load_model(out / _MODEL, trust_remote_code=trust_remote_code)
    pooling = facts.pooling or "mean"
    weights = load_file(out / _HEAD)
    head = nn.Linear(weights["weight"].shape[1], weights["weight"].shape[0])
    head.load_state_dict(weights)
    encoder = load_encoder(out / _ENCODER, pooling, trust_remote_code=trust_remote_code)
    return FittedEncoder(encoder, head, pooling, normalise=facts.normalise)


def _save_part(model: nn.Module, processor: Processor, folder: Path) -> None:
    cast("PreTrainedModel", model).save_pretrained(folder)
    processor.save_pretrained(folder)


def _model_class(folder: Path, *, trust_remote_code: bool) -> type[nn.Module] | None:
    from transformers import MODEL_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return cast("type[nn.Module] | None", MODEL_MAPPING.get(type(config), None))

"""Building the student: from a configuration, from the teacher, or from a small pretrained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, assert_never, cast

import torch
from safetensors.torch import save_model
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from attar.errors import PlanError
from attar.plan.cuts import encoder_problems
from attar.recipe.sources import find_source
from attar.recipe.student import FromConfigSpec, FromTeacherSpec, PretrainedSpec, StudentSpec
from attar.students.cut import FAMILIES, copy_cut, even_layers
from attar.students.decoder import Batch, is_decoder
from attar.students.decoder_student import student_of_decoder
from attar.students.student import Student, reduced_vocabulary, seeded, vocabulary_facts
from attar.students.vocabulary import Reduced, special_ids
from attar.tasks.base import Processor, Task

_IDENTITY = {
    "architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id",
    "num_labels", "problem_type", "pruned_heads", "finetuning_task",
}  # fmt: skip


def build_student(
    spec: StudentSpec,
    task: Task,
    *,
    teacher: nn.Module | None,
    processor: Processor,
    texts: Sequence[str],
    batches: Sequence[Batch] = (),
    seed: int,
    init: Literal["recipe", "random"] = "recipe",
) -> Student:
    """Build the student that a recipe describes.

    `teacher` and `processor` are the teacher's model and tokenizer or image processor; `texts` decide which tokens stay
    (empty for images), `batches` of training rows what matters in a causal language model (see `student_of_decoder`;
    others need none). The same seed gives the same weights, whatever was drawn before; `random` keeps shape and
    vocabulary but copies nothing. Raises PlanError where the parts do not fit.
    """
    match spec:
        case FromConfigSpec():
            reduced = reduced_vocabulary(spec.vocabulary, processor, texts)
            fields = {"model_type": spec.config["model_type"], **_token_fields(reduced, processor if texts else None)}
            config = {**spec.config, **_known(fields)}
            with seeded(seed):
                model = task.build_model(config)
            return Student(model, reduced.tokenizer if reduced else processor, vocabulary_facts(reduced, processor))
        case FromTeacherSpec():
            if is_decoder(teacher):
                return student_of_decoder(spec, teacher, processor, texts, batches, seed, init)
            return _from_teacher(spec, task, teacher, processor, texts, seed, init)
        case PretrainedSpec():
            return _pretrained(spec, task, texts, seed, init)
        case _:
            assert_never(spec)


def save_student(model: nn.Module, processor: Processor, folder: Path) -> None:
    """Write a normal Transformers folder: configuration, safetensors, tokenizer or image processor.

    Of a bare module (handed over in Python) only the weights are written.
    """
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(folder)
    else:
        save_model(model, str(folder / "model.safetensors"))
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)


def body_of(model: nn.Module) -> PreTrainedModel:
    """The Transformers body inside a model: without task head, whatever wraps it. Raises PlanError if there is none."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return cast("PreTrainedModel", module.base_model)
    raise PlanError(
        f"student.kind: from_teacher needs a Transformers teacher, not {type(model).__name__}. "
        "Use student.kind: from_config or pretrained."
    )


def _from_teacher(
    spec: FromTeacherSpec,
    task: Task,
    teacher: nn.Module | None,
    processor: Processor,
    texts: Sequence[str],
    seed: int,
    init: Literal["recipe", "random"],
) -> Student:
    if teacher is None:
        raise PlanError("student.kind: from_teacher needs the teacher's weights; a store has none. Use from_config.")
    body = body_of(teacher)
    config = body.config.to_dict()
    if config["model_type"] not in FAMILIES:
        raise PlanError(
            f'student.kind: cannot cut a "{config["model_type"]}" teacher; known: {", ".join(FAMILIES)}. '
            "Use from_config or pretrained."
        )
    if problems := encoder_problems(spec):
        raise PlanError([f"student.{field}: {message}" for field, message in problems])
    reduced = reduced_vocabulary(spec.vocabulary, processor, texts)
    total = int(body.config.num_hidden_layers)
    layers = spec.layers if isinstance(spec.layers, tuple) else even_layers(spec.layers, total)
    if wrong := [layer for layer in layers if layer >= total]:
        raise PlanError(f"student.layers: {wrong} are not layers of the teacher. Allowed: 0 to {total - 1}.")
    small = _cut_config(spec, config, body, len(layers))
    small |= {name: value for name, value in _token_fields(reduced, None).items() if name in config}
    with seeded(seed):
        model = task.build_model(small)
    initial = vocabulary_facts(reduced, processor)
    how = "random" if init == "random" else spec.init
    if how != "random":
        student_body = body_of(model)
        initial |= copy_cut(
            body, student_body, layers, reduced.kept if reduced else None, reduced.counts if reduced else None,
            int(body.config.hidden_size) // int(body.config.num_attention_heads), embeddings_only=how == "embeddings",
        )  # fmt: skip
    return Student(model, reduced.tokenizer if reduced else processor, {"init": how, **initial})


def _known(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that its class knows today and that shape a model; old checkpoints have others."""
    known = AutoConfig.for_model(str(config["model_type"])).to_dict().keys() - _IDENTITY
    return {name: value for name, value in config.items() if name in known}


def _cut_config(spec: FromTeacherSpec, config: dict[str, Any], body: PreTrainedModel, layers: int) -> dict[str, Any]:
    full = int(body.config.hidden_size)
    width = spec.hidden_size or full
    head_size = full // int(body.config.num_attention_heads)
    heads = spec.heads or max(1, width // head_size)
    if width % heads:
        raise PlanError(f"student.heads: {heads} heads do not divide hidden_size {width}.")
    distil = config["model_type"] == "distilbert"
    names = ("n_layers", "dim", "n_heads", "hidden_dim") if distil else (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")  # fmt: skip
    inner = spec.intermediate_size or int(config[names[3]]) * width // full
    small = _known(config)
    small |= dict(zip(names, (layers, width, heads, inner), strict=True))
    if spec.max_positions is not None and "max_position_embeddings" in config:
        offset = int(config["pad_token_id"]) + 1 if "roberta" in config["model_type"] else 0
        small["max_position_embeddings"] = min(spec.max_positions + offset, int(config["max_position_embeddings"]))
    if spec.dropout is not None:
        rates = ("dropout", "attention_dropout") if distil else ("hidden_dropout_prob", "attention_probs_dropout_prob")
        small |= dict.fromkeys(rates, spec.dropout)
    return small


def _pretrained(
    spec: PretrainedSpec, task: Task, texts: Sequence[str], seed: int, init: Literal["recipe", "random"]
) -> Student:
    found = find_source(spec.model, "model")
    where = found.path or (spec.model if found.kind == "timm" else found.name)
    with seeded(seed):
        model = task.load_model(where, trust_remote_code=spec.trust_remote_code, revision=spec.revision, new_head=True)
    processor = task.load_processor(where, trust_remote_code=spec.trust_remote_code, revision=spec.revision)
    reduced = reduced_vocabulary(spec.vocabulary, processor, texts)
    if reduced is not None:
        _keep_rows(cast("PreTrainedModel", model), reduced)
    if init == "random":
        with seeded(seed):
            model = task.build_model(_known(cast("PreTrainedModel", model).config.to_dict()))
    initial = {"init": init, **vocabulary_facts(reduced, processor)}
    return Student(model, reduced.tokenizer if reduced else processor, initial)


def _keep_rows(model: PreTrainedModel, reduced: Reduced) -> None:
    """Shrink the input embeddings of a loaded model to the kept tokens, in place."""
    old = cast("nn.Embedding", model.get_input_embeddings())
    padding = special_ids(reduced.tokenizer).get("pad_token_id")
    new = nn.Embedding(len(reduced.kept), old.embedding_dim, padding_idx=padding)
    with torch.no_grad():
        new.weight.copy_(old.weight[reduced.kept])
    model.set_input_embeddings(new)
    for name, value in _token_fields(reduced, None).items():
        setattr(model.config, name, value)


def _token_fields(reduced: Reduced | None, tokenizer: Processor | None) -> dict[str, Any]:
    """Fields of a model configuration that follow from its tokenizer."""
    if reduced is not None:
        return {"vocab_size": len(reduced.kept), **special_ids(reduced.tokenizer)}
    if tokenizer is not None:
        return {"vocab_size": len(tokenizer), **special_ids(tokenizer)}
    return {}

"""The student of a recipe: its shape against the teacher's, and its parameters before it is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attar.plan.checkpoint import Checkpoint, look_at_model
from attar.plan.cuts import DECODERS, cut_shape, decoder_shape, encoder_problems, layer_problems
from attar.plan.notes import Notes
from attar.plan.result import ModelPlan, Size
from attar.plan.rows import RowsFound
from attar.plan.sizes import Count, read_field
from attar.plan.teacher import TeacherFound, check_config, count_of, image_size, outputs_of
from attar.plan.tokenizers import Relation, Tokenizer, compare, read_tokenizer
from attar.plan.words import Vocabulary, estimate_kept, read_vocabulary
from attar.recipe import Recipe
from attar.recipe.nearest import listed
from attar.recipe.student import FromConfigSpec, FromTeacherSpec, PretrainedSpec, VocabularySpec
from attar.recipe.task import CausalLMSpec

CUT_FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "vit", "deit")


@dataclass
class StudentFound:
    """The plan's student, and what later checks read of it."""

    plan: ModelPlan
    count: Count | None = None
    own_tokenizer: bool = False
    """Does it split texts in another way than the teacher?"""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Its configuration; empty where it is not known."""
    tokenizer: Tokenizer | None = None
    """Of a pretrained language model, where its files tell."""
    relation: Relation | None = None
    """How its tokens are related to the teacher's."""


def look_at_student(
    recipe: Recipe, teacher: TeacherFound, rows: RowsFound, notes: Notes, python_objects: bool
) -> StudentFound:
    """What can be said of the recipe's student; problems go to `notes`."""
    spec = recipe.student
    match spec:
        case FromConfigSpec():
            check_config(spec.config, ("student", "config"), notes)
            _reaches(recipe, spec.config, notes)
            return _sized(recipe, "from_config", spec.config, spec.vocabulary, teacher.vocabulary, rows)
        case FromTeacherSpec():
            config = _cut(recipe, spec, teacher, notes)
            return _sized(recipe, "from_teacher", config or {}, spec.vocabulary, teacher.vocabulary, rows)
        case PretrainedSpec():
            return _pretrained(recipe, spec, teacher, rows, notes, python_objects)


def _pretrained(
    recipe: Recipe, spec: PretrainedSpec, teacher: TeacherFound, rows: RowsFound, notes: Notes, python_objects: bool
) -> StudentFound:
    checkpoint = look_at_model(
        spec.model, ("student", "model"), notes,
        trust_remote_code=spec.trust_remote_code, revision=spec.revision, python_objects=python_objects,
    )  # fmt: skip
    if checkpoint.found is not None and checkpoint.found.kind == "timm":
        notes.problem(
            ("student", "model"),
            "a student must be a Transformers model. Use from_config with model_type resnet or vit.",
        )
    vocabulary = read_vocabulary(checkpoint.folder) if image_size(recipe) is None else None
    found = _sized(recipe, spec.model, checkpoint.config, spec.vocabulary, vocabulary, rows, checkpoint)
    if isinstance(recipe.task, CausalLMSpec):
        _speaks(spec, checkpoint, notes)
        found.tokenizer = read_tokenizer(checkpoint)
        found.relation = compare(found.tokenizer, teacher.tokenizer)
        found.own_tokenizer |= found.relation.kind not in ("same", "moved")
        return found
    theirs = teacher.vocabulary
    found.own_tokenizer |= vocabulary is None or theirs is None or vocabulary.tokens != theirs.tokens
    return found


def _speaks(spec: PretrainedSpec, checkpoint: Checkpoint, notes: Notes) -> None:
    """A pretrained student of a language model must be one, with all of its tokens."""
    if checkpoint.config and not checkpoint.writes:
        kinds = listed(str(name) for name in checkpoint.config.get("architectures") or ["none named"])
        notes.problem(
            ("student", "model"), f"the student is no causal language model ({kinds}), but task.kind is causal_lm."
        )
    if spec.vocabulary.keep == "used":
        notes.problem(
            ("student", "vocabulary", "keep"),
            "a pretrained language model keeps its tokens. Set all; from_teacher can leave unused ones out.",
        )


def _sized(
    recipe: Recipe,
    source: str,
    config: dict[str, Any],
    kept: VocabularySpec,
    vocabulary: Vocabulary | None,
    rows: RowsFound,
    checkpoint: Checkpoint | None = None,
) -> StudentFound:
    """The student's parameters: by formula where there is one, with the vocabulary that the data is likely to keep."""
    is_text = image_size(recipe) is None
    reduces = is_text and kept.keep == "used"
    counted = count_of(recipe, config) if config else None
    total = vocabulary.size if vocabulary is not None else read_field(config, "tokens") if config else None
    tokens: Size | None = None
    if is_text:
        tokens = Size(note="the tokenizer cannot be seen from here")
        if total is not None:
            tokens = (
                estimate_kept(vocabulary, rows.texts, rows.whole, kept.min_count, total)
                if reduces
                else Size.exact(total)
            )
    params = _params(recipe, counted, tokens, rows, config, checkpoint)
    family = config.get("model_type")
    plan = ModelPlan(
        source=source,
        family=None if family is None else str(family),
        layers=read_field(config, "layers") if config else None,
        hidden=read_field(config, "hidden") if config else None,
        params=params,
        tokens=tokens,
        bytes=None if params.likely is None else 4 * params.likely,
    )
    return StudentFound(plan, counted, own_tokenizer=reduces, config=config)


def _params(
    recipe: Recipe,
    counted: Count | None,
    tokens: Size | None,
    rows: RowsFound,
    config: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> Size:
    outputs = outputs_of(recipe, rows)
    if counted is None:
        if checkpoint is not None and checkpoint.params is not None and (tokens is None or tokens.is_exact):
            return Size(0, 2 * checkpoint.params, checkpoint.params, "as its folder has it, before the new head")
        family = config.get("model_type")
        return Size(note=f'no formula for "{family}" here' if family else "its configuration cannot be seen from here")
    if outputs is None:
        return Size(note="the labels are not known yet")
    if tokens is None:
        return Size.exact(counted.params(0, outputs))
    if tokens.low is None or tokens.high is None or tokens.likely is None:
        return Size(note=tokens.note)
    low, high, likely = (counted.params(size, outputs) for size in (tokens.low, tokens.high, tokens.likely))
    return Size(low, high, likely, "" if tokens.is_exact else f"by its kept tokens, {tokens.note}")


def _reaches(recipe: Recipe, config: dict[str, Any], notes: Notes) -> None:
    """Does a configured student have a position for each token of the longest row?"""
    positions, longest = read_field(config, "positions"), getattr(recipe.task, "max_length", None)
    if positions is not None and longest is not None and longest > positions:
        message = (
            f"max_position_embeddings is {positions}, task.max_length {longest}. Raise the one or lower the other."
        )
        notes.problem(("student", "config"), message)


def _cut(recipe: Recipe, spec: FromTeacherSpec, teacher: TeacherFound, notes: Notes) -> dict[str, Any] | None:
    """Configuration of a student cut from the teacher, or None where the teacher can't be cut or seen."""
    if teacher.checkpoint is None:
        notes.problem(
            ("student", "kind"),
            "from_teacher needs the teacher's weights; a store has none. Use from_config or pretrained.",
        )
        return None
    config = teacher.config
    if not config:
        return None
    family = str(config.get("model_type"))
    if isinstance(recipe.task, CausalLMSpec):
        return _cut_decoder(spec, config, family, notes)
    for field_name, message in encoder_problems(spec):
        notes.problem(("student", field_name), message)
    if family not in CUT_FAMILIES:
        notes.problem(
            ("student", "kind"),
            f'cannot cut a "{teacher.plan.family}" teacher. Families that can be cut: {listed(CUT_FAMILIES)}. Use '
            "from_config or pretrained.",
        )
        return None
    for name, message in encoder_problems(spec):
        notes.problem(("student", name), message)
    layers, full = read_field(config, "layers"), read_field(config, "hidden")
    if layers is None or full is None:
        return None
    kept = _layers(spec, layers, notes)
    width = spec.hidden_size or full
    _width(spec, config, width, full, notes)
    inner = spec.intermediate_size or (read_field(config, "inner") or 4 * full) * width // full
    names = (
        ("n_layers", "dim", "hidden_dim")
        if family == "distilbert"
        else ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    small = {**config, **dict(zip(names, (kept, width, inner), strict=True))}
    positions = _positions(recipe, spec, config, family, notes)
    return small if positions is None else {**small, "max_position_embeddings": positions}


def _cut_decoder(spec: FromTeacherSpec, config: dict[str, Any], family: str, notes: Notes) -> dict[str, Any] | None:
    if family not in DECODERS:
        notes.problem(
            ("student", "kind"),
            f'cannot cut a "{family}" language model. Families that can be cut: {listed(DECODERS)}. Use from_config '
            "or pretrained.",
        )
        return None
    shape, problems = cut_shape(spec, decoder_shape(config), family)
    for name, message in problems:
        notes.problem(("student", name), message)
    return {
        **config,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.intermediate,
    }


def _layers(spec: FromTeacherSpec, total: int, notes: Notes) -> int:
    for message in layer_problems(spec, total):
        notes.problem(("student", "layers"), message)
    return spec.layers if isinstance(spec.layers, int) else len(spec.layers)


def _width(spec: FromTeacherSpec, config: dict[str, Any], width: int, full: int, notes: Notes) -> None:
    if width > full and spec.init != "random":
        notes.problem(
            ("student", "hidden_size"),
            f"{width} is wider than the teacher's {full}. Allowed: at most {full}, or init: random.",
        )
    theirs = read_field(config, "heads") or 1
    head_size = max(full // theirs, 1)
    heads = spec.heads or max(1, width // head_size)
    if width % heads:
        path = "heads" if spec.heads is not None else "hidden_size"
        near = [n for n in range(1, width + 1) if width % n == 0 and n <= 2 * heads]
        told = f"{heads} heads do not divide the width {width}."
        if spec.heads is None:
            told = f"with the teacher's head size {head_size}, {told}"
        notes.problem(("student", path), f"{told} Set student.heads to one of {listed(str(n) for n in near)}.")


def _positions(recipe: Recipe, spec: FromTeacherSpec, config: dict[str, Any], family: str, notes: Notes) -> int | None:
    theirs = read_field(config, "positions")
    longest = getattr(recipe.task, "max_length", None)
    if theirs is None or longest is None:
        return None
    offset = int(config.get("pad_token_id", 1)) + 1 if "roberta" in family else 0
    kept = theirs if spec.max_positions is None else min(spec.max_positions + offset, theirs)
    if longest > kept - offset:
        field = "max_positions" if kept < theirs else "kind"
        notes.problem(
            ("student", field),
            f"the student has {kept - offset} positions, task.max_length is {longest}. Raise one or lower the other.",
        )
    return kept

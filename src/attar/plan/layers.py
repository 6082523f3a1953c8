"""Objectives that compare layers, against what both models are known to have.

What a configuration does not tell (attention of an unknown family, maps of a module) is found when the models are
opened, before training.
"""

from __future__ import annotations

from typing import Any

from attar.plan.notes import Notes
from attar.plan.sizes import TEXT_FAMILIES, read_field
from attar.plan.student import StudentFound
from attar.plan.teacher import TeacherFound, image_size
from attar.plan.transformers_source import config_fields
from attar.recipe import Recipe
from attar.recipe.objectives import (
    AttentionRelationsSpec,
    CRDSpec,
    FeatureSpec,
    LayeredSpec,
    MapSpec,
    OnLayers,
    OnRelations,
    RecordedSpec,
    RelationSpec,
)
from attar.recipe.objectives.feature import View, evenly_spaced, is_layer
from attar.recipe.places import Path

UNPOOLED: tuple[View, ...] = ("none", "map", "attention")
"""What is too large to be stored."""
BY_TOKEN: tuple[View, ...] = ("none", "attention")
"""What needs the same tokens on both sides."""
_PLAIN_FAMILIES = (*TEXT_FAMILIES, "vit", "deit")
"""Their projections are as wide as their hidden states."""
_FEWEST, _MANY = 3, 200
"""Rows of a micro-batch: fewer make no angle, more make `rkd_angle` dear."""
_FLOAT = 4


def live_only(spec: RecordedSpec) -> bool:
    """Whether the teacher must be asked in every step."""
    return isinstance(spec, LayeredSpec) and spec.view in UNPOOLED


def told_unpooled(spec: RecordedSpec) -> str:
    """What it is of which there would be too much."""
    view = spec.view if isinstance(spec, LayeredSpec) else "none"
    unpooled = {"map": "feature maps are", "attention": "queries, keys and values are"}
    return unpooled.get(view, "states of every token are")


def layer_signals(spec: OnLayers, teacher: TeacherFound, student: StudentFound, path: Path, notes: Notes) -> list[str]:
    """Signals that one objective asks of the teacher, by the names that a store uses; -1, `uniform` and `cka` stand for
    layers that are not known yet. Pairs that cannot be are problems.
    """
    theirs, own = teacher.plan.layers, student.plan.layers
    layers: list[int | str] = []
    match spec.layers:
        case "last":
            layers = [-1 if theirs is None else theirs]
        case "cka":
            layers = ["cka"]
        case "uniform" if theirs is None or own is None:
            layers = ["uniform"]
        case "uniform":
            layers = [layer for _, layer in evenly_spaced(own or 1, theirs or 1)]
        case pairs:
            first = 1 if spec.view == "attention" else 0
            for position, pair in enumerate(pairs):
                for layer, total, whose in ((pair[0], own, "student"), (pair[1], theirs, "teacher")):
                    if total is not None and not is_layer(layer, total, first=first):
                        zero = "1" if first else "0 (the embeddings)"
                        notes.problem(
                            (*path, "layers", position),
                            f"{layer} is no layer of the {whose}. Allowed: {zero} to {total}.",
                        )
                layers.append(pair[1] if pair[1] >= 0 or theirs is None else pair[1] + theirs + 1)
    if isinstance(spec, AttentionRelationsSpec):
        return [f"attention:{layer}:{of}" for layer in dict.fromkeys(layers) for of in spec.of]
    return [f"hidden:{layer}:{spec.view}" for layer in dict.fromkeys(layers)]


def check_layers(
    recipe: Recipe,
    spec: OnLayers,
    teacher: TeacherFound,
    student: StudentFound,
    path: Path,
    notes: Notes,
) -> None:
    """Families, tokens, maps, heads and batches that do not go with the objective."""
    _families(spec, teacher, student, path, notes)
    _tokens(spec, student, path, notes)
    _view(recipe, spec, teacher, student, path, notes)
    if isinstance(spec, AttentionRelationsSpec):
        _heads(spec, teacher, student, path, notes)
    if isinstance(spec, RelationSpec):
        _rows(recipe, spec, path, notes)


def of_a_batch(recipe: Recipe, spec: RecordedSpec) -> str:
    """What a batch objective sees, and what it holds; empty for the others."""
    if spec.form != "batch":
        return ""
    rows = recipe.training.batch_size
    held = {"rows_squared": rows**2, "rows_cubed": rows**3}.get(spec.memory)
    if isinstance(spec, CRDSpec):
        held = rows * (rows + spec.negatives)
    cost = "" if held is None else f", holds {held:,} numbers a side and pair of layers"
    return f"; sees the {rows} rows of one micro-batch{cost}"


def _families(spec: OnLayers, teacher: TeacherFound, student: StudentFound, path: Path, notes: Notes) -> None:
    family, own = teacher.plan.family, student.plan.family
    if not isinstance(spec, FeatureSpec) or spec.across_families or None in (family, own) or family == own:
        return
    notes.problem(
        (*path, "across_families"),
        f'the teacher is a "{family}", the student a "{own}": what is inside different families seldom matches. '
        "Drop this objective, compare how rows relate (cka, rkd_distance), or set across_families: true.",
    )


def _tokens(spec: OnLayers, student: StudentFound, path: Path, notes: Notes) -> None:
    if spec.view in BY_TOKEN and student.own_tokenizer:
        field, what = ("pool", '"none"') if spec.view == "none" else ("kind", f'"{spec.kind}"')
        notes.problem(
            (*path, field),
            f"{what} compares token by token, but the student splits texts in its own way (its vocabulary is reduced "
            "or another's). Use hidden with pool: mean, or student.vocabulary.keep: all.",
        )


def _view(
    recipe: Recipe,
    spec: OnLayers,
    teacher: TeacherFound,
    student: StudentFound,
    path: Path,
    notes: Notes,
) -> None:
    field = "kind" if isinstance(spec, MapSpec | AttentionRelationsSpec) else "pool"
    instead = "hidden or attention_relations" if field == "kind" else "pool: mean"
    sides = (("teacher", teacher.config), ("student", student.config))
    if spec.view == "first" and image_size(recipe) is not None:
        notes.warn(
            (*path, "pool"),
            "the first token is a class token in ViT-like models only; convolutional ones give a corner.",
        )
    if spec.view == "map":
        if image_size(recipe) is None:
            notes.problem((*path, field), f"feature maps are of images, but the task is on texts. Use {instead}.")
            return
        for whose, config in sides:
            if _has_tokens(config):
                message = f'the {whose}, a "{config["model_type"]}", has tokens, no feature maps. Use {instead}.'
                notes.problem((*path, field), message)
    if spec.view == "attention":
        for whose, config in sides:
            if config and read_field(config, "heads") is None and read_field(config, "layers") is not None:
                message = (
                    f'the {whose}, a "{config["model_type"]}", has no attention. Use attention_transfer or hidden.'
                )
                notes.problem((*path, field), message)


def _has_tokens(config: dict[str, Any]) -> bool:
    """Is this surely a transformer of patches, whose hidden states are tokens?"""
    full = {**(config_fields(str(config.get("model_type"))) or {}), **config} if config else {}
    return "patch_size" in full and "num_attention_heads" in full and not full.get("hidden_sizes")


def _heads(
    spec: AttentionRelationsSpec, teacher: TeacherFound, student: StudentFound, path: Path, notes: Notes
) -> None:
    for whose, config in (("teacher", teacher.config), ("student", student.config)):
        width = read_field(config, "hidden") if config.get("model_type") in _PLAIN_FAMILIES else None
        if spec.heads is not None and width is not None and width % spec.heads:
            message = f"{spec.heads} relation heads do not divide the {whose}'s width {width}. Leave it out, or choose "
            notes.problem((*path, "heads"), f"{message}a divisor of both widths.")


def _rows(recipe: Recipe, spec: OnRelations, path: Path, notes: Notes) -> None:
    rows = recipe.training.batch_size
    if rows < _FEWEST and not (isinstance(spec, CRDSpec) and spec.negatives):
        notes.warn(
            path, f"{spec.kind} relates the rows of one micro-batch, and training.batch_size is {rows}: too few."
        )
    if spec.memory == "rows_cubed" and rows > _MANY:
        size = rows**3 * _FLOAT / 1e6
        notes.warn(
            path, f"{spec.kind} holds {rows}^3 numbers a side and pair, {size:,.0f} MB. Lower training.batch_size."
        )

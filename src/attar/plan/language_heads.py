"""The heads of two language models, seen before work: their widths against their tokens, scale, softcap and bias."""

from __future__ import annotations

from typing import Any

from attar.head_families import FAMILIES
from attar.plan.notes import Notes
from attar.plan.sizes import read_field
from attar.plan.student import StudentFound
from attar.plan.teacher import TeacherFound
from attar.plan.tokenizers import Tokenizer
from attar.plan.transformers_source import config_fields
from attar.recipe import Recipe
from attar.recipe.places import Path
from attar.recipe.student import FromConfigSpec, PretrainedSpec

_BIASES = ("lm_head.bias", "embed_out.bias", "output.bias")


def check_widths(teacher: TeacherFound, student: StudentFound, own: bool, notes: Notes) -> str:
    """Outputs of both heads against their tokens; rows beyond the tokens are padding."""
    theirs, ours = _padding(teacher.config, teacher.tokenizer), _padding(student.config, student.tokenizer)
    enough(teacher.config, teacher.tokenizer, ("teacher", "model"), notes)
    if own:
        enough(student.config, student.tokenizer, ("student", "model"), notes)
        alike = student.relation is not None and student.relation.kind in ("same", "moved", "fewer")
        if alike and ours and theirs is not None and ours != theirs and student.tokenizer and teacher.tokenizer:
            width, count = student.tokenizer.width + ours, student.tokenizer.width
            other, known = teacher.tokenizer.width + theirs, teacher.tokenizer.width
            notes.problem(
                ("student", "model"),
                f"its head has {width:,} outputs for {count:,} tokens, the teacher's {other:,} for {known:,}: rows "
                "beyond the tokens are padding, of which the other side says nothing. Cut them "
                f"(model.resize_token_embeddings({count}), save_pretrained to a new folder), and name that here.",
            )
    told = _width_line("teacher", teacher.config, theirs)
    return f"{told}; {_width_line('student', student.config, ours)}" if own else told


def _padding(config: dict[str, Any], tokenizer: Tokenizer | None) -> int | None:
    width = read_field(config, "tokens") if config else None
    return None if width is None or tokenizer is None else width - tokenizer.width


def enough(config: dict[str, Any], tokenizer: Tokenizer | None, path: Path, notes: Notes) -> None:
    """Has the head an output for each of its tokenizer's tokens?"""
    padding = _padding(config, tokenizer)
    if padding is not None and padding < 0 and tokenizer is not None:
        width, last = tokenizer.width + padding, tokenizer.tokens[tokenizer.width - 1]
        notes.problem(
            path,
            f"its tokenizer has ids up to {tokenizer.width - 1:,}, but the model knows {width:,} tokens: a text with "
            f'"{last}" would break it. Save the tokenizer that belongs to the model, or give the model room '
            f"(model.resize_token_embeddings({tokenizer.width})).",
        )


def _width_line(whose: str, config: dict[str, Any], padding: int | None) -> str:
    width = read_field(config, "tokens") if config else None
    if width is None:
        return f"{whose} not known yet"
    beyond = f" ({padding:,} beyond its tokens are left out)" if padding and padding > 0 else ""
    return f"{whose} {width:,} outputs{beyond}"


def check_heads(recipe: Recipe, teacher: TeacherFound, student: StudentFound, notes: Notes) -> str:
    """What stands between the last hidden state and the logits, of both."""
    spec = recipe.student
    path: Path = ("student", "config" if isinstance(spec, FromConfigSpec) else "model")
    biased = teacher.checkpoint is not None and any(name in teacher.checkpoint.shapes for name in _BIASES)
    theirs = head(teacher.config, ("teacher", "model"), notes)
    ours = head(student.config, path, notes) if isinstance(spec, FromConfigSpec | PretrainedSpec) else theirs
    shown = f"{told_head(theirs)}{', with a bias' if biased else ''}"
    if ours == theirs or ours is None or theirs is None:
        return shown
    notes.warn(
        path,
        f"the teacher's logits have {told_head(theirs)}, the student's {told_head(ours)}. Each side's are compared as "
        "its own model makes them, so nothing need be done; logit_mse would ask for what a cap cannot give.",
    )
    return f"teacher {shown}; student {told_head(ours)}"


def head(config: dict[str, Any], path: Path, notes: Notes) -> tuple[float, float | None] | None:
    """Scale and softcap; None where they are not known."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return None
    if kind not in FAMILIES:
        part = f" Its text part alone, {kind}_text, is known." if f"{kind}_text" in FAMILIES else ""
        notes.problem(
            path,
            f'the head of "{kind}" language models is not known here, so its logits cannot be taken apart.{part} Use '
            "a model of another family, or open an issue.",
        )
        return None
    family = FAMILIES[kind]
    full = {**(config_fields(kind) or {}), **config}
    scale = float(full.get(family.times) or 1.0) if family.times else 1.0
    scale = 1.0 / float(full.get(family.over) or 1.0) if family.over else scale
    cap = full.get(family.cap) if family.cap else None
    return scale, None if cap is None else float(cap)


def told_head(head: tuple[float, float | None] | None) -> str:
    """Scale and softcap in words."""
    if head is None:
        return "not known yet"
    return f"scale {head[0]:g}, " + ("no softcap" if head[1] is None else f"softcap {head[1]:g}")

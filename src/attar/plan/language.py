"""What can go wrong between two language models, seen before work: tokenizers, special tokens, templates, lengths.

Each failure is told with its fix; the heads have a file of their own.
"""

from __future__ import annotations

from typing import Any

from attar.plan.ensemble import told_members
from attar.plan.language_heads import check_heads, check_widths
from attar.plan.lengths import Lengths
from attar.plan.notes import Notes
from attar.plan.sizes import read_field
from attar.plan.student import StudentFound
from attar.plan.teacher import TeacherFound
from attar.plan.tokenizers import ROLES, Tokenizer, first_difference, short_hash
from attar.recipe import Recipe
from attar.recipe.places import Path
from attar.recipe.student import PretrainedSpec
from attar.recipe.task import CausalLMSpec

_TEACHER: Path = ("teacher", "model")
_STUDENT: Path = ("student", "model")


def look_at_language(
    recipe: Recipe, teacher: TeacherFound, student: StudentFound, lengths: Lengths | None, notes: Notes
) -> dict[str, str]:
    """What is found, a line each by name; empty where the task is no language model's. Problems go to `notes`."""
    task = recipe.task
    if not isinstance(task, CausalLMSpec):
        return {}
    own = isinstance(recipe.student, PretrainedSpec)
    return {
        "tokenizer": _tokens(teacher, student, own),
        "widths": check_widths(teacher, student, own, notes),
        "special": _special(teacher, student, own, notes),
        "template": _template(task, teacher, student, own, notes),
        "heads": check_heads(recipe, teacher, student, notes),
        "length": _length(task, teacher, student if own else None, lengths, notes),
        **({} if not teacher.members else {"teachers": told_members(recipe)}),
    }


def _tokens(teacher: TeacherFound, student: StudentFound, own: bool) -> str:
    if teacher.tokenizer is None or (own and student.tokenizer is None):
        return "compared when the models are opened"
    total = f"{len(teacher.tokenizer.tokens):,} tokens"
    relation = student.relation
    if not own or relation is None:
        return f"{total}, the student has the teacher's" + (
            ", as far as it keeps them" if student.own_tokenizer else ""
        )
    match relation.kind:
        case "same":
            return f"{total}, the same id by id"
        case "moved" | "fewer":
            return f"matched by the tokens themselves, not by their ids: {relation.first}"
        case _:
            return f"another: {relation.strangers:,} tokens are unknown to the teacher's; {relation.first}"


def _special(teacher: TeacherFound, student: StudentFound, own: bool, notes: Notes) -> str:
    theirs = teacher.tokenizer
    _ends(theirs, teacher.config, _TEACHER, notes)
    if theirs is None:
        return "known when the models are opened"
    told = ", ".join(f"{role} {theirs.special.get(role) or 'none'}" for role in ROLES)
    ours = student.tokenizer if own else None
    if ours is None:
        return told
    _ends(ours, student.config, _STUDENT, notes)
    same_tokens = student.relation is not None and student.relation.kind == "same"
    for role in ("bos", "eos"):
        one, other = ours.special.get(role), theirs.special.get(role)
        if one != other and same_tokens:
            notes.warn(
                _STUDENT,
                f"its {role} token is {one or 'none'}, the teacher's {other or 'none'}: plain texts begin or end with "
                f"another token on either side. Set {role}_token in the student's tokenizer_config.json alike.",
            )
    differing = [role for role in ROLES if ours.special.get(role) != theirs.special.get(role)]
    return (
        told
        if not differing
        else f"{told}; student " + ", ".join(f"{r} {ours.special.get(r) or 'none'}" for r in ROLES)
    )


def _ends(tokenizer: Tokenizer | None, config: dict[str, Any], path: Path, notes: Notes) -> None:
    """Can rows be padded, and does the model stop where its tokenizer ends?"""
    if tokenizer is None:
        return
    end = tokenizer.special.get("eos")
    if end is None and tokenizer.special.get("pad") is None:
        notes.warn(
            path,
            "its tokenizer's files name neither an end nor a padding token; without one rows cannot be batched. Put "
            '"eos_token" into tokenizer_config.json.',
        )
        return
    stops = config.get("eos_token_id")
    ids = {stops} if isinstance(stops, int) else set(stops) if isinstance(stops, list) else set()
    known = {tokenizer.tokens.get(number) for number in ids}
    if ids and end is not None and end not in known:
        shown = ", ".join(sorted(f'"{token}"' for token in known if token is not None)) or "no token"
        notes.warn(
            path,
            f'its tokenizer ends texts with "{end}", but config.json stops at {shown}: what it writes may not end. Set '
            "eos_token_id in config.json, or eos_token in tokenizer_config.json.",
        )


def _template(task: CausalLMSpec, teacher: TeacherFound, student: StudentFound, own: bool, notes: Notes) -> str:
    if (task.messages is None and task.prompt is None) or task.template == "never":
        return "not used"
    theirs = teacher.tokenizer
    if theirs is None:
        return "known when the models are opened"
    sides = [("teacher", theirs), *([("student", student.tokenizer)] if own and student.tokenizer else [])]
    for whose, one in sides:
        if task.template == "always" and one.template is None:
            notes.problem(
                ("task", "template"),
                f"always, but the {whose}'s tokenizer has no chat template. Put chat_template.jinja into its folder, "
                "or set auto or never.",
            )
    ours = student.tokenizer if own else None
    told = f"{short_hash(theirs.template)}" + ("" if theirs.template else ": prompt and answer stand one after another")
    if ours is None or ours.template == theirs.template:
        return told
    both = f"teacher {short_hash(theirs.template)}, student {short_hash(ours.template)}"
    if ours.template is None or theirs.template is None:
        whose = "student" if ours.template is None else "teacher"
        message = (
            f"the {whose}'s tokenizer has no chat template, the other has one ({both}), so answers end otherwise. Copy "
            "chat_template.jinja from the one folder to the other, or set never."
        )
        if student.relation is not None and student.relation.kind == "other":
            notes.warn(("task", "template"), message)
        else:
            notes.problem(("task", "template"), message)
        return both
    at = first_difference(ours.template, theirs.template)
    notes.warn(
        ("task", "template"),
        f"student and teacher write chats by other templates ({both}), which part at {at}. Each reads its own; learned "
        "tokens must be the same on both sides, or training stops. To have one, copy chat_template.jinja.",
    )
    return f"{both}; they part at {at}"


def _length(
    task: CausalLMSpec, teacher: TeacherFound, student: StudentFound | None, lengths: Lengths | None, notes: Notes
) -> str:
    for whose, config in (("teacher", teacher.config), ("student", {} if student is None else student.config)):
        positions = read_field(config, "positions") if config else None
        if positions is not None and task.max_length > positions:
            notes.problem(
                ("task", "max_length"),
                f"{task.max_length:,} tokens are more than the {positions:,} positions of the {whose}'s context. "
                f"Set at most {positions}.",
            )
    if lengths is None:
        return "known when the data is loaded"
    how = "counted" if lengths.counted else "estimated by words"
    told = f"{lengths.mean:.0f} tokens a sequence, the longest row {lengths.longest:,} ({how} on {lengths.rows:,} rows)"
    if not lengths.over:
        return told
    if lengths.a_row > 1:
        return f"{told}; {lengths.over:.1%} of the rows become several sequences of {task.max_length:,}"
    notes.warn(
        ("task", "max_length"),
        f"{lengths.over:.1%} of the rows are longer than {task.max_length:,} tokens and are cut ({how}); the longest "
        f"has {lengths.longest:,}. Raise it, or leave such rows out.",
    )
    return f"{told}; {lengths.over:.1%} of the rows are cut at {task.max_length:,}"

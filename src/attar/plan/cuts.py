"""The shape of a student cut from a causal language model of the LLaMA families, in numbers alone.

Grouped-query attention (arXiv:2305.13245): each key and value head serves a group of query heads, all groups of one
size. What is kept must be groups of one size again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attar.plan.transformers_source import config_fields
from attar.recipe.nearest import listed
from attar.recipe.student import FromTeacherSpec

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Families (`model_type`) whose causal language models can be cut: RMSNorm, rotary positions, gated feed-forward."""

Problem = tuple[str, str]
"""A field of `student`, and what is wrong with it."""


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a causal language model that a cut can change, and the size of a head, which stays."""

    layers: int
    width: int
    heads: int
    """Query heads."""
    key_value_heads: int
    head_size: int
    intermediate: int

    @property
    def group(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.key_value_heads


def decoder_shape(config: dict[str, Any]) -> DecoderShape:
    """The sizes in a configuration of one of DECODERS, the defaults of its class where it is silent.

    Raises KeyError or TypeError where a size is neither here nor there.
    """
    given = {name: value for name, value in config.items() if value is not None}
    full = {**(config_fields(str(config.get("model_type"))) or {}), **given}
    width, heads = int(full["hidden_size"]), int(full["num_attention_heads"])
    return DecoderShape(
        layers=int(full["num_hidden_layers"]),
        width=width,
        heads=heads,
        key_value_heads=int(given.get("num_key_value_heads") or full.get("num_key_value_heads") or heads),
        head_size=int(full.get("head_dim") or width // heads),
        intermediate=int(full["intermediate_size"]),
    )


def cut_shape(spec: FromTeacherSpec, teacher: DecoderShape, family: str) -> tuple[DecoderShape, list[Problem]]:
    """The student's sizes, and every reason why it cannot be.

    Absent sizes follow the width: as many whole groups of heads, and as many feed-forward neurons, as keep the
    teacher's ratio to it. With `init: random` nothing is copied, and a student may be larger than its teacher.
    """
    width = spec.hidden_size or teacher.width
    in_ratio = max(1, teacher.key_value_heads * width // teacher.width)
    groups, heads = share_heads(spec.heads, spec.key_value_heads, teacher, in_ratio)
    largest = heads if spec.init == "random" else teacher.group
    shape = DecoderShape(
        layers=spec.layers if isinstance(spec.layers, int) else len(spec.layers),
        width=width,
        heads=heads,
        key_value_heads=groups,
        head_size=teacher.head_size,
        intermediate=spec.intermediate_size or max(1, teacher.intermediate * width // teacher.width),
    )
    problems = [("layers", message) for message in layer_problems(spec, teacher.layers)]
    if not isinstance(spec.layers, int) and spec.layer_importance is not None:
        problems.append(("layer_importance", "student.layers says which layers stay. Leave the one or the other out."))
    if spec.init != "random":
        problems += _too_large(shape, teacher)
    if (wrong := ungrouped(heads, groups, largest)) is not None:
        problems.append(("heads" if spec.heads is not None else "key_value_heads", wrong))
    if family == "llama" and width % heads:
        near = _near((n for n in range(1, width + 1) if width % n == 0 and n % shape.key_value_heads == 0), heads)
        problems.append(("heads", f"{heads} heads do not divide hidden_size {width}. Set student.heads to {near}."))
    if spec.max_positions is not None:
        problems.append(
            ("max_positions", f"a {family} has rotary positions, and no position embeddings to drop. Leave it out.")
        )
    return shape, problems


def layer_problems(spec: FromTeacherSpec, total: int) -> list[str]:
    """What is wrong with `layers`, of a teacher with `total`."""
    if isinstance(spec.layers, int):
        if spec.layers > total:
            return [f"{spec.layers} layers cannot be cut from a teacher with {total}. Allowed: 1 to {total}."]
        return []
    problems: list[str] = []
    wrong = [layer for layer in spec.layers if layer >= total]
    if wrong or not spec.layers:
        problems.append(f"{wrong or '[]'} are not layers of the teacher. Allowed: 0 to {total - 1}.")
    if list(spec.layers) != sorted(set(spec.layers)):
        problems.append(f"{list(spec.layers)} must ascend, each layer once.")
    return problems


def share_heads(heads: int | None, key_value_heads: int | None, teacher: DecoderShape, absent: int) -> tuple[int, int]:
    """Key and value heads, and query heads, where one of them or both are left open: whole groups if it can be.

    `absent`: how many key and value heads there are where nothing says it.
    """
    if heads is None:
        groups = key_value_heads or absent
        return groups, groups * teacher.group
    if key_value_heads is None:
        whole, rest = divmod(heads, teacher.group)
        return (min(teacher.key_value_heads, heads) if rest else whole), heads
    return key_value_heads, heads


def ungrouped(heads: int, groups: int, largest: int) -> str | None:
    """Why so many heads can't share so many key and value heads, `largest` each at most; None where they can."""
    if heads % groups == 0 and heads // groups <= largest:
        return None
    near = _near((groups * size for size in range(1, largest + 1)), heads)
    return (
        f"{heads} heads cannot share {groups} key and value heads evenly, {largest} each at most. "
        f"Set student.heads to {near}, or another student.key_value_heads."
    )


def encoder_problems(spec: FromTeacherSpec) -> list[Problem]:
    """What is asked of a student that only one cut from a causal language model can have."""
    problems: list[Problem] = []
    if spec.layer_importance not in (None, "uniform"):
        message = f"{spec.layer_importance} is for causal language models. Use uniform, or say which layers stay."
        problems.append(("layer_importance", message))
    if spec.key_value_heads is not None:
        problems.append(("key_value_heads", "only causal language models have them apart. Leave it out."))
    return problems


def _too_large(shape: DecoderShape, teacher: DecoderShape) -> list[Problem]:
    sizes = {
        "hidden_size": (shape.width, teacher.width),
        "key_value_heads": (shape.key_value_heads, teacher.key_value_heads),
        "heads": (shape.heads, teacher.heads),
        "intermediate_size": (shape.intermediate, teacher.intermediate),
    }
    return [
        (field, f"{ours} is more than the teacher's {theirs}. Allowed: at most {theirs}, or init: random.")
        for field, (ours, theirs) in sizes.items()
        if ours > theirs
    ]


def _near(allowed: Iterable[int], wanted: int) -> str:
    """The allowed numbers nearest to the one that is wanted, for people."""
    nearest = sorted(sorted(allowed, key=lambda n: (abs(n - wanted), n))[:4])
    return listed([str(n) for n in nearest]) if nearest else "another number"

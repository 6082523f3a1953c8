"""A student cut from a causal language model, step by step, with the reasons for each choice and what each step cost.

Layers go first, then heads, feed-forward neurons, channels and tokens. Before each step it is measured anew what
matters in what is left, and behind it what reads the axis that was cut is refitted; how far the student is from its
teacher then is measured on rows that no choice was made on, where there are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

from torch import nn
from transformers import PreTrainedModel

from attar.errors import PlanError
from attar.plan.cuts import DecoderShape, cut_shape, decoder_shape
from attar.recipe.student import FromTeacherSpec
from attar.students.cut_decoder import choose_parts, copy_kept, cut_decoder
from attar.students.decoder import Batch, body_layers, decoder_of, kept_mass, kept_tokens, mean_kl
from attar.students.decoder_build import build_decoder
from attar.students.importance import LayerChoice, choose_layers, spread_layers
from attar.students.student import Student, reduced_vocabulary, seeded, vocabulary_facts
from attar.students.width_importance import score_widths
from attar.tasks.base import Processor

JUDGED = 4
"""Every fourth batch is kept to judge by."""


def student_of_decoder(
    spec: FromTeacherSpec,
    teacher: nn.Module | None,
    processor: Processor,
    texts: Sequence[str],
    batches: Sequence[Batch],
    seed: int,
    init: Literal["recipe", "random"] = "recipe",
) -> Student:
    """Cut a student out of a causal language model of the LLaMA families; the teacher is left as it was.

    `texts` decide which tokens stay (empty: all). `batches`: token ids of training rows as the teacher's tokenizer
    makes them, without labels; a few thousand tokens are enough, in at least two batches of several rows. They choose
    what stays, refit it, and judge it; none are needed where layers are spread evenly and no width is cut. The same
    seed gives the same weights; `random` keeps shape and vocabulary but copies nothing.

    `initial` holds which layers stay and why, and `kl_after_STEP`: mean KL(teacher || student) a token, nats, of each
    step that was taken; after `tokens` among the tokens that both have, the probability that the teacher gives to the
    others being `mass_of_dropped_tokens`. Raises PlanError where teacher, sizes and batches do not fit.
    """
    source = decoder_of(teacher)
    full = decoder_shape(source.config.to_dict())
    shape, problems = cut_shape(spec, full, source.config.model_type)
    if problems:
        raise PlanError([f"student.{field}: {message}" for field, message in problems])
    reduced = reduced_vocabulary(spec.vocabulary, processor, texts)
    tokens = None if reduced is None else reduced.kept
    how = "random" if init == "random" else spec.init
    if how == "teacher":
        model, facts = _cut(spec, source, shape, tokens, batches)
    else:
        model, facts = _drawn(spec, source, shape, tokens, batches, seed, embeddings=how == "embeddings")
    if spec.dropout is not None:
        _set_dropout(model, spec.dropout)
    facts = {"init": how, **facts, **vocabulary_facts(reduced, processor)}
    return Student(cast("nn.Module", model).cpu(), reduced.tokenizer if reduced else processor, facts)


def _cut(
    spec: FromTeacherSpec,
    teacher: PreTrainedModel,
    shape: DecoderShape,
    tokens: list[int] | None,
    batches: Sequence[Batch],
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The steps one after another, and their facts."""
    judged, used, facts = _split(batches)
    full = decoder_shape(teacher.config.to_dict())
    if isinstance(spec.layers, int):
        how = spec.layer_importance or ("block_influence" if used else "uniform")
        choice = choose_layers(teacher, used, spec.layers, how)
        reasons = _reasons(choice, how) if spec.layers < full.layers else {}
    else:
        choice, reasons = LayerChoice(spec.layers), {}
    facts = {"layers": list(choice.layers), **reasons, **facts}
    model = cut_decoder(teacher, layers=choice.layers)

    def note(step: str, kl: float) -> None:
        if judged:
            facts[f"kl_after_{step}"] = round(kl, 4)

    if shape.layers < full.layers:
        note("layers", mean_kl(teacher, model, judged))
    steps: dict[str, Callable[..., PreTrainedModel]] = {}
    if (shape.heads, shape.key_value_heads) != (full.heads, full.key_value_heads):
        steps["heads"] = partial(cut_decoder, heads=shape.heads, key_value_heads=shape.key_value_heads)
    if shape.intermediate < full.intermediate:
        steps["neurons"] = partial(cut_decoder, intermediate=shape.intermediate)
    if shape.width < full.width:
        steps["width"] = partial(cut_decoder, width=shape.width)
    for step, cut in steps.items():
        model = cut(model, scores=score_widths(model, used), refit_on=used)
        note(step, mean_kl(teacher, model, judged))
    if tokens is not None:
        note("tokens", mean_kl(teacher, model, judged, tokens))
        if judged:
            facts["mass_of_dropped_tokens"] = round(max(0.0, 1.0 - kept_mass(teacher, judged, tokens)), 6)
        model = cut_decoder(model, kept_tokens=tokens)
    return model, facts


def _split(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Sequence[Batch], dict[str, Any]]:
    """Batches to judge by, batches to choose and refit by, and what to say of the first."""
    batches = [batch for batch in batches if bool(kept_tokens(batch).any())]
    if not batches:
        return [], [], {"kl": "not measured: no training rows were given"}
    judged = batches[::JUDGED]
    used = [batch for index, batch in enumerate(batches) if index % JUDGED] or batches
    count = sum(int(kept_tokens(batch).sum()) for batch in judged)
    rows = "rows on which nothing was chosen" if len(batches) > 1 else "the rows on which all was chosen"
    return judged, used, {"kl": f"on {count} tokens of {rows}"}


def _reasons(choice: LayerChoice, how: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"layer_importance": how}
    if choice.scores:
        facts["layer_scores"] = [round(score, 6) for score in choice.scores]
    if choice.removals:
        facts["layers_removed"] = [[removal.layer, round(removal.kl, 4)] for removal in choice.removals]
    return facts


def _drawn(
    spec: FromTeacherSpec,
    teacher: PreTrainedModel,
    shape: DecoderShape,
    tokens: list[int] | None,
    batches: Sequence[Batch],
    seed: int,
    *,
    embeddings: bool,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A student with weights drawn from the seed, its embeddings and head the teacher's where they are wanted."""
    full = decoder_shape(teacher.config.to_dict())
    layers = spread_layers(spec.layers, full.layers) if isinstance(spec.layers, int) else spec.layers
    with seeded(seed):
        model = build_decoder(teacher, shape, layers, tokens)
    copied = 0
    if embeddings:
        scores = score_widths(teacher, batches) if shape.width < full.width else None
        kept = choose_parts(full, layers=layers, width=shape.width, kept_tokens=tokens, scores=scores)
        copied = copy_kept(teacher, model, kept, {}, embeddings_only=True)
    return model.eval(), {"layers": [], "tensors_copied": copied, "tensors": len(model.state_dict())}


def _set_dropout(model: PreTrainedModel, rate: float) -> None:
    model.config.attention_dropout = rate
    for layer in body_layers(model):
        cast("Any", layer).self_attn.attention_dropout = rate

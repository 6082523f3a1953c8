"""The body and the head of a causal language model, apart, so that its logits need never be dense.

Shape letters: N texts, T tokens, R rows, D width, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attar.errors import PlanError
from attar.head_families import FAMILIES, Family
from attar.logits import Projection
from attar.packing import layout_of


@dataclass(frozen=True)
class LanguageHead:
    """What stands between the last hidden state and the logits: softcap(scale * (state @ weight^T + bias))."""

    weight: nn.Parameter
    """[V, D], the tied embeddings where tied."""
    bias: nn.Parameter | None
    """[V]."""
    scale: float
    softcap: float | None


def head_of(model: nn.Module) -> LanguageHead:
    """The head of a causal language model of Transformers; wrappers of DDP, torch.compile and PEFT are seen through.

    Raises PlanError where the family is not in `FAMILIES`, or the head is no plain linear layer.
    """
    core, family = _known(model)
    head = cast("nn.Module | None", core.get_output_embeddings())
    if head is None or not _is_plain(head):
        got = "no head" if head is None else f"a {type(head).__name__} as its head"
        raise PlanError(
            f"{_name(core)} has {got}, but a plain nn.Linear is needed. Load a causal language model whose head is not "
            "quantized, and leave the head out of an adapter's target_modules and modules_to_save."
        )
    weight, bias = cast("nn.Parameter", head.weight), cast("nn.Parameter | None", head.bias)
    if weight.is_meta:
        raise PlanError(f"{_name(core)}: the weight of its head is offloaded. Load the model onto one device.")
    return LanguageHead(weight, bias, _scale(core.config, family), _cap(core.config, family))


def head_width(model: nn.Module) -> int:
    """V: how many logits the model gives. Raises PlanError as `head_of` does."""
    return len(head_of(model).weight)


def body_states(
    model: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool = False, pack: bool = True
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """The last hidden state [N, T, D], after the final norm, as the head reads it; and, if asked, all hidden states.

    `inputs` are those of the model; labels among them are left out. The head never runs and no cache is kept. Hidden
    states come embeddings first, each [N, T, D]; the last of them is after the final norm, too. Gradients and
    train/eval mode are the caller's. The body is called without its wrappers: under DDP, wrap what calls this. Within
    `packing.packed` padding is not read, and states there are 0, unless `pack` is off.

    Raises PlanError where the family is not in `FAMILIES`, or does not give hidden states [N, T, D].
    """
    core, family = _known(model)
    extra = {"output_hidden_states": True} if hidden else {}
    body = core.model if core.base_model is core else core.base_model
    layout = layout_of(core.config, inputs) if pack else None
    if layout is None:
        answer = body(**_asked(inputs), **extra)
    else:
        with layout.reading():
            answer = body(**_asked(layout.pack(inputs)), **extra)
    last = cast("Tensor", answer.last_hidden_state)
    states = cast("tuple[Tensor, ...] | None", answer.hidden_states) if hidden else None
    if hidden and (states is None or any(state.dim() != 3 for state in states)):
        got = "no hidden_states" if states is None else f"hidden_states {[list(state.shape) for state in states]}"
        raise PlanError(
            f"{_name(core)} returned {got}, but [texts, tokens, width] each are needed. Drop the objectives that "
            "compare layers."
        )
    last = last if family.through is None else getattr(core, family.through)(last)
    if layout is not None:
        last = layout.unpack(last)
        states = None if states is None else tuple(layout.unpack(state) for state in states)
    return last, states


def project(model: nn.Module, states: Tensor) -> Projection:
    """Logits of `states` [R, D], rows of what `body_states` gave, as their parts.

    Live for autograd: weight and bias are the model's own. Raises PlanError as `head_of` does, and TrainingError where
    `states` is not [R, D].
    """
    head = head_of(model)
    return Projection(states, head.weight, head.bias, head.scale, head.softcap)


TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 1e-2}
"""By precision: what `verify_head` lets pass, relative to the largest logit. A model rounds its logits to its own
precision, up to four times where it caps them; a projection does not.
"""


def verify_head(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Ask the model once as it is and once by body and head, on a small batch, without dropout and gradients.

    Padding is not compared. Raises PlanError where logits differ by more than `TOLERANCE`, and as `head_of` does.
    """
    core, _ = _known(model)
    head = head_of(model)
    with torch.no_grad(), evaluating(model):
        own = cast("Tensor", model(**_asked(inputs)).logits)
        states, _ = body_states(model, inputs)
        apart = project(model, states.flatten(0, -2)).dense().view(*states.shape[:-1], -1)
    if own.shape != apart.shape:
        raise PlanError(_unlike(core, f"logits are {list(own.shape)}, its head gives {list(apart.shape)}"))
    mask = inputs.get("attention_mask")
    if mask is not None and mask.shape == own.shape[:2]:
        own, apart = own[mask.bool()], apart[mask.bool()]
    largest = (own - apart).abs().max().item()
    allowed = max(TOLERANCE[own.dtype], TOLERANCE[head.weight.dtype]) * own.abs().max().item()
    if not largest <= allowed:  # NaN is refused, too
        raise PlanError(_unlike(core, f"logits differ by up to {largest:.3g}, {allowed:.3g} is allowed"))


def _known(model: nn.Module) -> tuple[Any, Family]:
    """The model without its wrappers, and its family. Raises PlanError."""
    core = core_of(model)
    kind = cast("str | None", getattr(getattr(core, "config", None), "model_type", None))
    if kind is None:
        raise PlanError(
            f"{type(core).__name__} is no model of Transformers: it has no config.model_type, so its head is not known "
            "here. Hand it over with dense logits."
        )
    if getattr(core.config, "is_encoder_decoder", False):
        raise PlanError(
            f"{_name(core)} has an encoder and a decoder, but only a causal language model can be taken apart for now. "
            "Use one of these, or hand the model over with dense logits."
        )
    if kind not in FAMILIES:
        part = f" Its text part alone, {kind}_text, is known." if f"{kind}_text" in FAMILIES else ""
        raise PlanError(
            f"{_name(core)}: its head is not known here; open an issue or hand the model over with dense logits.{part}"
        )
    return core, FAMILIES[kind]


def core_of(model: nn.Module) -> Any:
    """The model inside wrappers of DDP, torch.compile and PEFT, in any order. Raises PlanError."""
    while True:
        if callable(getattr(model, "get_base_model", None)):
            wrapper = cast("Any", model)
            if wrapper.active_peft_config.is_prompt_learning:
                raise PlanError(
                    f"{type(model).__name__} puts a learned prompt before the texts, which the body alone does not "
                    "see. Use an adapter in the layers (LoRA), or hand the model over with dense logits."
                )
            model = wrapper.get_base_model()
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(inner := getattr(model, "module", None), nn.Module):
            model = inner
        else:
            return model


def _asked(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a model or its body is called with."""
    return {key: value for key, value in inputs.items() if key != "labels"} | {"use_cache": False, "return_dict": True}


def _is_plain(head: nn.Module) -> bool:
    """Whether head(x) is x @ weight^T + bias: a quantized or adapted layer may call itself linear too."""
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward


def _scale(config: Any, family: Family) -> float:
    if family.times is not None:
        return float(getattr(config, family.times))
    return 1.0 if family.over is None else 1.0 / float(getattr(config, family.over))


def _cap(config: Any, family: Family) -> float | None:
    cap = None if family.cap is None else getattr(config, family.cap)
    return None if cap is None else float(cap)


def _name(core: Any) -> str:
    return f"{type(core).__name__} ({core.config.model_type})"


def _unlike(core: Any, difference: str) -> str:
    return (
        f"{_name(core)} does not answer as its body and head do: {difference}. Its forward does something that is not "
        "known here; open an issue or hand the model over with dense logits."
    )


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Eval mode within the block; each module has its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

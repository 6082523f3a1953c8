"""Several models asked as one teacher: mixed and routed answers against each model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.errors import TeacherError
from attar.hooks import AttentionKey
from attar.mixture import dense
from attar.signals import HiddenKey, Wanted, ask
from attar.teachers.ensemble import Ensemble
from attar.teachers.frozen import Frozen
from tiny import tiny_bert, tiny_tokenizer
from tiny_causal import tiny_causal, tiny_tokens

TEXTS = ["one small step", "a giant leap for all of us", "two", "and a last one"]
TOKENIZER = tiny_tokenizer(TEXTS)
LABELS = ("a", "b", "c")
WEIGHTS = (0.75, 0.25)
ROUTE = torch.tensor([1, 0, 1, 1])


def classifiers() -> list[nn.Module]:
    return [Frozen(tiny_bert(TOKENIZER, LABELS, seed=seed).double()) for seed in (1, 2)]


def decoders() -> list[nn.Module]:
    return [tiny_causal("llama", seed=seed) for seed in (1, 2)]


def ensemble(models: list[nn.Module], *, routed: bool, **changes: Any) -> Ensemble:
    settings: dict[str, Any] = {"weights": WEIGHTS, "combine": "probabilities", "problem": "single_label", **changes}
    return Ensemble(models, routed=routed, **settings)


def texts() -> dict[str, Tensor]:
    return dict(TOKENIZER(TEXTS, return_tensors="pt", padding=True))


def tokens() -> tuple[dict[str, Tensor], Tensor]:
    """A batch, and the places of some of its tokens: some of each row, not in the rows' numbers alike."""
    return tiny_tokens(4, 6), torch.tensor([0, 2, 3, 6, 13, 14, 20])


def test_classifiers_are_mixed() -> None:
    models, inputs = classifiers(), texts()
    said = ask(ensemble(models, routed=False), inputs, Wanted()).logits
    p, q = (ask(model, inputs, Wanted()).dense_logits.softmax(-1) for model in models)
    torch.testing.assert_close(said, (0.75 * p + 0.25 * q).log())


def test_each_row_is_asked_of_its_own_classifier() -> None:
    models, inputs = classifiers(), texts()
    wanted = Wanted(hidden=(HiddenKey(1, "mean"), HiddenKey(2, "none")))
    said = ask(ensemble(models, routed=True), {**inputs, "route": ROUTE}, wanted)
    own = [ask(model, inputs, wanted) for model in models]
    for row, number in enumerate(ROUTE.tolist()):
        torch.testing.assert_close(said.logits[row], own[number].logits[row])
        for key in wanted.hidden:
            torch.testing.assert_close(said.hidden[key][row], own[number].hidden[key][row])
        assert torch.equal(said.mask[row], own[number].mask[row])


def test_models_that_are_not_asked_do_no_work() -> None:
    models, inputs = classifiers(), texts()
    asked: list[int] = []
    for number, model in enumerate(models):
        model.register_forward_pre_hook(
            lambda _, __, given, number=number: asked.append(number * 10 + len(given["input_ids"])), with_kwargs=True
        )
    teacher = ensemble(models, routed=True)
    ask(teacher, {**inputs, "route": ROUTE}, Wanted())
    assert asked == [1, 13]
    ask(teacher, {**inputs, "route": torch.ones_like(ROUTE)}, Wanted())
    assert asked == [1, 13, 14]


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_language_models_are_mixed_token_by_token(combine: str) -> None:
    models, (inputs, positions) = decoders(), tokens()
    said = ask(ensemble(models, routed=False, combine=combine), inputs, Wanted(), positions).logits
    own = [model(**inputs).logits.flatten(0, 1)[positions] for model in models]
    if combine == "logits":
        torch.testing.assert_close(dense(said), 0.75 * own[0] + 0.25 * own[1])
    else:
        torch.testing.assert_close(dense(said), (0.75 * own[0].softmax(-1) + 0.25 * own[1].softmax(-1)).log())


def test_tokens_are_asked_of_their_rows_own_language_model() -> None:
    models, (inputs, positions) = decoders(), tokens()
    keys = HiddenKey(2, "none"), AttentionKey(layer=1, of="query")
    wanted = Wanted(hidden=keys[:1], attention=keys[1:])
    said = ask(ensemble(models, routed=True), {**inputs, "route": ROUTE}, wanted, positions)
    own = [ask(model, inputs, wanted, positions) for model in models]
    assert len(said.logits) == len(positions)
    for at, place in enumerate(positions.tolist()):
        number = int(ROUTE[place // 6])
        torch.testing.assert_close(dense(said.logits)[at], dense(own[number].logits)[at])
    real = inputs["attention_mask"].bool()
    for row, number in enumerate(ROUTE.tolist()):
        torch.testing.assert_close(said.hidden[keys[0]][row][real[row]], own[number].hidden[keys[0]][row][real[row]])
        torch.testing.assert_close(
            said.attention[keys[1]][row][real[row]], own[number].attention[keys[1]][row][real[row]]
        )
    assert torch.equal(said.mask, real)


def test_the_inside_of_a_mixture_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"offer logits alone.*teacher\.route"):
        ask(ensemble(classifiers(), routed=False), texts(), Wanted(hidden=(HiddenKey(1, "mean"),)))
    models = [Frozen(tiny_bert(TOKENIZER, LABELS, hidden=hidden)) for hidden in (16, 32)]
    with pytest.raises(TeacherError, match="in different shapes"):
        ask(ensemble(models, routed=True), {**texts(), "route": ROUTE}, Wanted(hidden=(HiddenKey(1, "mean"),)))


def test_it_stays_frozen() -> None:
    teacher = ensemble(classifiers(), routed=False)
    outer = nn.ModuleList([teacher])
    outer.train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not ask(teacher, texts(), Wanted()).logits.requires_grad

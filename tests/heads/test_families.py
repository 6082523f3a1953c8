"""Every family of the table, built small: body and head apart give the model's own logits and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from attar.errors import PlanError
from attar.heads import FAMILIES, Family, body_states, head_of, project
from tiny_causal import OTHERWISE, SINGLE, tiny_causal, tiny_tokens

STREAMS = {"deepseek_v4", "gemma3n_text", "hy_v4"}
"""Several states a token between their layers: they do not give hidden states of one width."""


@pytest.fixture(params=FAMILIES)
def kind(request: pytest.FixtureRequest) -> str:
    """Every `model_type` of the table."""
    if request.param not in CONFIG_MAPPING:
        pytest.skip(f"this Transformers is older than {request.param}")
    return request.param


def gradients(logits: Tensor, model: nn.Module) -> dict[str, Tensor | None]:
    """Of a fixed random sum of all logits, for every parameter that learns."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits.dtype)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad((logits * weights).sum(), list(learning.values()), allow_unused=True)
    return dict(zip(learning, found, strict=True))


def test_logits_and_gradients_are_the_models_own(kind: str) -> None:
    model, inputs = tiny_causal(kind), tiny_tokens()
    assert model.config.model_type == kind
    own = model(**inputs, use_cache=False).logits
    states, none = body_states(model, inputs)
    apart = project(model, states.flatten(0, 1)).dense().view(own.shape)
    assert none is None
    exact = own.dtype is torch.float64
    close = {"rtol": 1e-9, "atol": 1e-11} if exact else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(apart.to(own.dtype), own, **close)
    wanted = gradients(own, model)
    for name, got in gradients(apart, model).items():
        assert (got is None) == (wanted[name] is None), name
        if got is not None:
            torch.testing.assert_close(got, wanted[name], **close, msg=lambda said, name=name: f"{name}: {said}")


def test_what_a_family_does_to_its_logits_is_not_nothing(kind: str) -> None:
    """Else the test above could not see it left out."""
    head, family = head_of(tiny_causal(kind)), FAMILIES[kind]
    assert (head.scale != 1.0) == (family.times is not None or family.over is not None)
    assert (head.softcap is not None) == (family.cap is not None)
    assert head.softcap is None or head.softcap < 1.0
    assert head.bias is None or head.bias.abs().max() > 0.01
    assert family.over is None or head.bias is None, "divided before or after the bias? The table does not tell"


def test_hidden_states_are_all_there_embeddings_first(kind: str) -> None:
    model, inputs = tiny_causal(kind), tiny_tokens()
    with torch.no_grad():
        if kind in STREAMS:
            with pytest.raises(PlanError, match=rf"\({kind}\) returned hidden_states .* are needed. Drop"):
                body_states(model, inputs, hidden=True)
            return
        last, hidden = body_states(model, inputs, hidden=True)
    assert hidden is not None
    assert len(hidden) == model.config.num_hidden_layers + 1
    assert {state.shape[:2] for state in hidden} == {inputs["input_ids"].shape}
    if FAMILIES[kind].through is None:
        torch.testing.assert_close(hidden[-1], last, rtol=0, atol=0)


def test_the_table_and_what_is_tested_are_the_same() -> None:
    """The tests above run over the table; here, that it is large and that no special case outlives its family."""
    assert len(set(FAMILIES) & set(CONFIG_MAPPING)) >= 100
    assert set(OTHERWISE) | SINGLE | STREAMS <= set(FAMILIES)


def test_a_family_left_out_of_its_set_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of this file fails for each way in which a table can be wrong."""
    for kind in ("granite", "gemma2", "cohere", "falcon_h1", "hyperclovax", "modernbert-decoder", "recurrent_gemma"):
        monkeypatch.setitem(FAMILIES, kind, Family())
        with pytest.raises(AssertionError):
            test_logits_and_gradients_are_the_models_own(kind)

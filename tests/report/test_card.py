"""The model card: metadata that the Hub understands, numbers with intervals, and no markup from the data."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from attar.report.card import card_name, model_card
from report.made import made_run, unlabelled_run


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(made_run())).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["PolyAI/banking77"]
    assert data["metrics"] == ["accuracy"]
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert data["tags"] == ["attar", "distillation", "onnx"]
    result = data["model-index"][0]["results"][0]
    assert data["model-index"][0]["name"] == "banking77"
    assert result["task"] == {"type": "text-classification"}
    assert result["dataset"]["type"] == "PolyAI/banking77"
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["type"] == "accuracy"
    assert result["metrics"][0]["value"] == 0.9322


def test_local_names_are_not_passed_off_as_hub_ids() -> None:
    run = made_run()
    recipe = {**run.recipe, "teacher": {"kind": "local", "model": "./models/mine"}, "data": {"source": "rows.csv"}}
    local = made_run(recipe=recipe, policy=run.policy.model_copy(update={"rule": "own-model", "student_licence": None}))
    data = ModelCard(model_card(local)).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets", "license"} & set(data)
    assert "No licence was recorded" in model_card(local)


def test_a_teacher_of_the_hub_is_the_base_model() -> None:
    run = made_run()
    name = "google-bert/bert-base-uncased"
    hub = made_run(
        recipe={**run.recipe, "teacher": {"model": name}, "student": {"kind": "from_config"}},
        teacher=run.teacher.model_copy(update={"name": name}),
        policy=run.policy.model_copy(update={"rule": "permissive-licence", "student_licence": "Example EULA"}),
    )
    data = ModelCard(model_card(hub)).data.to_dict()
    assert data["base_model"] == name
    assert "base_model_relation" not in data
    assert (data["license"], data["license_name"]) == ("other", "Example EULA")


def test_numbers_stand_with_intervals_and_conditions() -> None:
    card = model_card(made_run())
    quality = section(card, "Quality")
    assert "| student | 93.2 % (92.4 – 93.9) | 98.9 % (98.3 – 99.4) | 3.23 MB | 0.94 ms |" in quality
    assert "| control | 91.1 % (90.2 – 91.9) | - | 3.23 MB | not measured |" in quality
    assert "ONNX int8" in quality
    assert "95 % interval, 3,080 rows, 3 seeds" in quality
    assert "+2.1 points (+1.4 – +2.7)" in quality
    assert section(card, "Energy").strip().startswith("Not measured: ")


def test_the_card_tells_how_to_use_it_and_what_passes_on() -> None:
    card = model_card(made_run())
    assert 'pipeline("text-classification", model="PATH_OR_REPOSITORY")' in card
    assert "divide the logits by 1.240" in card
    assert "Keep the teacher's copyright" in section(card, "Terms")
    assert "not legal advice" in section(card, "Terms")
    assert "overlap" not in card
    assert "0d92f6c1e47a83b5" in section(card, "Lineage")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"problem": "multi_label"}, ", top_k=None)"),
        ({"problem": "regression"}, ', function_to_apply="none")'),
        ({"text_pair": "second"}, '"text_pair": "second text"'),
    ],
)
def test_the_snippet_fits_the_problem(task: dict[str, str], expected: str) -> None:
    run = made_run()
    assert expected in model_card(made_run(recipe={**run.recipe, "task": {**run.recipe["task"], **task}}))  # type: ignore[dict-item]


def test_the_snippet_is_python() -> None:
    snippet = model_card(made_run()).split("```python\n")[1].split("```")[0]
    compile(snippet, "card", "exec")


def test_images_have_their_own_snippet() -> None:
    run = made_run()
    card = model_card(
        made_run(task="image_classification", recipe={**run.recipe, "task": {"kind": "image_classification"}})
    )
    assert ModelCard(card).data.pipeline_tag == "image-classification"
    assert 'answer("image.png")' in card


def test_without_labels_agreement_is_the_metric() -> None:
    card = model_card(unlabelled_run())
    assert "model-index" not in ModelCard(card).data.to_dict()
    assert "there is no control" in section(card, "Quality")
    assert "96.1 % (95.6 – 96.5)" in section(card, "Quality")


def test_llama_s_prefix_names_the_card() -> None:
    policy = made_run().policy.model_copy(update={"student_name_prefix": "Llama", "distribute": False})
    run = made_run(policy=policy)
    assert card_name(run) == "Llama-banking77"
    assert card_name(made_run(name="Llama-small", policy=policy)) == "Llama-small"
    card = model_card(run)
    assert "# Llama-banking77" in card
    assert "It must not be distributed." in card


def test_warnings_and_missed_budgets_stand_at_the_top() -> None:
    run = made_run()
    missed = run.budget[0].model_copy(update={"met": False})
    card = model_card(made_run(budget=[missed], warnings=["The teacher is weak."]))
    assert card.index("max\\_params was missed") < card.index("## Use")
    assert card.index("The teacher is weak.") < card.index("## Use")


def test_text_of_the_data_cannot_become_markup() -> None:
    run = made_run()
    evil = "x`\n# Owned\n<script>alert(1)</script> [a](javascript:x) | y"
    classes = [c.model_copy(update={"name": evil, "teacher": 0.9, "student": 0.1}) for c in run.evaluation.classes[:1]]
    card = model_card(
        made_run(
            data=run.data.model_copy(update={"labels": [evil]}),
            recipe={**run.recipe, "description": evil},
            policy=run.policy.model_copy(update={"reason": evil, "notices": [evil]}),
            evaluation=run.evaluation.model_copy(update={"classes": classes, "notes": [evil]}),
            warnings=[evil],
        )
    )
    prose = card.split("```")[0] + card.split("```")[2]
    outside_code = "".join(prose.split("`")[::2])
    assert "<script>" not in outside_code
    assert "\n# Owned" not in card
    assert not re.search(r"(?<!\\)\]\(", outside_code)
    ModelCard(card)

"""What the plan says of stored tokens: which objectives can be trained on them, and where `targets` means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import PlanError
from attar.plan.notes import Notes
from attar.plan.objectives import signals_mode
from attar.plan.targets import check_targets, stored_targets
from attar.recipe.load import recipe_from
from attar.recipe.targets import SAMPLED
from attar.recipe.teacher import StoredTeacherSpec
from plan.samples import recipe_data

TOP_K = {"kind": "top_k", "k": 32}


def noted(tmp_path: Path, objectives: list[dict[str, Any]], task: str = "causal_lm", **teacher: Any) -> Notes:
    data = recipe_data(tmp_path) | {
        "task": {"kind": task},
        "teacher": {"kind": "local", "model": "m", "signals": "store", **teacher},
        "objectives": objectives,
    }
    recipe = recipe_from(data)
    notes = Notes(recipe.places)
    check_targets(recipe, None, signals_mode(recipe), notes)
    return notes


@pytest.mark.parametrize(
    ("objective", "teacher"),
    [
        ({"kind": "forward_kl"}, {}),
        ({"kind": "forward_kl", "weight": {"start": 0.0, "end": 1.0}}, {}),
        ({"kind": "sampled_kl"}, {}),
        ({"kind": "hard_labels"}, {}),
        ({"kind": "forward_kl", "temperature": 2.0}, {"targets": {"kind": "sampled", "temperature": 2.0}}),
        ({"kind": "sparse_kl", "k": 32}, {"targets": TOP_K}),
        ({"kind": "reverse_kl"}, {"signals": "live"}),
        ({"kind": "reverse_kl"}, {"signals": "auto"}),
    ],
)
def test_what_can_be_read_passes(tmp_path: Path, objective: dict[str, Any], teacher: dict[str, Any]) -> None:
    noted(tmp_path, [objective], **teacher).finish()


@pytest.mark.parametrize(
    ("objective", "teacher", "told"),
    [
        ({"kind": "reverse_kl"}, {}, 'objectives[0].kind: "reverse_kl" cannot be had from the tokens that are stored '
         "(kind: sampled). Allowed: forward_kl, sampled_kl, hard_labels; with targets of kind top_k: sparse_kl; all of "
         "them with a live teacher (teacher.kind: local, signals: live)."),
        ({"kind": "sparse_kl"}, {}, '"sparse_kl" cannot be had'),
        ({"kind": "logit_mse"}, {}, '"logit_mse" cannot be had'),
        ({"kind": "forward_kl"}, {"targets": TOP_K}, "(kind: top_k). Allowed: sparse_kl, hard_labels"),
        ({"kind": "sparse_reverse_kl"}, {"targets": TOP_K}, '"sparse_reverse_kl" cannot be had'),
        ({"kind": "hidden"}, {}, 'objectives[0].kind: "hidden" compares layers, but a language model\'s store holds'),
        ({"kind": "forward_kl", "temperature": 2.0}, {}, "objectives[0].temperature: 2, but the stored tokens were cut "
         "at 1, and cannot be tempered again. Set it to 1, label again at this one (teacher.targets.temperature)"),
        ({"kind": "forward_kl", "temperature": {"start": 2.0, "end": 1.0}}, {}, "temperature: 2 to 1 (linear), but"),
        ({"kind": "forward_kl", "standardise": True}, {}, "objectives[0].standardise: a z-score needs all logits"),
        ({"kind": "sampled_kl", "samples": 8}, {}, "objectives[0].samples: it draws anew in each step, but draws are"),
        ({"kind": "sparse_kl"}, {"targets": TOP_K}, "objectives[0].k: 64, but 32 tokens are stored. Set it to 32"),
        ({"kind": "forward_kl"}, {"targets": TOP_K, "signals": "live"},
         "teacher.targets: it tells what a store keeps of a language model's tokens, but teacher.signals is not store"),
        ({"kind": "forward_kl"}, {"targets": TOP_K, "task": "text_classification"},
         "teacher.targets: it tells what a store keeps of a language model's tokens, but task.kind is text_class"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(
    tmp_path: Path, objective: dict[str, Any], teacher: dict[str, Any], told: str
) -> None:
    with pytest.raises(PlanError) as caught:
        noted(tmp_path, [objective], **teacher).finish()
    (problem,) = caught.value.problems
    assert told in problem


def test_a_store_says_what_it_keeps(tmp_path: Path) -> None:
    spec = StoredTeacherSpec(kind="stored", path="p", rescore_with="r")
    facts = {"targets": {**SAMPLED.model_dump(mode="json"), "bits": 8}}
    notes = Notes(recipe_from(recipe_data(tmp_path)).places)
    assert stored_targets(spec, json.loads(json.dumps({"facts": facts})), ("teacher", "path"), notes) == SAMPLED
    notes.finish()
    assert stored_targets(spec, {"facts": {"teacher": "abc"}}, ("teacher", "path"), notes) is None
    with pytest.raises(PlanError, match=r"teacher\.path: it holds no tokens of a language model"):
        notes.finish()
